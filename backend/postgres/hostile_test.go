package postgres_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// Whatever a tenant's SQL does to transactions and settings, what comes after it does not land in the shared store, and
// answers do not get out of step.
func TestHostileSQL(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"cache_statement", "exec", "simple_protocol"} {
		t.Run(mode, func(t *testing.T) {
			be := open(t, pgtest.Shared(t).Database(t), map[string]string{"default_query_exec_mode": mode, "pool_max_conns": "1"})
			ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
			defer cancel()
			_, err := be.Shared().ExecContext(ctx, `CREATE TABLE notes (id bigserial, mark text)`)
			require.NoError(t, err)
			_, a := tenant(t, be, "a")
			_, b := tenant(t, be, "b")
			a, ca := context.WithTimeout(a, 60*time.Second)
			defer ca()
			stray := func(what string) {
				t.Helper()
				var n int
				require.NoError(t, be.Shared().QueryRowContext(ctx, `SELECT count(*) FROM notes`).Scan(&n), what)
				require.Zero(t, n, what)
			}
			ins := `INSERT INTO notes (mark) VALUES ('stray')`
			db, n := be.DB(), be.PGX()
			for _, chain := range []string{"COMMIT AND CHAIN", "ROLLBACK AND CHAIN", "commit/**/work and chain"} {
				tx, err := db.BeginTx(a, nil)
				require.NoError(t, err)
				_, err = tx.ExecContext(a, chain)
				require.Error(t, err, chain)
				_, err = tx.ExecContext(a, ins)
				t.Log(err, tx.Commit())
				stray(chain)
				tx, err = db.BeginTx(a, nil)
				require.NoError(t, err)
				r, err := tx.QueryContext(a, chain)
				if err == nil {
					r.Close()
				}
				require.Error(t, err, chain)
				_, err = tx.ExecContext(a, ins)
				t.Log(err, tx.Commit())
				stray("query " + chain)
			}
			for _, list := range [][]string{{"COMMIT", ins}, {"ROLLBACK", ins}, {"BEGIN", "COMMIT", ins}, {"ROLLBACK AND CHAIN", ins, "COMMIT"}} {
				var batch pgx.Batch
				for _, q := range list {
					batch.Queue(q)
				}
				t.Log(list, n.SendBatch(a, &batch).Close())
				stray("batch " + list[0])
				tx, err := n.Begin(a)
				require.NoError(t, err)
				batch = pgx.Batch{}
				for _, q := range list {
					batch.Queue(q)
				}
				t.Log(list, tx.SendBatch(a, &batch).Close())
				t.Log(tx.Commit(a))
				stray("tx batch " + list[0])
			}
			for _, q := range []string{
				"SELECT name'a\\'; COMMIT; " + ins + "; --'",
				"SELECT 1 AS a$b$; COMMIT; " + ins,
				"SELECT 1; --\rCOMMIT; " + ins,
				"SELECT x.begin atomic FROM (SELECT 1 AS begin) x; COMMIT; " + ins,
				"/* /* */ */ SELECT 1; COMMIT; " + ins,
				"SELECT 1;COMMIT;" + ins,
			} {
				_, err := db.ExecContext(a, q)
				t.Logf("%v: %v", q, err)
				stray(q)
			}
			// held connection
			for _, q := range []string{"DISCARD ALL", "VACUUM; ", "RESET ALL", "VACUUM", "RESET search_path", "RESET ALL"} {
				conn, err := db.Conn(a)
				require.NoError(t, err)
				if q == "RESET search_path" || q == "RESET ALL" {
					_, err = conn.ExecContext(a, "VACUUM")
					require.NoError(t, err)
				}
				_, err = conn.ExecContext(a, q)
				t.Logf("%v: %v", q, err)
				_, err = conn.ExecContext(a, ins)
				t.Log(err)
				require.NoError(t, conn.Close())
				stray("held " + q)
			}
			// procedures
			_, err = be.Shared().ExecContext(ctx, `CREATE PROCEDURE pp(x text) LANGUAGE plpgsql AS $$ begin insert into notes(mark) values (x); commit; insert into notes(mark) values (x); end $$`)
			require.NoError(t, err)
			do := `DO $$ begin insert into notes(mark) values ('x'); commit; insert into notes(mark) values ('x'); end $$`
			_, err = db.ExecContext(a, `CALL pp($1)`, "x")
			t.Log(err)
			stray("call arg")
			_, err = db.ExecContext(a, `CALL pp('x')`)
			t.Log(err)
			stray("call")
			_, err = db.ExecContext(a, do)
			t.Log(err)
			stray("do")
			r, err := db.QueryContext(a, do)
			if err == nil {
				r.Close()
			}
			t.Log(err)
			stray("do query")
			var batch pgx.Batch
			batch.Queue(`CALL pp($1)`, "x")
			t.Log(n.SendBatch(a, &batch).Close())
			stray("call batch")
			batch = pgx.Batch{}
			batch.Queue(do)
			t.Log(n.SendBatch(a, &batch).Close())
			stray("do batch")
			// stale batch rows
			batch = pgx.Batch{}
			batch.Queue(`SELECT 'A' || i FROM generate_series(1, 5) i`)
			br := n.SendBatch(a, &batch)
			rows, err := br.Query()
			require.NoError(t, err)
			rows.Next()
			br.Close()
			brow, err := n.Query(b, `SELECT 'B' || i FROM generate_series(1, 5) i`)
			require.NoError(t, err)
			if rows.Next() {
				v, err := rows.Values()
				require.Fail(t, "rows of a closed batch read on", "%v, %v", v, err)
			}
			brow.Close()
			// COPY
			c2, cc := context.WithTimeout(a, 60*time.Second)
			_, err = db.ExecContext(c2, "COPY notes FROM STDIN")
			require.Error(t, err)
			_, err = db.ExecContext(c2, "COPY notes TO STDOUT")
			require.NoError(t, err)
			if mode != "simple_protocol" { // pgx's own, which waits for the data until the deadline
				_, err = db.QueryContext(c2, "COPY notes FROM STDIN")
				require.Error(t, err)
			}
			cc()
			var s string
			require.NoError(t, db.QueryRowContext(b, `SELECT current_schema()`).Scan(&s))
			require.Equal(t, "b", s)
			for _, q := range []string{"COMMIT; " + ins, "COMMIT AND CHAIN; " + ins, "SELECT 1; COMMIT AND CHAIN; " + ins} {
				t.Log(be.RunScripts(ctx, []backend.Script{{Route: route("a"), SQL: q}, {Route: route("b"), SQL: "SELECT 1"}}, backend.ScriptOptions{}))
				stray("script " + q)
			}
		})
	}
}
