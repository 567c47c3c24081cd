package postgres_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/postgres"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// What is wrong with a URL is said, and its password is not.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	good := pgtest.Shared(t).Database(t)
	u, err := url.Parse(good)
	require.NoError(t, err)
	port := u.Port()
	for name, c := range map[string]struct {
		url  string
		says string
	}{
		"port":              {"postgres://me:s3cret@localhost:port/app", ""},
		"mode":              {"postgres://me:s3cret@localhost/app?default_query_exec_mode=fast", "fast"},
		"pool size":         {"postgres://me:s3cret@localhost/app?pool_max_conns=many", "pool_max_conns"},
		"roles":             {"postgres://me:s3cret@localhost/app?tenant_role=none", "tenant_role"},
		"first sights":      {"postgres://me:s3cret@localhost/app?first_sights=0", "first_sights"},
		"affinity wait":     {"postgres://me:s3cret@localhost/app?affinity_wait=3", "affinity_wait"},
		"keyword DSN":       {"host=localhost password=s3cret tenant_role=pg_read_all_data", "tenant_role"},
		"broken DSN":        {"host=localhost password='s3cret tenant_role", ""},
		"unknown parameter": {with(t, good, map[string]string{"no_such_setting": "1"}), "no_such_setting"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := backend.Open(t.Context(), c.url)
			require.ErrorIs(t, err, backend.ErrInvalidURL)
			require.ErrorContains(t, err, c.says)
			assert.NotContains(t, err.Error(), "s3cret")
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		t.Parallel()
		_, err := backend.Open(t.Context(), "postgres://me:s3cret@127.0.0.1:1/app?connect_timeout=5")
		require.Error(t, err)
		require.NotErrorIs(t, err, backend.ErrInvalidURL)
		assert.NotContains(t, err.Error(), "s3cret")
	})
	t.Run("keyword DSN that is right", func(t *testing.T) {
		t.Parallel()
		password, _ := u.User.Password()
		be, err := backend.Open(t.Context(), fmt.Sprintf("host=%s port=%s user=%s password=%s dbname=%s tenant_role=off first_sights=7 affinity_wait=0",
			u.Hostname(), port, u.User.Username(), password, strings.TrimPrefix(u.Path, "/")))
		require.NoError(t, err)
		require.NoError(t, be.Close())
	})
}

