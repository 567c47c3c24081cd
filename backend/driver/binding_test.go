package driver

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

// A unit of work goes on when its tenant was renamed or made read-only in between, and never for another.
func TestBindingFollowsTheOwner(t *testing.T) {
	t.Parallel()
	thor := backend.Route{Store: backend.MustParseStore("thor"), Owner: "1"}
	renamed := backend.Route{Store: backend.MustParseStore("donar"), Owner: "1"}
	frozen := thor
	frozen.ReadOnly = true
	var routed Binding
	for _, now := range []backend.Route{thor, renamed, frozen} {
		got, err := routed.Route(backend.WithRoute(t.Context(), now), Unit{Route: thor, InTx: true})
		require.NoError(t, err)
		require.Equal(t, thor, got, "it stays what it began as")
	}
	for _, other := range []backend.Route{
		{Store: thor.Store, Owner: "2"}, {Store: thor.Store}, {Store: renamed.Store, Owner: "2"},
	} {
		_, err := routed.Route(backend.WithRoute(t.Context(), other), Unit{Route: thor, InTx: true})
		require.ErrorIs(t, err, backend.ErrTenantMismatch)
	}
	nobodys := backend.Route{Store: thor.Store}
	_, err := routed.Route(backend.WithStore(t.Context(), renamed.Store), Unit{Route: nobodys, InTx: true})
	require.ErrorIs(t, err, backend.ErrTenantMismatch)

	// Each statement on a connection that is held is a unit of work.
	for _, now := range []backend.Route{thor, frozen} {
		for _, before := range []backend.Route{thor, frozen} {
			got, err := routed.Route(backend.WithRoute(t.Context(), now), Unit{Route: before})
			require.NoError(t, err)
			require.Equal(t, now, got)
			got, err = Binding{ReadOnly: true}.Route(backend.WithRoute(t.Context(), now), Unit{Route: before})
			require.NoError(t, err)
			require.Equal(t, frozen, got)
		}
	}

	bound := Binding{Fixed: thor}
	got, err := bound.Route(backend.WithRoute(t.Context(), frozen), Unit{})
	require.NoError(t, err)
	require.True(t, got.ReadOnly)
}
