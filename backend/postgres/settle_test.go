package postgres_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// execer is what runs statements: a handle or a held connection.
type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// S07, S08: what a statement that needs a session of its own does to the session does not outlast it: the next unit of
// work on a held connection is bound to the store anew.
func TestHeldSessionIsBoundAnew(t *testing.T) {
	t.Parallel()
	for _, role := range []string{"auto", "off"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			be := open(t, pgtest.Shared(t).Database(t), map[string]string{"tenant_role": role})
			rt, a := tenant(t, be, "a")
			exec := func(db execer, text string) {
				t.Helper()
				_, err := db.ExecContext(a, text)
				require.NoError(t, err, text)
			}
			exec(be.Shared(), `CREATE TABLE notes (mark text)`)
			exec(be.Shared(), `GRANT INSERT ON notes TO PUBLIC`)
			exec(be.DB(), `CREATE PROCEDURE commits() LANGUAGE plpgsql AS 'BEGIN COMMIT; END'`)
			for _, settles := range []string{`VACUUM`, `CALL commits()`, `DO 'BEGIN COMMIT; END'`, `SELECT 1; BEGIN; COMMIT`, `DISCARD ALL`} {
				for _, undoes := range []string{
					`SELECT 1`, `RESET ALL`, `RESET search_path`, `SET search_path = public`, `DISCARD ALL`, `SELECT pg_advisory_unlock_all()`,
					`SELECT set_config('search_path', 'public', false)`,
				} {
					conn, err := be.DB().Conn(a)
					require.NoError(t, err)
					exec(conn, settles)
					exec(conn, undoes)
					exec(conn, `INSERT INTO notes (mark) VALUES ('kept')`)
					require.NoError(t, conn.Close())
				}
			}
			var kept, stray int
			require.NoError(t, be.DB().QueryRowContext(a, `SELECT count(*) FROM notes`).Scan(&kept))
			require.NoError(t, be.Shared().QueryRowContext(a, `SELECT count(*) FROM notes`).Scan(&stray))
			assert.Equal(t, 35, kept)
			assert.Zero(t, stray)

			// The share of the store is taken with each unit of work, too: after a rename nothing is reached.
			conn, err := be.DB().Conn(a)
			require.NoError(t, err)
			exec(conn, `VACUUM`)
			exec(conn, `SELECT pg_advisory_unlock_all()`)
			require.NoError(t, be.Rename(t.Context(), rt, backend.MustParseStore("b")))
			_, err = conn.ExecContext(a, `INSERT INTO notes (mark) VALUES ('stray')`)
			require.ErrorIs(t, err, backend.ErrStoreMissing)
			require.NoError(t, conn.Close())
		})
	}
}

// S08: what may end transactions fares like any other statement where its store or its connection is not what it was.
func TestCallsFindTheirStore(t *testing.T) {
	t.Parallel()
	cluster := pgtest.Shared(t)
	databaseURL := cluster.Database(t)
	one, two := open(t, databaseURL, map[string]string{"pool_max_conns": "1"}), open(t, databaseURL, nil)
	admin, err := pgx.Connect(t.Context(), cluster.AdminDatabaseURL(t, databaseURL))
	require.NoError(t, err)
	defer func() { require.NoError(t, admin.Close(context.WithoutCancel(t.Context()))) }()
	rt, a := tenant(t, one, "a")
	calls := map[string]func(conn *sql.Conn) error{
		"DO": func(conn *sql.Conn) error {
			rows, err := conn.QueryContext(a, `DO 'BEGIN END'`)
			if err != nil {
				return err
			}
			return errors.Join(rows.Close(), rows.Err())
		},
		"text": func(conn *sql.Conn) error { _, err := conn.ExecContext(a, `SELECT 1; BEGIN; COMMIT`); return err },
	}
	changes := map[string]func() error{
		"the store was made again": func() error { return errors.Join(two.Drop(t.Context(), rt), two.Create(t.Context(), rt)) },
		"the connection was ended": func() error {
			_, err := admin.Exec(t.Context(), `SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity
				WHERE datname = current_database() AND pid <> pg_backend_pid()`)
			return err
		},
	}
	// held returns a connection for which the store is known.
	held := func() *sql.Conn {
		t.Helper()
		require.NoError(t, one.DB().QueryRowContext(a, `SELECT 1`).Scan(new(int)))
		conn, err := one.DB().Conn(a)
		require.NoError(t, err)
		return conn
	}
	for name, call := range calls {
		for what, change := range changes {
			conn := held()
			require.NoError(t, change())
			assert.NoError(t, call(conn), "%s: %s", name, what)
			require.NoError(t, conn.Close())
		}
		conn := held()
		require.NoError(t, two.Drop(t.Context(), rt))
		for range 2 {
			assert.ErrorIs(t, call(conn), backend.ErrStoreMissing, name)
		}
		require.NoError(t, conn.Close())
		require.NoError(t, two.Create(t.Context(), rt))
	}
}

