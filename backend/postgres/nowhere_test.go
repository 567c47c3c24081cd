package postgres_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// Code that the locks do not tell of: it reads in a subtransaction that it rolls back, or the error has the row in it.
func TestNowhereIsNotGotAround(t *testing.T) {
	t.Parallel()
	be := open(t, pgtest.Shared(t).Database(t), nil)
	_, a := tenant(t, be, "a")
	_, err := be.DB().ExecContext(a, `INSERT INTO notes (mark) VALUES ('secret')`)
	require.NoError(t, err)
	_, err = be.Shared().ExecContext(t.Context(), `
		CREATE FUNCTION leak(q text) RETURNS text LANGUAGE plpgsql AS $$ DECLARE v text; BEGIN
			BEGIN EXECUTE q INTO v; RAISE EXCEPTION USING errcode = 'P9999'; EXCEPTION WHEN SQLSTATE 'P9999' THEN RETURN v; END;
		END $$;
		CREATE DOMAIN leaking AS text CHECK (leak(value) IS NULL);
		CREATE OPERATOR !!! (FUNCTION = leak, RIGHTARG = text)`)
	require.NoError(t, err)
	db := be.DBOrNowhere()
	const text = `select mark from a.notes`
	for _, query := range []string{
		`SELECT public.leak('` + text + `')`,
		`SELECT "public" . /* */ leak('` + text + `')`,
		`SELECT U&"public".leak('` + text + `')`,
		`SELECT OPERATOR(public.!!!) '` + text + `'`,
		`SELECT '` + text + `'::public.leaking`,
		`SELECT CAST('` + text + `' AS public.leaking)`,
		`SELECT public.leaking '` + text + `'`,
		`SELECT query_to_xml('select public.leak($q$` + text + `$q$)', true, true, '')::text`,
		`SELECT word FROM ts_stat('select to_tsvector(mark) from a.notes')`,
		`SELECT (SELECT mark FROM a.notes LIMIT 1)::int::text`,
		`DO $$ BEGIN RAISE EXCEPTION '%', (SELECT mark FROM a.notes LIMIT 1); END $$`,
	} {
		var got string
		err := db.QueryRowContext(t.Context(), query).Scan(&got)
		require.ErrorIs(t, err, backend.ErrNoTenant, "%s: %q", query, got)
		require.NotContains(t, err.Error(), "secret", query)
	}
	var n int
	require.NoError(t, db.QueryRowContext(t.Context(), `SELECT count(*) FROM pg_catalog.pg_class c JOIN information_schema.tables t ON t.table_name = c.relname
		WHERE pg_catalog.pg_table_is_visible(c.oid) AND c.relname::pg_catalog.text = $1`, "pg_class").Scan(&n))
	require.Equal(t, 1, n)
}
