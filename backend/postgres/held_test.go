package postgres

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// opened returns a backend of one connection, and the context of a store.
func opened(t *testing.T, databaseURL string) (*Backend, context.Context) {
	t.Helper()
	be, err := Open(t.Context(), databaseURL+"&pool_max_conns=1", Config{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, be.Close()) })
	rt := backend.Route{Store: backend.MustParseStore("a"), Owner: "a"}
	require.NoError(t, be.Create(t.Context(), rt))
	return be, backend.WithRoute(t.Context(), rt)
}

// terminate ends a server process of a database.
func terminate(t *testing.T, databaseURL string, pid int) {
	t.Helper()
	admin, err := pgx.Connect(t.Context(), pgtest.Shared(t).AdminDatabaseURL(t, databaseURL))
	require.NoError(t, err)
	defer func() { require.NoError(t, admin.Close(context.Background())) }()
	_, err = admin.Exec(t.Context(), `SELECT pg_terminate_backend($1, 60000)`, pid)
	require.NoError(t, err)
}

// A connection is held, and nobody waits for it, while a *sql.Conn has it, or what is done with pgx's own connection; and for
// how long they have it says nothing about how long a statement takes.
func TestHeldByASession(t *testing.T) {
	t.Parallel()
	be, ctx := opened(t, pgtest.Shared(t).Database(t))
	held := func() int { return be.warm.Stats().Held }
	for range 3 {
		_, err := be.DB().ExecContext(ctx, `SELECT 1`)
		require.NoError(t, err)
	}
	usual := be.warm.Stats().Usual
	for range 10 {
		conn, err := be.DB().Conn(ctx)
		require.NoError(t, err)
		_, err = conn.ExecContext(ctx, `SELECT pg_sleep(0.02)`)
		require.NoError(t, err)
		require.Zero(t, held(), "it may have been all")
		_, err = conn.ExecContext(ctx, `SELECT 1`)
		require.NoError(t, err)
		require.Equal(t, 1, held())
		require.NoError(t, conn.Close())
		require.Zero(t, held())
	}
	require.Equal(t, usual, be.warm.Stats().Usual)

	require.NoError(t, be.PGX().AcquireFunc(ctx, func(*pgx.Conn) error {
		require.Equal(t, 1, held())
		return nil
	}))
	conn, err := be.DB().Conn(ctx)
	require.NoError(t, err)
	require.NoError(t, conn.QueryRowContext(ctx, `SELECT 1`).Scan(new(int)))
	require.NoError(t, conn.Raw(func(dc any) error {
		require.NotNil(t, dc.(interface{ Raw() any }).Raw())
		require.Equal(t, 1, held())
		return nil
	}))
	require.NoError(t, conn.Close())
	require.Zero(t, held())
}

// A transaction whose connection was lost before it sent anything holds the one that it got instead.
func TestHeldAfterAnExchange(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.Shared(t).Database(t)
	be, ctx := opened(t, databaseURL)
	var before, after int
	require.NoError(t, be.PGX().QueryRow(ctx, `SELECT pg_backend_pid()`).Scan(&before))
	tx, err := be.PGX().Begin(ctx)
	require.NoError(t, err)
	require.Equal(t, 1, be.warm.Stats().Held)
	terminate(t, databaseURL, before)
	require.NoError(t, tx.QueryRow(ctx, `SELECT pg_backend_pid()`).Scan(&after))
	require.NotEqual(t, before, after)
	require.Equal(t, 1, be.warm.Stats().Held)
	require.NoError(t, tx.Commit(ctx))
	require.Zero(t, be.warm.Stats().Held)
}