// What may have committed part of itself is not run again.
func TestCallsRunOnce(t *testing.T) {
	t.Parallel()
	be := open(t, pgtest.Shared(t).Database(t), nil)
	_, a := tenant(t, be, "a")
	_, err := be.DB().ExecContext(a, `CREATE PROCEDURE fails(code text) LANGUAGE plpgsql AS $$
		BEGIN INSERT INTO notes (mark) VALUES (code); COMMIT; RAISE EXCEPTION 'after the commit' USING ERRCODE = code; END $$`)
	require.NoError(t, err)
	for _, code := range []string{"0A000", "26000", "08P01", "25001", "2D000", "42P01", "3F000"} {
		conn, err := be.DB().Conn(a)
		require.NoError(t, err)
		for range 2 {
			_, err = conn.ExecContext(a, `CALL fails($1)`, code)
			require.ErrorContains(t, err, "after the commit", code)
			_, err = be.DB().ExecContext(a, `CALL fails($1)`, code)
			require.ErrorContains(t, err, "after the commit", code)
		}
		require.NoError(t, conn.Close())
		var rows int
		require.NoError(t, be.DB().QueryRowContext(a, `SELECT count(*) FROM notes WHERE mark = $1`, code).Scan(&rows))
		assert.Equal(t, 4, rows, code)
	}
}

// What cannot run in a transaction of ours, or would end it, is refused on a read-only route: nothing else would keep it
// from writing.
func TestReadOnlyRouteNeverSettles(t *testing.T) {
	t.Parallel()
	be := open(t, pgtest.Shared(t).Database(t), nil)
	rt, a := tenant(t, be, "a")
	_, err := be.DB().ExecContext(a, `CREATE PROCEDURE commits() LANGUAGE plpgsql AS 'BEGIN COMMIT; INSERT INTO notes (mark) VALUES (''stray''); END'`)
	require.NoError(t, err)
	rt.ReadOnly = true
	ro := backend.WithRoute(t.Context(), rt)
	write := `INSERT INTO notes (mark) VALUES ('stray')`
	for _, text := range []string{
		`SET transaction_read_only = off; ` + write, `SELECT 1; SET TRANSACTION READ WRITE; ` + write, `COMMIT; BEGIN; ` + write + `; COMMIT`,
		`SET default_transaction_read_only = off; COMMIT; ` + write, `CALL commits()`, `DO 'BEGIN COMMIT; END'`, `VACUUM notes`,
		`CREATE INDEX CONCURRENTLY more ON notes (mark)`,
	} {
		_, err = be.DB().ExecContext(ro, text)
		require.Error(t, err, text)
		_, err = be.PGX().Exec(ro, text)
		require.Error(t, err, text)
		conn, err := be.DB().Conn(ro)
		require.NoError(t, err)
		_, err = conn.ExecContext(ro, text)
		require.Error(t, err, text)
		_, err = conn.ExecContext(ro, write)
		require.ErrorIs(t, err, backend.ErrReadOnly, text)
		require.NoError(t, conn.Close())
	}
	_, err = be.DB().ExecContext(ro, `CALL commits()`)
	require.ErrorIs(t, err, backend.ErrReadOnly)
	var rows int
	require.NoError(t, be.DB().QueryRowContext(a, `SELECT count(*) FROM notes`).Scan(&rows))
	require.Zero(t, rows)
}
