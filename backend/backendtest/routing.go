package backendtest

import (
	"context"
	"database/sql"
	"fmt"
	"sync"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

var routingCases = []testCase{
	{
		id: "S01", name: "every call without a tenant is refused",
		rule: "On the routed handle a call whose context names no tenant returns ErrNoTenant.",
		run: func(e *env) {
			a := e.tenant("a", "a1")
			e.sharedNotes("shared")
			prepared, err := e.be.DB().PrepareContext(e.in(a), selectMarks)
			require.NoError(e, err)
			defer func() { _ = prepared.Close() }()
			for _, ctx := range []context.Context{e.ctx, backend.WithoutRoute(e.in(a)), backend.WithRoute(e.ctx, backend.Route{})} {
				for _, call := range routedCalls(e.be.DB()) {
					assert.ErrorIs(e, call.do(ctx), backend.ErrNoTenant, call.name)
				}
				for _, opts := range []*sql.TxOptions{nil, {ReadOnly: true}} {
					_, err := e.be.DB().BeginTx(ctx, opts)
					assert.ErrorIs(e, err, backend.ErrNoTenant, "BeginTx says it, and does not wait for a statement")
				}
				_, err := readMarksStmt(ctx, prepared)
				assert.ErrorIs(e, err, backend.ErrNoTenant, "a statement that was prepared with a tenant")
			}
		},
	},
	{
		id: "S01", name: "no store is touched",
		rule: "A call without a tenant reaches no store: not the one used before, not the shared one.",
		run: func(e *env) {
			a := e.tenant("a", "a1")
			e.sharedNotes("shared")
			for range 3 {
				e.holds(a, "a1") // so that there is a connection that was a's
				for _, call := range routedCalls(e.be.DB()) {
					_ = call.do(e.ctx)
				}
			}
			e.holds(a, "a1")
			e.sharedHolds("shared")
		},
	},
	{
		id: "S01", name: "a held connection does not lend its tenant",
		rule: "Each statement on a held connection says where it belongs; one whose context names no tenant returns ErrNoTenant.",
		run: func(e *env) {
			a := e.tenant("a", "a1")
			conn := e.conn()
			_, err := conn.ExecContext(e.ctx, insertNote, "stray")
			require.ErrorIs(e, err, backend.ErrNoTenant, "before the connection was used")
			_, err = conn.ExecContext(e.in(a), insertNote, "a2")
			require.NoError(e, err)
			_, err = conn.ExecContext(e.ctx, insertNote, "stray")
			require.ErrorIs(e, err, backend.ErrNoTenant, "after it was used for a")
			_, err = readMarks(e.ctx, conn)
			require.ErrorIs(e, err, backend.ErrNoTenant)
			_, err = conn.BeginTx(e.ctx, nil)
			require.ErrorIs(e, err, backend.ErrNoTenant)
			got, err := readMarks(e.in(a), conn)
			require.NoError(e, err)
			require.Equal(e, []string{"a1", "a2"}, got)
		},
	},
	{
		id: "S01", name: "ping needs no tenant",
		rule: "Ping asks whether the backend answers; it involves no store and needs no tenant.",
		run: func(e *env) {
			require.NoError(e, e.be.DB().PingContext(e.ctx))
			require.NoError(e, e.be.Shared().PingContext(e.ctx))
			require.NoError(e, e.pin(route("nowhere")).PingContext(e.ctx))
		},
	},
	{
		id: "S02", name: "each write lands where its context says",
		rule:  "A, then B, then A in one goroutine: each statement and each transaction goes to the store that its context names.",
		conns: 1,
		run: func(e *env) {
			a, b := e.tenant("a"), e.tenant("b")
			e.sharedNotes("shared")
			for i := range 6 {
				rt := a
				if i%2 == 1 {
					rt = b
				}
				e.add(rt, fmt.Sprintf("%s%d", rt.Store, i))
				tx := e.tx(rt)
				_, err := tx.Exec(insertNote, fmt.Sprintf("%s%d-tx", rt.Store, i))
				require.NoError(e, err)
				require.NoError(e, tx.Commit())
			}
			e.holds(a, "a0", "a0-tx", "a2", "a2-tx", "a4", "a4-tx")
			e.holds(b, "b1", "b1-tx", "b3", "b3-tx", "b5", "b5-tx")
			e.sharedHolds("shared")
		},
	},
	{
		id: "S02", name: "in parallel",
		rule: "Statements of many tenants at once, more than there are connections, each go to their own store.",
		run: func(e *env) {
			const tenants, each = 8, 25
			routes := make([]backend.Route, tenants)
			for i := range routes {
				routes[i] = e.tenant(fmt.Sprintf("t%d", i))
			}
			failures := newTally()
			var wg sync.WaitGroup
			for _, rt := range routes {
				wg.Go(func() {
					for range each {
						_, err := e.be.DB().ExecContext(e.in(rt), insertNote, rt.Store.String())
						failures.add(err)
					}
				})
			}
			wg.Wait()
			require.NoError(e, failures.err())
			for _, rt := range routes {
				got, err := readMarks(e.in(rt), e.be.DB())
				require.NoError(e, err)
				require.Len(e, got, each, "rows of %s", rt.Store)
				for _, mark := range got {
					require.Equal(e, rt.Store.String(), mark, "a row in %s", rt.Store)
				}
			}
		},
	},
	{
		id: "S05", name: "a held connection is one session",
		rule: "A *sql.Conn keeps one session for as long as it is held: what one statement leaves in the session, the next one sees; behind a transaction pooler, within a transaction.",
		run: func(e *env) {
			a := e.tenant("a", "a1")
			conn := e.conn()
			ctx := e.in(a)
			var on interface {
				execer
				querier
			} = conn
			if e.cfg.TransactionPooler {
				tx, err := conn.BeginTx(ctx, nil)
				require.NoError(e, err)
				defer func() { _ = tx.Rollback() }()
				on = tx
			}
			_, err := on.ExecContext(ctx, `CREATE TEMPORARY TABLE scratch (mark text)`)
			require.NoError(e, err)
			_, err = on.ExecContext(ctx, `INSERT INTO scratch (mark) SELECT mark FROM notes`)
			require.NoError(e, err)
			got, err := readStrings(ctx, on, `SELECT mark FROM scratch`)
			require.NoError(e, err)
			require.Equal(e, []string{"a1"}, got)
			if e.postgres() && !e.cfg.TransactionPooler {
				var first, second int
				require.NoError(e, conn.QueryRowContext(ctx, `SELECT pg_backend_pid() FROM pg_advisory_lock(42)`).Scan(&first))
				require.NoError(e, conn.QueryRowContext(ctx, `SELECT pg_backend_pid()`).Scan(&second))
				require.Equal(e, first, second, "the server process behind the connection")
				var unlocked bool
				require.NoError(e, conn.QueryRowContext(ctx, `SELECT pg_advisory_unlock(42)`).Scan(&unlocked))
				require.True(e, unlocked, "the advisory lock was held by the session")
			}
		},
	},
	{
		id: "S05", name: "a held connection refuses a second tenant",
		rule: "A *sql.Conn used for one tenant refuses a context that names another with ErrTenantMismatch, and stays usable for its own.",
		run: func(e *env) {
			a, b := e.tenant("a", "a1"), e.tenant("b", "b1")
			conn := e.conn()
			_, err := conn.ExecContext(e.in(a), insertNote, "a2")
			require.NoError(e, err)
			_, err = conn.ExecContext(e.in(b), insertNote, "stray")
			assert.ErrorIs(e, err, backend.ErrTenantMismatch, "exec")
			_, err = readMarks(e.in(b), conn)
			assert.ErrorIs(e, err, backend.ErrTenantMismatch, "query")
			_, err = conn.BeginTx(e.in(b), nil)
			assert.ErrorIs(e, err, backend.ErrTenantMismatch, "begin")
			_, err = conn.PrepareContext(e.in(b), selectMarks)
			assert.ErrorIs(e, err, backend.ErrTenantMismatch, "prepare")
			got, err := readMarks(e.in(a), conn)
			require.NoError(e, err)
			require.Equal(e, []string{"a1", "a2"}, got)
			e.holds(b, "b1")
		},
	},
	{
		id: "S05", name: "a released connection keeps nothing",
		rule:  "What a held connection left in its session (a temporary table, an open transaction) is not seen by the next unit of work.",
		conns: 1,
		run: func(e *env) {
			a, b := e.tenant("a", "a1"), e.tenant("b", "b1")
			for i := range 3 {
				conn := e.conn()
				_, err := conn.ExecContext(e.in(a), `CREATE TEMPORARY TABLE notes (id integer, mark text)`)
				require.NoError(e, err, "round %d: the temporary table of the round before is gone", i)
				_, err = conn.ExecContext(e.in(a), `INSERT INTO temp_notes_probe (x) VALUES (1)`)
				require.Error(e, err, "there is no such table")
				require.NoError(e, conn.Close())
				e.holds(a, "a1")
				e.holds(b, "b1")
				if e.cfg.TransactionPooler {
					return // the pooler keeps the temporary table, out of sight
				}
			}
		},
	},
	{
		id: "S10", name: "prepare once, execute for two tenants",
		rule:  "A statement prepared on the routed handle runs in the store that each execution's context names.",
		conns: 2,
		run: func(e *env) {
			a, b := e.tenant("a"), e.tenant("b")
			insert, err := e.be.DB().PrepareContext(e.in(a), insertNote)
			require.NoError(e, err)
			defer func() { _ = insert.Close() }()
			read, err := e.be.DB().PrepareContext(e.in(b), selectMarks)
			require.NoError(e, err)
			defer func() { _ = read.Close() }()
			for i := range 10 {
				for _, rt := range []backend.Route{a, b} {
					_, err := insert.ExecContext(e.in(rt), fmt.Sprintf("%s%d", rt.Store, i))
					require.NoError(e, err)
					got, err := readMarksStmt(e.in(rt), read)
					require.NoError(e, err)
					require.Len(e, got, i+1)
					require.Equal(e, fmt.Sprintf("%s%d", rt.Store, i), got[i])
				}
			}
		},
	},
	{
		id: "S10", name: "a prepared statement inside a transaction",
		rule: "A statement prepared outside runs in the transaction's store when it is used through tx.StmtContext, and is refused for another.",
		run: func(e *env) {
			a, b := e.tenant("a"), e.tenant("b", "b1")
			insert, err := e.be.DB().PrepareContext(e.in(b), insertNote)
			require.NoError(e, err)
			defer func() { _ = insert.Close() }()
			tx := e.tx(a)
			_, err = tx.StmtContext(e.in(a), insert).ExecContext(e.in(a), "a1")
			require.NoError(e, err)
			_, err = tx.Stmt(insert).Exec("a2")
			if err == nil {
				// database/sql prepares tx.Stmt with context.Background, which the transaction's tenant covers.
				_, err = tx.StmtContext(e.in(a), insert).ExecContext(e.in(b), "stray")
			}
			require.ErrorIs(e, err, backend.ErrTenantMismatch)
			own, err := tx.PrepareContext(e.in(a), insertNote)
			require.NoError(e, err)
			_, err = own.Exec("a3")
			require.NoError(e, err)
			require.NoError(e, own.Close())
			require.NoError(e, tx.Commit())
			e.holds(a, "a1", "a2", "a3")
			e.holds(b, "b1")
		},
	},
	{
		id: "S11", name: "rows stay their tenant's",
		rule: "Rows open for A go on being A's while B is queried.",
		run: func(e *env) {
			a, b := e.tenant("a"), e.tenant("b")
			for i := range 50 {
				e.add(a, fmt.Sprintf("a%d", i))
				e.add(b, fmt.Sprintf("b%d", i))
			}
			rowsA, err := e.be.DB().QueryContext(e.in(a), selectMarks)
			require.NoError(e, err)
			defer func() { _ = rowsA.Close() }()
			rowsB, err := e.be.DB().QueryContext(e.in(b), selectMarks)
			require.NoError(e, err)
			defer func() { _ = rowsB.Close() }()
			for i := range 50 {
				var gotA, gotB string
				require.True(e, rowsA.Next(), "row %d of a: %v", i, rowsA.Err())
				require.NoError(e, rowsA.Scan(&gotA))
				require.Equal(e, fmt.Sprintf("a%d", i), gotA)
				require.True(e, rowsB.Next(), "row %d of b: %v", i, rowsB.Err())
				require.NoError(e, rowsB.Scan(&gotB))
				require.Equal(e, fmt.Sprintf("b%d", i), gotB)
				if i == 25 {
					e.add(b, "b50")
				}
			}
			require.False(e, rowsA.Next())
			require.NoError(e, rowsA.Err())
		},
	},
	{
		id: "S11", name: "rows left open and cancelled",
		rule:  "Rows that were not read to the end when their context was cancelled leave a connection that is safe, or gone: the next unit of work is answered from its own store.",
		conns: 1,
		run: func(e *env) {
			a, b := e.tenant("a", "a1", "a2", "a3"), e.tenant("b", "b1")
			for range 10 {
				ctx, cancel := context.WithCancel(e.in(a))
				rows, err := e.be.DB().QueryContext(ctx, manyRows("mark"), 5000)
				require.NoError(e, err)
				require.True(e, rows.Next(), "%v", rows.Err())
				cancel()
				// With one connection this waits until database/sql has closed the rows; not where the stores are in two places.
				e.holds(b, "b1")
				if err := rows.Close(); err != nil {
					require.ErrorIs(e, err, context.Canceled)
				}
				e.holds(a, "a1", "a2", "a3")
			}
		},
	},
	{
		id: "S11", name: "rows of several stores closed in any order",
		rule: "Each open result has a connection to itself; closing one early does not disturb the others.",
		run: func(e *env) {
			var open []*sql.Rows
			for i := range 4 {
				rt := e.tenant(fmt.Sprintf("t%d", i), fmt.Sprintf("mark%d", i))
				rows, err := e.be.DB().QueryContext(e.in(rt), manyRows("mark"), 1000)
				require.NoError(e, err)
				defer func() { _ = rows.Close() }()
				require.True(e, rows.Next())
				open = append(open, rows)
			}
			require.NoError(e, open[2].Close())
			require.NoError(e, open[0].Close())
			for _, i := range []int{3, 1} {
				n := 1
				for open[i].Next() {
					var mark string
					var k int
					require.NoError(e, open[i].Scan(&mark, &k))
					require.Equal(e, fmt.Sprintf("mark%d", i), mark)
					n++
				}
				require.NoError(e, open[i].Err())
				require.Equal(e, 1000, n)
			}
		},
	},
	{
		id: "S13", name: "SELECT * while one tenant has a new column",
		rule:  "During a rolling migration SELECT * alternates between a tenant that has the new column and one that has not, on one connection, without an error reaching the caller.",
		conns: 1,
		run: func(e *env) {
			a, b := e.tenant("a", "a1"), e.tenant("b", "b1")
			const query = `SELECT * FROM notes WHERE id = $1`
			prepared, err := e.be.DB().PrepareContext(e.in(a), query)
			require.NoError(e, err)
			defer func() { _ = prepared.Close() }()
			columns := func(rt backend.Route, want ...string) {
				e.Helper()
				ctx := e.in(rt)
				for name, q := range map[string]func() (*sql.Rows, error){
					"db":   func() (*sql.Rows, error) { return e.be.DB().QueryContext(ctx, query, 1) },
					"stmt": func() (*sql.Rows, error) { return prepared.QueryContext(ctx, 1) },
				} {
					rows, err := q()
					require.NoError(e, err, "%s in %s", name, rt.Store)
					got, err := rows.Columns()
					require.NoError(e, err)
					require.Equal(e, want, got, "columns of %s by %s", rt.Store, name)
					require.True(e, rows.Next(), "%s in %s: %v", name, rt.Store, rows.Err())
					require.NoError(e, rows.Close())
				}
			}
			for range 8 { // often enough that the statement is cached wherever it can be
				columns(a, "id", "mark")
				columns(b, "id", "mark")
			}
			e.ddl(a, `ALTER TABLE notes ADD COLUMN extra text`)
			for range 8 {
				columns(a, "id", "mark", "extra")
				columns(b, "id", "mark")
			}
			e.ddl(a, `ALTER TABLE notes DROP COLUMN extra`)
			e.ddl(b, `ALTER TABLE notes ADD COLUMN extra text`)
			for range 8 {
				columns(b, "id", "mark", "extra")
				columns(a, "id", "mark")
			}
		},
	},
	{
		id: "S76", name: "the same text over columns of other types",
		rule:  "A value is written and read by the type that its column has in its own store, while another's has another.",
		conns: 1,
		run: func(e *env) {
			a, b := route("a"), route("b")
			for rt, typ := range map[backend.Route]string{a: "bigint", b: "text"} {
				require.NoError(e, e.be.Create(e.ctx, rt))
				e.ddl(rt, `CREATE TABLE prices (id int, amount `+typ+`)`)
			}
			const insert = `INSERT INTO prices (id, amount) VALUES ($1, $2)`
			prepared, err := e.be.DB().PrepareContext(e.ctx, insert)
			require.NoError(e, err)
			defer func() { _ = prepared.Close() }()
			for round := range 4 {
				for rt, want := range map[backend.Route]string{a: "42", b: "0042"} {
					_, err := e.be.DB().ExecContext(e.in(rt), `DELETE FROM prices`)
					require.NoError(e, err)
					_, err = e.be.DB().ExecContext(e.in(rt), insert, round, "0042")
					require.NoError(e, err)
					_, err = prepared.ExecContext(e.in(rt), round, "0042")
					require.NoError(e, err)
					tx := e.tx(rt)
					_, err = tx.ExecContext(e.in(rt), insert, round, "0042")
					require.NoError(e, err)
					require.NoError(e, tx.Commit())
					got, err := readStrings(e.in(rt), e.be.DB(), `SELECT CAST(amount AS text) FROM prices WHERE id = $1`, round)
					require.NoError(e, err)
					require.Equal(e, []string{want, want, want}, got, "in %s", rt.Store)
				}
			}
		},
	},
	{
		id: "S13", name: "the first statement of a transaction",
		rule:  "A transaction that begins with SELECT * works for the tenant that has the new column and for the one that has not.",
		conns: 1,
		run: func(e *env) {
			a, b := e.tenant("a", "a1"), e.tenant("b", "b1")
			columns := func(rt backend.Route) int {
				tx := e.tx(rt)
				defer func() { require.NoError(e, tx.Rollback()) }()
				rows, err := tx.QueryContext(e.in(rt), `SELECT * FROM notes WHERE id = $1`, 1)
				require.NoError(e, err, "in %s", rt.Store)
				defer func() { _ = rows.Close() }()
				got, err := rows.Columns()
				require.NoError(e, err)
				require.True(e, rows.Next(), "in %s: %v", rt.Store, rows.Err())
				return len(got)
			}
			for range 8 {
				require.Equal(e, 2, columns(a))
				require.Equal(e, 2, columns(b))
			}
			e.ddl(a, `ALTER TABLE notes ADD COLUMN extra text`)
			for range 8 {
				require.Equal(e, 3, columns(a))
				require.Equal(e, 2, columns(b))
			}
		},
	},
	{
		id: "S14", name: "statements that refuse to run in a transaction",
		rule:  "VACUUM and, on Postgres, CREATE INDEX CONCURRENTLY work, and in the store that the route names.",
		needs: ownServerSession,
		run: func(e *env) {
			if e.cfg.TransactionPooler {
				e.Skip("they need a server session of their own, which such a pooler does not give")
			}
			a, b := e.tenant("a", "a1"), e.tenant("b", "b1")
			e.sharedNotes("shared")
			owner := e.be.Maintenance(a)
			defer func() { _ = owner.Close() }()
			handles := map[string]execer{"owner": owner, "routed": e.be.DB(), "pinned": e.pin(a), "held": e.conn()}
			for name, db := range handles {
				_, err := db.ExecContext(e.in(a), `VACUUM`)
				if e.postgres() {
					_, err = db.ExecContext(e.in(a), `VACUUM notes`)
				}
				require.NoError(e, err, "VACUUM, %s", name)
				if !e.postgres() {
					continue
				}
				_, err = db.ExecContext(e.in(a), `CREATE INDEX CONCURRENTLY by_mark_`+name+` ON notes (mark)`)
				require.NoError(e, err, "CREATE INDEX CONCURRENTLY, %s", name)
				in, err := readStrings(e.ctx, e.sharedBeside(a), `SELECT schemaname FROM pg_indexes WHERE indexname = $1`, "by_mark_"+name)
				require.NoError(e, err)
				require.Equal(e, []string{"a"}, in, "schemas that have the index")
				_, err = db.ExecContext(e.in(a), `REINDEX INDEX CONCURRENTLY by_mark_`+name)
				require.NoError(e, err, "REINDEX INDEX CONCURRENTLY, %s", name)
			}
			e.holds(a, "a1")
			e.holds(b, "b1")
			e.sharedHolds("shared")
		},
	},
}

// manyRows is a query whose rows each carry a note's column and a number from 1 to $1.
func manyRows(column string) string {
	return `WITH RECURSIVE many (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM many WHERE n < CAST($1 AS integer))
		SELECT (SELECT ` + column + ` FROM notes ORDER BY id LIMIT 1), n FROM many`
}

func readMarksStmt(ctx context.Context, stmt *sql.Stmt) ([]string, error) {
	rows, err := stmt.QueryContext(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	texts := []string{}
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		texts = append(texts, text)
	}
	return texts, rows.Err()
}

// call is one way to reach a store through a handle.
type call struct {
	name string
	do   func(ctx context.Context) error
}

// routedCalls are all the ways through a handle. Each writes where it can, so that a call that lost its way shows.
func routedCalls(db *sql.DB) []call {
	return []call{
		{"ExecContext", func(ctx context.Context) error {
			_, err := db.ExecContext(ctx, insertNote, "stray")
			return err
		}},
		{"ExecContext without arguments", func(ctx context.Context) error {
			_, err := db.ExecContext(ctx, `INSERT INTO notes (mark) VALUES ('stray')`)
			return err
		}},
		{"QueryContext", func(ctx context.Context) error {
			_, err := readMarks(ctx, db)
			return err
		}},
		{"QueryContext with RETURNING", func(ctx context.Context) error {
			_, err := readStrings(ctx, db, insertNote+` RETURNING mark`, "stray")
			return err
		}},
		{"QueryRowContext", func(ctx context.Context) error {
			var one int
			return db.QueryRowContext(ctx, `SELECT 1`).Scan(&one)
		}},
		{"BeginTx", func(ctx context.Context) error {
			tx, err := db.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			defer func() { _ = tx.Rollback() }()
			// What only the server knows may come with the first statement.
			if _, err := tx.ExecContext(ctx, insertNote, "stray"); err != nil {
				return err
			}
			_ = tx.Commit()
			return nil
		}},
		{"BeginTx, read only", func(ctx context.Context) error {
			tx, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
			if err != nil {
				return err
			}
			defer func() { _ = tx.Rollback() }()
			_, err = readMarks(ctx, tx)
			return err
		}},
		{"PrepareContext", func(ctx context.Context) error {
			stmt, err := db.PrepareContext(ctx, insertNote)
			if err != nil {
				return err
			}
			defer func() { _ = stmt.Close() }()
			_, err = stmt.ExecContext(ctx, "stray")
			return err
		}},
		{"Conn.ExecContext", func(ctx context.Context) error {
			conn, err := db.Conn(ctx)
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close() }()
			_, err = conn.ExecContext(ctx, insertNote, "stray")
			return err
		}},
		{"Conn.BeginTx", func(ctx context.Context) error {
			conn, err := db.Conn(ctx)
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close() }()
			tx, err := conn.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			defer func() { _ = tx.Rollback() }()
			if _, err := tx.ExecContext(ctx, insertNote, "stray"); err != nil {
				return err
			}
			_ = tx.Commit()
			return nil
		}},
	}
}
