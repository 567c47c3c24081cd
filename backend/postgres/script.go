package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
	"github.com/tenement-go/tenement/internal/sqltext"
)

const (
	// scriptsPerMessage and scriptBytes bound one message of scripts.
	scriptsPerMessage = 32
	scriptBytes       = 1 << 20
	// defaultLockTimeout is the wait for each lock of a script when the options do not say.
	defaultLockTimeout = 5 * time.Second
)

var errScriptEnds = errors.New("a script runs in a transaction already, which alone binds it to its store; take its COMMIT or ROLLBACK out")

func formatKey(k int64) string { return strconv.FormatInt(k, 10) }

// RunScripts sends scripts in messages of many; see [backend.ScriptRunner].
//
// A script that contains a COMMIT or ROLLBACK is refused: what came after it would not be bound to its store.
func (be *Backend) RunScripts(ctx context.Context, scripts []backend.Script, opt backend.ScriptOptions) []error {
	switch {
	case !be.makesMany(scripts):
		faults := make([]error, len(scripts))
		for i := range scripts {
			faults[i] = &backend.Error{Op: "run script in", Store: scripts[i].Route.Store, Err: errors.ErrUnsupported}
		}
		return faults
	case be.makesFirst(scripts):
		return be.makeFirst(ctx, scripts, opt)
	case len(scripts) > 1: // one is a tenant that is made
		ctx = backend.Apart(ctx)
	}
	return be.runScripts(ctx, scripts, opt, false)
}

// makesMany reports whether scripts may make several stores in a transaction, if they do. Not where a schema is made by
// itself (Citus), nor where it is looked at what the transaction did outside of the one store.
func (be *Backend) makesMany(scripts []backend.Script) bool {
	return !be.citus.on && be.roles.mode != rolesOff || !slices.ContainsFunc(scripts, func(s backend.Script) bool { return len(s.Also) > 0 })
}

// runScripts runs scripts. made says that they are for stores that were made for them just now.
func (be *Backend) runScripts(ctx context.Context, scripts []backend.Script, opt backend.ScriptOptions, made bool) []error {
	faults := make([]error, len(scripts))
	r := &scriptRun{be: be, scripts: scripts, opt: opt, faults: faults, again: -1, made: made, texts: map[string]*looked{}}
	for r.next < len(scripts) {
		if err := be.lend(ctx, "run script in", backend.Route{}, func(c *conn) error { return r.on(ctx, c) }); err != nil {
			var wrapped *backend.Error
			if errors.As(err, &wrapped) {
				err = wrapped.Err
			}
			r.failRest(err)
		}
	}
	for i, s := range scripts {
		if s.Create && faults[i] == nil {
			for _, rt := range append([]backend.Route{s.Route}, s.Also...) {
				be.forgetStore(rt.Store)
			}
		}
	}
	return faults
}

// scriptRun is one call of RunScripts.
type scriptRun struct {
	be      *Backend
	scripts []backend.Script
	opt     backend.ScriptOptions
	faults  []error
	next    int  // what is before it is done with
	again   int  // the script whose store was looked for a second time
	made    bool // just now, for these scripts: nobody has used the stores

	texts    map[string]*looked
	shared   map[string]bool // of the names in the texts, those of something shared; nil: not asked for yet
	assuming map[uint32]bool // of the message
	nameless bool            // a name was lost; see lostName

	c       *conn // that it is on
	names   preparation
	refused map[backend.Route]bool
}

func (r *scriptRun) fail(i int, err error) {
	r.faults[i] = &backend.Error{Op: "run script in", Store: r.scripts[i].Route.Store, Err: err}
}

// failRest ends the run.
func (r *scriptRun) failRest(err error) {
	for ; r.next < len(r.scripts); r.next++ {
		r.fail(r.next, err)
	}
}

// on runs scripts on one connection, until none is left or the connection must not be used any more. It returns what
// keeps the rest from being run at all.
func (r *scriptRun) on(ctx context.Context, c *conn) (err error) {
	r.c = c
	if err := r.study(ctx, c); err != nil {
		if r.lostName(err) {
			return nil
		}
		return err
	}
	for r.next < len(r.scripts) && (!c.tainted || c.cleanable()) && !c.doomed && !c.pc.IsClosed() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := r.refuse(&r.scripts[r.next]); err != nil {
			r.fail(r.next, err)
			r.next++
			continue
		}
		end := r.pick()
		if err := r.findAssuming(ctx, c, r.scripts[r.next:end]); r.lostName(err) {
			return nil
		} else if err != nil {
			return err
		}
		done, ours, err := r.runMessage(ctx, r.scripts[r.next:end])
		r.next += done
		if err != nil {
			r.failed(ctx, end, ours, err)
		}
	}
	return nil
}

