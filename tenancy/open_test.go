package tenancy

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/migrate"
)

func hasPlans(t *testing.T, a *App) bool {
	_, err := a.Shared().ExecContext(t.Context(), "SELECT name FROM plans")
	return err == nil
}

// The first to open makes the tables, however many are first.
func TestOpenAtOnce(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		var group sync.WaitGroup
		for range 4 {
			be := p.backend(t)
			group.Go(func() {
				a, err := Open(t.Context(), be, config())
				if assert.NoError(t, err) {
					assert.NoError(t, a.Close())
				}
			})
		}
		group.Wait()
		a := open(t, p.be)
		require.True(t, hasPlans(t, a))
		create(t, a, "thor")
	})
}

// An application's tables are there already: only the registry's are made, the rest is the migrator's to decide.
func TestOpenOverExistingTables(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		_, err := p.be.Shared().ExecContext(t.Context(), "CREATE TABLE customers (name TEXT)")
		require.NoError(t, err)
		a := open(t, p.be)
		require.False(t, hasPlans(t, a))
		create(t, a, "thor")
		_, err = a.Migrator().Up(t.Context(), migrate.UpOptions{Scope: migrate.SharedOnly})
		require.NoError(t, err)
		require.True(t, hasPlans(t, a))
		_, err = open(t, p.backend(t)).BySlug(t.Context(), "thor")
		require.NoError(t, err)
	})
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	be := newPlace(t, "sqlite:"+t.TempDir()).be
	_, err := Open(t.Context(), be, Config{CacheSize: -1})
	require.ErrorContains(t, err, "CacheSize")
	_, err = Open(t.Context(), be, Config{Tenant: []migrate.Source{{Name: "polls", FS: files("00001_a.sql", "no annotations")}}})
	require.Error(t, err)
	require.NoError(t, be.Close())
	_, err = Open(t.Context(), be, Config{})
	require.Error(t, err)
}
