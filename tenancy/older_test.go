package tenancy

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
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

				putBack(t, a)
				putBackOperations(t, a)
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

// An import that is not over by such a registry has a customer's store and files by now. It is undone, and they are kept.
func TestOlderRegistryKeepsTheFiles(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		dir := t.TempDir()
		a := open(t, p.be, func(c *Config) { c.FilesDir = dir })
		write := func(tenant Tenant, name string) {
			root, err := a.Dir(enter(t, tenant))
			require.NoError(t, err)
			defer root.Close()
			require.NoError(t, root.WriteFile(name, []byte(name), 0o600))
		}
		thor, err := a.CreateBy(t.Context(), Spec{Slug: "thor"}, func(ctx context.Context, tenant Tenant) error {
			err := fillBy(a)(ctx, tenant)
			keepOperations(t, a)
			backUp(t, a)
			return err
		})
		require.NoError(t, err)
		write(thor, "invoice")

		// It may be put back more than once.
		for i := range 2 {
			putBack(t, a)
			putBackOperations(t, a)
			require.NoError(t, a.FinishOperations(t.Context()))
			_, err = a.ByID(t.Context(), thor.ID)
			require.ErrorIs(t, err, ErrNotFound)
			requireHealthy(t, a)
			dirs, err := a.AsideDirs(t.Context())
			require.NoError(t, err)
			require.Len(t, dirs, i+1)
			for _, d := range dirs {
				require.Equal(t, thor.ID, d.Tenant)
			}
			require.NoError(t, os.MkdirAll(filepath.Join(dir, string(thor.ID)), 0o700), "there are some again")
		}
		require.NoError(t, os.Remove(filepath.Join(dir, string(thor.ID))))
		kept, err := filepath.Glob(filepath.Join(dir, "*", "invoice"))
		require.NoError(t, err)
		require.Len(t, kept, 1)
		stores, err := a.AsideStores(t.Context())
		require.NoError(t, err)
		require.Len(t, stores, 1)

		// They go when somebody says so, and nothing else does.
		require.NoError(t, os.Mkdir(filepath.Join(dir, "aside"), 0o700))
		for _, name := range []string{string(thor.ID), "aside", "aside-", "aside-" + string(thor.ID), "aside-x", "../" + filepath.Base(dir), ""} {
			require.ErrorIs(t, a.PurgeAsideDir(t.Context(), name), fs.ErrNotExist, name)
		}
		dirs, err := a.AsideDirs(t.Context())
		require.NoError(t, err)
		for _, d := range dirs {
			require.NoError(t, a.PurgeAsideDir(t.Context(), d.Name))
		}
		left, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Len(t, left, 1)
	})
}

func keepOperations(t *testing.T, a *App) {
	_, err := a.Shared().ExecContext(t.Context(), "CREATE TABLE kept_operations AS SELECT * FROM tenement_operations")
	require.NoError(t, err)
}

func putBackOperations(t *testing.T, a *App) {
	for _, statement := range []string{
		`DELETE FROM tenement_operations`,
		`INSERT INTO tenement_operations (tenant, kind, step, args, slug, fence, stopped, started_at, error)
			SELECT tenant, kind, step, args, slug, fence, stopped, started_at, error FROM kept_operations`,
	} {
		_, err := a.Shared().ExecContext(t.Context(), statement)
		require.NoError(t, err)
	}
}
