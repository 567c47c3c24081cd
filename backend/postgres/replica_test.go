package postgres_test

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
	"github.com/tenement-go/tenement/backend/postgres"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// followed is a server with a standby.
type followed struct {
	primary, standby *pgtest.Cluster
	direct, replica  string // the database on each
	stores           int
}

func startFollowed(t *testing.T) *followed {
	t.Helper()
	f := &followed{primary: startServer(t, nil)}
	var err error
	f.direct, _, err = f.primary.NewDatabase(t.Context())
	require.NoError(t, err)
	f.standby = startServer(t, f.primary)
	f.replica, err = f.standby.At(f.direct)
	require.NoError(t, err)
	return f
}

// open opens the primary with the standby as its replica; both have the parameters.
func (f *followed) open(t *testing.T, params map[string]string) *postgres.Backend {
	t.Helper()
	return open(t, f.direct, merged(params, map[string]string{"replica": with(t, f.replica, params)}))
}

func merged(a, b map[string]string) map[string]string {
	m := map[string]string{}
	for _, from := range []map[string]string{a, b} {
		for k, v := range from {
			m[k] = v
		}
	}
	return m
}

// caughtUp returns a context whose reads see all that was committed so far.
func caughtUp(ctx context.Context, t *testing.T, be *postgres.Backend) context.Context {
	t.Helper()
	p, err := be.Position(t.Context())
	require.NoError(t, err)
	return backend.WithPosition(ctx, p)
}

