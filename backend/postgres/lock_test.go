package postgres_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/postgres"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// Waiters of one process queue without a connection each, and a lock is given up when its holder's context is not.
func TestLocks(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.Shared(t).Database(t)
	one, other := open(t, databaseURL, map[string]string{"pool_max_conns": "1"}), open(t, databaseURL, nil)
	held, err := one.Lock(t.Context(), "k")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	failed := make(chan error, 20)
	for range 10 {
		for _, be := range []*postgres.Backend{one, other} {
			wg.Go(func() { _, err := be.Lock(ctx, "k"); failed <- err })
		}
	}
	require.NoError(t, one.Shared().QueryRowContext(t.Context(), `SELECT 1`).Scan(new(int)), "the pool is free")
	cancel()
	wg.Wait()
	close(failed)
	for err := range failed {
		require.ErrorIs(t, err, context.Canceled)
	}
	held.Unlock()
	held.Unlock()
	again, err := other.Lock(t.Context(), "k")
	require.NoError(t, err)
	again.Unlock()
}

// twoThrough opens a database as two processes do, directly or through a pooler, and connects to it directly.
func twoThrough(t *testing.T, through string) (one, two *postgres.Backend, admin *pgx.Conn) {
	t.Helper()
	databaseURL := pgtest.Shared(t).Database(t)
	to, params := databaseURL, map[string]string{}
	if through == "pgbouncer" {
		to = pgtest.Bouncer(t, databaseURL, pgtest.BouncerConfig{PoolSize: 8})
		params["default_query_exec_mode"] = "exec"
	}
	one, two = open(t, to, params), open(t, to, params)
	admin, err := pgx.Connect(t.Context(), databaseURL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = admin.Close(context.Background()) })
	return one, two, admin
}

// S85: a holder whose connection was lost changes nothing any more, whoever has the lock by then, and is told.
func TestLockLost(t *testing.T) {
	t.Parallel()
	for _, through := range []string{"direct", "pgbouncer"} {
		t.Run(through, func(t *testing.T) {
			t.Parallel()
			one, two, admin := twoThrough(t, through)
			lose := func() {
				t.Helper()
				var n int
				require.NoError(t, admin.QueryRow(t.Context(), `SELECT count(pg_terminate_backend(pid, 60000)) FROM pg_locks
					WHERE locktype = 'advisory' AND classid = 1953394288 AND granted
					AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`).Scan(&n))
				require.Equal(t, 1, n, "the connection that holds the lock")
			}

			rt, a := tenant(t, one, "a")
			held, err := one.Lock(t.Context(), "a")
			require.NoError(t, err)
			fenced := held.Fence(t.Context())
			require.NoError(t, held.Check(t.Context()))
			lose()
			next, err := two.Lock(t.Context(), "a")
			require.NoError(t, err)
			require.ErrorIs(t, one.Drop(fenced, rt), backend.ErrLockLost)
			require.ErrorIs(t, one.Rename(fenced, rt, backend.MustParseStore("b")), backend.ErrLockLost)
			require.ErrorIs(t, one.Create(fenced, route("c")), backend.ErrLockLost)
			errs := one.RunScripts(fenced, []backend.Script{{Route: rt, SQL: `DROP TABLE notes`}, {Route: route("c"), Create: true}}, backend.ScriptOptions{})
			require.ErrorIs(t, errs[0], backend.ErrLockLost)
			require.ErrorIs(t, errs[1], backend.ErrLockLost)
			require.ErrorIs(t, held.Check(t.Context()), backend.ErrLockLost)
			require.ErrorIs(t, one.Drop(fenced, rt), backend.ErrLockLost, "after Check too")
			_, err = one.DB().ExecContext(a, `INSERT INTO notes (mark) VALUES ('m')`)
			require.NoError(t, err)
			held.Unlock()
			require.NoError(t, two.Rename(next.Fence(t.Context()), rt, backend.MustParseStore("b")))
			require.NoError(t, two.Rename(next.Fence(t.Context()), backend.Route{Store: backend.MustParseStore("b"), Owner: rt.Owner}, rt.Store))
			next.Unlock()

			// Lost while the operation waits for the store.
			held, err = one.Lock(t.Context(), "a")
			require.NoError(t, err)
			tx, err := one.DB().BeginTx(a, nil)
			require.NoError(t, err)
			_, err = tx.ExecContext(a, `INSERT INTO notes (mark) VALUES ('n')`)
			require.NoError(t, err)
			dropped := make(chan error, 1)
			go func() { dropped <- one.Drop(held.Fence(t.Context()), rt) }()
			require.NoError(t, waiting(t.Context(), admin.Config().ConnString(), 1))
			lose()
			require.NoError(t, tx.Commit())
			require.ErrorIs(t, <-dropped, backend.ErrLockLost)
			_, err = one.Stat(t.Context(), rt.Store)
			require.NoError(t, err)
			held.Unlock()
		})
	}
}

