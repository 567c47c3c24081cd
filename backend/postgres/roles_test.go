package postgres_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/postgres"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// role is the name of the role that is made for all tenants of a database.
func role(t testing.TB, databaseURL string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	require.NoError(t, err)
	return "tenants:" + strings.TrimPrefix(u.Path, "/")
}

// whoAmI returns current_user by each way in, which must all say the same.
func whoAmI(t testing.TB, be *postgres.Backend, ctx context.Context) string {
	t.Helper()
	var user, again string
	require.NoError(t, be.DB().QueryRowContext(ctx, `SELECT current_user`).Scan(&user))
	require.NoError(t, be.PGX().QueryRow(ctx, `SELECT current_user`).Scan(&again))
	require.Equal(t, user, again)
	tx, err := be.DB().BeginTx(ctx, nil)
	require.NoError(t, err)
	require.NoError(t, tx.QueryRowContext(ctx, `SELECT current_user`).Scan(&again))
	require.NoError(t, tx.Commit())
	require.Equal(t, user, again)
	return user
}

// execs runs statements by a simple message, whatever role it is done with.
func execs(t testing.TB, databaseURL string, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	for _, s := range statements {
		_, err := conn.Exec(t.Context(), s)
		require.NoError(t, err, s)
	}
}

// S17: one role does all tenants' work, and the log-in the rest, directly, behind a pooler and on a lent pool, whatever
// was done to the connection.
func TestOneRole(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"direct", "pgbouncer", "lent"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			databaseURL := pgtest.Shared(t).Database(t)
			var be *postgres.Backend
			var lent *pgxpool.Pool
			switch way {
			case "direct":
				be = open(t, databaseURL, map[string]string{"pool_max_conns": "1"})
			case "pgbouncer":
				be = open(t, pgtest.Bouncer(t, databaseURL, pgtest.BouncerConfig{PoolSize: 1}), map[string]string{"default_query_exec_mode": "exec", "pool_max_conns": "1"})
			case "lent":
				var err error
				lent, err = pgxpool.New(t.Context(), with(t, databaseURL, map[string]string{"pool_max_conns": "1"}))
				require.NoError(t, err)
				defer lent.Close()
				be, err = postgres.FromPool(t.Context(), lent, postgres.Config{})
				require.NoError(t, err)
				defer func() { require.NoError(t, be.Close()) }()
			}
			u, err := url.Parse(databaseURL)
			require.NoError(t, err)
			login, tenants := u.User.Username(), role(t, databaseURL)
			rt, a := tenant(t, be, "a")
			check := func(after string) {
				t.Helper()
				require.Equal(t, tenants, whoAmI(t, be, a), after)
				var user string
				require.NoError(t, be.Shared().QueryRowContext(t.Context(), `SELECT current_user`).Scan(&user))
				require.Equal(t, login, user, after)
				owner := be.Maintenance(rt)
				defer func() { _ = owner.Close() }()
				require.NoError(t, owner.QueryRowContext(t.Context(), `SELECT current_user`).Scan(&user))
				require.Equal(t, tenants, user, after)
			}
			check("at first")
			if way == "direct" {
				var verifies bool
				require.NoError(t, be.DB().QueryRowContext(a, `SELECT bool_and(name NOT LIKE '%_set') FROM pg_prepared_statements WHERE name ~ '^tenement_p[0-9]+_(oid|stamp)'`).Scan(&verifies))
				require.True(t, verifies, "the connection has the role, and no prefix needs to set it")
			}
			for _, statement := range []string{`RESET ROLE`, `SET ROLE NONE`, `DISCARD ALL`, `RESET ALL`, `SET SESSION AUTHORIZATION DEFAULT`} {
				_, err := be.DB().ExecContext(a, statement)
				t.Log(statement, err)
				check(statement)
				if lent != nil { // by somebody else, and nothing closes the connection
					_, err := lent.Exec(t.Context(), statement)
					require.NoError(t, err)
					check(statement + " by the lender")
					require.NoError(t, lent.QueryRow(t.Context(), `SELECT current_user`, pgx.QueryExecModeExec).Scan(&statement))
					require.Equal(t, login, statement, "the lender's own rights")
				}
			}
			// All that is in the store is the role's, but not the store.
			require.NoError(t, be.RunScripts(t.Context(), []backend.Script{{
				Route: rt, Head: `CREATE TABLE goose (id serial PRIMARY KEY, v int); INSERT INTO goose (v) VALUES (1);`, SQL: `CREATE TABLE t (x int); INSERT INTO goose (v) VALUES (2)`,
			}}, backend.ScriptOptions{})[0])
			var owners string
			require.NoError(t, be.Shared().QueryRowContext(t.Context(), `SELECT string_agg(DISTINCT relowner::regrole::text, ',') FROM pg_class WHERE relnamespace = 'a'::regnamespace`).Scan(&owners))
			require.Equal(t, `"`+tenants+`"`, owners)
			for _, statement := range []string{`DROP SCHEMA a CASCADE`, `ALTER SCHEMA a RENAME TO b`, `COMMENT ON SCHEMA a IS 'tenement:mine'`} {
				_, err := be.DB().ExecContext(a, statement)
				var pe *pgconn.PgError
				require.ErrorAs(t, err, &pe, statement)
				require.Equal(t, "42501", pe.Code)
			}
			require.NoError(t, be.Rename(t.Context(), rt, backend.MustParseStore("b")))
			require.NoError(t, be.Drop(t.Context(), backend.Route{Store: backend.MustParseStore("b")}))
		})
	}
}

