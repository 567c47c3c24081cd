package postgres_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// S80, where roles are off: what a script did decides, subtransactions included, and what it only read, referred to or
// looked at is fine; what its head has written is the library's.
func TestOutside(t *testing.T) {
	t.Parallel()
	be := open(t, pgtest.Shared(t).Database(t), map[string]string{"tenant_role": "off"})
	_, err := be.Shared().ExecContext(t.Context(), `CREATE TABLE plans (name text PRIMARY KEY, n int); CREATE INDEX by_n ON plans (n); INSERT INTO plans VALUES ('gold');
		CREATE TABLE ledger (n int); INSERT INTO ledger VALUES (0); CREATE SCHEMA billing CREATE TABLE invoices (n int);
		CREATE SEQUENCE numbers; CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'`)
	require.NoError(t, err)
	rt, _ := tenant(t, be, "a")
	_, _ = tenant(t, be, "b")
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
