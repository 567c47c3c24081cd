package postgres_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// S80: a script of the tenant set that gets around the tenants' role, and takes it again, changes nothing either: in DO, in
// a function of its own or of the store's, in a trigger, in a text that is put together, in its plain text. Nor does one
// that names another store.
func TestAroundTheRole(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.Shared(t).Database(t)
	u, err := url.Parse(databaseURL)
	require.NoError(t, err)
	login := u.Path[1:]
	be := open(t, databaseURL, nil)
	_, err = be.Shared().ExecContext(t.Context(), `CREATE TABLE plans (name text PRIMARY KEY, n int); INSERT INTO plans VALUES ('gold', 1);
		CREATE FUNCTION allowed() RETURNS void LANGUAGE sql SECURITY DEFINER AS $$ UPDATE plans SET n = n + 1 $$`)
	require.NoError(t, err)
	rt, _ := tenant(t, be, "a")
	quiet, _ := tenant(t, be, "quiet")
	_, b := tenant(t, be, "b")
	_, err = be.DB().ExecContext(b, `INSERT INTO notes (mark) VALUES ('b1')`)
	require.NoError(t, err)
	run := func(rt backend.Route, sql string) error {
		return be.RunScripts(t.Context(), []backend.Script{{Route: rt, SQL: sql}}, backend.ScriptOptions{})[0]
	}
	role := `"tenants:` + login + `"`
	// Those that an earlier migration made.
	require.NoError(t, run(rt, `CREATE FUNCTION leave() RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'SET RO' || 'LE none'; END $$;
		CREATE FUNCTION back() RETURNS void LANGUAGE plpgsql AS $$ BEGIN SET ROLE `+role+`; END $$;
		CREATE FUNCTION around() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM leave(); UPDATE plans SET n = 7; PERFORM back(); RETURN NEW; END $$;
		CREATE FUNCTION whoever() RETURNS void LANGUAGE plpgsql SET role = 'none' AS $$ BEGIN UPDATE plans SET n = 7; END $$;
		CREATE TABLE triggered (id int); CREATE TRIGGER t BEFORE INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION around()`))
	after := `; SET ROLE ` + role
	for text, names := range map[string]string{
		`SET ROLE none; UPDATE plans SET n = 7` + after:                                                          "public.plans",
		`SELECT set_config('role', 'none', true); UPDATE plans SET n = 7` + after:                                "public.plans",
		`DO $$ BEGIN EXECUTE 'SET ROLE none'; UPDATE plans SET n = 7; EXECUTE 'SET ROLE ` + role + `'; END $$`:   "public.plans",
		`DO $$ BEGIN PERFORM set_config('ro' || 'le', 'none', true); ALTER TABLE plans ADD COLUMN x int; END $$`: "public.plans",
		`DO 'BEGIN SET LOCAL /* */ ROLE none; CREATE TABLE public.x (x int); END'`:                               "public.x",
		`SELECT leave(); DELETE FROM plans; SELECT back()`:                                                       "public.plans",
		`INSERT INTO triggered VALUES (1)`:                                                                       "public.plans",
		`SELECT whoever()`:                                                                                       "public.plans",
		`SELECT leave(); GRANT SELECT ON plans TO PUBLIC; SELECT back()`:                                         "public",
		`SELECT leave(); CREATE ROLE ` + login + `_x; SELECT back()`:                                             "pg_authid",
		`SELECT leave(); ALTER DATABASE ` + login + ` SET work_mem = '1MB'; SELECT back()`:                       "pg_db_role_setting",
		`SELECT leave(); ALTER SCHEMA b RENAME TO bb; SELECT back()`:                                             "schema bb",
		`SELECT leave(); COMMENT ON SCHEMA b IS 'x'; SELECT back()`:                                              "schema b",
		`SELECT lo_create(77)`: "large object 77",
		`SELECT query_to_xml('select set_con' || 'fig(''role'',''none'',true)', true, true, ''); UPDATE plans SET n = 7`: "public.plans",
		`INSERT INTO b.notes (mark) VALUES ('x')`: "b.notes",
		`UPDATE b.notes SET mark = 'x'`:           "b.notes",
		`ALTER TABLE b.notes ADD COLUMN x int`:    "b.notes",
		`CREATE INDEX ON b.notes (mark)`:          "b.notes",
		`DELETE FROM ONLY b.notes`:                "b.notes",
	} {
		err := run(rt, `INSERT INTO notes (mark) VALUES ('half'); `+text)
		require.ErrorIs(t, err, backend.ErrReadOnlyShared, text)
		var pe *pgconn.PgError
		require.ErrorAs(t, err, &pe)
		require.Contains(t, pe.Message, names, text)
		if strings.Contains(text, `SET ROLE none`) && !strings.Contains(text, `EXECUTE`) || strings.Contains(text, `_x;`) {
			continue
		}
		db := be.Maintenance(rt)
		tx, err := db.BeginTx(t.Context(), nil)
		require.NoError(t, err)
		_, err = tx.ExecContext(t.Context(), text)
		require.NoError(t, err, text)
		require.ErrorIs(t, tx.Commit(), backend.ErrReadOnlyShared, "as a migration: %s", text)
		tx, err = db.BeginTx(t.Context(), nil)
		require.NoError(t, err)
		_, err = tx.ExecContext(t.Context(), text)
		require.NoError(t, err, text)
		_, err = tx.ExecContext(t.Context(), `COMMIT`)
		require.ErrorIs(t, err, backend.ErrReadOnlyShared, "by a COMMIT of its own: %s", text)
		require.NoError(t, tx.Rollback())
		_, err = db.ExecContext(t.Context(), text)
		require.ErrorIs(t, err, backend.ErrReadOnlyShared, "by itself: %s", text)
		require.NoError(t, db.Close())
	}
	var state string
	require.NoError(t, be.Shared().QueryRowContext(t.Context(), `SELECT concat(n, (SELECT count(*) FROM a.notes), (SELECT count(*) FROM b.notes)) FROM plans`).Scan(&state))
	require.Equal(t, "101", state)

	// What is to be allowed.
	for _, text := range []string{
		`SELECT allowed()`,
		`DO $$ BEGIN EXECUTE 'CREATE TABLE made (plan text REFERENCES plans)'; END $$; INSERT INTO made VALUES ('gold')`,
		`CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.mark := 'x'; RETURN NEW; END $$;
			CREATE TRIGGER t BEFORE INSERT ON notes FOR EACH ROW EXECUTE FUNCTION f(); INSERT INTO notes (mark) VALUES ('y')`,
		`UPDATE notes n SET mark = p.name FROM public.plans p WHERE p.n = n.id`,
	} {
		require.NoError(t, run(quiet, text), text)
	}
	for _, text := range []string{`SELECT leave(); SELECT back()`, `DO $$ BEGIN EXECUTE 'UPDATE notes SET mark = mark'; END $$`} {
		require.NoError(t, run(rt, text), text)
	}
}