// What a tenant may do with what is shared: read it and refer to it, also what is made later, and use its types and
// functions; nothing else. A SECURITY DEFINER function is the way for what tenants may write.
func TestSharedRights(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.Shared(t).Database(t)
	execs(t, databaseURL, `CREATE TABLE before (name text PRIMARY KEY); INSERT INTO before VALUES ('x')`, `CREATE SEQUENCE numbers`,
		`CREATE TYPE mood AS ENUM ('good')`, `CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql AS 'SELECT 2 * $1'`)
	be := open(t, databaseURL, nil)
	_, err := be.Shared().ExecContext(t.Context(), `CREATE TABLE later (name text PRIMARY KEY); INSERT INTO later VALUES ('y')`)
	require.NoError(t, err)
	_, err = be.Shared().ExecContext(t.Context(), `CREATE FUNCTION log(text) RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = public AS 'INSERT INTO later VALUES ($1)'`)
	require.NoError(t, err)
	_, a := tenant(t, be, "a")
	for _, statement := range []string{
		`SELECT b.name FROM before b, public.later`,
		`CREATE TABLE refers (b text REFERENCES before, l text REFERENCES public.later ON DELETE CASCADE, m mood)`,
		`INSERT INTO refers VALUES ('x', 'y', 'good')`,
		`SELECT twice(2), log('z')`,
	} {
		_, err := be.DB().ExecContext(a, statement)
		require.NoError(t, err, statement)
	}
	_, err = be.DB().ExecContext(a, `INSERT INTO refers VALUES ('nobody')`)
	require.Error(t, err, "foreign keys hold")
	for _, statement := range []string{`SELECT nextval('numbers')`, `SELECT name FROM before FOR UPDATE`, `INSERT INTO later VALUES ('mine')`, `TRUNCATE later`} {
		_, err := be.DB().ExecContext(a, statement)
		require.ErrorIs(t, err, backend.ErrReadOnlyShared, statement)
		var pe *pgconn.PgError
		require.ErrorAs(t, err, &pe, "the server's own error is in the chain")
	}
	_, err = be.Shared().ExecContext(t.Context(), `DELETE FROM later WHERE name = 'y'`)
	require.NoError(t, err, "the shared store reaches into the tenant's by its foreign key")
	var n int
	require.NoError(t, be.DB().QueryRowContext(a, `SELECT count(*) FROM refers`).Scan(&n))
	require.Zero(t, n)
}

