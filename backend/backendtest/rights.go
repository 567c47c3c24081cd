package backendtest

import (
	"context"
	"database/sql"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

var rightsCases = []testCase{
	{
		id: "rights", name: "a tenant does as it likes in its own store",
		rule: "A tenant's request, a migration and a script can do in their own store what its owner can: make, change, index, empty and drop tables, also those that another of the three has made.",
		run: func(e *env) {
			e.sharedNotes("shared")
			e.shared(`CREATE TABLE plans (name text PRIMARY KEY)`, `INSERT INTO plans (name) VALUES ('gold')`)
			a := e.tenant("a", "a1")
			for name, do := range e.waysIn(a) {
				for _, step := range e.ownChanges() {
					require.NoError(e, do(step), "%s: %s", name, step)
				}
			}
			// What one has made the others may change.
			for name, make := range e.waysIn(a) {
				for other, change := range e.waysIn(a) {
					require.NoError(e, make(`CREATE TABLE mine (id integer, mark text)`), name)
					for _, step := range []string{
						`INSERT INTO mine (id, mark) VALUES (1, 'x')`, `CREATE INDEX mine_mark ON mine (mark)`, `ALTER TABLE mine ADD COLUMN more text`,
						`ALTER TABLE mine RENAME TO yours`, `DROP TABLE yours`,
					} {
						require.NoError(e, change(step), "made by %s, changed by %s: %s", name, other, step)
					}
				}
			}
			e.holds(a, "a1")
			e.sharedHolds("shared")
		},
	},
	{
		id: "S80", name: "the tenant set changes nothing shared",
		rule: "What a migration of the tenant set, or a script, would change outside of its store makes it fail with ErrReadOnlyShared, and nothing of it is kept.",
		run: func(e *env) {
			e.shared(`CREATE TABLE plans (mark text PRIMARY KEY, label text NOT NULL)`, `INSERT INTO plans (mark, label) VALUES ('a1', 'gold')`)
			a := e.tenant("a", "a1")
			db := e.be.Maintenance(a)
			defer func() { _ = db.Close() }()
			for _, statement := range e.sharedChanges() {
				_, err := db.ExecContext(e.ctx, statement)
				assert.ErrorIs(e, err, backend.ErrReadOnlyShared, "by itself: %s", statement)
				_, err = readStrings(e.ctx, db, statement)
				assert.ErrorIs(e, err, backend.ErrReadOnlyShared, "as a query: %s", statement)
				assert.ErrorIs(e, inTx(e.ctx, db, `INSERT INTO notes (mark) VALUES ('half')`, statement), backend.ErrReadOnlyShared, "in a transaction: %s", statement)
				if runner, ok := e.be.(backend.ScriptRunner); ok {
					errs := runner.RunScripts(e.ctx, []backend.Script{
						{Route: a, SQL: `INSERT INTO notes (mark) VALUES ('half'); ` + statement},
						{Route: a, SQL: `DELETE FROM notes WHERE mark = 'none'`},
					}, backend.ScriptOptions{})
					assert.ErrorIs(e, errs[0], backend.ErrReadOnlyShared, "in a script: %s", statement)
					assert.NoError(e, errs[1], "the script after it")
				}
			}
			e.holds(a, "a1")
			got, err := readStrings(e.ctx, e.sharedBeside(a), `SELECT mark || label FROM plans`)
			require.NoError(e, err)
			require.Equal(e, []string{"a1gold"}, got)
			_, err = e.sharedBeside(a).ExecContext(e.ctx, `CREATE TABLE mine (id integer)`)
			require.NoError(e, err, "nothing was made there")
		},
	},
}

// waysIn are the ways to run a statement of rt's tenant.
func (e *env) waysIn(rt backend.Route) map[string]func(statement string) error {
	owner := e.be.Maintenance(rt)
	e.Cleanup(func() { _ = owner.Close() })
	ways := map[string]func(string) error{
		"a request": func(statement string) error {
			_, err := e.be.DB().ExecContext(e.in(rt), statement)
			return err
		},
		"a request's transaction": func(statement string) error { return inTx(e.in(rt), e.be.DB(), statement) },
		"a migration":             func(statement string) error { return inTx(e.ctx, owner, statement) },
	}
	if runner, ok := e.be.(backend.ScriptRunner); ok {
		ways["a script"] = func(statement string) error {
			return runner.RunScripts(e.ctx, []backend.Script{{Route: rt, SQL: statement}}, backend.ScriptOptions{})[0]
		}
	}
	return ways
}

// inTx runs statements in a transaction.
func inTx(ctx context.Context, db *sql.DB, statements ...string) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	for _, s := range statements {
		if _, err := tx.ExecContext(ctx, s); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// ownChanges are what may be done inside a store, and leave it as it was.
func (e *env) ownChanges() []string {
	changes := []string{
		`CREATE TABLE own (id integer PRIMARY KEY, mark text)`,
		`CREATE INDEX own_mark ON own (mark)`,
		`INSERT INTO own (id, mark) SELECT id, mark FROM notes`,
		`ALTER TABLE own ADD COLUMN more text DEFAULT 'x'`,
		`ALTER TABLE own RENAME COLUMN more TO most`,
		`CREATE VIEW seen AS SELECT mark, most FROM own`,
		`DROP VIEW seen`,
	}
	if e.postgres() {
		changes = append(changes,
			`CREATE TABLE counted (id serial PRIMARY KEY, plan text REFERENCES plans (name))`,
			`INSERT INTO counted (plan) VALUES ('gold')`,
			`TRUNCATE counted RESTART IDENTITY`,
			`CREATE FUNCTION one() RETURNS integer LANGUAGE sql AS 'SELECT 1'`,
			`CREATE TYPE mood AS ENUM ('good')`,
			`ALTER TYPE mood ADD VALUE 'better'`,
			`CREATE MATERIALIZED VIEW kept AS SELECT mark FROM own`,
			`REFRESH MATERIALIZED VIEW kept`,
			`DROP MATERIALIZED VIEW kept`, `DROP TYPE mood`, `DROP FUNCTION one()`, `DROP TABLE counted`,
			`ANALYZE own`,
		)
	}
	return append(changes, `DROP TABLE own`)
}

// sharedChanges are what may not be done from inside a store.
func (e *env) sharedChanges() []string {
	changes := []string{
		`INSERT INTO plans (mark, label) VALUES ('x', 'x')`,
		`UPDATE plans SET label = 'x'`,
		`UPDATE public.plans SET label = 'x' WHERE mark IN (SELECT mark FROM notes)`,
		`DELETE FROM plans`,
		`DROP TABLE plans`,
		`ALTER TABLE plans ADD COLUMN x text`,
		`ALTER TABLE plans RENAME TO schemes`,
		`CREATE TABLE public.mine (id integer)`,
		`CREATE INDEX ` + e.pick(`public.mine ON plans`, `mine ON public.plans`) + ` (label)`,
	}
	if e.postgres() {
		changes = append(changes,
			`TRUNCATE plans`,
			`COMMENT ON TABLE plans IS 'mine'`,
			`ALTER TABLE plans ALTER COLUMN label SET STATISTICS 10`,
			`CREATE FUNCTION public.mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'`,
			`CREATE TYPE public.mine AS ENUM ('x')`,
		)
		if !e.cfg.TransactionPooler { // where DO is for transactions only
			changes = append(changes, `DO $$ BEGIN BEGIN UPDATE plans SET label = 'x'; EXCEPTION WHEN division_by_zero THEN NULL; END; END $$`)
		}
	}
	return changes
}
