package tenancy

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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
