package placed_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/placed"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// Who has lost a lock at home, and has it in a place still, does not wait for a name for as long as somebody has that who got
// the lock since, and waits for it in the place.
func TestLostLockWaitsForNoName(t *testing.T) {
	t.Parallel()
	home, eu := placed.Place{Name: "home", URL: pgtest.Shared(t).Database(t)}, placed.Place{Name: "eu", URL: pgtest.Shared(t).Database(t)}
	one, other := open(t, home, eu), open(t, home, eu)
	old, fresh := route("old"), route("fresh")
	thor, aside := route("thor").Store, route("aside").Store
	for _, rt := range []backend.Route{old, fresh} {
		require.NoError(t, one.Create(backend.WithPlace(t.Context(), "eu"), rt))
	}

	lost, err := one.Lock(t.Context(), "tenant")
	require.NoError(t, err)
	require.NoError(t, one.Rename(lost.Fence(t.Context()), old, aside), "it has the lock in the place")
	var n int
	require.NoError(t, one.Shared().QueryRowContext(t.Context(), `SELECT count(pg_terminate_backend(pid, 60000)) FROM (SELECT DISTINCT pid FROM pg_locks
		WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND granted AND pid <> pg_backend_pid()
		AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) l`).Scan(&n))
	require.Equal(t, 1, n)

	held, err := other.Lock(t.Context(), "tenant")
	require.NoError(t, err)
	defer held.Unlock()
	defer lost.Unlock() // first: that one may be waited for
	renamed := make(chan error, 1)
	go func() { renamed <- other.Rename(held.Fence(t.Context()), fresh, thor) }()
	third, err := backend.Open(t.Context(), home.URL)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, third.Close()) })
	require.Eventually(t, func() bool {
		short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		name, err := third.(backend.Locker).Lock(short, "tenement/place/thor")
		if err == nil {
			name.Unlock()
		}
		return err != nil && short.Err() != nil
	}, time.Minute, time.Millisecond, "the other one has the name")

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.ErrorIs(t, one.Rename(lost.Fence(ctx), fresh, thor), backend.ErrLockLost)
	lost.Unlock()
	require.NoError(t, <-renamed)
	at, err := other.PlaceOf(t.Context(), thor)
	require.NoError(t, err)
	require.Equal(t, "eu", at)
}
