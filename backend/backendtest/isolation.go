package backendtest

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

// hostile are statements by which an application could change what its connection means, run inside tenant a.
// Whether they succeed is the backend's affair.
func (e *env) hostile() []string {
	if !e.postgres() {
		return []string{
			`ATTACH DATABASE ':memory:' AS evil`,
			`ATTACH DATABASE 'tenants/b.db' AS b`,
			`DETACH DATABASE public`,
			`PRAGMA query_only = ON`,
			`PRAGMA query_only = OFF`,
			`PRAGMA writable_schema = ON`,
			`PRAGMA trusted_schema = ON`,
			`PRAGMA locking_mode = EXCLUSIVE`,
			`PRAGMA journal_mode = DELETE`,
			`PRAGMA max_page_count = 1`,
			`PRAGMA case_sensitive_like = ON`,
			`CREATE TEMPORARY TABLE notes (id INTEGER PRIMARY KEY, mark TEXT)`,
			`CREATE TEMPORARY VIEW notes AS SELECT 1 AS id, 'forged' AS mark`,
			`CREATE TEMPORARY TRIGGER swallow BEFORE INSERT ON notes BEGIN SELECT RAISE(IGNORE); END`,
			`BEGIN IMMEDIATE`,
			`SAVEPOINT mine`,
			`COMMIT`,
			`ROLLBACK`,
		}
	}
	statements := []string{
		`SET search_path TO b, public`,
		`SET search_path TO public`,
		`SET SESSION search_path TO DEFAULT`,
		`SET LOCAL search_path TO b`,
		`SELECT set_config('search_path', 'b', false)`,
		`SELECT set_config('search_path', 'b', true)`,
		`RESET search_path`,
		`RESET ALL`,
		`SET ROLE NONE`,
		`RESET ROLE`,
		`RESET SESSION AUTHORIZATION`,
		`DISCARD ALL`,
		`CREATE TEMPORARY TABLE notes (id integer, mark text)`,
		`CREATE TEMPORARY VIEW notes AS SELECT 1 AS id, 'forged' AS mark`,
		`BEGIN`,
		`COMMIT`,
		`ROLLBACK`,
	}
	if !e.cfg.TransactionPooler {
		statements = append(statements,
			`SET default_transaction_read_only = on`,
			`SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY`,
			`DEALLOCATE ALL`,
		)
	}
	return statements
}

