package postgres_test

import (
	"context"
	"fmt"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/postgres"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// S90: a restart, and a standby that is promoted, under writers. What was acknowledged is there, once, in the store that
// it was for; what is begun after the server takes writes again succeeds.
func TestServerGoesAway(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]struct {
		standby bool
		back    func(ctx context.Context, primary, standby *pgtest.Cluster) error
	}{
		"restart":   {false, func(ctx context.Context, primary, _ *pgtest.Cluster) error { return primary.Revive(ctx) }},
		"promotion": {true, func(ctx context.Context, _, standby *pgtest.Cluster) error { return standby.Promote(ctx) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			primary := startServer(t, nil)
			direct, _, err := primary.NewDatabase(t.Context()) // which goes with the server
			require.NoError(t, err)
			u, err := url.Parse(direct)
			require.NoError(t, err)
			var standby *pgtest.Cluster
			if again.standby {
				standby = startServer(t, primary)
				other, err := standby.At(direct)
				require.NoError(t, err)
				o, err := url.Parse(other)
				require.NoError(t, err)
				u.Host += "," + o.Host
				synchronous(t, primary)
			}
			be := open(t, u.String(), map[string]string{"target_session_attrs": "read-write", "pool_max_conns": "4"})
			w := newWriters(t, be, 3)
			w.start(6)
			w.progress(50)
			require.NoError(t, primary.Kill(t.Context()))
			require.NoError(t, again.back(t.Context(), primary, standby))
			w.over.Store(true)
			w.progress(100)
			w.finish()
		})
	}
}

// startServer starts a server that can be killed, or a standby of one, until the test ends.
func startServer(t *testing.T, of *pgtest.Cluster) *pgtest.Cluster {
	t.Helper()
	pgtest.Shared(t) // skips where there is no Postgres
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var c *pgtest.Cluster
	var err error
	// What autovacuum truncates, a catalog too, has to wait on the standby for those who have read it, who are cut off then.
	if settings := []string{"icu_locale=en-US", "fsync=off", "shared_buffers=16MB", "autovacuum=off"}; of == nil {
		c, err = pgtest.Start(ctx, append(settings, pgtest.Primary...)...)
	} else {
		c, err = of.StartStandby(ctx, settings[1:]...)
	}
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Stop()) })
	return c
}

// synchronous has a primary acknowledge only what its standby has.
func synchronous(t *testing.T, primary *pgtest.Cluster) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), primary.AdminURL())
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	for _, sql := range []string{`ALTER SYSTEM SET synchronous_standby_names = '*'`, `SELECT pg_reload_conf()`} {
		_, err = conn.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool {
		var n int
		err := conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'`).Scan(&n)
		return err == nil && n == 1
	}, time.Minute, 10*time.Millisecond)
}

// writers write into stores while their server goes away.
type writers struct {
	t      *testing.T
	be     *postgres.Backend
	stores []backend.Route
	next   atomic.Int64
	done   atomic.Int64 // writes that were acknowledged
	over   atomic.Bool  // what begins from now on is to succeed
	end    chan struct{}
	wg     sync.WaitGroup
	mu     sync.Mutex
	acked  map[int64]backend.Store
}

func newWriters(t *testing.T, be *postgres.Backend, stores int) *writers {
	w := &writers{t: t, be: be, end: make(chan struct{}), acked: map[int64]backend.Store{}}
	for i := range stores {
		rt, ctx := tenant(t, be, fmt.Sprintf("t%d", i))
		_, err := be.DB().ExecContext(ctx, `CREATE TABLE writes (n bigint, store text)`)
		require.NoError(t, err)
		w.stores = append(w.stores, rt)
	}
	// Were the store missed, the shared table of that name would be hit.
	_, err := be.Shared().ExecContext(t.Context(), `CREATE TABLE writes (n bigint, store text)`)
	require.NoError(t, err)
	return w
}

// start starts goroutines that write until finish.
func (w *writers) start(n int) {
	for range n {
		w.wg.Go(func() {
			for {
				select {
				case <-w.end:
					return
				default:
				}
				w.write()
			}
		})
	}
}

// write writes once: one statement, or a transaction.
func (w *writers) write() {
	n := w.next.Add(1)
	rt := w.stores[n%int64(len(w.stores))]
	ctx, cancel := context.WithTimeout(backend.WithRoute(context.WithoutCancel(w.t.Context()), rt), time.Minute)
	defer cancel()
	const sql = `INSERT INTO writes (n, store) VALUES ($1, $2)`
	over := w.over.Load()
	var err error
	if n%2 == 0 {
		_, err = w.be.DB().ExecContext(ctx, sql, n, rt.Store.String())
	} else {
		err = pgx.BeginFunc(ctx, w.be.PGX(), func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, sql, n, rt.Store.String())
			return err
		})
	}
	if over {
		assert.NoError(w.t, err, "begun after the server was there again")
	}
	if err == nil {
		w.mu.Lock()
		w.acked[n] = rt.Store
		w.mu.Unlock()
		w.done.Add(1)
	}
}

// progress waits until n more writes are acknowledged.
func (w *writers) progress(n int64) {
	w.t.Helper()
	target := w.done.Load() + n
	require.Eventually(w.t, func() bool { return w.done.Load() >= target }, time.Minute, time.Millisecond)
}

// finish ends the writers and looks at what is there.
func (w *writers) finish() {
	close(w.end)
	w.wg.Wait()
	found := map[int64]backend.Store{}
	for _, rt := range w.stores {
		rows, _ := w.be.PGX().Query(backend.WithRoute(w.t.Context(), rt), `SELECT n, store FROM writes`)
		var n int64
		var store string
		_, err := pgx.ForEachRow(rows, []any{&n, &store}, func() error {
			assert.Equal(w.t, rt.Store.String(), store, "in the wrong tenant")
			assert.NotContains(w.t, found, n, "twice")
			found[n] = rt.Store
			return nil
		})
		require.NoError(w.t, err)
	}
	lost := 0
	for n := range w.acked {
		if _, there := found[n]; !there {
			lost++
		}
	}
	assert.Zero(w.t, lost, "acknowledged writes that are lost")
	var shared int
	require.NoError(w.t, w.be.Shared().QueryRow(`SELECT count(*) FROM writes`).Scan(&shared))
	assert.Zero(w.t, shared, "in the shared store")
	w.t.Logf("%d writes, %d acknowledged, %d there", w.next.Load(), len(w.acked), len(found))
}
