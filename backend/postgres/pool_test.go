package postgres

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/internal/wireproxy"
)

// A connection on which the server has said nothing for a while is asked before it is used, whoever had it meanwhile: what it
// was lent for is no sign that it is still there.
func TestSilentConnectionIsAsked(t *testing.T) {
	t.Parallel()
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for name, lent := range map[string]func(t *testing.T, be *Backend, ctx context.Context, silence func()){
		"to nobody": func(_ *testing.T, _ *Backend, _ context.Context, silence func()) { silence() },
		"to one whose context is over": func(t *testing.T, be *Backend, ctx context.Context, silence func()) {
			silence()
			rt, _ := backend.RouteFrom(ctx)
			_, err := be.PGXFor(rt).Exec(over, `SELECT 1`)
			require.ErrorIs(t, err, context.Canceled)
		},
		"to one who does nothing": func(t *testing.T, be *Backend, ctx context.Context, silence func()) {
			tx, err := be.DB().BeginTx(ctx, nil)
			require.NoError(t, err)
			silence()
			require.NoError(t, tx.Rollback())
		},
		"to one who keeps it after its statement": func(t *testing.T, be *Backend, ctx context.Context, silence func()) {
			conn, err := be.DB().Conn(ctx)
			require.NoError(t, err)
			_, err = conn.ExecContext(ctx, `SELECT 1`)
			require.NoError(t, err)
			silence()
			require.NoError(t, conn.Close())
		},
		"to one whose statement is not sent": func(t *testing.T, be *Backend, ctx context.Context, silence func()) {
			_, err := be.PGX().Exec(ctx, `SELECT $1::int`, 1) // so that its parameter is known
			require.NoError(t, err)
			tx, err := be.DB().BeginTx(ctx, nil)
			require.NoError(t, err)
			silence()
			_, err = tx.ExecContext(ctx, `SELECT $1::int`, 1, 2)
			assert.ErrorContains(t, err, "expected 1 arguments")
			require.NoError(t, tx.Rollback())
		},
	} {
		for _, whose := range []string{"its own", "a lent"} {
			t.Run(name+", "+whose+" pool", func(t *testing.T) {
				t.Parallel()
				databaseURL := pgtest.Shared(t).Database(t)
				proxy, err := wireproxy.NewURL(databaseURL)
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, proxy.Close()) })
				be, ctx := opened(t, proxy.URL(databaseURL))
				if whose == "a lent" { // which sees the connection after each use
					cfg := be.pool.Config().Copy()
					cfg.AfterRelease = func(*pgx.Conn) bool { return true }
					pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
					require.NoError(t, err)
					t.Cleanup(pool.Close)
					be, err = FromPool(t.Context(), pool, Config{})
					require.NoError(t, err)
					t.Cleanup(func() { require.NoError(t, be.Close()) })
				}
				_, err = be.PGX().Exec(ctx, `SELECT 1`)
				require.NoError(t, err)
				c, err := be.borrow(ctx, backend.Store{})
				require.NoError(t, err)
				c.giveBack()
				lent(t, be, ctx, func() { c.spoke = c.spoke.Add(-2 * pingAfter) })
				proxy.CloseAll()
				_, err = be.PGX().Exec(ctx, `SELECT 1`)
				require.NoError(t, err)
			})
		}
	}
}

// A session whose statement was refused before it was sent has run nothing: it goes on on another connection if its own is lost.
func TestNotSentIsNotUsed(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.Shared(t).Database(t)
	be, ctx := opened(t, databaseURL)
	var pid int
	require.NoError(t, be.PGX().QueryRow(ctx, `SELECT pg_backend_pid() + $1::int`, 0).Scan(&pid))
	conn, err := be.DB().Conn(ctx)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.ErrorContains(t, conn.QueryRowContext(ctx, `SELECT pg_backend_pid() + $1::int`, 1, 2).Scan(&pid), "expected 1 arguments")
	terminate(t, databaseURL, pid)
	require.NoError(t, conn.QueryRowContext(ctx, `SELECT 1`).Scan(new(int)))
}