// study finds out what there is to know of the scripts that are next, and prepares what goes ahead of them.
func (r *scriptRun) study(ctx context.Context, c *conn) (err error) {
	if r.shared == nil {
		if err = r.findShared(ctx, c); err != nil {
			return err
		}
	}
	if r.refused, err = r.be.identifyAll(ctx, c.pg, r.scripts[r.next:]); err != nil {
		return err
	}
	return r.prepareAll(ctx, c)
}

// lostName deals with a connection that has lost a statement of ours: somebody ran a DEALLOCATE out of sight. The run goes
// on with another, and without names.
func (r *scriptRun) lostName(err error) bool {
	var pe *pgconn.PgError
	if r.nameless || !errors.As(err, &pe) || pe.Code != codeNoStatement {
		return false
	}
	r.nameless, r.c.doomed = true, true
	return true
}

// codeNoStatement is the SQLSTATE of "prepared statement does not exist".
const codeNoStatement = "26000"

// refusal reports whether err is the server's answer, after which the connection is as good as before.
func refusal(err error) bool {
	var pe *pgconn.PgError
	return errors.As(err, &pe)
}

// pick returns the end of what goes into the next message. One that ends its transaction itself would upset the counting,
// and one that leaves what cannot be taken away would leave it to the next: such a one goes alone.
func (r *scriptRun) pick() (end int) {
	size := 0
	for end = r.next; end < len(r.scripts) && end-r.next < scriptsPerMessage; end++ {
		s := &r.scripts[end]
		t := r.look(s.SQL).traits
		alone := t&(control|dooms) != 0 || t&taints != 0 && !r.c.cleanable() || r.refused[s.Route]
		if end > r.next && (alone || size+len(s.Guard)+len(s.SQL) > scriptBytes) {
			return end
		}
		size += len(s.Guard) + len(s.SQL)
		if alone {
			r.c.doomed = r.c.doomed || t&dooms != 0
			return end + 1
		}
	}
	return end
}

// failed deals with the failure of the script that is next, and of its transaction with it. Where the connection is lost,
// none of its message, which ends at end, can be told of: the server holds back what it answers, and goes on.
func (r *scriptRun) failed(ctx context.Context, end int, ours bool, cause error) {
	var pe *pgconn.PgError
	if r.c.pc.IsClosed() || !errors.As(cause, &pe) {
		unknown := fmt.Errorf("%w: %w", backend.ErrOutcomeUnknown, cause)
		if pgconn.SafeToRetry(cause) {
			unknown = cause
		}
		for ; r.next < end; r.next++ {
			r.fail(r.next, unknown)
		}
		r.failRest(fmt.Errorf("not run, the connection was lost before: %w", cause))
		r.c.close()
		return
	}
	rolledBack := r.c.rollback(ctx) == nil && r.c.cleanNow(ctx) == nil
	if rolledBack && ours && r.lostName(pe) {
		return
	}
	if rolledBack && ours && pe.Code == codeNoStore && r.again != r.next {
		// Not the schema that was remembered as this owner's. Another one may be by now.
		rt := r.scripts[r.next].Route
		r.again = r.next
		r.be.forget(rt)
		if _, err := r.be.identifyAll(ctx, r.c.pg, r.scripts[r.next:r.next+1]); err == nil {
			if _, known := r.be.identity(rt); known {
				return
			}
		}
	}
	r.fail(r.next, r.be.scriptFault(pe, ours))
	r.next++
}

// refuse returns why a script must not be sent, or nil.
func (r *scriptRun) refuse(s *backend.Script) error {
	switch {
	case r.look(s.SQL).traits&ends != 0:
		return errScriptEnds
	case r.refused[s.Route]:
		return errNotOurs
	}
	return nil
}