// A store that was made while roles were off, or others, is not served (its names would be found in public) until
// EnsureRoles gives it, with all that is in it, to the role.
func TestEnsureRoles(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.Shared(t).Database(t)
	execs(t, databaseURL, `CREATE TABLE notes (id int, mark text); INSERT INTO notes VALUES (1, 'shared')`)
	rt, n := route("old"), 0
	for _, before := range []string{"off", "each"} {
		be := open(t, databaseURL, map[string]string{"tenant_role": before})
		_, old := tenant(t, be, "old")
		for _, statement := range []string{
			`CREATE TYPE mood AS ENUM ('good')`, `CREATE TYPE pair AS (a int, b int)`, `CREATE DOMAIN d AS int`,
			`CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'`, `CREATE VIEW v AS SELECT 1`, `CREATE SEQUENCE s`,
			`CREATE STATISTICS st ON id, mark FROM notes`, `CREATE TABLE p (x int) PARTITION BY LIST (x)`, `CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1)`,
			`CREATE MATERIALIZED VIEW m AS SELECT 1`, `CREATE PROCEDURE pr() LANGUAGE sql AS ''`, `INSERT INTO notes (mark) VALUES ('old')`,
		} {
			_, err := be.DB().ExecContext(old, statement)
			require.NoError(t, err, statement)
		}
		auto := open(t, databaseURL, nil)
		for range 2 {
			for _, rt := range []backend.Route{rt, {Store: rt.Store}} {
				err := auto.DB().QueryRowContext(backend.WithRoute(t.Context(), rt), `SELECT count(*) FROM notes`).Scan(&n)
				require.ErrorContains(t, err, "EnsureRoles")
				err = auto.RunScripts(t.Context(), []backend.Script{{Route: rt, SQL: `SELECT 1`}}, backend.ScriptOptions{})[0]
				require.ErrorContains(t, err, "EnsureRoles")
			}
		}
		require.NoError(t, auto.EnsureRoles(t.Context()))
		require.NoError(t, auto.EnsureRoles(t.Context()))
		var mark string
		require.NoError(t, auto.DB().QueryRowContext(old, `SELECT mark FROM notes`).Scan(&mark))
		require.Equal(t, "old", mark)
		for _, statement := range []string{
			`ALTER TABLE notes ADD COLUMN x int`, `ALTER TYPE mood ADD VALUE 'bad'`, `ALTER TYPE pair ADD ATTRIBUTE c int`, `ALTER DOMAIN d SET NOT NULL`,
			`CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 2'`, `DROP VIEW v`, `ALTER SEQUENCE s RESTART`, `DROP STATISTICS st`,
			`CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2)`, `REFRESH MATERIALIZED VIEW m`, `DROP PROCEDURE pr()`, `TRUNCATE notes RESTART IDENTITY`,
		} {
			_, err := auto.DB().ExecContext(old, statement)
			require.NoError(t, err, "%s: %s", before, statement)
		}
		require.NoError(t, auto.Drop(t.Context(), rt))
	}
	// A schema of another hand is handed over when it is adopted.
	be := open(t, databaseURL, nil)
	execs(t, databaseURL, `CREATE SCHEMA legacy CREATE TABLE notes (id int)`)
	require.NoError(t, be.Adopt(t.Context(), route("legacy")))
	_, err := be.DB().ExecContext(backend.WithRoute(t.Context(), route("legacy")), `ALTER TABLE notes ADD COLUMN mark text`)
	require.NoError(t, err)
}

// A log-in that may not make the role goes without, and says so once; a role that is named has to be there.
func TestNoRole(t *testing.T) {
	t.Parallel()
	cluster := pgtest.Shared(t)
	databaseURL := cluster.Database(t)
	weakURL := cluster.Role(t, databaseURL)
	weak, err := url.Parse(weakURL)
	require.NoError(t, err)
	var log bytes.Buffer
	cfg := postgres.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}
	be, err := postgres.Open(t.Context(), weakURL, cfg)
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(log.String(), "level=WARN"), log.String())
	advice, err := be.Advise(t.Context())
	require.NoError(t, err)
	require.Len(t, advice, 1)
	require.NoError(t, be.EnsureRoles(t.Context()), "there is nothing to do")
	require.NoError(t, be.Close())

	_, err = postgres.Open(t.Context(), weakURL, postgres.Config{TenantRole: "nobody_here"})
	require.ErrorContains(t, err, "CREATE ROLE")
	_, err = postgres.Open(t.Context(), weakURL, postgres.Config{TenantRole: weak.User.Username()})
	require.ErrorContains(t, err, "log-in's", "it would keep nothing out")

	// Made by somebody who may, it is used, also where nothing can be written.
	strong := open(t, databaseURL, nil)
	tenants := role(t, databaseURL)
	_, err = strong.Shared().ExecContext(t.Context(), `GRANT "`+tenants+`" TO `+weak.User.Username())
	require.NoError(t, err)
	_, a := tenant(t, strong, "a")
	log.Reset()
	for _, params := range []map[string]string{{}, {"default_transaction_read_only": "on"}, {"tenant_role": tenants}} {
		be, err := postgres.Open(t.Context(), with(t, weakURL, params), cfg)
		require.NoError(t, err)
		require.Equal(t, tenants, whoAmI(t, be, a))
		require.NoError(t, be.Close())
	}
	assert.Empty(t, log.String())
}