// S81: who waits for a lock does not keep CREATE INDEX CONCURRENTLY waiting, which its holder may be running.
func TestLockBesideConcurrently(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.Shared(t).Database(t)
	one, two := open(t, databaseURL, nil), open(t, databaseURL, nil)
	rt, _ := tenant(t, one, "a")
	held, err := one.Lock(t.Context(), "a")
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	got := make(chan error, 1)
	go func() {
		l, err := two.Lock(ctx, "a")
		if err == nil {
			l.Unlock()
		}
		got <- err
	}()
	require.NoError(t, waiting(t.Context(), databaseURL, 1)) // which it never does, in the server; but it has asked by then
	db := one.Maintenance(rt)
	defer func() { _ = db.Close() }()
	_, err = db.ExecContext(ctx, `CREATE INDEX CONCURRENTLY ON notes (mark)`)
	require.NoError(t, err)
	held.Unlock()
	assert.NoError(t, <-got)
}

// S81: nor does who holds one lock and waits for another, which two migrators may do at once, each with an index under way.
// An index waits for the transactions that had a snapshot at one moment, and a question has one for microseconds: so what is
// looked at is that no transaction in which something was asked goes on.
func TestHolderBesideConcurrently(t *testing.T) {
	t.Parallel()
	for _, through := range []string{"direct", "pgbouncer"} {
		t.Run(through, func(t *testing.T) {
			t.Parallel()
			one, two, admin := twoThrough(t, through)
			mine, err := one.Lock(t.Context(), "a")
			require.NoError(t, err)
			theirs, err := two.Lock(t.Context(), "b")
			require.NoError(t, err)
			transactions := func() (ids []string) {
				rows, err := admin.Query(t.Context(), `SELECT DISTINCT v.virtualxid FROM pg_locks l JOIN pg_locks v USING (pid)
					WHERE l.locktype = 'advisory' AND l.classid = 1953394288 AND v.locktype = 'virtualxid'
					AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())`)
				require.NoError(t, err)
				ids, err = pgx.CollectRows(rows, pgx.RowTo[string])
				require.NoError(t, err)
				return ids
			}
			before := transactions()
			require.Len(t, before, 2)
			ctx, cancel := context.WithCancel(t.Context())
			waits := make(chan error, 1)
			go func() { _, err := one.Lock(ctx, "b"); waits <- err }()
			for range 10 {
				require.NoError(t, mine.Check(t.Context()))
				require.NoError(t, theirs.Check(t.Context()))
				for _, id := range transactions() {
					require.NotContains(t, before, id)
				}
			}
			cancel()
			require.ErrorIs(t, <-waits, context.Canceled)
			mine.Unlock()
			theirs.Unlock()
		})
	}
}

// S81: nor does who waits for a store that is in use, to drop it, keep an index of another store from being made.
func TestDropBesideConcurrently(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.Shared(t).Database(t)
	be := open(t, databaseURL, nil)
	rt, a := tenant(t, be, "a")
	other, _ := tenant(t, be, "b")
	tx, err := be.DB().BeginTx(a, nil)
	require.NoError(t, err)
	_, err = tx.ExecContext(a, `INSERT INTO notes (mark) VALUES ('m')`)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dropped := make(chan error, 1)
	go func() { dropped <- be.Drop(ctx, rt) }()
	require.NoError(t, waiting(t.Context(), databaseURL, 1))
	db := be.Maintenance(other)
	defer func() { _ = db.Close() }()
	_, err = db.ExecContext(ctx, `CREATE INDEX CONCURRENTLY ON notes (mark)`)
	require.NoError(t, err)
	require.NoError(t, tx.Commit())
	require.NoError(t, <-dropped)
}

// settles waits until a database has so many advisory locks of ours, and so many transactions that are open without doing
// anything: what was given up a moment ago may be on its way.
func settles(t *testing.T, databaseURL string, locks, idle int) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		var held, open int
		assert.NoError(c, conn.QueryRow(t.Context(), `SELECT
			(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 1952804468 AND granted
				AND database = (SELECT oid FROM pg_database WHERE datname = current_database())),
			(SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction')`).Scan(&held, &open))
		assert.Equal(c, []int{locks, idle}, []int{held, open}, "locks, and transactions that are idle")
	}, time.Minute, 10*time.Millisecond)
}