// A pool that was lent is used as it is, and stays open.
func TestLentPool(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(t.Context(), with(t, pgtest.Shared(t).Database(t), map[string]string{"pool_max_conns": "1"}))
	require.NoError(t, err)
	defer pool.Close()
	be, err := postgres.FromPool(t.Context(), pool, postgres.Config{})
	require.NoError(t, err)
	_, a := tenant(t, be, "a")
	_, err = pool.Exec(t.Context(), `CREATE TABLE notes (id int, mark text)`)
	require.NoError(t, err)
	const read = `SELECT count(*) FROM notes WHERE mark = $1`
	var n int
	for range 3 {
		// The same text through both: the tenant's statements and the lender's do not get in each other's way.
		require.NoError(t, be.DB().QueryRowContext(a, read, "m").Scan(&n))
		// (In a mode of its own, because pgx does not expect the DISCARD ALL below either.)
		require.NoError(t, pool.QueryRow(t.Context(), read, pgx.QueryExecModeExec, "m").Scan(&n))
		var path string
		require.NoError(t, pool.QueryRow(t.Context(), `SHOW search_path`, pgx.QueryExecModeExec).Scan(&path))
		require.Equal(t, `"$user", public`, path)
		_, err := be.DB().ExecContext(a, `INSERT INTO notes (mark) VALUES ($1)`, "m")
		require.NoError(t, err)
		// Prepared statements taken away from under us are prepared again.
		_, err = pool.Exec(t.Context(), `DISCARD ALL`)
		require.NoError(t, err)
	}
	require.NoError(t, be.DB().QueryRowContext(a, read, "m").Scan(&n))
	require.Equal(t, 3, n)
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM notes`).Scan(&n))
	require.Zero(t, n)
	require.NoError(t, be.Close())
	require.Error(t, be.DB().PingContext(a))
	_, err = be.PGX().Exec(a, `SELECT 1`)
	require.ErrorIs(t, err, backend.ErrClosed)
	require.NoError(t, pool.Ping(t.Context()))
}

// A connection is retired after so many pairs of store and text.
func TestRetirement(t *testing.T) {
	t.Parallel()
	be := open(t, pgtest.Shared(t).Database(t), map[string]string{"pool_max_conns": "1", "first_sights": "3"})
	pids := map[int]int{}
	for i := 0; len(pids) < 3; i++ { // a connection is used until its successor is there
		require.Less(t, i, 1000)
		rt := route(fmt.Sprintf("t%d", i))
		require.NoError(t, be.Create(t.Context(), rt))
		var pid int
		for range 2 {
			require.NoError(t, be.DB().QueryRowContext(backend.WithRoute(t.Context(), rt), `SELECT pg_backend_pid()`).Scan(&pid))
		}
		pids[pid]++
	}
	assert.Positive(t, be.Stats().Retired)
}

// The native API beyond what the conformance suite uses.
func TestNative(t *testing.T) {
	t.Parallel()
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			be := open(t, pgtest.Shared(t).Database(t), map[string]string{"default_query_exec_mode": mode, "pool_max_conns": "2"})
			_, a := tenant(t, be, "a")
			_, b := tenant(t, be, "b")
			n := be.PGX()

			count, err := n.CopyFrom(a, pgx.Identifier{"notes"}, []string{"mark"}, pgx.CopyFromRows([][]any{{"one"}, {"two"}}))
			require.NoError(t, err)
			require.EqualValues(t, 2, count)
			_, err = n.CopyFrom(t.Context(), pgx.Identifier{"notes"}, []string{"mark"}, pgx.CopyFromRows([][]any{{"one"}}))
			require.ErrorIs(t, err, backend.ErrNoTenant)

			rows, err := n.Query(a, `SELECT id, mark FROM notes WHERE mark <> $1 ORDER BY id`, "x")
			require.NoError(t, err)
			type note struct {
				ID   int
				Mark string
			}
			notes, err := pgx.CollectRows(rows, pgx.RowToStructByPos[note])
			require.NoError(t, err)
			require.Equal(t, []note{{1, "one"}, {2, "two"}}, notes)
			require.Equal(t, "SELECT 2", rows.CommandTag().String())

			var mark string
			require.NoError(t, n.QueryRow(a, `SELECT mark FROM notes WHERE id = @id`, pgx.NamedArgs{"id": 2}).Scan(&mark))
			require.Equal(t, "two", mark)
			require.ErrorIs(t, n.QueryRow(b, `SELECT mark FROM notes`).Scan(&mark), pgx.ErrNoRows)
			require.ErrorIs(t, n.QueryRow(b, `SELECT mark FROM notes`).Scan(&mark), sql.ErrNoRows)
			var pe *pgconn.PgError
			_, err = n.Exec(a, `INSERT INTO notes (id, mark) VALUES ($1, 'again')`, 1)
			require.ErrorAs(t, err, &pe)
			require.Equal(t, "23505", pe.Code)
			rows, err = n.Query(a, `SELECT 1/(2-i) FROM generate_series(1, $1::int) i`, 3)
			if err == nil {
				for rows.Next() {
				}
				err = rows.Err()
			}
			require.ErrorAs(t, err, &pe, "an error after the first row")
			require.Equal(t, "22012", pe.Code)

			var batch pgx.Batch
			batch.Queue(`INSERT INTO notes (mark) VALUES ($1)`, "b1")
			batch.Queue(`SELECT mark FROM notes ORDER BY id DESC LIMIT $1`, 1)
			batch.Queue(`SELECT mark FROM notes ORDER BY id LIMIT $1`, 2).Query(func(rows pgx.Rows) error {
				marks, err := pgx.CollectRows(rows, pgx.RowTo[string])
				assert.Equal(t, []string{"b1"}, marks)
				return err
			})
			results := n.SendBatch(b, &batch)
			tag, err := results.Exec()
			require.NoError(t, err)
			require.EqualValues(t, 1, tag.RowsAffected())
			require.NoError(t, results.QueryRow().Scan(&mark))
			require.Equal(t, "b1", mark)
			require.NoError(t, results.Close())

			// A batch is one transaction, and its failure leaves the connection sound.
			batch = pgx.Batch{}
			batch.Queue(`INSERT INTO notes (mark) VALUES ($1)`, "undone")
			batch.Queue(`INSERT INTO notes (id, mark) VALUES ($1, 'again')`, 1)
			require.ErrorAs(t, n.SendBatch(b, &batch).Close(), &pe)
			require.Equal(t, "23505", pe.Code)
			batch = pgx.Batch{}
			batch.Queue(`SELECT 1`)
			require.ErrorIs(t, n.SendBatch(backend.WithRoute(t.Context(), route("ghost")), &batch).Close(), backend.ErrStoreMissing)
			require.ErrorIs(t, n.SendBatch(t.Context(), &batch).Close(), backend.ErrNoTenant)

			tx, err := n.BeginTx(a, pgx.TxOptions{IsoLevel: pgx.Serializable})
			require.NoError(t, err)
			inner, err := tx.Begin(a)
			require.NoError(t, err)
			_, err = inner.Exec(a, `INSERT INTO notes (mark) VALUES ('inner')`)
			require.NoError(t, err)
			require.NoError(t, inner.Rollback(a))
			require.ErrorIs(t, inner.Commit(a), pgx.ErrTxClosed)
			_, err = tx.Exec(b, `INSERT INTO notes (mark) VALUES ('stray')`)
			require.ErrorIs(t, err, backend.ErrTenantMismatch)
			batch = pgx.Batch{}
			batch.Queue(`INSERT INTO notes (mark) VALUES ($1)`, "outer")
			require.NoError(t, tx.SendBatch(a, &batch).Close())
			var level string
			require.NoError(t, tx.QueryRow(a, `SHOW transaction_isolation`).Scan(&level))
			require.Equal(t, "serializable", level)
			require.NoError(t, tx.Commit(a))
			require.ErrorIs(t, tx.Commit(a), pgx.ErrTxClosed)
			require.ErrorIs(t, tx.Rollback(a), pgx.ErrTxClosed)
			var marks []string
			require.NoError(t, n.QueryRow(a, `SELECT array_agg(mark ORDER BY id) FROM notes`).Scan(&marks))
			require.Equal(t, []string{"one", "two", "outer"}, marks)

			var path string
			require.NoError(t, n.AcquireFunc(a, func(c *pgx.Conn) error {
				return errors.Join(
					c.QueryRow(a, `SHOW search_path`).Scan(&path),
					func() error { _, err := c.Exec(a, `LISTEN news`); return err }())
			}))
			require.Equal(t, `"a", public, pg_temp`, path)
			require.ErrorIs(t, be.PGXFor(route("a")).QueryRow(b, `SELECT 1`).Scan(nil), backend.ErrTenantMismatch)
			require.NoError(t, be.PGXFor(route("a")).QueryRow(t.Context(), `SELECT mark FROM notes WHERE id = 1`).Scan(&mark))
			require.Equal(t, "one", mark)
		})
	}
}

// S17: the server refuses what a tenant's role may not do, through whichever way in.
func TestTenantRoles(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.Shared(t).Database(t)
	off := open(t, databaseURL, nil)
	_, _ = tenant(t, off, "old") // made while roles were off
	_, err := off.Shared().ExecContext(t.Context(), `CREATE TABLE plans (name text); INSERT INTO plans VALUES ('free');
		ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE SELECT ON TABLES FROM PUBLIC`)
	require.NoError(t, err)
	be := open(t, databaseURL, map[string]string{"tenant_role": "each", "pool_max_conns": "1"})
	old := backend.WithRoute(t.Context(), route("old"))
	_, err = be.DB().ExecContext(old, `INSERT INTO notes (mark) VALUES ('m')`)
	require.ErrorContains(t, err, "EnsureRoles")
	require.NoError(t, be.EnsureRoles(t.Context()))
	require.NoError(t, be.EnsureRoles(t.Context()))
	_, err = be.DB().ExecContext(old, `INSERT INTO notes (mark) VALUES ('m')`)
	require.NoError(t, err)

	_, a := tenant(t, be, "a")
	_, _ = tenant(t, be, "b")
	denied := func(query string) {
		t.Helper()
		for _, run := range []func() error{
			func() error { _, err := be.DB().ExecContext(a, query); return err },
			func() error { _, err := be.PGX().Exec(a, query); return err },
		} {
			var pe *pgconn.PgError
			if err := run(); assert.ErrorAs(t, err, &pe, query) {
				assert.Equal(t, "42501", pe.Code, "%s: %v", query, err)
			}
		}
	}
	denied(`SELECT * FROM b.notes`)
	denied(`INSERT INTO b.notes (mark) VALUES ('stray')`)
	denied(`INSERT INTO public.plans VALUES ('mine')`)
	denied(`DELETE FROM plans`)
	denied(`DROP TABLE public.plans`)
	denied(`CREATE TABLE public.mine (id int)`)
	var plan string
	require.NoError(t, be.DB().QueryRowContext(a, `SELECT name FROM plans`).Scan(&plan))
	// What a unit of work does to its role ends with it.
	_, err = be.DB().ExecContext(a, `RESET ROLE`)
	require.NoError(t, err)
	denied(`SELECT * FROM b.notes`)
	// A shared table that is made later can be read too.
	_, err = be.Shared().ExecContext(t.Context(), `CREATE TABLE later (x int)`)
	require.NoError(t, err)
	require.NoError(t, be.DB().QueryRowContext(a, `SELECT count(*) FROM later`).Scan(new(int)))

	// The role follows the store, and goes with it.
	require.NoError(t, be.Rename(t.Context(), route("a"), backend.MustParseStore("c")))
	c := backend.WithRoute(t.Context(), backend.Route{Store: backend.MustParseStore("c"), Owner: "owner-of-a"})
	_, err = be.DB().ExecContext(c, `INSERT INTO notes (mark) VALUES ('m')`)
	require.NoError(t, err)
	roles := func() (n int) {
		require.NoError(t, be.Shared().QueryRowContext(t.Context(),
			`SELECT count(*) FROM pg_roles WHERE starts_with(rolname, 'tn_' || current_database() || '.')`).Scan(&n))
		return n
	}
	require.Equal(t, 3, roles())
	require.NoError(t, be.Drop(t.Context(), backend.Route{Store: backend.MustParseStore("c")}))
	require.Equal(t, 2, roles())
	// A schema dropped by hand leaves its role, which can be swept.
	_, err = be.Shared().ExecContext(t.Context(), `DROP SCHEMA b CASCADE`)
	require.NoError(t, err)
	left, err := be.Leftovers(t.Context())
	require.NoError(t, err)
	require.Len(t, left, 1)
	require.NoError(t, be.Sweep(t.Context(), left[0]))
	require.NoError(t, be.Sweep(t.Context(), left[0]), "twice")
	require.Equal(t, 1, roles())
	require.Error(t, be.Sweep(t.Context(), backend.Leftover{Kind: "role", Name: "postgres"}))
	require.NoError(t, be.Drop(t.Context(), route("old")))
}

// Roles' names do not collide, and fit.
func TestLongRoleNames(t *testing.T) {
	t.Parallel()
	be := open(t, pgtest.Shared(t).Database(t), map[string]string{"tenant_role": "each"})
	for _, end := range []string{"x", "y"} {
		rt := route(strings.Repeat("n", backend.MaxNameLen-1) + end)
		require.NoError(t, be.Create(t.Context(), rt))
		require.NoError(t, be.DB().QueryRowContext(backend.WithRoute(t.Context(), rt), `SELECT 1`).Scan(new(int)))
		t.Cleanup(func() { require.NoError(t, be.Drop(context.Background(), rt)) })
	}
}

// A schema made by other means is no store until it is adopted.
func TestAdopt(t *testing.T) {
	t.Parallel()
	be := open(t, pgtest.Shared(t).Database(t), nil)
	_, err := be.Shared().ExecContext(t.Context(), `CREATE SCHEMA legacy CREATE TABLE notes (id int)`)
	require.NoError(t, err)
	rt := route("legacy")
	_, err = be.Stat(t.Context(), rt.Store)
	require.ErrorIs(t, err, backend.ErrStoreMissing)
	require.ErrorIs(t, be.Drop(t.Context(), backend.Route{Store: rt.Store}), backend.ErrStoreMissing, "it is not ours to drop")
	require.ErrorIs(t, be.Create(t.Context(), rt), backend.ErrStoreExists)
	require.NoError(t, be.Adopt(t.Context(), rt))
	require.ErrorIs(t, be.Adopt(t.Context(), rt), backend.ErrStoreExists)
	require.ErrorIs(t, be.Adopt(t.Context(), route("ghost")), backend.ErrStoreMissing)
	require.NoError(t, be.DB().QueryRowContext(backend.WithRoute(t.Context(), rt), `SELECT count(*) FROM notes`).Scan(new(int)))
	info, err := be.Stat(t.Context(), rt.Store)
	require.NoError(t, err)
	require.Equal(t, rt.Owner, info.Owner)
}

// An error in one of the scripts of a message is told apart from the others, with its place in its own text.
func TestScriptErrors(t *testing.T) {
	t.Parallel()
	be := open(t, pgtest.Shared(t).Database(t), nil)
	var scripts []backend.Script
	for i := range 40 {
		scripts = append(scripts, backend.Script{Route: route(fmt.Sprintf("s%02d", i)), Create: true, SQL: `CREATE TABLE t (x int)`})
	}
	scripts[3].SQL = `CREATE TABLE t (x int); SELEKT 1`
	scripts[5].SQL = `CREATE TABLE t (x int); INSERT INTO nowhere VALUES (1)`
	scripts[7].SQL = `SELECT 'open`
	scripts[9].SQL = `CREATE TABLE t (x int); /* open`
	scripts[35].SQL = `SELECT 1/0`
	faults := be.RunScripts(t.Context(), scripts, backend.ScriptOptions{})
	want := map[int]string{3: "42601", 5: "42P01", 7: "42601", 9: "42601", 35: "22012"}
	for i, err := range faults {
		_, statErr := be.Stat(t.Context(), scripts[i].Route.Store)
		if want[i] == "" {
			require.NoError(t, err, i)
			require.NoError(t, statErr, i)
			continue
		}
		var pe *pgconn.PgError
		require.ErrorAs(t, err, &pe, i)
		assert.Equal(t, want[i], pe.Code, i)
		require.ErrorIs(t, statErr, backend.ErrStoreMissing, "%d: nothing of it is kept", i)
		if i == 3 || i == 5 {
			at := strings.Index(scripts[i].SQL, map[int]string{3: "SELEKT", 5: "nowhere"}[i]) + 1
			assert.EqualValues(t, at, pe.Position, "the place in the script's own text: %v", pe)
		}
	}
	require.NoError(t, be.Flush(t.Context()))
}

