package postgres_test

import (
	"context"
	"hash/fnv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend/postgres"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// beforeCommit is a tracer that does something when COMMIT is about to be sent.
type beforeCommit struct{ do func() }

func (b *beforeCommit) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	if d.SQL == "commit" && b.do != nil {
		b.do()
	}
	return ctx
}

func (*beforeCommit) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// S77: a Commit that fails before COMMIT was sent, in what goes ahead of it for a table that was made, ends the
// transaction: what a held connection runs afterwards is not within it.
func TestCommitThatIsNotReached(t *testing.T) {
	t.Parallel()
	pc, err := pgxpool.ParseConfig(pgtest.Shared(t).Database(t))
	require.NoError(t, err)
	var tracer beforeCommit
	pc.ConnConfig.Tracer = &tracer
	pool, err := pgxpool.NewWithConfig(t.Context(), pc)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	be, err := postgres.FromPool(t.Context(), pool, postgres.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = be.Close() })
	_, err = be.Shared().ExecContext(t.Context(), `CREATE TABLE plans (n int)`)
	require.NoError(t, err)
	_, a := tenant(t, be, "a")
	_, err = be.DB().ExecContext(a, `CREATE TABLE par (id int PRIMARY KEY);
		CREATE TABLE ch (p int REFERENCES par DEFERRABLE INITIALLY DEFERRED)`)
	require.NoError(t, err)
	for what, text := range map[string]string{
		"a check that was deferred": `CREATE TABLE plans (n int); INSERT INTO ch VALUES (99)`,
		"a context that has ended":  `CREATE TABLE plans (n int)`,
	} {
		t.Run(what, func(t *testing.T) {
			conn, err := be.DB().Conn(a)
			require.NoError(t, err)
			defer func() { _ = conn.Close() }()
			ctx, cancel := context.WithCancel(a)
			defer cancel()
			tx, err := conn.BeginTx(ctx, nil)
			require.NoError(t, err)
			_, err = tx.ExecContext(a, text)
			require.NoError(t, err)
			if what == "a context that has ended" {
				tracer.do = cancel
				defer func() { tracer.do = nil }()
			}
			require.Error(t, tx.Commit())
			_, err = conn.ExecContext(a, `INSERT INTO notes (mark) VALUES ($1)`, what)
			require.NoError(t, err, "it is outside of the transaction")
			require.NoError(t, conn.Close())
			var kept, made bool
			require.NoError(t, be.DB().QueryRowContext(a, `SELECT EXISTS (SELECT FROM notes WHERE mark = $1), to_regclass('a.plans') IS NOT NULL`, what).Scan(&kept, &made))
			require.True(t, kept, "what was acknowledged is there")
			require.False(t, made)
		})
	}
}

// What a statement outside of a transaction has made is committed when other connections are told of it. Where that fails
// the call says so, and they are told when the session ends: by another connection, where this one was lost.
func TestOthersAreToldInTheEnd(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"its context ends", "its connection is lost"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			databaseURL := pgtest.Shared(t).Database(t)
			be := open(t, databaseURL, map[string]string{"pool_max_conns": "2"})
			_, err := be.Shared().ExecContext(t.Context(), `CREATE TABLE plans (n int); INSERT INTO plans VALUES (1)`)
			require.NoError(t, err)
			_, a := tenant(t, be, "a")
			_, err = be.DB().ExecContext(a, `CREATE FUNCTION look() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT n FROM plans); END $$`)
			require.NoError(t, err)
			held, err := be.DB().Conn(a)
			require.NoError(t, err)
			defer func() { require.NoError(t, held.Close()) }()
			var n int
			require.NoError(t, held.QueryRowContext(a, `SELECT look()`).Scan(&n))
			require.Equal(t, 1, n)

			other, err := pgx.Connect(t.Context(), databaseURL)
			require.NoError(t, err)
			defer func() { _ = other.Close(context.Background()) }()
			key := fnv.New32a()
			_, _ = key.Write([]byte("a"))
			_, err = other.Exec(t.Context(), `SELECT pg_advisory_lock(1953394287, $1)`, int32(key.Sum32()))
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(a)
			defer cancel()
			errs := make(chan error, 1)
			go func() {
				_, err := be.DB().ExecContext(ctx, `CREATE TABLE plans AS SELECT 2 AS n`)
				errs <- err
			}()
			var pid int
			var waits string
			require.Eventually(t, func() bool {
				return other.QueryRow(t.Context(), `SELECT pid, virtualtransaction FROM pg_locks
					WHERE locktype = 'advisory' AND classid = 1953394287 AND NOT granted AND database =
					(SELECT oid FROM pg_database WHERE datname = current_database())`).Scan(&pid, &waits) == nil
			}, time.Minute, 5*time.Millisecond)
			if what == "its context ends" {
				cancel()
			} else {
				_, err = other.Exec(t.Context(), `SELECT pg_terminate_backend($1, 60000)`, pid)
				require.NoError(t, err)
			}
			require.Eventually(t, func() bool {
				var gone bool
				require.NoError(t, other.QueryRow(t.Context(), `SELECT NOT EXISTS (SELECT FROM pg_locks WHERE virtualtransaction = $1)`, waits).Scan(&gone))
				return gone
			}, time.Minute, 5*time.Millisecond)
			_, err = other.Exec(t.Context(), `SELECT pg_advisory_unlock_all()`)
			require.NoError(t, err)

			err = <-errs
			require.NoError(t, held.QueryRowContext(a, `SELECT look()`).Scan(&n))
			require.Equal(t, 2, n, "the tenant's own")
			require.ErrorContains(t, err, "committed")
			if what == "its context ends" {
				require.ErrorIs(t, err, context.Canceled)
			}
		})
	}
}