// onStandby runs a statement as the superuser of the standby.
func (f *followed) onStandby(t *testing.T) *pgx.Conn {
	t.Helper()
	adminURL, err := f.standby.AdminURLOf(f.replica)
	require.NoError(t, err)
	conn, err := pgx.Connect(t.Context(), adminURL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func scan[T any](t *testing.T, q interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}, ctx context.Context, sql string, args ...any,
) (v T) {
	t.Helper()
	require.NoError(t, q.QueryRow(ctx, sql, args...).Scan(&v))
	return v
}

// Reads go to the standby, see what was committed when they ask for it, and cannot write.
func TestReplica(t *testing.T) {
	t.Parallel()
	f := startFollowed(t)
	admin := f.onStandby(t)
	for _, roles := range []string{"auto", "each", "off"} {
		be := f.open(t, map[string]string{"tenant_role": roles, "pool_max_conns": "2"})
		a, inA := tenant(t, be, "a")
		b, inB := tenant(t, be, "b")
		_, err := be.Shared().ExecContext(t.Context(), `CREATE TABLE plans (name text); INSERT INTO plans VALUES ('gold')`)
		require.NoError(t, err)
		const read = `SELECT mark FROM notes, plans WHERE id = $1 AND name = $2`
		mark := func(ctx context.Context) (mark string, err error) {
			err = be.Replica().QueryRowContext(ctx, read, 1, "gold").Scan(&mark)
			return mark, err
		}
		for _, ctx := range []context.Context{inA, inB} {
			rt, _ := backend.RouteFrom(ctx)
			_, err := be.DB().ExecContext(ctx, `INSERT INTO notes (mark) VALUES ($1)`, rt.Store.String())
			require.NoError(t, err)
		}
		for range 3 {
			for _, ctx := range []context.Context{inA, inB} {
				rt, _ := backend.RouteFrom(ctx)
				got, err := mark(caughtUp(ctx, t, be))
				require.NoError(t, err, roles)
				require.Equal(t, rt.Store.String(), got)
				require.Equal(t, got, scan[string](t, be.ReplicaPGX(), ctx, read, 1, "gold"))
				require.True(t, scan[bool](t, be.ReplicaPGX(), ctx, `SELECT pg_is_in_recovery()`))
			}
		}
		_, err = mark(t.Context())
		require.ErrorIs(t, err, backend.ErrNoTenant)
		require.ErrorIs(t, be.ReplicaPGX().QueryRow(t.Context(), read, 1, "gold").Scan(new(string)), backend.ErrNoTenant)

		_, err = be.Replica().ExecContext(inA, `INSERT INTO notes (mark) VALUES ($1)`, "x")
		require.ErrorIs(t, err, backend.ErrReadOnly)
		_, err = be.ReplicaPGX().Exec(inA, `SET default_transaction_read_only = off; DELETE FROM notes`)
		require.ErrorIs(t, err, backend.ErrReadOnly)
		_, err = be.ReplicaPGX().CopyFrom(inA, pgx.Identifier{"notes"}, []string{"mark"}, pgx.CopyFromRows([][]any{{"x"}}))
		require.Error(t, err)

		// A tenant that the standby has not heard of.
		_, err = admin.Exec(t.Context(), `SELECT pg_wal_replay_pause()`)
		require.NoError(t, err)
		c, inC := tenant(t, be, "c")
		_, err = be.DB().ExecContext(inC, `INSERT INTO notes (mark) VALUES ('c')`)
		require.NoError(t, err)
		_, err = mark(inC)
		require.ErrorIs(t, err, backend.ErrStoreMissing)
		late, cancel := context.WithTimeout(caughtUp(inC, t, be), 20*time.Millisecond)
		defer cancel()
		_, err = mark(late)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		_, err = mark(inA)
		require.NoError(t, err)
		_, err = admin.Exec(t.Context(), `SELECT pg_wal_replay_resume()`)
		require.NoError(t, err)
		got, err := mark(caughtUp(inC, t, be))
		require.NoError(t, err)
		require.Equal(t, "c", got)
		_, err = mark(backend.WithPosition(inA, "tomorrow"))
		require.ErrorContains(t, err, "not a position")

		for _, rt := range []backend.Route{a, b, c} {
			require.NoError(t, be.Drop(t.Context(), rt))
		}
		_, err = mark(caughtUp(inA, t, be))
		require.ErrorIs(t, err, backend.ErrStoreMissing)
		_, err = be.Shared().ExecContext(t.Context(), `DROP TABLE plans`)
		require.NoError(t, err)
		require.NoError(t, be.Close())
		_, err = mark(inA)
		require.Error(t, err)
		require.ErrorIs(t, be.ReplicaPGX().QueryRow(inA, `SELECT 1`).Scan(new(int)), backend.ErrClosed)
	}
}

// Without replicas the stores themselves are read from, and not written to.
func TestReplicaWithout(t *testing.T) {
	t.Parallel()
	be := open(t, pgtest.Shared(t).Database(t), nil)
	_, ctx := tenant(t, be, "a")
	var n int
	require.NoError(t, be.Replica().QueryRowContext(caughtUp(ctx, t, be), `SELECT count(*) FROM notes`).Scan(&n))
	_, err := be.Replica().ExecContext(ctx, `INSERT INTO notes (mark) VALUES ('x')`)
	require.ErrorIs(t, err, backend.ErrReadOnly)
	_, err = be.ReplicaPGX().Exec(ctx, `INSERT INTO notes (mark) VALUES ('x')`)
	require.ErrorIs(t, err, backend.ErrReadOnly)
}

// A replica that does not answer is left out; a store is read from always the same one while it answers.
func TestReplicasTakeTurns(t *testing.T) {
	t.Parallel()
	f := startFollowed(t)
	_, err := postgres.Open(t.Context(), with(t, f.direct, map[string]string{"replica": "postgres://me@127.0.0.1/app?tenant_role=none"}), postgres.Config{})
	require.ErrorIs(t, err, backend.ErrInvalidURL)
	u, err := url.Parse(f.direct)
	require.NoError(t, err)
	q := u.Query()
	q.Add("replica", "postgres://me@127.0.0.1:1/app?connect_timeout=5")
	q.Add("replica", f.replica)
	u.RawQuery = q.Encode()
	be, err := postgres.Open(t.Context(), u.String(), postgres.Config{})
	require.NoError(t, err)
	defer func() { require.NoError(t, be.Close()) }()
	for i := range 4 {
		_, ctx := tenant(t, be, fmt.Sprintf("t%d", i))
		require.True(t, scan[bool](t, be.ReplicaPGX(), caughtUp(ctx, t, be), `SELECT pg_is_in_recovery()`))
	}
	_, ctx := tenant(t, be, "last")
	require.NoError(t, f.standby.Kill(t.Context()))
	err = be.Replica().QueryRowContext(ctx, `SELECT 1`).Scan(new(int))
	require.Error(t, err, "it does not turn to the primary")
	require.NotErrorIs(t, err, backend.ErrStoreMissing)
	require.NoError(t, f.standby.Revive(t.Context()))
	require.Equal(t, 1, scan[int](t, be.ReplicaPGX(), caughtUp(ctx, t, be), `SELECT 1`))
}

// S16: the check costs no round trip.
func TestReplicaRoundTrips(t *testing.T) {
	t.Parallel()
	// The server need not be a standby for that.
	databaseURL := pgtest.Shared(t).Database(t)
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			params := map[string]string{"default_query_exec_mode": mode, "pool_max_conns": "1"}
			proxy, proxyURL := proxied(t, databaseURL)
			be := open(t, databaseURL, merged(params, map[string]string{"replica": with(t, proxyURL, params)}))
			rt, ctx := tenant(t, be, "a")
			defer func() { require.NoError(t, be.Drop(t.Context(), rt)) }()
			read := func(q interface {
				QueryRowContext(ctx context.Context, sql string, args ...any) *sql.Row
			},
			) {
				require.NoError(t, q.QueryRowContext(ctx, `SELECT count(*) FROM notes WHERE id = $1`, 1).Scan(new(int)))
			}
			again := 1 // round trips of a statement that is not new
			if mode == "describe_exec" {
				again = 2
			}
			read(be.Replica())
			read(be.Replica())
			before := proxy.RoundTrips()
			read(be.Replica())
			require.EqualValues(t, again, proxy.RoundTrips()-before)
			tx, err := be.Replica().BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead})
			require.NoError(t, err)
			before = proxy.RoundTrips()
			read(tx)
			read(tx)
			require.EqualValues(t, 2*again, proxy.RoundTrips()-before)
			require.NoError(t, tx.Rollback())
		})
	}
}