// S73: the locks of a process take one server connection of a pooler, however many it holds; a process that only waits
// keeps none, and who cannot have one is told why.
func TestLocksOfAProcessTakeOneConnection(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.Shared(t).Database(t)
	through := pgtest.Bouncer(t, databaseURL, pgtest.BouncerConfig{PoolSize: 2})
	params := map[string]string{"default_query_exec_mode": "exec"}
	one, two, three := open(t, through, params), open(t, through, params), open(t, through, params)
	var held []backend.Lock
	for i := range 10 {
		l, err := one.Lock(t.Context(), fmt.Sprint(i))
		require.NoError(t, err)
		held = append(held, l)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range 10 {
		for _, be := range []*postgres.Backend{one, two, three} {
			wg.Go(func() { _, err := be.Lock(ctx, fmt.Sprint(i)); assert.ErrorIs(t, err, context.Canceled) })
		}
	}
	for range 100 {
		require.NoError(t, three.Shared().QueryRowContext(t.Context(), `SELECT 1`).Scan(new(int)))
	}
	cancel()
	wg.Wait()
	settles(t, databaseURL, 10, 1)

	other, err := two.Lock(t.Context(), "another")
	require.NoError(t, err)
	late, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	_, err = three.Lock(late, "a third")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "pool_size")
	other.Unlock()
	for _, l := range held {
		require.NoError(t, l.Check(t.Context()))
		l.Unlock()
	}
	settles(t, databaseURL, 0, 0)
}

// S85: contexts that end at any moment cost others nothing, and leave no lock behind.
func TestLocksAbandoned(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.Shared(t).Database(t)
	one, other := open(t, databaseURL, nil), open(t, databaseURL, nil)
	kept, err := one.Lock(t.Context(), "kept")
	require.NoError(t, err)
	var wg sync.WaitGroup
	for i := range 8 {
		for _, be := range []*postgres.Backend{one, other} {
			wg.Go(func() {
				for n := range 60 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.N(2000))*time.Microsecond)
					l, err := be.Lock(ctx, fmt.Sprint((i+n)%3))
					if err == nil {
						fenced := l.Fence(t.Context())
						assert.NoError(t, l.Check(t.Context()))
						l.Unlock()
						assert.ErrorIs(t, be.Create(fenced, route("never")), backend.ErrLockLost)
					}
					cancel()
				}
			})
		}
	}
	wg.Wait()
	require.NoError(t, kept.Check(t.Context()))
	for i := range 3 {
		for _, be := range []*postgres.Backend{one, other} {
			l, err := be.Lock(t.Context(), fmt.Sprint(i))
			require.NoError(t, err)
			l.Unlock()
		}
	}
	settles(t, databaseURL, 1, 1)
	kept.Unlock()
}

// S85: all locks of a process are lost together, with its connection, and the next one is had on another.
func TestLocksLostTogether(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.Shared(t).Database(t)
	be := open(t, databaseURL, nil)
	var held []backend.Lock
	for i := range 3 {
		l, err := be.Lock(t.Context(), fmt.Sprint(i))
		require.NoError(t, err)
		held = append(held, l)
	}
	held[2].Unlock()
	admin, err := pgx.Connect(t.Context(), databaseURL)
	require.NoError(t, err)
	defer func() { _ = admin.Close(context.Background()) }()
	var n int
	require.NoError(t, admin.QueryRow(t.Context(), `SELECT count(DISTINCT pid) FROM (SELECT pid, pg_terminate_backend(pid, 60000) FROM
		(SELECT DISTINCT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = 1953394288
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) _) _`).Scan(&n))
	require.Equal(t, 1, n)
	require.ErrorIs(t, be.Create(held[0].Fence(t.Context()), route("a")), backend.ErrLockLost)
	again, err := be.Lock(t.Context(), "another")
	require.NoError(t, err)
	require.ErrorIs(t, held[1].Check(t.Context()), backend.ErrLockLost)
	require.ErrorIs(t, be.Create(held[1].Fence(t.Context()), route("a")), backend.ErrLockLost)
	held[0].Unlock()
	held[1].Unlock()
	require.NoError(t, again.Check(t.Context()))
	again.Unlock()
	_, err = be.Lock(t.Context(), "0")
	require.NoError(t, err)
	require.NoError(t, be.Close())
	_, err = be.Lock(t.Context(), "1")
	require.ErrorIs(t, err, backend.ErrClosed)
}

// S85: what the database sets for how long a session may be idle, or in a transaction, does not end a lock's.
func TestLockOutlastsTimeouts(t *testing.T) {
	t.Parallel()
	for _, role := range []string{"auto", "off"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			databaseURL := pgtest.Shared(t).Database(t)
			admin, err := pgx.Connect(t.Context(), databaseURL)
			require.NoError(t, err)
			defer func() { _ = admin.Close(context.Background()) }()
			settings := []string{"statement_timeout", "idle_in_transaction_session_timeout"}
			if admin.PgConn().ParameterStatus("server_version") >= "17" {
				settings = append(settings, "transaction_timeout")
			}
			database := pgx.Identifier{admin.Config().Database}.Sanitize()
			for _, name := range settings {
				_, err := admin.Exec(t.Context(), `ALTER DATABASE `+database+` SET `+name+` = '300ms'`)
				require.NoError(t, err)
			}
			be := open(t, databaseURL, map[string]string{"tenant_role": role})
			held, err := be.Lock(t.Context(), "a")
			require.NoError(t, err)
			_, err = admin.Exec(t.Context(), `SELECT pg_sleep(0.8)`) // for those to pass
			require.NoError(t, err)
			require.NoError(t, held.Check(t.Context()))
			held.Unlock()
		})
	}
}