// An error's position is that in the caller's text, though a prefix travelled ahead of it.
func TestErrorPosition(t *testing.T) {
	t.Parallel()
	be := open(t, pgtest.Shared(t).Database(t), nil)
	_, a := tenant(t, be, "a")
	var pe *pgconn.PgError
	_, err := be.DB().ExecContext(a, `INSERT INTO nowhere VALUES (1)`)
	require.ErrorAs(t, err, &pe)
	require.EqualValues(t, len("INSERT INTO ")+1, pe.Position)
}

type tracer struct {
	sync.Mutex
	started, ended []string
}

func (r *tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	r.Lock()
	defer r.Unlock()
	r.started = append(r.started, data.SQL)
	return ctx
}

func (r *tracer) TraceQueryEnd(_ context.Context, _ *pgx.Conn, data pgx.TraceQueryEndData) {
	r.Lock()
	defer r.Unlock()
	r.ended = append(r.ended, data.CommandTag.String())
}

// A tracer in the pool's configuration sees the application's queries, each once, and not the prefix.
func TestTracer(t *testing.T) {
	t.Parallel()
	cfg, err := pgxpool.ParseConfig(pgtest.Shared(t).Database(t))
	require.NoError(t, err)
	seen := &tracer{}
	cfg.ConnConfig.Tracer = seen
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	require.NoError(t, err)
	defer pool.Close()
	be, err := postgres.FromPool(t.Context(), pool, postgres.Config{})
	require.NoError(t, err)
	defer func() { require.NoError(t, be.Close()) }()
	_, a := tenant(t, be, "a")
	seen.Lock()
	seen.started, seen.ended = nil, nil
	seen.Unlock()
	_, err = be.DB().ExecContext(a, `INSERT INTO notes (mark) VALUES ($1)`, "m")
	require.NoError(t, err)
	require.NoError(t, be.DB().QueryRowContext(a, `SELECT 1`).Scan(new(int)))
	require.NoError(t, be.PGX().QueryRow(a, `SELECT 2`).Scan(new(int)))
	_, err = be.PGX().Exec(a, `DELETE FROM nowhere`)
	require.Error(t, err)
	assert.Equal(t, []string{`INSERT INTO notes (mark) VALUES ($1)`, `SELECT 1`, `SELECT 2`, `DELETE FROM nowhere`}, seen.started)
	assert.Equal(t, []string{"INSERT 0 1", "SELECT 1", "SELECT 1", ""}, seen.ended)
}

