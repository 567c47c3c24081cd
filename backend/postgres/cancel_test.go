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

func newCanceller(pc *pgconn.PgConn) ctxwatch.Handler {
	return &canceller{pc: pc, pooled: new(atomic.Bool)}
}

// cancellable connects with a canceller; dial, if not nil, is how.
func cancellable(t *testing.T, dial pgconn.DialFunc) *pgx.Conn {
	cc, err := pgx.ParseConfig(pgtest.Shared(t).Database(t))
	require.NoError(t, err)
	cc.BuildContextWatcherHandler = newCanceller
	if dial != nil {
		cc.DialFunc = dial
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
			c := cancellable(t, nil)
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
			over, end := context.WithCancel(t.Context())
			defer end()
			var first atomic.Bool
			c := cancellable(t, func(ctx context.Context, network, address string) (net.Conn, error) {
				switch {
				case first.CompareAndSwap(false, true):
					var d net.Dialer
					return d.DialContext(ctx, network, address)
				case !swallow || over.Err() != nil:
					return nil, errors.New("refused")
				}
				ours, theirs := net.Pipe()
				context.AfterFunc(over, func() { _ = theirs.Close() })
				go func() { _, _ = io.Copy(io.Discard, theirs) }()
				return ours, nil
			})
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			defer cancel()
			_, err := c.Exec(ctx, "select pg_sleep(0.1)")
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
	c := cancellable(t, nil)
	h := newCanceller(c.PgConn())
	h.HandleCancel(t.Context()) // nothing is running yet
	_, err := c.Exec(t.Context(), "select pg_sleep(60)")
	var pe *pgconn.PgError
	require.ErrorAs(t, err, &pe)
	require.Equal(t, "57014", pe.Code)
	h.HandleUnwatchAfterCancel()
	require.NoError(t, c.Ping(t.Context()))
}
