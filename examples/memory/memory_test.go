package memory_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/backendtest"
	"github.com/tenement-go/tenement/examples/memory"
	"github.com/tenement-go/tenement/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

func TestConformance(t *testing.T) {
	t.Parallel()
	backendtest.Run(t, backendtest.Config{
		New: func(t testing.TB) func(maxConns int) backend.Backend {
			return func(maxConns int) backend.Backend {
				be, err := memory.Open(t.Name(), maxConns)
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, be.Close()) })
				return be
			}
		},
		SharedReadOnly: true,
	})
}

// A place is its users', by name, and gone with the last of them.
func TestPlaces(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	open := func() backend.Backend {
		be, err := backend.Open(ctx, "memory:"+t.Name())
		require.NoError(t, err)
		return be
	}
	thor := backend.Route{Store: backend.MustParseStore("thor")}
	one, other := open(), open()
	require.NoError(t, one.Create(ctx, thor))
	_, err := other.Stat(ctx, thor.Store)
	require.NoError(t, err)
	require.NoError(t, one.Close())
	_, err = one.Stat(ctx, thor.Store)
	require.ErrorIs(t, err, backend.ErrClosed)
	_, err = other.Stat(ctx, thor.Store)
	require.NoError(t, err)
	require.NoError(t, other.Close())
	last := open()
	_, err = last.Stat(ctx, thor.Store)
	require.ErrorIs(t, err, backend.ErrStoreMissing)
	require.NoError(t, last.Close())
}