// identifyAll learns, in one query, which schemas are the ones that the scripts' owners mean, so that each script only has
// to check that its schema still is that one: to read the stamp takes ten times as long.
// It returns the routes whose schema is not yet given to the role that does tenants' work.
func (be *Backend) identifyAll(ctx context.Context, c *pgx.Conn, scripts []backend.Script) (refused map[backend.Route]bool, err error) {
	unknown := map[backend.Route]bool{}
	var names, roles []string
	for _, s := range scripts {
		if _, known := be.identity(s.Route); known || s.Create || unknown[s.Route] {
			continue
		}
		unknown[s.Route] = true
		names = append(names, s.Route.Store.String())
		role := "" // there is no such role
		if be.roles.mode != rolesOff {
			role = be.roles.name(s.Route.Store)
		}
		roles = append(roles, role)
	}
	if len(unknown) == 0 {
		return nil, nil
	}
	refused = map[backend.Route]bool{}
	rows, _ := c.Query(ctx, "select n.nspname::text,n.oid,coalesce(pg_catalog.obj_description(n.oid,'pg_namespace'),''),"+
		"coalesce((select pg_catalog.has_schema_privilege(r.oid,n.oid,'usage') from pg_catalog.pg_roles r where r.rolname=x.role),false) "+
		"from rows from (pg_catalog.unnest($1::text[]),pg_catalog.unnest($2::text[])) x(name,role) join pg_catalog.pg_namespace n on n.nspname=x.name", be.queryMode(), names, roles)
	var (
		name, stamp string
		oid         uint32
		usable      bool
	)
	_, err = pgx.ForEachRow(rows, []any{&name, &oid, &stamp, &usable}, func() error {
		owner, stamped := strings.CutPrefix(stamp, stampText)
		s, err := backend.ParseStore(name)
		if err != nil || !stamped {
			return nil
		}
		for _, rt := range []backend.Route{{Store: s, Owner: owner}, {Store: s}} {
			switch {
			case !unknown[rt]:
			case be.roles.mode == rolesOff || usable:
				be.remember(rt, oid)
			default:
				refused[rt] = true
			}
		}
		return nil
	})
	return refused, err
}

// runMessage sends scripts as one message, and returns how many of them were committed before the error, and whether it
// was a statement of ours, ahead of the script's own text, that failed.
func (r *scriptRun) runMessage(ctx context.Context, scripts []backend.Script) (done int, ours bool, err error) {
	c := r.c
	var b strings.Builder
	starts := make([]int, len(scripts))    // where each script's own text begins
	preambles := make([]int, len(scripts)) // how many statements come before it
	for i := range scripts {
		starts[i], preambles[i] = r.writeScript(ctx, &b, &scripts[i])
		c.tainted = c.tainted || r.look(scripts[i].SQL).traits&taints != 0
	}
	message := b.String()
	// Each script's transaction ends with a command tag of its own, which is how they are counted.
	var since, commits int
	cleaned := len(r.cleaning())
	results, err := c.commands(ctx, stepOurs, message, nil, func() {
		if since++; c.wire.tagged("COMMIT") && since != cleaned {
			commits++
			since = 0
		}
	})
	c.dirty = c.dirty || r.be.cleansChanges() // what the last one left out of sight
	c.doomed = c.doomed || c.estranged()
	var pe *pgconn.PgError
	switch {
	case err == nil && commits == len(scripts):
		return commits, false, nil
	case len(scripts) > 1 && errors.As(err, &pe) && results == 0 && !c.pc.IsClosed():
		// The message as a whole could not be parsed, because of some script in it, and nothing ran: one by one, then.
		for i := range scripts {
			if _, ours, err := r.runMessage(ctx, scripts[i:i+1]); err != nil {
				return i, ours, err
			}
		}
		return len(scripts), false, nil
	case len(scripts) == 1 && err == nil:
		// It ended its transaction itself. What was to be committed is.
		return 1, false, nil
	case err == nil:
		err = errNoAnswer
	}
	done = min(commits, len(scripts)-1)
	ours = results > 0 && since < preambles[done]
	if errors.As(err, &pe) && pe.Position > 0 {
		// Characters, of the message: make it of the script's text.
		if before := int32(sqltext.Characters(message, starts[done])); pe.Position > before {
			pe.Position -= before
		} else {
			pe.Position = 0
		}
	}
	return done, ours, err
}

// scriptFault turns the refusal of a statement of ours, or of what the script's text may not do, into the contract's errors.
func (be *Backend) scriptFault(pe *pgconn.PgError, ours bool) error {
	switch {
	case !ours && (outside(pe) || be.deniedShared(driver.AccessMaintenance, pe)):
		return fmt.Errorf("%w: %w", backend.ErrReadOnlyShared, pe)
	case !ours:
		return pe
	}
	if fault := named(pe); fault != nil {
		return fmt.Errorf("%w: %w", fault, pe)
	}
	return pe
}

// Flush makes durable what was committed asynchronously: a commit that waits for the disk takes all before it along.
// See [backend.ScriptRunner].
func (be *Backend) Flush(ctx context.Context) error {
	return be.withConn(ctx, "flush", backend.Route{}, func(c *pgx.Conn) error {
		// Having an XID is what makes the commit write and flush a record.
		return c.PgConn().Exec(ctx, "begin;set local synchronous_commit=on;select pg_catalog.pg_current_xact_id();commit").Close()
	})
}