var isolationCases = []testCase{
	{
		id: "S07", name: "by a statement",
		rule:  "Whatever an application runs inside its tenant (SET search_path, ATTACH, PRAGMA, a temporary table), no other unit of work sees anything of it.",
		conns: 1,
		run: func(e *env) {
			e.survives(func(a backend.Route, statement string) {
				_, _ = e.be.DB().ExecContext(e.in(a), statement)
			})
		},
	},
	{
		id: "S07", name: "by a query",
		rule:  "Whatever an application queries inside its tenant, no other unit of work sees anything of it.",
		conns: 1,
		run: func(e *env) {
			e.survives(func(a backend.Route, statement string) {
				_, _ = readStrings(e.in(a), e.be.DB(), statement)
			})
		},
	},
	{
		id: "S07", name: "by a prepared statement",
		rule:  "Whatever an application prepares and runs inside its tenant, no other unit of work sees anything of it.",
		conns: 1,
		run: func(e *env) {
			e.survives(func(a backend.Route, statement string) {
				if stmt, err := e.be.DB().PrepareContext(e.in(a), statement); err == nil {
					_, _ = stmt.ExecContext(e.in(a))
					_ = stmt.Close()
				}
			})
		},
	},
	{
		id: "S07", name: "by a committed transaction",
		rule:  "Whatever an application runs and commits inside its tenant, no other unit of work sees anything of it.",
		conns: 1,
		run: func(e *env) {
			e.survives(func(a backend.Route, statement string) {
				tx := e.tx(a)
				_, _ = tx.ExecContext(e.in(a), statement)
				_ = tx.Commit()
			})
		},
	},
	{
		id: "S07", name: "by a held connection",
		rule:  "Whatever an application does to a connection that it holds, the next one to get it sees nothing of it.",
		conns: 1,
		run: func(e *env) {
			e.survives(func(a backend.Route, statement string) {
				conn := e.conn()
				_, _ = conn.ExecContext(e.in(a), statement)
				_ = conn.Close()
			})
		},
	},
	{
		id: "S07", name: "on a pinned handle",
		rule:  "A pinned handle and the routed one do not see each other's session state.",
		conns: 1,
		run: func(e *env) {
			e.survives(func(a backend.Route, statement string) {
				db := e.be.DBFor(a)
				_, _ = db.ExecContext(e.ctx, statement)
				_ = db.Close()
			})
		},
	},
	{
		id: "S07", name: "transaction control in the text",
		rule:  "A COMMIT or ROLLBACK in a statement's text ends what it ends, but what follows never runs outside the tenant's store.",
		conns: 1,
		run: func(e *env) {
			a, b := e.tenant("a"), e.tenant("b", "b1")
			e.sharedNotes("shared")
			for _, end := range []string{`COMMIT`, `ROLLBACK`} {
				tx := e.tx(a)
				_, _ = tx.ExecContext(e.in(a), end)
				_, _ = tx.ExecContext(e.in(a), insertNote, "a") // lands in a or fails
				_, _ = readMarks(e.in(a), tx)
				_ = tx.Commit()
				_, _ = e.be.DB().ExecContext(e.in(a), end+`; INSERT INTO notes (mark) VALUES ('a')`)
				tx = e.tx(a)
				_, _ = tx.ExecContext(e.in(a), end+`; INSERT INTO notes (mark) VALUES ('a')`)
				_, _ = tx.ExecContext(e.in(a), end+`; BEGIN; INSERT INTO notes (mark) VALUES ('a')`)
				_ = tx.Commit()
				conn := e.conn()
				_, _ = conn.ExecContext(e.in(a), `BEGIN`)
				_, _ = conn.ExecContext(e.in(a), insertNote, "a")
				_, _ = conn.ExecContext(e.in(a), end)
				_, _ = conn.ExecContext(e.in(a), insertNote, "a")
				require.NoError(e, conn.Close())
				e.holds(b, "b1")
				e.sharedHolds("shared")
				got, err := readMarks(e.in(a), e.be.DB())
				require.NoError(e, err)
				for _, mark := range got {
					require.Equal(e, "a", mark)
				}
				e.add(b, "b2")
				_, err = e.be.DB().ExecContext(e.in(b), `DELETE FROM notes WHERE mark = 'b2'`)
				require.NoError(e, err)
			}
		},
	},
	{
		id: "S08", name: "a store that never was",
		rule: "A missing store is an error: every call fails with ErrStoreMissing, and nothing is read from or written to the shared store.",
		run: func(e *env) {
			e.sharedNotes("shared")
			e.missing(route("ghost"))
			require.Empty(e, e.stores(), "asking for a store does not make one")
		},
	},
	{
		id: "S08", name: "a store that was dropped",
		rule: "Once a store was dropped every call fails with ErrStoreMissing, also on connections, statements and handles that served it before; the shared table of the same name is neither read nor written.",
		run: func(e *env) {
			e.sharedNotes("shared")
			a, b := e.tenant("a", "a1"), e.tenant("b", "b1")
			prepared, err := e.be.DB().PrepareContext(e.in(a), insertNote)
			require.NoError(e, err)
			defer func() { _ = prepared.Close() }()
			pinned, owner, conn := e.pin(a), e.be.Maintenance(a), e.conn()
			defer func() { _ = owner.Close() }()
			for range 7 { // so that everything that caches has cached
				_, err := prepared.ExecContext(e.in(a), "a")
				require.NoError(e, err)
				for _, q := range []querier{e.be.DB(), pinned, owner, conn} {
					_, err := readMarks(e.in(a), q)
					require.NoError(e, err)
				}
			}
			require.NoError(e, e.be.Drop(e.ctx, a))
			_, err = prepared.ExecContext(e.in(a), "stray")
			assert.ErrorIs(e, err, backend.ErrStoreMissing, "a prepared statement")
			_, err = conn.ExecContext(e.in(a), insertNote, "stray")
			assert.ErrorIs(e, err, backend.ErrStoreMissing, "a held connection")
			assert.ErrorIs(e, beginAndRead(e.in(a), conn), backend.ErrStoreMissing, "a transaction on a held connection")
			_, err = pinned.ExecContext(e.ctx, insertNote, "stray")
			assert.ErrorIs(e, err, backend.ErrStoreMissing, "a pinned handle")
			_, err = owner.ExecContext(e.ctx, insertNote, "stray")
			assert.ErrorIs(e, err, backend.ErrStoreMissing, "an owner's handle")
			require.NoError(e, conn.Close())
			e.missing(a)
			e.holds(b, "b1")
			require.Equal(e, []string{"b"}, e.stores())
		},
	},
	{
		id: "S08", name: "a store of another owner",
		rule: "A route whose owner is not the store's gets ErrStoreMissing.",
		run: func(e *env) {
			e.sharedNotes("shared")
			a := e.tenant("a", "a1")
			e.missing(backend.Route{Store: a.Store, Owner: "somebody else"})
			e.holds(a, "a1")
			e.holds(backend.Route{Store: a.Store}, "a1") // an empty owner skips the check
		},
	},
	{
		id: "S08", name: "what has no stamp",
		rule:  "No stamp, no store: what another hand made under a name is not served, neither with an owner nor without, and Stat agrees.",
		needs: foreignStores,
		run: func(e *env) {
			e.sharedNotes("shared")
			billing := route("billing")
			require.NoError(e, e.cfg.Foreign(e.ctx, e.be, billing.Store))
			for _, rt := range []backend.Route{billing, {Store: billing.Store}} {
				_, err := e.be.Stat(e.ctx, rt.Store)
				require.ErrorIs(e, err, backend.ErrStoreMissing)
				e.missing(rt)
			}
			require.Empty(e, e.stores())
			unowned := backend.Route{Store: backend.MustParseStore("a")}
			e.create(unowned, "a1")
			e.holds(unowned, "a1") // a stamp that names no owner is one
			require.Equal(e, []string{"a"}, e.stores())
		},
	},
	{
		id: "S08", name: "a store dropped by another process",
		rule: "A store that another process dropped is missing in this one too.",
		run: func(e *env) {
			e.sharedNotes("shared")
			a := e.tenant("a", "a1")
			for range 7 {
				e.holds(a, "a1")
			}
			other := e.open(0)
			require.NoError(e, other.Drop(e.ctx, a))
			e.missing(a)
		},
	},
	{
		id: "S17", name: "another tenant's store cannot be named",
		rule:  "A statement that reads or writes another tenant's store by its name is refused.",
		needs: storesApart,
		run: func(e *env) {
			a, b := e.tenant("a", "a1"), e.tenant("b", "b1")
			for _, statement := range []string{
				`SELECT mark FROM b.notes`, `INSERT INTO b.notes (mark) VALUES ('stray')`, `UPDATE b.notes SET mark = 'stray'`,
				`DELETE FROM b.notes`, `DROP TABLE b.notes`, `CREATE TABLE b.more (id integer)`, `ALTER TABLE b.notes ADD COLUMN x integer`,
				e.pick(`ATTACH DATABASE 'tenants/b.db' AS b`, `DROP SCHEMA b CASCADE`),
				e.pick(`ATTACH DATABASE 'file:tenants/b.db?mode=rwc' AS b`, `TRUNCATE b.notes`),
			} {
				_, err := readStrings(e.in(a), e.be.DB(), statement)
				assert.Error(e, err, "%s, on the routed handle", statement)
				_, err = e.pin(a).ExecContext(e.ctx, statement)
				assert.Error(e, err, "%s, on a pinned handle", statement)
				tx := e.tx(a)
				_, err = tx.Exec(statement)
				assert.Error(e, err, "%s, in a transaction", statement)
				_ = tx.Rollback()
			}
			e.holds(a, "a1")
			e.holds(b, "b1")
		},
	},
}

