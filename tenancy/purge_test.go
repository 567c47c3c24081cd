package tenancy

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

// A purge beside changes of the tenant is a purge, or says what the tenant is now.
func TestPurgeBesideUpdate(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a, other := open(t, p.be), open(t, p.backend(t))
		meanwhile := func(slug string, do func(id ID)) error {
			tenant := create(t, a, slug)
			_, err := a.Delete(t.Context(), tenant.ID)
			require.NoError(t, err)
			once := false
			a.step = func(name string) {
				if name == "purge: heard" && !once {
					once = true
					do(tenant.ID)
				}
			}
			return a.Purge(t.Context(), tenant.ID)
		}
		name := "new"
		update := func(id ID) { _, err := other.Update(t.Context(), id, Patch{Name: &name}); assert.NoError(t, err) }
		restore := func(id ID) { _, err := other.Restore(t.Context(), id); assert.NoError(t, err) }
		require.NoError(t, meanwhile("thor", update))
		require.ErrorIs(t, meanwhile("odin", restore), ErrStatus)
		require.NoError(t, meanwhile("loki", func(id ID) {
			restore(id)
			_, err := other.Delete(t.Context(), id)
			assert.NoError(t, err)
		}))
		requireHealthy(t, a)
	})
}

// interjected does something once, before somebody gets a lock.
type interjected struct {
	backend.Locker
	key string
	do  func()
}

func (l *interjected) Lock(ctx context.Context, key string) (backend.Lock, error) {
	if do := l.do; do != nil && key == l.key {
		l.do = nil
		do()
	}
	return l.Locker.Lock(ctx, key)
}

// Who waits to go on with a creation that failed, while its tenant is purged, makes another tenant: an ID is never used again.
func TestPurgedWhileItIsCreatedAgain(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a, other := open(t, p.be), open(t, p.be)
		a.cfg.Hooks.OnCreate = func(context.Context, Tenant, Seed) error { return errors.New("no") }
		_, err := a.Create(t.Context(), Spec{Slug: "thor"})
		require.Error(t, err)
		failed := bySlug(t, a, "thor")
		a.cfg.Hooks.OnCreate = nil
		a.locker = &interjected{a.locker, "tenement/tenant/" + string(failed.ID), func() {
			_, err := other.Delete(t.Context(), failed.ID)
			assert.NoError(t, err)
			assert.NoError(t, other.Purge(t.Context(), failed.ID))
		}}
		thor, err := a.Create(t.Context(), Spec{Slug: "thor"})
		require.NoError(t, err)
		require.NotEqual(t, failed.ID, thor.ID)
		require.Equal(t, Active, thor.Status)
		_, err = a.ByID(t.Context(), failed.ID)
		require.ErrorIs(t, err, ErrNotFound)
		requireHealthy(t, a)
	})
}