// S71 on a standby, where nothing of ours fences a store: what is renamed or dropped while a unit of work reads it is an
// error, and never the shared table of the same name; between two statements of a transaction, and in the middle of one.
func TestReplicaStoreGoes(t *testing.T) {
	t.Parallel()
	f := startFollowed(t)
	gone := map[string]func(*postgres.Backend, backend.Route) error{
		"renamed": func(be *postgres.Backend, rt backend.Route) error {
			return be.Rename(context.Background(), rt, backend.MustParseStore(rt.Store.String()+"-new"))
		},
		"dropped": func(be *postgres.Backend, rt backend.Route) error { return be.Drop(context.Background(), rt) },
	}
	for _, mode := range []string{"cache_statement", "exec", "simple_protocol"} {
		be := f.open(t, map[string]string{"default_query_exec_mode": mode})
		_, err := be.Shared().ExecContext(t.Context(), `DROP TABLE IF EXISTS marks; CREATE TABLE marks (who text); INSERT INTO marks VALUES ('public')`)
		require.NoError(t, err)
		for how, goes := range gone {
			for name, read := range readers {
				t.Run(mode+"/"+how+"/"+name, func(t *testing.T) {
					f.stores++
					rt, ctx := tenant(t, be, fmt.Sprintf("s%d", f.stores))
					owner := be.Maintenance(rt)
					defer func() { _ = owner.Close() }()
					_, err := owner.ExecContext(t.Context(), fmt.Sprintf(lateSQL, f.stores))
					require.NoError(t, err)
					ctx = caughtUp(ctx, t, be)
					holder := f.onStandby(t)
					_, err = holder.Exec(ctx, `SELECT pg_advisory_lock($1)`, f.stores)
					require.NoError(t, err)
					read(t, reading{
						be: be, ctx: ctx, own: rt.Store.String(),
						goes: func() {
							t.Helper()
							require.NoError(t, goes(be, rt))
							p, err := be.Position(t.Context())
							require.NoError(t, err)
							require.Eventually(t, func() bool {
								return scan[bool](t, holder, t.Context(), `SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn`, string(p))
							}, time.Minute, time.Millisecond)
						},
						waits: func() {
							t.Helper()
							require.Eventually(t, func() bool {
								return scan[bool](t, holder, t.Context(), `SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)`)
							}, time.Minute, time.Millisecond)
						},
						release: func() {
							_, err := holder.Exec(t.Context(), `SELECT pg_advisory_unlock($1)`, f.stores)
							require.NoError(t, err)
						},
					})
				})
			}
		}
	}
}