// survives runs each hostile statement by way of do, and checks after each that units of work see what they should.
func (e *env) survives(do func(a backend.Route, statement string)) {
	e.Helper()
	a, b := e.tenant("a", "a1"), e.tenant("b", "b1")
	e.sharedNotes("shared")
	for _, statement := range e.hostile() {
		do(a, statement)
		e.unaffected(fmt.Sprintf("after %q inside a", statement), a, b)
	}
	e.holds(a, "a1")
	e.holds(b, "b1")
}

// unaffected checks that units of work in stores with one note each, and in the shared store, read and write their own.
func (e *env) unaffected(what string, routes ...backend.Route) {
	e.Helper()
	for _, rt := range routes {
		name := rt.Store.String()
		got, err := readMarks(e.in(rt), e.be.DB())
		require.NoError(e, err, "read %s %s", name, what)
		require.Equal(e, []string{name + "1"}, got, "notes of %s %s", name, what)
		result, err := e.be.DB().ExecContext(e.in(rt), `INSERT INTO notes (id, mark) VALUES (100, 'new')`)
		require.NoError(e, err, "write to %s %s", name, what)
		n, err := result.RowsAffected()
		require.NoError(e, err)
		require.EqualValues(e, 1, n, "rows written to %s %s", name, what)
		tx := e.tx(rt)
		got, err = readMarks(e.in(rt), tx)
		require.NoError(e, err, "read %s in a transaction %s", name, what)
		require.Equal(e, []string{name + "1", "new"}, got, "notes of %s in a transaction %s", name, what)
		_, err = tx.Exec(`DELETE FROM notes WHERE id = 100`)
		require.NoError(e, err, "write to %s in a transaction %s", name, what)
		require.NoError(e, tx.Commit(), "commit in %s %s", name, what)
	}
	for _, db := range e.everyShared() {
		got, err := readMarks(e.ctx, db)
		require.NoError(e, err, "read the shared store %s", what)
		require.Equal(e, []string{"shared"}, got, "shared notes %s", what)
	}
}

