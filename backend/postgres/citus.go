package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/sqltext"
)

// Citus keeps each tenant's schema on one of its nodes (schema-based sharding). Routing is the same there: the coordinator
// plans what arrives under the search_path of the prefix, and sends it on. Four things are not:
//
//   - The coordinator forwards a DDL statement as the text of the whole message that it came in, and a node refuses
//     a text of several. So texts travel as a message for each statement, in one batch; see queueText.
//   - A table with a sequence is made through a second connection to the nodes, which does not see a schema that is not
//     committed. So a script that makes its store makes the schema first; see makeFirst.
//   - Sessions on the nodes are opened as the role that does the work. So it may log in, without a password; see makeSQL.
//   - Reference tables and moves are Citus' functions; see nodes.go.

// citus is what a backend knows of the extension.
type citus struct {
	on bool // the database is a Citus coordinator, and has nodes for stores
}

// detectCitus asks, once, whether the database is spread over nodes.
func (be *Backend) detectCitus(ctx context.Context) error {
	var there bool
	return be.withConn(ctx, "open", backend.Route{}, func(c *pgx.Conn) error {
		err := c.QueryRow(ctx, "select pg_catalog.to_regclass('pg_catalog.pg_dist_node') is not null and "+
			"exists (select from pg_catalog.pg_extension where extname='citus')", be.queryMode()).Scan(&there)
		if err != nil || !there {
			return err
		}
		return c.QueryRow(ctx, "select exists (select from pg_catalog.pg_dist_node where isactive and shouldhaveshards and noderole='primary')",
			be.queryMode()).Scan(&be.citus.on)
	})
}

// createSQL returns what comes ahead of CREATE SCHEMA.
func (c *citus) createSQL() []string {
	if !c.on {
		return nil
	}
	return []string{"set local citus.enable_schema_based_sharding=on"}
}

// queueText queues a text of the simple protocol. On Citus each statement is a message of its own, in one batch: the
// results, and what an error does to the statements behind it, are the same (the server skips them, up to the Sync).
func (c *conn) queueText(text string) {
	w := &c.wire
	var statements []sqltext.Span
	if c.be.citus.on {
		statements = sqltext.Statements(sqltext.Postgres, text)
	}
	if len(statements) < 2 {
		c.fe.SendQuery(&pgproto3.Query{String: text})
		return
	}
	w.message, w.apart = text, statements
	for _, s := range statements {
		c.fe.SendParse(&pgproto3.Parse{Query: text[s.Start:s.End]})
		c.fe.SendBind(&pgproto3.Bind{})
		c.fe.SendDescribe(&describePortal)
		c.fe.SendExecute(&executeAll)
		w.size += s.End - s.Start + 64
	}
	c.fe.SendSync(&syncAll)
}

// makesFirst reports whether there is a script whose store has to be there, committed, before the rest of it is run.
func (be *Backend) makesFirst(scripts []backend.Script) bool {
	for i := range scripts {
		if scripts[i].Create {
			return be.citus.on
		}
	}
	return false
}

// makeFirst runs scripts one by one, those that make their store in two transactions. Where the second fails the store is
// dropped again; where that is not to be, because the process ends, there is a store of the owner's with nothing in it,
// which whoever makes it once more goes on with.
func (be *Backend) makeFirst(ctx context.Context, scripts []backend.Script, opt backend.ScriptOptions) []error {
	faults := make([]error, len(scripts))
	for i, s := range scripts {
		if s.Create {
			if faults[i] = be.Create(ctx, s.Route); faults[i] != nil {
				continue
			}
		}
		made := s.Create
		s.Create = false
		faults[i] = be.runScripts(ctx, []backend.Script{s}, opt, made)[0]
		if made && faults[i] != nil && !errors.Is(faults[i], backend.ErrOutcomeUnknown) {
			faults[i] = errors.Join(faults[i], be.unmake(ctx, s.Route))
		}
	}
	return faults
}

// unmakePatience is how long a store that was made in vain is waited for.
const unmakePatience = 10 * time.Second

// unmake drops what makeFirst has made; also when the caller has had enough.
func (be *Backend) unmake(ctx context.Context, rt backend.Route) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unmakePatience)
	defer cancel()
	if err := be.Drop(ctx, rt); err != nil && !errors.Is(err, backend.ErrStoreMissing) {
		return fmt.Errorf("the store stays, with nothing in it: %w", err)
	}
	return nil
}
