package migrate_test

import (
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	_ "github.com/tenement-go/tenement/backend/placed"
	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/migrate"
)

// A place that is down keeps nobody from the status of the others, and is named.
func TestStatusWithoutAPlace(t *testing.T) {
	t.Parallel()
	home, eu := pgtest.Shared(t).Database(t), pgtest.Shared(t).Database(t)
	gone, err := url.Parse(eu)
	require.NoError(t, err)
	gone.Host = "127.0.0.1:1" // where nobody listens
	two := func(eu string) *migrate.Migrator {
		be, err := backend.Open(t.Context(), "placed:?home="+url.QueryEscape(home)+"&eu="+url.QueryEscape(eu))
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, be.Close()) })
		return migrator(t, be, tenants(migrate.Source{Name: "app", FS: files("1_a.sql", up("CREATE TABLE a (x INTEGER);"))}))
	}
	m := two(eu)
	_, err = m.Up(t.Context(), migrate.UpOptions{})
	require.NoError(t, err)
	for i, place := range []string{"home", "home", "eu"} {
		require.NoError(t, m.Provision(backend.WithPlace(t.Context(), place), route(i)))
	}
	st, err := m.Status(t.Context())
	require.NoError(t, err)
	assert.Equal(t, migrate.TenantStatus{Total: 3, Current: 3}, st.Tenants)

	st, err = two(gone.String()).Status(t.Context())
	require.ErrorIs(t, err, backend.ErrUnreachable)
	require.ErrorContains(t, err, "place eu")
	require.NotContains(t, err.Error(), "place home")
	require.NotNil(t, st)
	assert.Equal(t, migrate.TenantStatus{Total: 2, Current: 2}, st.Tenants)
	assert.True(t, st.Shared.Current)
}
