package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenement-go/tenement/backend"
)

const (
	// scriptsPerMessage and scriptBytes bound one message of scripts.
	scriptsPerMessage = 32
	scriptBytes       = 1 << 20
	// defaultLockTimeout is the wait for each lock of a script when the options do not say.
	defaultLockTimeout = 5 * time.Second
)

func formatKey(k int64) string { return strconv.FormatInt(k, 10) }

// RunScripts sends scripts in messages of many; see [backend.ScriptRunner].
//
// A script should contain no COMMIT or ROLLBACK of its own. One that does is sent by itself, and what it left open is
// committed after it; it is on its own as to what it did when it fails.
func (be *Backend) RunScripts(ctx context.Context, scripts []backend.Script, opt backend.ScriptOptions) []error {
	faults := make([]error, len(scripts))
	if len(scripts) == 0 {
		return faults
	}
	for next := 0; next < len(scripts); {
		err := be.withConn(ctx, "run scripts", backend.Route{}, func(c *pgx.Conn) error {
			next = be.runOn(ctx, c, scripts, next, opt, faults)
			return nil
		})
		if err != nil {
			var wrapped *backend.Error
			if errors.As(err, &wrapped) {
				err = wrapped.Err
			}
			failFrom(scripts, faults, next, err)
			break
		}
	}
	for i, s := range scripts {
		if s.Create && faults[i] == nil {
			be.forgetStore(s.Route.Store)
		}
	}
	return faults
}

func failFrom(scripts []backend.Script, faults []error, from int, err error) {
	for i := from; i < len(scripts); i++ {
		faults[i] = &backend.Error{Op: "run script in", Store: scripts[i].Route.Store, Err: err}
	}
}

// runOn runs scripts on one connection, from the given one on, until none is left or the connection must not be used any
// more. It returns which is the next.
func (be *Backend) runOn(ctx context.Context, c *pgx.Conn, scripts []backend.Script, next int, opt backend.ScriptOptions, faults []error) int {
	for next < len(scripts) {
		if err := ctx.Err(); err != nil {
			failFrom(scripts, faults, next, err)
			return len(scripts)
		}
		end, size, changed := next, 0, false
		for end < len(scripts) && end-next < scriptsPerMessage && (end == next || size+len(scripts[end].SQL) <= scriptBytes) {
			// One that ends its transaction itself would upset the counting, and one that changes settings for longer
			// than its transaction would change them for those after it.
			t := classify(scripts[end].SQL)
			lone := t&(control|sticky) != 0
			if lone && end > next {
				break
			}
			size += len(scripts[end].SQL)
			end++
			if lone {
				changed = t&sticky != 0
				break
			}
		}
		done, err := be.runMessage(ctx, c, scripts[next:end], opt)
		next += done
		if err != nil {
			// The script at next failed, and its transaction with it.
			var pe *pgconn.PgError
			if c.IsClosed() || !errors.As(err, &pe) {
				unknown := fmt.Errorf("%w: %w", backend.ErrOutcomeUnknown, err)
				if pgconn.SafeToRetry(err) {
					unknown = err
				}
				faults[next] = &backend.Error{Op: "run script in", Store: scripts[next].Route.Store, Err: unknown}
				failFrom(scripts, faults, next+1, fmt.Errorf("not run, the connection was lost before: %w", err))
				closeConn(c)
				return len(scripts)
			}
			faults[next] = &backend.Error{Op: "run script in", Store: scripts[next].Route.Store, Err: scriptFault(scripts[next], pe)}
			next++
			if err := c.PgConn().Exec(context.WithoutCancel(ctx), "rollback").Close(); err != nil {
				closeConn(c)
				return next
			}
		}
		if changed {
			closeConn(c)
			return next
		}
	}
	return next
}

// runMessage sends scripts as one message, and returns how many of them were committed before the error.
func (be *Backend) runMessage(ctx context.Context, c *pgx.Conn, scripts []backend.Script, opt backend.ScriptOptions) (done int, err error) {
	var b strings.Builder
	starts := make([]int, len(scripts)) // where each script's own text begins
	for i := range scripts {
		starts[i] = be.writeScript(&b, &scripts[i], opt)
	}
	message := b.String()
	mrr := c.PgConn().Exec(ctx, message)
	// Each script's transaction ends with a command tag of its own, which is how they are counted.
	var results, commits int
	for mrr.NextResult() {
		results++
		tag, err := mrr.ResultReader().Close()
		if err == nil && tag.String() == "COMMIT" {
			commits++
		}
	}
	err = mrr.Close()
	var pe *pgconn.PgError
	switch {
	case err == nil && commits == len(scripts):
		return commits, nil
	case len(scripts) > 1 && errors.As(err, &pe) && results == 0 && !c.IsClosed():
		// The message as a whole could not be parsed, because of some script in it, and nothing ran: one by one, then.
		for i := range scripts {
			if _, err := be.runMessage(ctx, c, scripts[i:i+1], opt); err != nil {
				return i, err
			}
		}
		return len(scripts), nil
	case len(scripts) == 1 && err == nil:
		// It ended its transaction itself. What was to be committed is.
		return 1, nil
	case err == nil:
		err = errNoAnswer
	}
	if errors.As(err, &pe) && pe.Position > 0 && commits < len(scripts) {
		// Characters, of the message: make it of the script's text.
		if before := int32(utf8.RuneCountInString(message[:starts[commits]])); pe.Position > before {
			pe.Position -= before
		} else {
			pe.Position = 0
		}
	}
	return min(commits, len(scripts)), err
}

// writeScript writes one script with its transaction around it, and returns where its own text begins.
func (be *Backend) writeScript(b *strings.Builder, s *backend.Script, opt backend.ScriptOptions) (start int) {
	timeout := opt.LockTimeout
	if timeout <= 0 {
		timeout = defaultLockTimeout
	}
	schema := quote(s.Route.Store.String())
	b.WriteString("begin;")
	b.WriteString(be.roles.resetSQL(be))
	b.WriteString("set local lock_timeout=")
	b.WriteString(strconv.FormatInt(max(timeout.Milliseconds(), 1), 10))
	if opt.Async {
		b.WriteString(";set local synchronous_commit=off")
	}
	b.WriteString(";set local search_path=")
	b.WriteString(schema)
	b.WriteString(",public,pg_temp;")
	b.WriteString(shareSQL(s.Route.Store))
	if s.Create {
		b.WriteString(be.createSQL(s.Route))
	} else {
		b.WriteString(scriptGuard(s.Route))
	}
	start = b.Len()
	b.WriteString(s.SQL)
	// The newline ends a comment, the first semicolon a statement that has none.
	b.WriteString("\n;commit;\n")
	return start
}

// scriptGuard fails unless the store is there, and is the owner's where the route has one.
func scriptGuard(rt backend.Route) string {
	if rt.Owner == "" {
		return "select " + literal(quote(rt.Store.String())) + "::pg_catalog.regnamespace;"
	}
	return guardSQL(rt)
}

// scriptFault turns the refusal of a script's own guard or CREATE SCHEMA into the contract's errors.
func scriptFault(s backend.Script, pe *pgconn.PgError) error {
	switch {
	case s.Create && (pe.Code == "42P06" || pe.Code == "23505" && pe.TableName == "pg_namespace"):
		return fmt.Errorf("%w: %w", backend.ErrStoreExists, pe)
	case !s.Create && (pe.Code == "3F000" || pe.Code == "22012"):
		return fmt.Errorf("%w: %w", backend.ErrStoreMissing, pe)
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