// A connection that is cut while the role is being made says nothing of what the log-in may: without the role shared tables
// would have no guard, and stores that are made would be refused by everybody else.
func TestRoleInterrupted(t *testing.T) {
	t.Parallel()
	cluster := pgtest.Shared(t)
	databaseURL := cluster.Database(t)
	admin, err := pgx.Connect(t.Context(), cluster.AdminDatabaseURL(t, databaseURL))
	require.NoError(t, err)
	defer func() { _ = admin.Close(context.Background()) }()
	tx, err := admin.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `LOCK TABLE pg_default_acl IN SHARE MODE`) // of this database only
	require.NoError(t, err)

	var log bytes.Buffer
	opened := make(chan error, 1)
	go func() {
		be, err := postgres.Open(t.Context(), databaseURL, postgres.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err == nil {
			err = be.Close()
		}
		opened <- err
	}()
	require.Eventually(t, func() bool {
		var cut bool
		err := tx.QueryRow(t.Context(), `SELECT coalesce(bool_or(pg_terminate_backend(pid)), false) FROM pg_locks
			WHERE relation = 'pg_default_acl'::regclass AND NOT granted`).Scan(&cut)
		return assert.NoError(t, err) && cut
	}, 30*time.Second, 10*time.Millisecond)
	require.Error(t, <-opened)
	assert.Empty(t, log.String())

	require.NoError(t, tx.Rollback(t.Context()))
	be := open(t, databaseURL, nil)
	_, a := tenant(t, be, "a")
	require.Equal(t, role(t, databaseURL), whoAmI(t, be, a))
}

// leftBehind makes a store and drops its schema by hand. It returns what is left of it: its role.
func leftBehind(t *testing.T, be *postgres.Backend, rt backend.Route) backend.Leftover {
	t.Helper()
	require.NoError(t, be.Create(t.Context(), rt))
	_, err := be.Shared().ExecContext(t.Context(), `DROP SCHEMA a CASCADE`)
	require.NoError(t, err)
	left, err := be.Leftovers(t.Context())
	require.NoError(t, err)
	require.Len(t, left, 1)
	return left[0]
}

// A role that was left over when it was listed is not, once its store has been made again: sweeping it does nothing.
func TestSweepOfAStoreMadeAgain(t *testing.T) {
	t.Parallel()
	be := open(t, pgtest.Shared(t).Database(t), map[string]string{"tenant_role": "each"})
	rt := route("a")
	left := leftBehind(t, be, rt)
	require.NoError(t, be.Create(t.Context(), rt))
	require.NoError(t, be.Sweep(t.Context(), left))
	_, err := be.DB().ExecContext(backend.WithRoute(t.Context(), rt), `CREATE TABLE notes (id int)`)
	require.NoError(t, err)
}

// Nor is one whose store is being made: sweeping it waits for that.
func TestSweepOfAStoreBeingMade(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.Shared(t).Database(t)
	be := open(t, databaseURL, map[string]string{"tenant_role": "each"})
	rt := route("a")
	left := leftBehind(t, be, rt)
	other, err := pgx.Connect(t.Context(), databaseURL)
	require.NoError(t, err)
	defer func() { _ = other.Close(context.WithoutCancel(t.Context())) }()
	const holds = 4711
	_, err = other.Exec(t.Context(), `SELECT pg_advisory_lock($1)`, holds)
	require.NoError(t, err)
	made, swept := make(chan error, 1), make(chan error, 1)
	go func() {
		script := backend.Script{Route: rt, Create: true, SQL: fmt.Sprintf(`SELECT pg_advisory_xact_lock(%d)`, holds)}
		made <- be.RunScripts(t.Context(), []backend.Script{script}, backend.ScriptOptions{LockTimeout: time.Minute})[0]
	}()
	waiting := func(n int) func() bool {
		return func() bool {
			var waits int
			require.NoError(t, other.QueryRow(t.Context(), `SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
				WHERE a.datname = current_database() AND NOT l.granted`).Scan(&waits))
			return waits >= n
		}
	}
	require.Eventually(t, waiting(1), time.Minute, time.Millisecond)
	go func() { swept <- be.Sweep(t.Context(), left) }()
	require.Eventually(t, func() bool { return waiting(2)() || len(swept) > 0 }, time.Minute, time.Millisecond)
	_, err = other.Exec(t.Context(), `SELECT pg_advisory_unlock($1)`, holds)
	require.NoError(t, err)
	require.NoError(t, <-made)
	require.NoError(t, <-swept)
	_, err = be.DB().ExecContext(backend.WithRoute(t.Context(), rt), `CREATE TABLE notes (id int)`)
	require.NoError(t, err)
}