// S09: a store that gets a table of its own name stops meaning the shared one at once, whatever was prepared before, on
// every way in.
func TestTableTakesThePlaceOfTheShared(t *testing.T) {
	t.Parallel()
	for _, statements := range []string{"0", "100"} {
		for _, mode := range modes {
			t.Run(mode+"/"+statements, func(t *testing.T) {
				t.Parallel()
				be := open(t, pgtest.Shared(t).Database(t), map[string]string{
					"pool_max_conns": "1", "default_query_exec_mode": mode, "tenant_statements": statements,
				})
				_, err := be.Shared().ExecContext(t.Context(), `CREATE TABLE "Plans" (name text); INSERT INTO "Plans" VALUES ('shared')`)
				require.NoError(t, err)
				_, a := tenant(t, be, "a")
				_, b := tenant(t, be, "b")
				read := func(ctx context.Context) (got []string) {
					const query = `SELECT name FROM "Plans" WHERE name <> $1`
					var name string
					require.NoError(t, be.DB().QueryRowContext(ctx, query, "").Scan(&name))
					got = append(got, name)
					require.NoError(t, be.PGX().QueryRow(ctx, query, "").Scan(&name))
					got = append(got, name)
					tx, err := be.DB().BeginTx(ctx, nil)
					require.NoError(t, err)
					require.NoError(t, tx.QueryRowContext(ctx, query, "").Scan(&name))
					require.NoError(t, tx.Rollback())
					got = append(got, name)
					var batch pgx.Batch
					batch.Queue(query, "")
					results := be.PGX().SendBatch(ctx, &batch)
					require.NoError(t, results.QueryRow().Scan(&name))
					require.NoError(t, results.Close())
					got = append(got, name)
					require.NoError(t, pgx.BeginFunc(ctx, be.PGX(), func(tx pgx.Tx) error {
						batch = pgx.Batch{}
						batch.Queue(query, "").QueryRow(func(row pgx.Row) error { return row.Scan(&name) })
						return tx.SendBatch(ctx, &batch).Close()
					}))
					return append(got, name)
				}
				shared := []string{"shared", "shared", "shared", "shared", "shared"}
				for range 7 { // past the point where the server settles for a plan
					require.Equal(t, shared, read(a))
				}
				for range 3 {
					require.Equal(t, shared, read(b))
				}
				for name, ctx := range map[string]context.Context{"a": a, "b": b} {
					_, err := be.DB().ExecContext(ctx, `CREATE TABLE "Plans" (name text); INSERT INTO "Plans" VALUES ('`+name+`')`)
					require.NoError(t, err)
					for range 2 {
						require.Equal(t, []string{name, name, name, name, name}, read(ctx))
					}
				}
				require.Equal(t, []string{"a", "a", "a", "a", "a"}, read(a))
			})
		}
	}
}
