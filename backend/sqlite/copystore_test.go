package sqlite_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/sqlite"
)

// A copy of a store is another owner's store, as of one moment, and leaves alone what it is made of.
func TestCopyStore(t *testing.T) { // S78
	t.Parallel()
	dir := t.TempDir()
	b, err := sqlite.Open(t.Context(), dir, sqlite.Config{})
	require.NoError(t, err)
	defer b.Close()
	in := tenant(t, b, "a")
	exec(t, in, b.DB(), "CREATE TABLE a (n INTEGER); CREATE TABLE z (n INTEGER)")
	ctx, cancel := context.WithCancel(in)
	var writer sync.WaitGroup
	writer.Go(func() {
		for ctx.Err() == nil {
			exec(t, in, b.DB(), "BEGIN; INSERT INTO a VALUES (1); INSERT INTO z VALUES (1); COMMIT")
		}
	})
	from, _ := backend.RouteFrom(in)
	to := backend.Route{Store: backend.MustParseStore("copy"), Owner: "another"}
	require.NoError(t, b.CopyStore(t.Context(), from, to))
	cancel()
	writer.Wait()
	copied := backend.WithRoute(t.Context(), to)
	n := number(t, copied, b.DB(), "SELECT count(*) FROM a")
	require.Equal(t, n, number(t, copied, b.DB(), "SELECT count(*) FROM z"))
	exec(t, copied, b.DB(), "DELETE FROM a")
	require.GreaterOrEqual(t, number(t, in, b.DB(), "SELECT count(*) FROM a"), n)
	info, err := b.Stat(t.Context(), to.Store)
	require.NoError(t, err)
	require.Equal(t, "another", info.Owner)

	require.ErrorIs(t, b.CopyStore(t.Context(), from, to), backend.ErrStoreExists)
	other := backend.Route{Store: backend.MustParseStore("other"), Owner: "other"}
	require.ErrorIs(t, b.CopyStore(t.Context(), backend.Route{Store: from.Store, Owner: "not its own"}, other), backend.ErrStoreMissing)
	ended, end := context.WithCancel(t.Context())
	end()
	require.Error(t, b.CopyStore(ended, from, other))
	_, err = b.Stat(t.Context(), other.Store)
	require.ErrorIs(t, err, backend.ErrStoreMissing)
	leftovers, err := b.Leftovers(t.Context())
	require.NoError(t, err)
	assert.Empty(t, leftovers)
	entries, err := os.ReadDir(filepath.Join(dir, "tenants"))
	require.NoError(t, err)
	for _, e := range entries {
		assert.NotContains(t, e.Name(), "tmp")
	}
}
