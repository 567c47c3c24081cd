package backendtest

import (
	"context"
	"sync"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

var handleCases = []testCase{
	{
		id: "pin", name: "goes to its store without a context",
		rule: "A pinned handle's calls go to its store whatever library loses the context on the way.",
		run: func(e *env) {
			e.sharedNotes("shared")
			a, b := e.tenant("a"), e.tenant("b", "b1")
			db := e.pin(a)
			_, err := db.Exec(insertNote, "a1")
			require.NoError(e, err)
			tx, err := db.Begin()
			require.NoError(e, err)
			_, err = tx.Exec(insertNote, "a2")
			require.NoError(e, err)
			require.NoError(e, tx.Commit())
			stmt, err := db.Prepare(insertNote)
			require.NoError(e, err)
			_, err = stmt.Exec("a3")
			require.NoError(e, err)
			require.NoError(e, stmt.Close())
			_, err = db.ExecContext(e.in(a), insertNote, "a4")
			require.NoError(e, err, "a context that names the same store")
			_, err = db.ExecContext(backend.WithStore(e.ctx, a.Store), insertNote, "a5")
			require.NoError(e, err, "a context that names it without an owner")
			e.holds(a, "a1", "a2", "a3", "a4", "a5")
			e.holds(b, "b1")
			e.sharedHolds("shared")
			require.NotSame(e, e.be.DB(), db)
		},
	},
	{
		id: "pin", name: "refuses another tenant's context",
		rule: "A pinned handle refuses a context that names another store, or another owner's, with ErrTenantMismatch.",
		run: func(e *env) {
			a, b := e.tenant("a", "a1"), e.tenant("b", "b1")
			db := e.pin(a)
			for _, rt := range []backend.Route{b, {Store: b.Store}, {Store: a.Store, Owner: "somebody else"}} {
				for _, call := range routedCalls(db) {
					assert.ErrorIs(e, call.do(e.in(rt)), backend.ErrTenantMismatch, call.name)
				}
			}
			tx, err := db.Begin()
			require.NoError(e, err)
			_, err = tx.ExecContext(e.in(b), insertNote, "stray")
			require.ErrorIs(e, err, backend.ErrTenantMismatch)
			require.NoError(e, tx.Rollback())
			e.holds(a, "a1")
			e.holds(b, "b1")
		},
	},
	{
		id: "pin", name: "costs nothing while idle",
		rule:  "A pinned handle holds no connection while it is idle: there can be many more of them than connections.",
		conns: 2,
		run: func(e *env) {
			a, b := e.tenant("a", "a1"), e.tenant("b", "b1")
			for range 20 {
				for _, rt := range []backend.Route{a, b} {
					got, err := readMarks(e.ctx, e.pin(rt))
					require.NoError(e, err)
					require.Equal(e, []string{rt.Store.String() + "1"}, got)
				}
			}
		},
	},
	{
		id: "owner", name: "changes the store's tables",
		rule: "The owner's handle makes and changes tables in its store, whatever the context's route, and the tenant can use them.",
		run: func(e *env) {
			e.sharedNotes("shared")
			a, b := e.tenant("a", "a1"), e.tenant("b", "b1")
			db := e.be.Maintenance(a)
			defer func() { _ = db.Close() }()
			for i, ctx := range []context.Context{e.ctx, e.in(a), e.in(b)} {
				_, err := db.ExecContext(ctx, `ALTER TABLE notes ADD COLUMN c`+string(rune('0'+i))+` text`)
				require.NoError(e, err)
			}
			tx, err := db.BeginTx(e.in(b), nil)
			require.NoError(e, err)
			_, err = tx.ExecContext(e.ctx, `CREATE TABLE more (c0 text)`)
			require.NoError(e, err)
			_, err = tx.ExecContext(e.in(b), `INSERT INTO more (c0) VALUES ('x')`)
			require.NoError(e, err)
			require.NoError(e, tx.Commit())
			got, err := readStrings(e.in(a), e.be.DB(), `SELECT c0 FROM more`)
			require.NoError(e, err)
			require.Equal(e, []string{"x"}, got)
			_, err = e.be.DB().ExecContext(e.in(a), `INSERT INTO more (c0) VALUES ('y')`)
			require.NoError(e, err, "the tenant may write to a table that the owner made")
			_, err = readStrings(e.in(b), e.be.DB(), `SELECT c0 FROM more`)
			require.Error(e, err, "it is not in b")
			_, err = readStrings(e.ctx, e.sharedBeside(a), `SELECT c0 FROM more`)
			require.Error(e, err, "nor in the shared store")
			e.holds(b, "b1")
			e.sharedHolds("shared")
		},
	},
}

var ownerCases = []testCase{
	{
		id: "owner", name: "the tenant fills what the owner made",
		rule: "Whatever the owner makes (identity columns, tables with a reference, views), the tenant can use with its own rights.",
		run: func(e *env) {
			a := e.tenant("a")
			e.ddl(a,
				e.pick(`CREATE TABLE authors (id INTEGER PRIMARY KEY AUTOINCREMENT, name text UNIQUE NOT NULL)`,
					`CREATE TABLE authors (id serial PRIMARY KEY, name text UNIQUE NOT NULL)`),
				`CREATE TABLE books (title text NOT NULL, author integer NOT NULL REFERENCES authors (id) ON DELETE CASCADE)`,
				`CREATE VIEW shelf AS SELECT b.title, a.name FROM books b JOIN authors a ON a.id = b.author`,
				`CREATE INDEX by_title ON books (title)`,
			)
			db := e.be.DB()
			_, err := db.ExecContext(e.in(a), `INSERT INTO authors (name) VALUES ('Ursula'), ('Iain')`)
			require.NoError(e, err)
			_, err = db.ExecContext(e.in(a), `INSERT INTO books (title, author) SELECT 'Excession', id FROM authors WHERE name = 'Iain'`)
			require.NoError(e, err)
			_, err = db.ExecContext(e.in(a), `INSERT INTO books (title, author) VALUES ('Nobody''s', 99)`)
			require.Error(e, err, "foreign keys hold")
			got, err := readStrings(e.in(a), db, `SELECT title || ' by ' || name FROM shelf`)
			require.NoError(e, err)
			require.Equal(e, []string{"Excession by Iain"}, got)
			_, err = db.ExecContext(e.in(a), `DELETE FROM authors WHERE name = 'Iain'`)
			require.NoError(e, err)
			got, err = readStrings(e.in(a), db, `SELECT title FROM books`)
			require.NoError(e, err)
			require.Empty(e, got)
		},
	},
}

var closeCases = []testCase{
	{
		id: "close", name: "calls after it fail",
		rule: "Calls after Close return ErrClosed; on the handles that the backend closed, database/sql's own error.",
		run: func(e *env) {
			be := e.open(0)
			a := route("a")
			require.NoError(e, be.Create(e.ctx, a))
			pinned, owner := be.DBFor(a), be.Maintenance(a)
			defer func() { _ = pinned.Close() }()
			defer func() { _ = owner.Close() }()
			db, shared := be.DB(), be.Shared()
			require.NoError(e, db.PingContext(e.ctx))
			require.NoError(e, be.Close())
			assert.ErrorIs(e, be.Create(e.ctx, route("b")), backend.ErrClosed, "Create")
			assert.ErrorIs(e, be.Drop(e.ctx, a), backend.ErrClosed, "Drop")
			assert.ErrorIs(e, be.Rename(e.ctx, a, backend.MustParseStore("c")), backend.ErrClosed, "Rename")
			_, err := be.Stat(e.ctx, a.Store)
			assert.ErrorIs(e, err, backend.ErrClosed, "Stat")
			listed := 0
			for _, err := range be.Stores(e.ctx) {
				assert.ErrorIs(e, err, backend.ErrClosed, "Stores")
				listed++
			}
			assert.Equal(e, 1, listed, "Stores stops at its error")
			_, err = pinned.ExecContext(e.ctx, insertNote, "x")
			assert.ErrorIs(e, err, backend.ErrClosed, "a pinned handle, which is its caller's to close")
			_, err = owner.ExecContext(e.ctx, insertNote, "x")
			assert.ErrorIs(e, err, backend.ErrClosed, "an owner's handle")
			_, err = db.ExecContext(e.in(a), insertNote, "x")
			assert.Error(e, err, "the routed handle")
			_, err = shared.ExecContext(e.ctx, `SELECT 1`)
			assert.Error(e, err, "the shared handle")
			assert.Error(e, db.PingContext(e.ctx))
			_ = be.Close() // a second time harms nothing
			require.Equal(e, []string{"a"}, e.stores(), "another backend over the same stores goes on")
		},
	},
	{
		id: "close", name: "a caller who closes what is the backend's",
		rule: "When a caller closed the routed or the shared handle, who asks for it again gets another, and the backend goes on.",
		run: func(e *env) {
			a := e.tenant("a", "a1")
			e.sharedNotes("shared")
			for range 3 {
				db, shared := e.be.DB(), e.be.Shared()
				require.NoError(e, db.Close())
				require.NoError(e, shared.Close())
				require.NotSame(e, db, e.be.DB())
				_, err := readMarks(e.in(a), db)
				require.Error(e, err, "who has kept it")
				e.holds(a, "a1")
				e.sharedHolds("shared")
			}
			be := e.open(0)
			require.NoError(e, be.DB().Close())
			require.NoError(e, be.Close())
			_, err := readMarks(e.in(a), be.DB())
			require.Error(e, err, "a backend that is closed gives no more handles that work")
		},
	},
	{
		id: "close", name: "waits for no one",
		rule: "Close returns although rows, transactions and held connections are open; they fail or end, and nothing hangs.",
		run: func(e *env) {
			a := e.tenant("a", "a1")
			be := e.open(0)
			h := (&env{TB: e.TB, cfg: e.cfg, be: be, ctx: e.ctx, open: e.open, patience: e.patience}).hold(a, true)
			require.NoError(e, e.within("Close", func() error { _ = be.Close(); return nil }))
			var wg sync.WaitGroup
			wg.Go(func() {
				_, err := readMarks(e.in(a), h.conn)
				assert.Error(e, err, "a held connection")
				_, _ = readMarks(e.in(a), h.tx)
				for h.rows.Next() {
				}
				_ = h.rows.Close()
				_ = h.tx.Rollback()
				_ = h.conn.Close()
			})
			require.NoError(e, e.within("ending what was open", func() error { wg.Wait(); return nil }))
			e.holds(a, "a1")
		},
	},
}
