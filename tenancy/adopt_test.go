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
	"github.com/tenement-go/tenement/migrate"
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

// requireServed shows that an App finds a tenant by all that leads to it, and lets in.
func requireServed(t *testing.T, a *App, want Tenant, hosts ...string) {
	for _, host := range hosts {
		found, err := a.Resolve(t.Context(), host)
		require.NoError(t, err, host)
		require.Equal(t, want.ID, found.ID)
	}
	found, err := a.ResolveID(t.Context(), want.ID)
	require.NoError(t, err)
	require.Equal(t, Active, found.Status)
	byID, err := a.ByID(t.Context(), want.ID)
	require.NoError(t, err)
	require.Equal(t, want.Store, byID.Store)
	bySlug, err := a.BySlug(t.Context(), want.Slug)
	require.NoError(t, err)
	require.Equal(t, want.ID, bySlug.ID)
	for _, who := range []Referrer{want, found, &byID} {
		require.NoError(t, a.Run(t.Context(), who, Policy{}, func(ctx context.Context, _ *Tenant) error {
			require.Equal(t, []string{"Hammer?"}, questions(t, a, ctx))
			return nil
		}))
	}
}

// A purged tenant that comes back under its ID is known again, in every process that knew it; what somebody read of it before
// is not believed any more.
func TestTenantComesBackUnderItsID(t *testing.T) {
	purge := func(t *testing.T, a *App, id ID) {
		_, err := a.Delete(t.Context(), id)
		require.NoError(t, err)
		_, err = a.Shared().ExecContext(t.Context(), "DELETE FROM tenement_apps") // those wait an hour for a change to be heard of
		require.NoError(t, err)
		require.NoError(t, a.Purge(t.Context(), id))
	}
	adopt := func(t *testing.T, p place, a, adopter *App, thor Tenant) (hosts []string) {
		require.NoError(t, p.be.Rename(t.Context(), thor.Route(), backend.MustParseStore("kept")))
		purge(t, a, thor.ID)
		back, err := adopter.Adopt(t.Context(), Spec{Slug: "thor", Store: "kept", Domains: []string{"thor.example"}})
		require.NoError(t, err)
		require.Equal(t, thor.ID, back.ID)
		require.NoError(t, adopter.Run(t.Context(), &back, Policy{}, func(context.Context, *Tenant) error { return nil }))
		return []string{"thor.example"}
	}
	ways := map[string]func(t *testing.T, p place, a, other *App, thor Tenant) (hosts []string){
		"adopted": func(t *testing.T, p place, a, _ *App, thor Tenant) []string { return adopt(t, p, a, a, thor) },
		"adopted before its purge was heard of": func(t *testing.T, p place, a, other *App, thor Tenant) []string {
			return adopt(t, p, a, other, thor)
		},
		"found by the doctor": func(t *testing.T, _ place, a, _ *App, thor Tenant) []string {
			putBack(t, a)
			require.NoError(t, a.Refresh(t.Context()))
			_, err := a.ResolveID(t.Context(), thor.ID)
			require.ErrorIs(t, err, ErrNotFound)
			findings, err := a.Doctor(t.Context())
			require.NoError(t, err)
			for _, f := range findings {
				require.NoError(t, a.Repair(t.Context(), f))
			}
			_, err = a.Activate(t.Context(), thor.ID)
			require.NoError(t, err)
			return nil
		},
		"moved away and back": func(t *testing.T, p place, a, _ *App, thor Tenant) []string {
			there, kept := open(t, newPlaceLike(t, p).be), backend.MustParseStore("kept")
			require.NoError(t, there.Migrator().Provision(t.Context(), thor.route()))
			require.NoError(t, there.Enroll(t.Context(), a, []ID{thor.ID}))
			require.NoError(t, p.be.Rename(t.Context(), thor.route(), kept))
			purge(t, a, thor.ID)
			require.NoError(t, p.be.Rename(t.Context(), backend.Route{Store: kept, Owner: string(thor.ID)}, thor.Store))
			require.NoError(t, a.Enroll(t.Context(), there, []ID{thor.ID}))
			_, err := a.Migrator().Verify(t.Context(), migrate.Fleet{Stores: []backend.Store{thor.Store}})
			require.NoError(t, err)
			return []string{"thor.example"}
		},
	}
	for name, comeBack := range ways {
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, p place) {
				a, other := open(t, p.be), open(t, p.backend(t))
				backUp(t, a)
				thor := create(t, a, "thor", "thor.example")
				ask(t, a, enter(t, thor), "Hammer?")
				for _, app := range []*App{a, other} {
					requireServed(t, app, thor, "thor.example")
				}
				hosts := comeBack(t, p, a, other, thor)
				now, err := one(t.Context(), a.reg.db, selectByID, string(thor.ID))
				require.NoError(t, err)
				for _, app := range []*App{a, other} {
					require.NoError(t, app.Refresh(t.Context()))
					requireServed(t, app, *now, hosts...)
				}
				if name != "moved away and back" { // the times and versions of which are those of there
					stale := thor
					stale.Version = now.Version + 10
					require.NotSame(t, &stale, a.lives.learn(&stale))
				}
				purge(t, other, thor.ID)
				require.NoError(t, a.Refresh(t.Context()))
				for _, app := range []*App{a, other} {
					late := *now
					late.Version++
					require.Nil(t, app.lives.learn(&late), "who read it before the purge does not bring it back")
					_, err := app.ResolveID(t.Context(), thor.ID)
					require.ErrorIs(t, err, ErrNotFound)
				}
			})
		})
	}
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
