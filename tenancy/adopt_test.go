package tenancy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

// bare makes a store of nobody.
func bare(t *testing.T, p place, name string) backend.Store {
	s := backend.MustParseStore(name)
	require.NoError(t, p.be.Create(t.Context(), backend.Route{Store: s}))
	return s
}

// Of all who adopt a store or set it aside at once, one does, and a tenant that is there can be used.
func TestAdoptAtOnce(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		apps := []*App{open(t, p.be), open(t, p.backend(t))}
		for i := range 6 {
			s := bare(t, p, fmt.Sprintf("bare%d", i))
			var group sync.WaitGroup
			var mu sync.Mutex
			done := 0
			count := func(err error) {
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					done++
				} else if !errors.Is(err, ErrConflict) {
					assert.ErrorIs(t, err, backend.ErrStoreMissing)
				}
			}
			for n, a := range apps {
				group.Go(func() {
					_, err := a.Adopt(t.Context(), Spec{Slug: fmt.Sprintf("t%d-%d", i, n), Store: s.String()})
					count(err)
				})
			}
			if i%2 == 1 {
				group.Go(func() { _, err := apps[i/2%2].SetAside(t.Context(), s); count(err) })
			}
			group.Wait()
			require.Equal(t, 1, done)
		}
		for tenant, err := range apps[0].Tenants(t.Context(), Filter{}) {
			require.NoError(t, err)
			require.Equal(t, Active, tenant.Status)
			var one int
			require.NoError(t, apps[0].Run(t.Context(), tenant, Policy{AnyVersion: true}, func(ctx context.Context, _ *Tenant) error {
				return apps[0].DB().QueryRowContext(ctx, "SELECT 1").Scan(&one)
			}))
		}
	})
}

// Somebody else comes when the store was looked at: they wait.
func TestAdoptBesideSetAside(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a, other := open(t, p.be), open(t, p.backend(t))
		s := bare(t, p, "bare")
		var group sync.WaitGroup
		var adopted error
		a.step = func(name string) {
			if name == "aside: looked" {
				ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
				defer cancel()
				_, adopted = other.Adopt(ctx, Spec{Store: "bare"})
			}
		}
		group.Go(func() { _, err := a.SetAside(t.Context(), s); assert.NoError(t, err) })
		group.Wait()
		require.ErrorIs(t, adopted, context.DeadlineExceeded)
		requireHealthy(t, a)

		// What could not be stamped is no tenant's.
		s = bare(t, p, "gone")
		other.step = func(name string) {
			if name == "adopt: claimed" {
				assert.NoError(t, p.be.Drop(t.Context(), backend.Route{Store: s}))
			}
		}
		_, err := other.Adopt(t.Context(), Spec{Store: "gone"})
		require.ErrorIs(t, err, backend.ErrStoreMissing)
		_, err = other.BySlug(t.Context(), "gone")
		require.ErrorIs(t, err, ErrNotFound)
		requireHealthy(t, other)
	})
}