// missing checks that no way leads to the store that rt names, nor from there into the shared one.
func (e *env) missing(rt backend.Route) {
	e.Helper()
	for range 2 { // the second time the backend has seen the statements
		for _, call := range routedCalls(e.be.DB()) {
			assert.ErrorIs(e, call.do(e.in(rt)), backend.ErrStoreMissing, call.name)
		}
		for _, call := range routedCalls(e.pin(rt)) {
			assert.ErrorIs(e, call.do(e.ctx), backend.ErrStoreMissing, "pinned, %s", call.name)
		}
		owner := e.be.Maintenance(rt)
		for _, call := range routedCalls(owner) {
			assert.ErrorIs(e, call.do(e.ctx), backend.ErrStoreMissing, "owner's handle, %s", call.name)
		}
		require.NoError(e, owner.Close())
	}
	if runner, ok := e.be.(backend.ScriptRunner); ok {
		errs := runner.RunScripts(e.ctx, []backend.Script{{Route: rt, SQL: `INSERT INTO notes (mark) VALUES ('stray')`}}, backend.ScriptOptions{})
		require.Len(e, errs, 1)
		assert.ErrorIs(e, errs[0], backend.ErrStoreMissing, "RunScripts")
	}
	var fault *backend.Error
	_, err := e.be.DB().ExecContext(e.in(rt), insertNote, "stray")
	if assert.ErrorAs(e, err, &fault, "a store's fault is a *backend.Error") {
		assert.Equal(e, rt.Store, fault.Store, "the store that the error names")
	}
	assert.ErrorIs(e, e.be.Drop(e.ctx, rt), backend.ErrStoreMissing, "Drop")
	assert.ErrorIs(e, e.be.Rename(e.ctx, rt, backend.MustParseStore("elsewhere")), backend.ErrStoreMissing, "Rename")
	e.sharedHolds("shared")
}

// beginAndRead begins a transaction and reads in it: what only the database knows may come with the first statement.
func beginAndRead(ctx context.Context, conn *sql.Conn) error {
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	_, err = readMarks(ctx, tx)
	return err
}
