package postgres_test

import (
	"net/url"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// S80, where roles are off: what a script did decides, subtransactions included, and what it only read, referred to or
// looked at is fine; what its head has written is the library's.
func TestOutside(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.Shared(t).Database(t)
	u, err := url.Parse(databaseURL)
	require.NoError(t, err)
	name := u.Path[1:] // the database's, and the log-in's
	be := open(t, databaseURL, map[string]string{"tenant_role": "off"})
	_, err = be.Shared().ExecContext(t.Context(), `CREATE TABLE plans (name text PRIMARY KEY, n int); CREATE INDEX by_n ON plans (n); INSERT INTO plans VALUES ('gold');
		CREATE TYPE mood AS ENUM ('good'); CREATE SCHEMA empty;
		CREATE TABLE ledger (n int); INSERT INTO ledger VALUES (0); CREATE SCHEMA billing CREATE TABLE invoices (n int PRIMARY KEY) CREATE TABLE items (n int REFERENCES invoices);
		CREATE SEQUENCE numbers; CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'`)
	require.NoError(t, err)
	rt, _ := tenant(t, be, "a")
	_, b := tenant(t, be, "b")
	_, err = be.DB().ExecContext(b, `CREATE FUNCTION g() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE TYPE mood AS ENUM ('good')`)
	require.NoError(t, err)
	run := func(head, sql string) error {
		return be.RunScripts(t.Context(), []backend.Script{{Route: rt, Head: head, SQL: sql}}, backend.ScriptOptions{})[0]
	}
	for _, sql := range []string{
		`SELECT * FROM plans FOR KEY SHARE`,
		`CREATE TABLE refers (plan text REFERENCES plans); INSERT INTO refers VALUES ('gold')`,
		`ANALYZE`,
		`SAVEPOINT s; CREATE TABLE more (x int); ROLLBACK TO s; CREATE TABLE more (y int)`,
		`CREATE TEMP TABLE t (x int) ON COMMIT DROP; INSERT INTO t VALUES (1)`,
		`DROP TABLE more; DROP TABLE refers`,
		`COMMENT ON TABLE notes IS 'x'; GRANT SELECT ON notes TO PUBLIC`,
		`CREATE FUNCTION own() RETURNS int LANGUAGE sql AS 'SELECT 1'; COMMENT ON FUNCTION own() IS 'x'; DROP FUNCTION own()`,
		`CREATE TYPE own AS ENUM ('x'); ALTER TYPE own ADD VALUE 'y'; CREATE DOMAIN d AS int CHECK (VALUE > 0); CREATE TABLE o (o own, d d)`,
		`DROP TABLE o; DROP TYPE own; DROP DOMAIN d`,
		`ALTER DEFAULT PRIVILEGES IN SCHEMA a GRANT SELECT ON TABLES TO PUBLIC`,
		`CREATE OPERATOR === (FUNCTION = texteq, LEFTARG = text, RIGHTARG = text); CREATE COLLATION cl (locale = 'C')`,
		`CREATE TYPE own AS (n int); CREATE CAST (own AS text) WITH INOUT; CREATE STATISTICS st ON (lower(mark)), (upper(mark)) FROM notes`,
	} {
		require.NoError(t, run("", sql), sql)
	}
	require.NoError(t, run(`UPDATE ledger SET n = n + 1;`, `INSERT INTO notes (mark) VALUES ('x')`))
	for sql, names := range map[string]string{
		`UPDATE plans SET name = 'x' WHERE false`:             "plans",
		`SAVEPOINT s; UPDATE plans SET name = 'x'; RELEASE s`: "plans",
		`INSERT INTO b.notes (mark) VALUES ('x')`:             "notes",
		`INSERT INTO billing.invoices VALUES (1)`:             "invoices",
		`UPDATE ledger SET n = 7`:                             "ledger",
		`SELECT nextval('numbers')`:                           "numbers",
		`CREATE TABLE billing.mine (x int)`:                   "mine",
		`CREATE TRIGGER t BEFORE INSERT ON plans EXECUTE FUNCTION suppress_redundant_updates_trigger()`: "plans",
		`ALTER TABLE plans ADD COLUMN x int`:                                           "plans",
		`CREATE OR REPLACE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'SELECT 2'`: "",
		`ALTER FUNCTION public.f() STABLE`:                                             "",
		`DROP FUNCTION public.f()`:                                                     "",
		`DROP INDEX public.by_n`:                                                       "",
		`DROP TABLE plans`:                                                             "",
		`CREATE TABLE public.x (x int)`:                                                "x",
		`CREATE VIEW public.x AS SELECT 1 AS x`:                                        "x",
		`CREATE TYPE public.x AS ENUM ('x')`:                                           "",
		`ALTER TABLE b.notes ADD COLUMN x int`:                                         "notes",
		`ALTER TABLE b.notes RENAME TO x`:                                              "x",
		`ALTER TABLE b.notes SET SCHEMA billing`:                                       "notes",
		`CREATE INDEX ON b.notes (mark)`:                                               "notes",
		`ALTER TABLE b.notes ADD FOREIGN KEY (mark) REFERENCES plans`:                  "notes",
		`CREATE STATISTICS b.st ON (lower(mark)), (upper(mark)) FROM b.notes`:          "notes",
		`CREATE OPERATOR b.=== (FUNCTION = texteq, LEFTARG = text, RIGHTARG = text)`:   "",
		`CREATE COLLATION b.cl (locale = 'C')`:                                         "",
		`CREATE TEXT SEARCH CONFIGURATION b.cfg (COPY = simple)`:                       "",
		`CREATE CAST (b.mood AS text) WITH INOUT`:                                      "",
		`ALTER TABLE billing.items ALTER CONSTRAINT items_n_fkey DEFERRABLE`:           "items",
		`ALTER FUNCTION b.g() STABLE`:                                                  "",
		`CREATE FUNCTION b.h() RETURNS int LANGUAGE sql AS 'SELECT 1'`:                 "",
		`ALTER TYPE b.mood ADD VALUE 'bad'`:                                            "",
		`ALTER TYPE mood ADD VALUE 'bad'`:                                              "",
		`COMMENT ON FUNCTION b.g() IS 'x'`:                                             "",
		`COMMENT ON FUNCTION f() IS 'x'`:                                               "",
		`COMMENT ON TABLE plans IS 'x'`:                                                "plans",
		`COMMENT ON COLUMN plans.n IS 'x'`:                                             "plans",
		`COMMENT ON SCHEMA b IS 'x'`:                                                   "",
		`COMMENT ON DATABASE ` + name + ` IS 'x'`:                                      "",
		`ALTER SCHEMA b RENAME TO bb`:                                                  "",
		`GRANT USAGE ON SCHEMA b TO PUBLIC`:                                            "",
		`CREATE SCHEMA mine`:                                                           "",
		`DROP SCHEMA empty`:                                                            "",
		`GRANT SELECT ON plans TO PUBLIC`:                                              "",
		`GRANT SELECT (n) ON plans TO PUBLIC`:                                          "",
		`REVOKE ALL ON plans FROM CURRENT_USER`:                                        "",
		`GRANT EXECUTE ON FUNCTION public.f() TO ` + name:                              "",
		`ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC`:                    "",
		`SELECT lo_create(0)`:                                                          "",
		`SELECT lo_from_bytea(0, 'x')`:                                                 "",
		`CREATE ROLE ` + name + `_x`:                                                   "",
		`ALTER ROLE ` + name + ` SET work_mem = '1MB'`:                                 "",
		`ALTER ROLE ` + name + ` CONNECTION LIMIT 7`:                                   "",
		`ALTER DATABASE ` + name + ` SET work_mem = '1MB'`:                             "",
		`ALTER DATABASE ` + name + ` CONNECTION LIMIT 77`:                              "",
		`DO $$ BEGIN EXECUTE 'ALTER SCHEMA b REN' || 'AME TO bb'; END $$`:              "",
	} {
		err := run("", `INSERT INTO notes (mark) VALUES ('half'); `+sql)
		require.ErrorIs(t, err, backend.ErrReadOnlyShared, sql)
		var pe *pgconn.PgError
		require.ErrorAs(t, err, &pe)
		require.Equal(t, names, pe.TableName, sql)
	}
	var n, half int
	require.NoError(t, be.Shared().QueryRowContext(t.Context(), `SELECT n FROM ledger`).Scan(&n))
	require.Equal(t, 1, n)
	require.NoError(t, be.Shared().QueryRowContext(t.Context(), `SELECT count(*) FROM a.notes WHERE mark = 'half'`).Scan(&half))
	require.Zero(t, half)
}

// S80: a load says that it runs the library's own statements, and is not looked at where the server's rights do. What a
// tenant's trigger makes of them stays in the store all the same.
func TestOutsideOfOwnStatements(t *testing.T) {
	t.Parallel()
	for _, role := range []string{"auto", "each", "off"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			be := open(t, pgtest.Shared(t).Database(t), map[string]string{"tenant_role": role})
			_, err := be.Shared().ExecContext(t.Context(), `CREATE TABLE plans (name text)`)
			require.NoError(t, err)
			rt, _ := tenant(t, be, "a")
			tenant(t, be, "b")
			db := be.Maintenance(rt)
			defer func() { _ = db.Close() }()
			_, err = db.ExecContext(t.Context(), `CREATE FUNCTION elsewhere() RETURNS trigger LANGUAGE plpgsql AS $$
				BEGIN EXECUTE format('INSERT INTO %s VALUES (''x'')', NEW.mark); RETURN NULL; END $$;
				CREATE TABLE targets (mark text); CREATE TABLE own (x text); CREATE TRIGGER t AFTER INSERT ON targets FOR EACH ROW EXECUTE FUNCTION elsewhere()`)
			require.NoError(t, err)
			load := func(into string) error {
				ctx := driver.OwnStatements(t.Context())
				tx, err := db.BeginTx(ctx, nil)
				require.NoError(t, err)
				defer func() { _ = tx.Rollback() }()
				if _, err := tx.ExecContext(ctx, `INSERT INTO targets VALUES ($1)`, into); err != nil {
					return err
				}
				return tx.Commit()
			}
			require.NoError(t, load("own"))
			require.ErrorContains(t, load("public.plans"), "plans")
			if role != "auto" { // one role has the rights of all tenants, as on a routed handle
				require.Error(t, load("b.notes (mark)"))
			}
			var plans, notes, mine int
			require.NoError(t, be.Shared().QueryRowContext(t.Context(), `SELECT count(*) FROM plans`).Scan(&plans))
			require.NoError(t, be.Shared().QueryRowContext(t.Context(), `SELECT count(*) FROM b.notes`).Scan(&notes))
			require.NoError(t, db.QueryRowContext(t.Context(), `SELECT count(*) FROM own`).Scan(&mine))
			require.Equal(t, []int{0, 0, 1}, []int{plans, notes, mine})
		})
	}
}
