package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
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

func pidOf(t testing.TB, be *postgres.Backend, ctx context.Context) (pid int) {
	t.Helper()
	require.NoError(t, be.DB().QueryRowContext(ctx, `SELECT pg_backend_pid()`).Scan(&pid))
	return pid
}

// stores makes n stores.
func stores(t testing.TB, be *postgres.Backend, n int) (contexts []context.Context) {
	t.Helper()
	var scripts []backend.Script
	for i := range n {
		rt := route(fmt.Sprintf("s%d", i))
		contexts = append(contexts, backend.WithRoute(t.Context(), rt))
		scripts = append(scripts, backend.Script{Route: rt, Create: true, SQL: `CREATE TABLE notes (id serial PRIMARY KEY, mark text)`})
	}
	for _, err := range be.RunScripts(t.Context(), scripts, backend.ScriptOptions{}) {
		require.NoError(t, err)
	}
	return contexts
}

// Each store has a connection that is its home, whatever handle it is used by. While the stores in use are few, or their
// texts, any will do.
func TestStoresHaveHomes(t *testing.T) {
	t.Parallel()
	be := open(t, pgtest.Shared(t).Database(t), map[string]string{"pool_max_conns": "4", "first_sights": "240"})
	contexts := stores(t, be, 31)
	another := contexts[30]
	contexts = contexts[:30]
	var all []pgx.Tx
	for range 4 { // all connections are there
		tx, err := be.PGX().Begin(another)
		require.NoError(t, err)
		_, err = tx.Exec(another, `SELECT 1`)
		require.NoError(t, err)
		all = append(all, tx)
	}
	for _, tx := range all {
		require.NoError(t, tx.Commit(another))
	}
	few := be.Stats()
	require.Zero(t, few.Overdue)
	require.Positive(t, few.Seen)
	for _, ctx := range contexts { // an eighth of first_sights, and more
		for _, text := range []string{`SELECT $1::int`, `SELECT $1::int + 1`} {
			_, err := be.DB().ExecContext(ctx, text, 1)
			require.NoError(t, err)
		}
	}
	before := be.Stats()
	pids := map[int]int{}
	for _, ctx := range contexts {
		home := pidOf(t, be, ctx)
		pids[home]++
		for range 3 {
			require.Equal(t, home, pidOf(t, be, ctx))
		}
		var pid int
		require.NoError(t, be.PGX().QueryRow(ctx, `SELECT pg_backend_pid()`).Scan(&pid))
		require.Equal(t, home, pid)
		b := &pgx.Batch{}
		b.Queue(`SELECT pg_backend_pid()`).QueryRow(func(row pgx.Row) error { return row.Scan(&pid) })
		require.NoError(t, be.PGX().SendBatch(ctx, b).Close())
		require.Equal(t, home, pid)
		tx, err := be.DB().BeginTx(ctx, nil)
		require.NoError(t, err)
		require.NoError(t, tx.QueryRow(`SELECT pg_backend_pid()`).Scan(&pid))
		require.NoError(t, tx.Commit())
		require.Equal(t, home, pid)
	}
	require.Greater(t, len(pids), 1) // the connection that made the stores is none of theirs
	after := be.Stats()
	require.Equal(t, after.Acquired-before.Acquired, after.AtHome-before.AtHome)
	require.Equal(t, before.Waited, after.Waited)
}

// cutShort runs what takes longer than its context lasts, until it has been sent by then: the error is pgx's own. It
// reports whether the answer came later than is waited for.
func cutShort(t testing.TB, ctx context.Context, name string, run func(ctx context.Context) error) (late bool) {
	t.Helper()
	for wait := 50 * time.Millisecond; ; wait *= 2 {
		short, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		err := run(short)
		end, _ := short.Deadline()
		require.ErrorIs(t, err, context.DeadlineExceeded, name)
		if late = time.Since(end) > 900*time.Millisecond; late || pgconn.Timeout(err) {
			return late
		}
		require.Less(t, wait, 10*time.Second, "%s: %v", name, err)
	}
}

