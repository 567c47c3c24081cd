package tenancy

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/internal/wireproxy"
)

// While the registry cannot be reached, those who are known are served, and of the others it is not said that there
// are none.
func TestRegistryUnreachable(t *testing.T) {
	t.Parallel()
	url := pgtest.Shared(t).Database(t)
	proxy, err := wireproxy.NewURL(url)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, proxy.Close()) })
	be, err := backend.Open(t.Context(), proxy.URL(url))
	require.NoError(t, err)
	t.Cleanup(func() { _ = be.Close() })
	a := open(t, be)
	thor := create(t, a, "thor", "thor.example")
	create(t, a, "odin", "odin.example")
	_, err = a.Resolve(t.Context(), "thor.example")
	require.NoError(t, err)
	_, err = a.Resolve(t.Context(), "nobody.example")
	require.ErrorIs(t, err, ErrUnknownHost)
	require.NoError(t, visit(a, t.Context(), "thor", func(context.Context) error { return nil }))

	proxy.Refuse(true)
	proxy.CutAll()
	require.ErrorIs(t, a.Refresh(t.Context()), ErrUnavailable)
	got, err := a.Resolve(t.Context(), "thor.example")
	require.NoError(t, err)
	_, _, done, err := a.Enter(t.Context(), got, Policy{})
	require.NoError(t, err)
	done()
	_, err = a.Resolve(t.Context(), "nobody.example")
	require.ErrorIs(t, err, ErrUnknownHost, "that was known")
	_, err = a.Resolve(t.Context(), "odin.example")
	require.ErrorIs(t, err, ErrUnavailable)
	require.NotErrorIs(t, err, ErrNotFound)
	_, err = a.Suspend(t.Context(), thor.ID, "unpaid")
	require.Error(t, err)

	proxy.Refuse(false)
	require.NoError(t, a.Refresh(t.Context()))
	got, err = a.Resolve(t.Context(), "odin.example")
	require.NoError(t, err)
	require.Equal(t, "odin", got.Slug)
	now, err := a.BySlug(t.Context(), "thor")
	require.NoError(t, err)
	require.Equal(t, thor, now)
}

// A cold look-up is one question to the registry and one round trip to the server.
func TestColdLookUpIsOneRoundTrip(t *testing.T) {
	t.Parallel()
	url := pgtest.Shared(t).Database(t)
	proxy, err := wireproxy.NewURL(url)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, proxy.Close()) })
	be, err := backend.Open(t.Context(), proxy.URL(url))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, be.Close()) })
	a := open(t, be)
	create(t, a, "thor", "thor.example", "donar.example")
	_, err = a.Resolve(t.Context(), "thor.example") // prepares the statement
	require.NoError(t, err)
	proxy.ResetRoundTrips()
	_, err = a.Resolve(t.Context(), "donar.example")
	require.NoError(t, err)
	require.EqualValues(t, 1, proxy.RoundTrips())
	_, err = a.Resolve(t.Context(), "donar.example")
	require.NoError(t, err)
	require.EqualValues(t, 1, proxy.RoundTrips())
}

// A registry that hangs is as good as one that is not there.
func TestRegistryHangs(t *testing.T) {
	t.Parallel()
	a := open(t, newPlace(t, "sqlite:"+t.TempDir()).be, func(c *Config) { c.LookupTimeout = time.Nanosecond })
	_, err := a.Resolve(t.Context(), "thor.example")
	require.ErrorIs(t, err, ErrUnavailable)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NotErrorIs(t, err, ErrNotFound)
}
