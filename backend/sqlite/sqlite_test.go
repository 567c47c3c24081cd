package sqlite_test

import (
	"context"
	"database/sql"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/sqlite"
)

func open(t testing.TB, change ...func(*sqlite.Config)) *sqlite.Backend {
	t.Helper()
	var cfg sqlite.Config
	for _, f := range change {
		f(&cfg)
	}
	b, err := sqlite.Open(t.Context(), t.TempDir(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b
}

// tenant makes a store and returns a context routed to it.
func tenant(t testing.TB, b *sqlite.Backend, name string) context.Context {
	t.Helper()
	rt := backend.Route{Store: backend.MustParseStore(name), Owner: "id-of-" + name}
	require.NoError(t, b.Create(t.Context(), rt))
	return backend.WithRoute(t.Context(), rt)
}

func exec(t testing.TB, ctx context.Context, db interface {
	ExecContext(context.Context, string, ...any) (sql.Result, error)
}, query string, args ...any,
) {
	t.Helper()
	_, err := db.ExecContext(ctx, query, args...)
	require.NoError(t, err)
}

func number(t testing.TB, ctx context.Context, db interface {
	QueryRowContext(context.Context, string, ...any) *sql.Row
}, query string, args ...any,
) (n int) {
	t.Helper()
	require.NoError(t, db.QueryRowContext(ctx, query, args...).Scan(&n))
	return n
}

func TestRouting(t *testing.T) {
	t.Parallel()
	b := open(t)
	a, c := tenant(t, b, "a"), tenant(t, b, "c")
	for _, ctx := range []context.Context{a, c} {
		exec(t, ctx, b.DB(), "CREATE TABLE polls (id INTEGER PRIMARY KEY, text TEXT)")
	}
	exec(t, a, b.DB(), "INSERT INTO polls (text) VALUES ('a1'), ('a2')")
	exec(t, c, b.DB(), "INSERT INTO polls (text) VALUES ('c')")
	require.Equal(t, 2, number(t, a, b.DB(), "SELECT count(*) FROM polls"))
	require.Equal(t, 1, number(t, c, b.DB(), "SELECT count(*) FROM polls"))

	_, err := b.DB().ExecContext(t.Context(), "SELECT 1") // S01
	require.ErrorIs(t, err, backend.ErrNoTenant)

	exec(t, t.Context(), b.Shared(), "CREATE TABLE plans (id INTEGER PRIMARY KEY); INSERT INTO plans VALUES (7)")
	require.Equal(t, 7, number(t, a, b.DB(), "SELECT id FROM plans"))
	require.Equal(t, 7, number(t, a, b.DB(), "SELECT p.id FROM public.plans p JOIN polls ON polls.id = 1"))
	_, err = b.DB().ExecContext(a, "INSERT INTO plans VALUES (8)")
	require.ErrorIs(t, err, backend.ErrReadOnlyShared)
	exec(t, a, b.DB(), "VACUUM") // S14

	tx, err := b.DB().BeginTx(a, nil)
	require.NoError(t, err)
	exec(t, a, tx, "INSERT INTO polls (text) VALUES ('in tx')")
	require.Equal(t, 3, number(t, a, tx, "SELECT count(*) FROM polls"))
	require.NoError(t, tx.Rollback())
	require.Equal(t, 2, number(t, a, b.DB(), "SELECT count(*) FROM polls"))

	require.NoError(t, b.Rename(t.Context(), backend.Route{Store: backend.MustParseStore("a")}, backend.MustParseStore("b")))
	_, err = b.DB().ExecContext(a, "SELECT 1")
	require.ErrorIs(t, err, backend.ErrStoreMissing)
	moved := backend.WithStore(t.Context(), backend.MustParseStore("b"))
	require.Equal(t, 2, number(t, moved, b.DB(), "SELECT count(*) FROM polls"))
	require.NoError(t, b.Drop(t.Context(), backend.Route{Store: backend.MustParseStore("b")}))
	_, err = b.DB().ExecContext(moved, "SELECT 1")
	require.ErrorIs(t, err, backend.ErrStoreMissing)

	var names []string
	for info, err := range b.Stores(t.Context()) {
		require.NoError(t, err)
		require.Equal(t, "id-of-c", info.Owner)
		names = append(names, info.Store.String())
	}
	require.Equal(t, []string{"c"}, names)
}