// lateSQL makes a table, and a function that looks for it when the lock is free.
const lateSQL = `CREATE TABLE marks (who text);
	INSERT INTO marks VALUES (current_schema());
	CREATE FUNCTION late() RETURNS text LANGUAGE plpgsql AS $$ DECLARE found text; BEGIN
		PERFORM pg_advisory_xact_lock(%d);
		EXECUTE 'SELECT who FROM marks' INTO found;
		RETURN found;
	END $$`

type reading struct {
	be                   *postgres.Backend
	ctx                  context.Context
	own                  string
	goes, waits, release func()
}

// during runs fn while the store goes in the middle of it.
func (r reading) during(fn func() error) error {
	done := make(chan error, 1)
	go func() { done <- fn() }()
	r.waits()
	r.goes()
	r.release()
	return <-done
}

var readers = map[string]func(t *testing.T, r reading){
	"statement, database/sql": func(t *testing.T, r reading) {
		var who string
		require.NoError(t, r.be.Replica().QueryRowContext(r.ctx, `SELECT who FROM marks`).Scan(&who))
		require.Equal(t, r.own, who)
		err := r.during(func() error {
			rows, err := r.be.Replica().QueryContext(r.ctx, `SELECT late() WHERE $1 = 'x'`, "x")
			if err == nil {
				_ = rows.Close()
			}
			return err // before anything is shown
		})
		require.ErrorIs(t, err, backend.ErrStoreMissing)
	},
	"statement, pgx": func(t *testing.T, r reading) {
		require.ErrorIs(t, r.during(func() error {
			_, err := r.be.ReplicaPGX().Query(r.ctx, `SELECT late() WHERE $1 = 'x'`, "x")
			return err
		}), backend.ErrStoreMissing)
		_, err := r.be.ReplicaPGX().Exec(r.ctx, `SELECT who FROM marks; SELECT 1`)
		require.ErrorIs(t, err, backend.ErrStoreMissing)
	},
	"text of several statements": func(t *testing.T, r reading) {
		require.ErrorIs(t, r.during(func() error {
			_, err := r.be.ReplicaPGX().Exec(r.ctx, `SELECT 1; SELECT late(); SELECT 'a;b'`)
			return err
		}), backend.ErrStoreMissing)
	},
	"batch": func(t *testing.T, r reading) {
		require.ErrorIs(t, r.during(func() error {
			b := &pgx.Batch{}
			b.Queue(`SELECT 1`)
			b.Queue(`SELECT late()`)
			b.Queue(`SELECT who FROM marks`)
			return r.be.ReplicaPGX().SendBatch(r.ctx, b).Close()
		}), backend.ErrStoreMissing)
	},
	"more than is held": func(t *testing.T, r reading) {
		seen := 0
		require.ErrorIs(t, r.during(func() error {
			rows, err := r.be.Replica().QueryContext(r.ctx, `SELECT repeat('x', 1000), CASE i WHEN 1900 THEN late() END FROM generate_series(1, $1::int) i`, 2000)
			if err != nil {
				return err
			}
			defer func() { _ = rows.Close() }()
			for rows.Next() {
				seen++
			}
			return rows.Err()
		}), backend.ErrStoreMissing)
		assert.Positive(t, seen)
	},
	"COPY": func(t *testing.T, r reading) {
		conn, err := r.be.Replica().Conn(r.ctx)
		require.NoError(t, err)
		defer func() { _ = conn.Close() }()
		tx, err := conn.BeginTx(r.ctx, nil)
		require.NoError(t, err)
		defer func() { _ = tx.Rollback() }()
		copies := func(query string) error {
			return conn.Raw(func(dc any) error {
				_, err := dc.(driver.Copier).CopyOut(r.ctx, io.Discard, `COPY (`+query+`) TO STDOUT`)
				return err
			})
		}
		require.NoError(t, copies(`SELECT 1`))
		r.goes()
		require.ErrorIs(t, copies(`SELECT who FROM marks`), backend.ErrStoreMissing)
		require.Error(t, tx.Commit())
	},
	"READ COMMITTED, between":  func(t *testing.T, r reading) { between(t, r, sql.LevelReadCommitted) },
	"REPEATABLE READ, between": func(t *testing.T, r reading) { between(t, r, sql.LevelRepeatableRead) },
	"READ COMMITTED, during":   func(t *testing.T, r reading) { inside(t, r, pgx.ReadCommitted) },
	"REPEATABLE READ, during":  func(t *testing.T, r reading) { inside(t, r, pgx.RepeatableRead) },
}

