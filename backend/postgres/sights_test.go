package postgres

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// What a connection remembers of the texts that it has run is bounded, also while it is held.
func TestSightsAreBounded(t *testing.T) {
	t.Parallel()
	be, err := Open(t.Context(), pgtest.Shared(t).Database(t), Config{FirstSights: 8})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, be.Close()) })
	rt := backend.Route{Store: backend.MustParseStore("a"), Owner: "a"}
	require.NoError(t, be.Create(t.Context(), rt))
	s, err := be.acquire(t.Context(), rt, driver.AccessTenant)
	require.NoError(t, err)
	defer s.Release()
	for i := range 20 {
		_, err := s.exec(t.Context(), fmt.Sprintf("SELECT $1::int + %d", i), []any{1})
		require.NoError(t, err)
	}
	require.Len(t, s.c.sights, 8)
}

// However much a connection may see, it costs nothing before it is seen.
func TestLargeFirstSights(t *testing.T) {
	t.Parallel()
	be, err := Open(t.Context(), pgtest.Shared(t).Database(t)+"&first_sights=2305843009213693952", Config{}) // 1 << 61
	require.NoError(t, err)
	require.NoError(t, be.Close())
}
