package tenancy

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

// A registry that is older than a tenant's store knows of a creation that is not over. Going on with that destroys nothing.
func TestOlderRegistryKeepsTheStore(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		for _, variant := range []string{"failed", "unfinished"} {
			t.Run(variant, func(t *testing.T) {
				p := newPlaceLike(t, p)
				fail := true
				a := open(t, p.be, func(c *Config) {
					c.Hooks.OnCreate = func(context.Context, Tenant, Seed) error {
						if fail {
							return errors.New("no hammer")
						}
						return nil
					}
				})
				spec := Spec{Slug: "thor"}
				if variant == "failed" {
					_, err := a.Create(t.Context(), spec)
					require.ErrorContains(t, err, "no hammer")
					_, err = p.be.Stat(t.Context(), backend.MustParseStore("thor"))
					require.ErrorIs(t, err, backend.ErrStoreMissing, "what was made in vain is removed")
				} else {
					fail = false
					interrupted(t, p, "create: provisioned", func(a *App) error { _, err := a.Create(t.Context(), spec); return err },
						func(c *Config) { c.Hooks.OnCreate = a.cfg.Hooks.OnCreate })
				}
				fail = false
				keepOperations(t, a)
				backUp(t, a)
				if variant == "failed" {
					create(t, a, "thor")
				} else {
					require.NoError(t, a.FinishOperations(t.Context()))
				}
				thor, err := a.BySlug(t.Context(), "thor")
				require.NoError(t, err)
				require.Equal(t, Active, thor.Status)
				ask(t, a, enter(t, thor), "Hammer?")
				before, err := a.AsideStores(t.Context())
				require.NoError(t, err)

				_, err = a.Shared().ExecContext(t.Context(), "DELETE FROM tenement_operations")
				require.NoError(t, err)
				putBack(t, a)
				_, err = a.Shared().ExecContext(t.Context(), `INSERT INTO tenement_operations
					(tenant, kind, step, args, slug, fence, stopped, started_at, error)
					SELECT tenant, kind, step, args, slug, fence, stopped, started_at, error FROM kept_operations`)
				require.NoError(t, err)
				if variant == "failed" {
					create(t, a, "thor")
				} else {
					require.NoError(t, a.FinishOperations(t.Context()))
				}
				again, err := a.BySlug(t.Context(), "thor")
				require.NoError(t, err)
				require.Equal(t, thor.ID, again.ID)
				require.Empty(t, questions(t, a, enter(t, again)))
				after, err := a.AsideStores(t.Context())
				require.NoError(t, err)
				require.Len(t, after, len(before)+1)
				var asked []string
				for _, aside := range after {
					rt := backend.Route{Store: aside.Store, Owner: aside.Owner}
					asked = append(asked, questions(t, a, backend.WithRoute(t.Context(), rt))...)
				}
				require.Equal(t, []string{"Hammer?"}, asked)
				requireHealthy(t, a)
			})
		}
	})
}

func keepOperations(t *testing.T, a *App) {
	_, err := a.Shared().ExecContext(t.Context(), "CREATE TABLE kept_operations AS SELECT * FROM tenement_operations")
	require.NoError(t, err)
}