// A statement whose context ends does not cost its session, whatever it was sent by.
func TestCancelKeepsTheSession(t *testing.T) {
	t.Parallel()
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			be := open(t, pgtest.Shared(t).Database(t), map[string]string{"pool_max_conns": "1", "default_query_exec_mode": mode})
			_, a := tenant(t, be, "a")
			pid, opened := pidOf(t, be, a), int64(1)
			n := be.PGX()
			for name, sleep := range map[string]func(ctx context.Context) error{
				"exec": func(ctx context.Context) error {
					_, err := be.DB().ExecContext(ctx, `SELECT pg_sleep(60)`)
					return err
				},
				"query": func(ctx context.Context) error {
					return be.DB().QueryRowContext(ctx, `SELECT 1 FROM pg_sleep($1)`, 60).Scan(new(int))
				},
				"transaction": func(ctx context.Context) error {
					tx, err := be.DB().BeginTx(a, nil)
					if err != nil {
						return err
					}
					defer func() { require.NoError(t, tx.Rollback()) }()
					_, err = tx.ExecContext(ctx, `SELECT pg_sleep(60)`)
					return err
				},
				"native": func(ctx context.Context) error {
					return n.QueryRow(ctx, `SELECT 1 FROM pg_sleep($1)`, 60).Scan(new(int))
				},
				"batch": func(ctx context.Context) error {
					b := &pgx.Batch{}
					b.Queue(`SELECT 1`)
					b.Queue(`SELECT pg_sleep($1)`, 60)
					return n.SendBatch(ctx, b).Close()
				},
				"shared": func(ctx context.Context) error {
					_, err := be.Shared().ExecContext(ctx, `SELECT pg_sleep(60)`)
					return err
				},
			} {
				if cutShort(t, a, name, sleep) { // the server was too busy to answer
					pid, opened = pidOf(t, be, a), be.Stats().Opened
				}
				require.Equal(t, pid, pidOf(t, be, a), name)
			}
			require.Equal(t, opened, be.Stats().Opened)
		})
	}
}

// Two processes with pools of 16 on a server that has places for 17: nobody fails for it. (Issue: 40 % of the statements.)
func TestServerWithoutAnotherPlace(t *testing.T) {
	t.Parallel()
	cluster, err := pgtest.Start(t.Context(), "max_connections=20", "fsync=off")
	if err != nil {
		t.Skip(err)
	}
	defer func() { require.NoError(t, cluster.Stop()) }()
	databaseURL, drop, err := cluster.NewDatabase(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, drop(context.Background())) }()
	var backends []*postgres.Backend
	for range 2 {
		be, err := postgres.Open(t.Context(), with(t, databaseURL, map[string]string{"pool_max_conns": "16"}), postgres.Config{})
		require.NoError(t, err)
		defer func() { require.NoError(t, be.Close()) }()
		backends = append(backends, be)
	}
	contexts := stores(t, backends[0], 8)
	var wg sync.WaitGroup
	for g := range 48 {
		wg.Go(func() {
			for i := range 20 {
				_, err := backends[g%2].DB().ExecContext(contexts[(g+i)%8], `SELECT pg_sleep(0.02)`)
				assert.NoError(t, err)
			}
		})
	}
	wg.Wait()
	var held []pgx.Tx
	defer func() {
		for _, tx := range held {
			_ = tx.Rollback(contexts[0])
		}
	}()
	for _, be := range backends {
		require.Zero(t, be.Stats().Waiting)
		// All of them held, a wait ends with its context, and says why there is no other connection.
		begin := func(wait time.Duration) error {
			ctx, cancel := context.WithTimeout(contexts[0], wait)
			defer cancel()
			tx, err := be.PGX().Begin(ctx)
			if err == nil {
				held = append(held, tx)
			}
			return err
		}
		for wait := 500 * time.Millisecond; ; {
			err := begin(wait)
			if err == nil {
				continue
			}
			require.ErrorIs(t, err, context.DeadlineExceeded)
			var pe *pgconn.PgError
			if be.Stats().InUse == 16 || errors.As(err, &pe) && pe.Code == "53300" {
				break
			}
			require.Less(t, wait, time.Minute, "%v", err) // less may not be enough to be refused in
			wait *= 2
		}
	}
}

// What goes through every store has connections of its own, within the pool's limit, which are closed afterwards.
func TestFleetRunsApart(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.Shared(t).Database(t)
	be := open(t, databaseURL, map[string]string{"pool_max_conns": "2"})
	admin, err := pgx.Connect(t.Context(), pgtest.Shared(t).AdminDatabaseURL(t, databaseURL))
	require.NoError(t, err)
	defer func() { require.NoError(t, admin.Close(context.Background())) }()
	_, a := tenant(t, be, "a")
	pid := pidOf(t, be, a)
	contexts := stores(t, be, 40)
	var scripts []backend.Script
	for i := range contexts {
		scripts = append(scripts, backend.Script{
			Route: route(fmt.Sprintf("s%d", i)), SQL: `DROP TABLE IF EXISTS who; CREATE TABLE who AS SELECT pg_backend_pid() AS pid`,
		})
	}
	for range 2 {
		for _, s := range scripts {
			require.NoError(t, be.RunScripts(backend.Apart(t.Context()), []backend.Script{s}, backend.ScriptOptions{})[0])
			require.Equal(t, pid, pidOf(t, be, a), "those who serve go on on their own")
		}
	}
	var apart int
	for {
		begun := time.Now()
		require.NoError(t, be.RunScripts(backend.Apart(t.Context()), []backend.Script{scripts[7]}, backend.ScriptOptions{})[0])
		require.NoError(t, be.DB().QueryRowContext(contexts[7], `SELECT pid FROM who`).Scan(&apart))
		require.NotEqual(t, pid, apart)
		var other int
		require.NoError(t, be.DB().QueryRowContext(backend.Apart(a), `SELECT pg_backend_pid()`).Scan(&other))
		if time.Since(begun) < time.Second { // or it may have been closed in between
			require.Equal(t, apart, other, "a check goes there too")
			break
		}
	}
	require.EventuallyWithT(t, func(t *assert.CollectT) {
		var there, all int
		assert.NoError(t, admin.QueryRow(context.Background(), `SELECT count(*) FILTER (WHERE pid = $1), count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'`, apart).Scan(&there, &all))
		assert.Zero(t, there)
		assert.LessOrEqual(t, all, 2)
	}, time.Minute, 50*time.Millisecond)
}

