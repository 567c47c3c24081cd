package backendtest

import (
	"context"
	"database/sql"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

var transactionCases = []testCase{
	{
		id: "S04", name: "a transaction refuses another tenant",
		rule: "A call inside a transaction whose context names another tenant returns ErrTenantMismatch and does not run.",
		run: func(e *env) {
			a, b := e.tenant("a"), e.tenant("b", "b1")
			tx := e.tx(a)
			_, err := tx.ExecContext(e.in(a), insertNote, "a1")
			require.NoError(e, err)
			_, err = tx.ExecContext(e.in(b), insertNote, "stray")
			assert.ErrorIs(e, err, backend.ErrTenantMismatch, "exec")
			_, err = readMarks(e.in(b), tx)
			assert.ErrorIs(e, err, backend.ErrTenantMismatch, "query")
			_, err = tx.PrepareContext(e.in(b), insertNote)
			assert.ErrorIs(e, err, backend.ErrTenantMismatch, "prepare")
			var one int
			assert.ErrorIs(e, tx.QueryRowContext(e.in(b), `SELECT 1`).Scan(&one), backend.ErrTenantMismatch, "query row")
			other := backend.Route{Store: a.Store, Owner: "somebody else"}
			_, err = tx.ExecContext(e.in(other), insertNote, "stray")
			assert.ErrorIs(e, err, backend.ErrTenantMismatch, "the same name, but of another owner")
			require.NoError(e, tx.Commit())
			e.holds(a, "a1")
			e.holds(b, "b1")
		},
	},
	{
		id: "S04", name: "a transaction stays usable for its own",
		rule: "A refused call leaves the transaction as it was: it goes on, and commits, for its own tenant.",
		run: func(e *env) {
			a, b := e.tenant("a"), e.tenant("b")
			tx := e.tx(a)
			for range 3 {
				_, err := tx.ExecContext(e.in(a), insertNote, "own")
				require.NoError(e, err)
				_, err = tx.ExecContext(e.in(b), insertNote, "stray")
				require.Error(e, err)
			}
			_, err := tx.ExecContext(e.ctx, insertNote, "own")
			require.NoError(e, err, "a context that names no tenant: the transaction carries it")
			_, err = tx.Exec(insertNote, "own")
			require.NoError(e, err, "no context at all")
			require.NoError(e, tx.Commit())
			e.holds(a, "own", "own", "own", "own", "own")
			e.holds(b)
		},
	},
	{
		id: "S04", name: "transactions of two tenants at once",
		rule: "Each transaction sees its own store, and its own uncommitted rows only.",
		run: func(e *env) {
			a, b := e.tenant("a"), e.tenant("b")
			txA, txB := e.tx(a), e.tx(b)
			_, err := txA.Exec(insertNote, "a1")
			require.NoError(e, err)
			_, err = txB.Exec(insertNote, "b1")
			require.NoError(e, err)
			got, err := readMarks(e.ctx, txA)
			require.NoError(e, err)
			require.Equal(e, []string{"a1"}, got)
			got, err = readMarks(e.ctx, txB)
			require.NoError(e, err)
			require.Equal(e, []string{"b1"}, got)
			e.holds(a) // nothing is committed yet
			require.NoError(e, txA.Commit())
			require.NoError(e, txB.Rollback())
			e.holds(a, "a1")
			e.holds(b)
		},
	},
	{
		id: "S06", name: "after a savepoint rolled back",
		rule:  "A savepoint rolled back changes nothing about where the transaction, and the unit of work after it, belong.",
		conns: 1,
		run: func(e *env) {
			a, b := e.tenant("a"), e.tenant("b")
			e.sharedNotes("shared")
			tx := e.tx(a)
			for _, s := range []string{
				`INSERT INTO notes (mark) VALUES ('a1')`,
				`SAVEPOINT one`,
				`INSERT INTO notes (mark) VALUES ('undone')`,
				`ROLLBACK TO SAVEPOINT one`,
				`INSERT INTO notes (mark) VALUES ('a2')`,
				`RELEASE SAVEPOINT one`,
				`INSERT INTO notes (mark) VALUES ('a3')`,
			} {
				_, err := tx.ExecContext(e.in(a), s)
				require.NoError(e, err, s)
			}
			_, err := tx.ExecContext(e.in(b), `INSERT INTO notes (mark) VALUES ('stray')`)
			require.ErrorIs(e, err, backend.ErrTenantMismatch)
			require.NoError(e, tx.Commit())
			e.add(b, "b1")
			e.holds(a, "a1", "a2", "a3")
			e.holds(b, "b1")
			e.sharedHolds("shared")
		},
	},
	{
		id: "S06", name: "after a savepoint that a failure was rolled back to",
		rule:  "A statement that failed after a savepoint, and the rollback to it, leave the transaction in its store.",
		conns: 1,
		run: func(e *env) {
			a, b := e.tenant("a"), e.tenant("b", "b1")
			e.sharedNotes("shared")
			tx := e.tx(a)
			_, err := tx.Exec(`SAVEPOINT one`)
			require.NoError(e, err)
			_, err = tx.Exec(`INSERT INTO notes (mark) VALUES (NULL)`)
			require.Error(e, err)
			_, err = tx.Exec(`ROLLBACK TO SAVEPOINT one`)
			require.NoError(e, err)
			_, err = tx.Exec(insertNote, "a1")
			require.NoError(e, err)
			require.NoError(e, tx.Commit())
			e.holds(a, "a1")
			e.holds(b, "b1")
			e.sharedHolds("shared")
		},
	},
	{
		id: "S06", name: "after a failed statement",
		rule:  "A statement that failed leaves nothing behind: the next unit of work lands in its own store.",
		conns: 1,
		run: func(e *env) {
			a, b := e.tenant("a"), e.tenant("b")
			e.sharedNotes("shared")
			for _, s := range []string{
				`no such statement`, `SELECT * FROM no_such_table`, `INSERT INTO notes (mark) VALUES (NULL)`,
				`INSERT INTO notes (id, mark) VALUES (7, 'a'), (7, 'twice')`,
			} {
				_, err := e.be.DB().ExecContext(e.in(a), s)
				require.Error(e, err, s)
				e.add(b, "b")
				_, err = readStrings(e.in(a), e.be.DB(), s)
				require.Error(e, err, s)
				e.add(b, "b")
			}
			tx := e.tx(a)
			_, err := tx.Exec(`SELECT * FROM no_such_table`)
			require.Error(e, err)
			_ = tx.Commit() // Postgres refuses, SQLite commits nothing
			e.add(b, "b")
			e.holds(a)
			e.holds(b, "b", "b", "b", "b", "b", "b", "b", "b", "b")
			e.sharedHolds("shared")
		},
	},
	{
		id: "S06", name: "after a transaction rolled back",
		rule:  "A transaction rolled back keeps nothing, and the next unit of work lands in its own store.",
		conns: 1,
		run: func(e *env) {
			a, b := e.tenant("a"), e.tenant("b")
			e.sharedNotes("shared")
			for range 3 {
				tx := e.tx(a)
				_, err := tx.Exec(insertNote, "undone")
				require.NoError(e, err)
				require.NoError(e, tx.Rollback())
				e.add(b, "b")
			}
			e.holds(a)
			e.holds(b, "b", "b", "b")
			e.sharedHolds("shared")
		},
	},
	{
		id: "S06", name: "a transaction whose context ended",
		rule:  "A transaction left open when its context ends is rolled back and its connection comes back.",
		conns: 1,
		run: func(e *env) {
			a, b := e.tenant("a"), e.tenant("b")
			c := e.tenant("c") // of several places one has both a and one of the others
			for range 3 {
				ctx, cancel := context.WithCancel(e.in(a))
				tx, err := e.be.DB().BeginTx(ctx, nil)
				require.NoError(e, err)
				_, err = tx.ExecContext(ctx, insertNote, "undone")
				require.NoError(e, err)
				cancel()
				e.add(b, "b") // with one connection this waits for it
				e.add(c, "c")
				_, err = tx.ExecContext(e.in(a), insertNote, "stray")
				require.Error(e, err)
				require.Error(e, tx.Commit())
			}
			e.holds(a)
			e.holds(b, "b", "b", "b")
		},
	},
	{
		id: "transaction", name: "nesting is refused",
		rule: "A second transaction on a held connection that has one open is refused; the first stays usable.",
		run: func(e *env) {
			a := e.tenant("a")
			conn := e.conn()
			tx, err := conn.BeginTx(e.in(a), nil)
			require.NoError(e, err)
			_, err = tx.Exec(insertNote, "a1")
			require.NoError(e, err)
			_, err = conn.BeginTx(e.in(a), nil)
			require.Error(e, err)
			_, err = tx.Exec(insertNote, "a2")
			require.NoError(e, err)
			require.NoError(e, tx.Commit())
			tx, err = conn.BeginTx(e.in(a), nil)
			require.NoError(e, err, "after the first ended")
			require.NoError(e, tx.Rollback())
			e.holds(a, "a1", "a2")
		},
	},
	{
		id: "transaction", name: "read only",
		rule: "A transaction begun with ReadOnly reads, refuses to write, and leaves the connection able to write.",
		run: func(e *env) {
			a := e.tenant("a", "a1")
			tx, err := e.be.DB().BeginTx(e.in(a), &sql.TxOptions{ReadOnly: true})
			require.NoError(e, err)
			got, err := readMarks(e.ctx, tx)
			require.NoError(e, err)
			require.Equal(e, []string{"a1"}, got)
			_, err = tx.Exec(insertNote, "stray")
			require.Error(e, err)
			require.NoError(e, tx.Rollback())
			e.add(a, "a2")
			e.holds(a, "a1", "a2")
		},
	},
	{
		id: "transaction", name: "the isolation level is honoured",
		rule: "BeginTx passes the isolation level on.",
		run: func(e *env) {
			a := e.tenant("a", "a1")
			tx, err := e.be.DB().BeginTx(e.in(a), &sql.TxOptions{Isolation: sql.LevelSerializable})
			require.NoError(e, err)
			defer func() { _ = tx.Rollback() }()
			if e.postgres() {
				var level string
				require.NoError(e, tx.QueryRow(`SHOW transaction_isolation`).Scan(&level))
				require.Equal(e, "serializable", level)
			}
			// What was read once is read again, whatever is committed meanwhile.
			got, err := readMarks(e.ctx, tx)
			require.NoError(e, err)
			require.Equal(e, []string{"a1"}, got)
			if e.postgres() { // on SQLite the writer would wait for this transaction
				e.add(a, "a2")
			}
			got, err = readMarks(e.ctx, tx)
			require.NoError(e, err)
			require.Equal(e, []string{"a1"}, got)
			require.NoError(e, tx.Commit())
		},
	},
	{
		id: "transaction", name: "waiting ends with the context",
		rule:  "A call that waits for a connection, or for the store's writer, waits no longer than its context allows, and says so.",
		conns: 1,
		run: func(e *env) {
			a := e.tenant("a")
			tx := e.tx(a)
			_, err := tx.Exec(insertNote, "a1")
			require.NoError(e, err)
			for _, begin := range []bool{false, true} {
				ctx, cancel := context.WithTimeout(e.in(a), 50*time.Millisecond)
				defer cancel()
				var err error
				if begin {
					var second *sql.Tx
					if second, err = e.be.DB().BeginTx(ctx, nil); err == nil {
						_, err = second.ExecContext(ctx, insertNote, "stray")
						_ = second.Rollback()
					}
				} else {
					_, err = e.be.DB().ExecContext(ctx, insertNote, "stray")
				}
				require.ErrorIs(e, err, context.DeadlineExceeded, "begin: %v", begin)
			}
			require.NoError(e, tx.Commit())
			e.holds(a, "a1")
		},
	},
}