func between(t *testing.T, r reading, level sql.IsolationLevel) {
	tx, err := r.be.Replica().BeginTx(r.ctx, &sql.TxOptions{Isolation: level})
	require.NoError(t, err)
	defer func() { _ = tx.Rollback() }()
	var one int
	require.NoError(t, tx.QueryRowContext(r.ctx, `SELECT 1`).Scan(&one))
	r.goes()
	err = tx.QueryRowContext(r.ctx, `SELECT who FROM marks`).Scan(new(string))
	require.ErrorIs(t, err, backend.ErrStoreMissing)
	require.Error(t, tx.Commit())
}

func inside(t *testing.T, r reading, level pgx.TxIsoLevel) {
	err := pgx.BeginTxFunc(r.ctx, readTx{r.be.ReplicaPGX()}, pgx.TxOptions{IsoLevel: level}, func(tx pgx.Tx) error {
		// What fails, and is taken back, leaves the transaction as it was, checks included.
		if _, err := tx.Exec(r.ctx, `SAVEPOINT s`); err != nil {
			return err
		}
		_, failed := tx.Exec(r.ctx, `SELECT 1 / $1::int`, 0)
		require.Error(t, failed)
		if _, err := tx.Exec(r.ctx, `ROLLBACK TO SAVEPOINT s`); err != nil {
			return err
		}
		return r.during(func() error { return tx.QueryRow(r.ctx, `SELECT late()`).Scan(new(string)) })
	})
	require.ErrorIs(t, err, backend.ErrStoreMissing)
}

// readTx is what pgx's helpers want.
type readTx struct{ *postgres.PGX }

// Rows that were read ahead, and are forgotten, are not read on by whoever has the connection next.
func TestReplicaRowsLeftOpen(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.Shared(t).Database(t)
	be := open(t, databaseURL, map[string]string{"replica": with(t, databaseURL, map[string]string{"pool_max_conns": "1"})})
	_, inA := tenant(t, be, "a")
	_, inB := tenant(t, be, "b")
	tx, err := be.ReplicaPGX().Begin(inA)
	require.NoError(t, err)
	left, err := tx.Query(inA, `SELECT 'a' FROM generate_series(1, 3)`)
	require.NoError(t, err)
	require.True(t, left.Next())
	_, err = tx.Exec(inA, `SELECT 1`)
	require.ErrorContains(t, err, "busy")
	require.NoError(t, tx.Rollback(inA))
	rows, err := be.ReplicaPGX().Query(inB, `SELECT 'b' FROM generate_series(1, 3)`)
	require.NoError(t, err)
	require.False(t, left.Next())
	n := 0
	for rows.Next() {
		n++
	}
	require.NoError(t, rows.Err())
	require.Equal(t, 3, n)
}