// Those who share a lent pool are never starved by what is kept of it, nor while a fleet run goes on.
func TestLentPoolIsShared(t *testing.T) {
	t.Parallel()
	for _, size := range []string{"1", "2", "4"} {
		t.Run(size, func(t *testing.T) {
			t.Parallel()
			pool, err := pgxpool.New(t.Context(), with(t, pgtest.Shared(t).Database(t), map[string]string{"pool_max_conns": size}))
			require.NoError(t, err)
			defer pool.Close()
			be, err := postgres.FromPool(t.Context(), pool, postgres.Config{})
			require.NoError(t, err)
			defer func() { require.NoError(t, be.Close()) }()
			contexts := stores(t, be, 6)
			done := make(chan struct{})
			var wg sync.WaitGroup
			for g := range 8 {
				wg.Go(func() {
					for i := 0; ; i++ {
						select {
						case <-done:
							return
						default:
						}
						_, err := be.DB().ExecContext(contexts[(g+i)%6], `SELECT pg_sleep(0.001)`)
						assert.NoError(t, err)
					}
				})
			}
			wg.Go(func() { // a fleet run
				script := []backend.Script{{Route: route("s0"), SQL: `SELECT 1`}}
				for ctx := backend.Apart(t.Context()); ; {
					select {
					case <-done:
						return
					default:
					}
					assert.NoError(t, be.RunScripts(ctx, script, backend.ScriptOptions{})[0])
				}
			})
			for range 30 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				var one int
				served := assert.NoError(t, pool.QueryRow(ctx, `SELECT 1`).Scan(&one))
				cancel()
				if !served {
					break
				}
			}
			close(done)
			wg.Wait()
			// One that was being opened may be on its way back. What is kept stays for a second.
			half := func() bool { return pool.Stat().AcquiredConns() <= int32(size[0]-'0')/2 }
			require.Eventually(t, half, 500*time.Millisecond, time.Millisecond, "kept")
			require.Eventually(t, func() bool { return pool.Stat().AcquiredConns() == 0 }, time.Minute, 20*time.Millisecond)
		})
	}
}

// S15: behind a pooler there are no homes, and a connection is not kept when a statement is cancelled.
func TestPoolerChooses(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.Shared(t).Database(t)
	direct := open(t, databaseURL, nil)
	contexts := stores(t, direct, 4)
	be := open(t, pgtest.Bouncer(t, databaseURL, pgtest.BouncerConfig{}), map[string]string{
		"default_query_exec_mode": "exec", "pool_max_conns": "2", "first_sights": "1",
	})
	for range 5 {
		for _, ctx := range contexts {
			_, err := be.DB().ExecContext(ctx, `INSERT INTO notes (mark) VALUES ($1)`, strings.Repeat("x", 3))
			require.NoError(t, err)
		}
	}
	s := be.Stats()
	require.Zero(t, s.AtHome+s.Seen+s.Overdue+s.Retired+s.FirstSights)
	ctx, cancel := context.WithTimeout(contexts[0], 50*time.Millisecond)
	defer cancel()
	_, err := be.DB().ExecContext(ctx, `SELECT pg_sleep(60)`)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	_, err = be.DB().ExecContext(contexts[0], `SELECT 1`)
	require.NoError(t, err)
}

// A connection that is too old is retired as one that has seen too much.
func TestOldConnectionsAreRetired(t *testing.T) {
	t.Parallel()
	be := open(t, pgtest.Shared(t).Database(t), map[string]string{"pool_max_conns": "1", "pool_max_conn_lifetime": "1ms"})
	_, a := tenant(t, be, "a")
	pid := pidOf(t, be, a)
	require.Eventually(t, func() bool { return pidOf(t, be, a) != pid }, time.Minute, time.Millisecond)
	require.Positive(t, be.Stats().Retired)
}
