package tenancy

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

// Whoever enters while another announces the App waits for that no longer than its own context lasts: with a mutex a
// hundred of them waited for a registry whose disk was full.
func TestWaitForTheAnnouncementEnds(t *testing.T) {
	t.Parallel()
	be, err := backend.Open(t.Context(), "sqlite:"+t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, be.Close()) })
	a := open(t, be)
	thor := create(t, a, "thor")

	require.NoError(t, a.announced.turn.Acquire(t.Context(), 1)) // somebody is at it
	ctx, cancel := context.WithCancel(t.Context())
	entered := make(chan error)
	go func() {
		_, _, leave, err := a.Enter(ctx, thor.ID, Policy{})
		leave()
		entered <- err
	}()
	cancel()
	err = <-entered
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, ErrUnavailable)
	a.announced.turn.Release(1)

	_, _, leave, err := a.Enter(t.Context(), thor.ID, Policy{})
	require.NoError(t, err)
	leave()
}
