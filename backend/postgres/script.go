package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

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
// A script's text is trusted to contain no COMMIT or ROLLBACK of its own; where it does all the same, no script of its
// message is reported as committed when it was not, since each transaction is told by its own command tag.
func (be *Backend) RunScripts(ctx context.Context, scripts []backend.Script, opt backend.ScriptOptions) []error {
	faults := make([]error, len(scripts))
	if len(scripts) == 0 {
		return faults
	}
	fail := func(from int, err error) {
		for i := from; i < len(scripts); i++ {
			faults[i] = &backend.Error{Op: "run script in", Store: scripts[i].Route.Store, Err: err}
		}
	}
	err := be.withConn(ctx, "run scripts", backend.Route{}, func(c *pgx.Conn) error {
		for next := 0; next < len(scripts); {
			if err := ctx.Err(); err != nil {
				fail(next, err)
				return nil
			}
			end, size := next, 0
			for end < len(scripts) && end-next < scriptsPerMessage && (end == next || size+len(scripts[end].SQL) <= scriptBytes) {
				size += len(scripts[end].SQL)
				end++
			}
			done, err := be.runMessage(ctx, c, scripts[next:end], opt)
			next += done
			if err == nil {
				continue
			}
			// The script at next failed, and its transaction with it.
			var pe *pgconn.PgError
			if c.IsClosed() || !errors.As(err, &pe) {
				unknown := fmt.Errorf("%w: %w", backend.ErrOutcomeUnknown, err)
				if pgconn.SafeToRetry(err) {
					unknown = err
				}
				faults[next] = &backend.Error{Op: "run script in", Store: scripts[next].Route.Store, Err: unknown}
				fail(next+1, fmt.Errorf("not run, the connection was lost before: %w", err))
				closeConn(c)
				return nil
			}
			faults[next] = &backend.Error{Op: "run script in", Store: scripts[next].Route.Store, Err: scriptFault(scripts[next], pe)}
			next++
			if err := c.PgConn().Exec(context.WithoutCancel(ctx), "rollback").Close(); err != nil {
				fail(next, fmt.Errorf("not run: %w", err))
				closeConn(c)
				return nil
			}
		}
		return nil
	})
	if err != nil {
		var wrapped *backend.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		fail(0, err)
	}
	for i, s := range scripts {
		if s.Create && faults[i] == nil {
			be.forgetStore(s.Route.Store)
		}
	}
	return faults
}

// runMessage sends scripts as one message, and returns how many of them were committed before the error.
func (be *Backend) runMessage(ctx context.Context, c *pgx.Conn, scripts []backend.Script, opt backend.ScriptOptions) (done int, err error) {
	var b strings.Builder
	// One transaction's worth of prefix is part of the text of each script, so that the results can be counted off: marks
	// holds what the message's command tags are expected to be.
	for i := range scripts {
		be.writeScript(&b, &scripts[i], opt)
	}
	mrr := c.PgConn().Exec(ctx, b.String())
	// Each script ends with a "commit" that answers COMMIT, or ROLLBACK where its transaction had been aborted without
	// an error, which does not happen.
	var commits int
	for mrr.NextResult() {
		tag, err := mrr.ResultReader().Close()
		if err == nil && tag.String() == "COMMIT" {
			commits++
		}
	}
	if err = mrr.Close(); err == nil && commits < len(scripts) {
		err = errors.New("the script ended its transaction itself")
	}
	return min(commits, len(scripts)), err
}

// writeScript writes one script with its transaction around it.
func (be *Backend) writeScript(b *strings.Builder, s *backend.Script, opt backend.ScriptOptions) {
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
	if s.Create {
		b.WriteString(be.createSQL(s.Route))
	} else {
		b.WriteString(scriptGuard(s.Route))
	}
	b.WriteString(s.SQL)
	// The newline ends a comment, the first semicolon a statement that has none.
	b.WriteString("\n;commit;\n")
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
