package postgres

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/internal/pgtest"
)

// newCanceller makes one that waits for a server that is busy with other tests.
func newCanceller(pc *pgconn.PgConn) ctxwatch.Handler {
	return &canceller{pc: pc, pooled: new(atomic.Bool), wait: time.Minute}
}

// cancellable connects with a canceller.
func cancellable(t *testing.T, databaseURL string, change ...func(*pgx.ConnConfig)) *pgx.Conn {
	cc, err := pgx.ParseConfig(databaseURL)
	require.NoError(t, err)
	cc.BuildContextWatcherHandler = newCanceller
	for _, f := range change {
		f(cc)
	}
	c, err := pgx.ConnectConfig(t.Context(), cc)
	require.NoError(t, err)
	t.Cleanup(func() { closeConn(c) })
	return c
}

// S11: thousands of statements are cancelled at every moment of their lives, and no request to cancel ever reaches the
// statement after; the session is the same all the time.
func TestLateCancelReachesNobody(t *testing.T) {
	t.Parallel()
	rounds := 1000
	if testing.Short() {
		rounds = 100
	}
	var wg sync.WaitGroup
	var cancelled, finished atomic.Int64
	for g := range 3 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(g), 3))
			c := cancellable(t, pgtest.Shared(t).Database(t))
			pid := c.PgConn().PID()
			for range rounds {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rnd.IntN(int(2*time.Millisecond))))
				_, err := c.Exec(ctx, "select pg_sleep($1)", rnd.Float64()/500)
				cancel()
				var pe *pgconn.PgError
				switch {
				case err == nil:
					finished.Add(1)
				case errors.As(err, &pe):
					assert.Equal(t, "57014", pe.Code)
					cancelled.Add(1)
				default:
					assert.ErrorIs(t, err, context.DeadlineExceeded, "before anything was sent")
				}
				var now uint32
				if !assert.NoError(t, c.QueryRow(t.Context(), "select pg_backend_pid() from pg_sleep(0.002)").Scan(&now)) || !assert.Equal(t, pid, now) {
					return
				}
			}
		})
	}
	wg.Wait()
	require.Positive(t, cancelled.Load())
	t.Logf("%d cancelled, %d were quicker", cancelled.Load(), finished.Load())
}

// S11: a server that does not answer costs the connection, and no more than a moment; so does a request of which nobody
// knows whether it is still on its way.
func TestCancelWithoutAnswer(t *testing.T) {
	t.Parallel()
	for name, swallow := range map[string]bool{"the request is refused": false, "the request is swallowed": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			databaseURL := pgtest.Shared(t).Database(t)
			lock, err := pgx.Connect(t.Context(), databaseURL)
			require.NoError(t, err)
			defer closeConn(lock)
			_, err = lock.Exec(t.Context(), "select pg_advisory_lock(1)")
			require.NoError(t, err)

			over, end := context.WithCancel(t.Context())
			defer end()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			asked := make(chan struct{})
			var dials atomic.Int64
			c := cancellable(t, databaseURL, func(cc *pgx.ConnConfig) {
				cc.BuildContextWatcherHandler = func(pc *pgconn.PgConn) ctxwatch.Handler {
					return &canceller{pc: pc, pooled: new(atomic.Bool), wait: cancelWait}
				}
				cc.OnNotice = func(*pgconn.PgConn, *pgconn.Notice) { cancel() } // the statement has begun
				cc.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
					n := dials.Add(1)
					if n == 1 {
						return new(net.Dialer).DialContext(ctx, network, address)
					}
					if n == 2 {
						close(asked)
					}
					if !swallow || over.Err() != nil {
						return nil, errors.New("refused")
					}
					ours, theirs := net.Pipe()
					context.AfterFunc(over, func() { _ = theirs.Close() })
					go func() { _, _ = io.Copy(io.Discard, theirs) }()
					return ours, nil
				}
			})
			freed := make(chan error, 1)
			go func() {
				<-asked
				_, err := lock.Exec(context.WithoutCancel(t.Context()), "select pg_advisory_unlock(1)")
				freed <- err
			}()
			_, err = c.Exec(ctx, "do $$ begin raise notice 'here'; perform pg_advisory_xact_lock(1); end $$")
			require.NoError(t, <-freed)
			if err == nil {
				// It was over before the request was given up on. What may still be on its way must not meet another.
				_, err = c.Exec(t.Context(), "select 1")
			}
			require.Error(t, err)
			require.True(t, c.IsClosed())
		})
	}
}

// S11: the server is asked again when the first request has overtaken the statement.
func TestCancelIsRepeated(t *testing.T) {
	t.Parallel()
	c := cancellable(t, pgtest.Shared(t).Database(t))
	h := newCanceller(c.PgConn())
	h.HandleCancel(t.Context()) // nothing is running yet
	_, err := c.Exec(t.Context(), "select pg_sleep(60)")
	var pe *pgconn.PgError
	require.ErrorAs(t, err, &pe)
	require.Equal(t, "57014", pe.Code)
	h.HandleUnwatchAfterCancel()
	require.NoError(t, c.Ping(t.Context()))
}
