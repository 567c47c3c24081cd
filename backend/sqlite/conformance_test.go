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
					// S03: fewer than its tenants, so that stores come and go, but not so few that each statement has to
					// open one, which would cost most of the time.
					maxConns = 40
				}
				// What is tested does not survive a power failure anyway; syncing would cost most of the time.
				b, err := sqlite.Open(t.Context(), sqlite.Options{Dir: dir, MaxOpenStores: maxConns, Synchronous: sqlite.Off})
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, b.Close()) })
				return b
			}
		},
		SharedReadOnly: true,
		StoresApart:    true,
		Full:           true,
	})
}
