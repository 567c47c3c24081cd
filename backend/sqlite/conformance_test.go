package sqlite_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/backendtest"
	"github.com/tenement-go/tenement/backend/sqlite"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	backendtest.Run(t, backendtest.Config{
		New: func(t testing.TB) func(maxConns int) backend.Backend {
			dir := t.TempDir()
			return func(maxConns int) backend.Backend {
				if maxConns >= 8 {
					maxConns = 16 // a store that has to be opened for each statement costs most of the time
				}
				// What is tested does not survive a power failure anyway; syncing would cost most of the time.
				b, err := sqlite.Open(t.Context(), sqlite.Options{Dir: dir, MaxOpenStores: maxConns, Synchronous: sqlite.Off})
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, b.Close()) })
				return b
			}
		},
		SharedReadOnly: true,
		Full:           true,
	})
}
