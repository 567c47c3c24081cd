package tenancy

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/migrate"
)

func TestDoctor(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		files := t.TempDir()
		a := open(t, p.be, func(c *Config) { c.FilesDir = files })
		thor, odin := create(t, a, "thor"), create(t, a, "odin")
		require.NoError(t, os.WriteFile(filepath.Join(files, "README"), nil, 0o600), "not ours")
		requireHealthy(t, a)
		ctx := t.Context()

		orphan := backend.MustParseStore("orphan")
		require.NoError(t, p.be.Create(ctx, backend.Route{Store: orphan, Owner: "someone"}))
		gone := backend.MustParseStore("gone")
		require.NoError(t, a.Migrator().Provision(ctx, backend.Route{Store: gone, Owner: "someone"}))
		require.NoError(t, p.be.Drop(ctx, backend.Route{Store: gone}))
		require.NoError(t, p.be.Drop(ctx, thor.Route()))
		require.NoError(t, p.be.Drop(ctx, odin.Route()))
		require.NoError(t, p.be.Create(ctx, backend.Route{Store: odin.Store, Owner: string(thor.ID)}))
		nobody := "01900000-0000-7000-8000-000000000000"
		require.NoError(t, os.Mkdir(filepath.Join(files, nobody), 0o700))

		findings, err := a.Doctor(ctx)
		require.NoError(t, err)
		found := map[FindingCode]Finding{}
		for _, f := range findings {
			require.NotContains(t, found, f.Code)
			require.NotEmpty(t, f.Detail)
			found[f.Code] = f
		}
		for code, subject := range map[FindingCode]string{
			FindingStoreOrphan: "orphan", FindingLedgerOrphan: "gone", FindingStoreMissing: "thor", FindingStoreForeign: "odin",
			FindingFilesOrphan: nobody,
		} {
			require.Equal(t, subject, found[code].Subject, code)
		}
		require.Len(t, findings, 5)
		again, err := a.Doctor(ctx)
		require.NoError(t, err)
		require.Equal(t, findings, again, "looking changes nothing")

		for _, f := range findings {
			err := a.Repair(ctx, f)
			if f.Repair == "" {
				require.ErrorIs(t, err, ErrNoRepair)
			} else {
				require.NoError(t, err)
				require.NoError(t, a.Repair(ctx, f), "it is not there any more")
			}
		}
		// Nothing of a customer's is gone.
		_, err = p.be.Stat(ctx, orphan)
		if errors.Is(err, backend.ErrStoreMissing) {
			aside, err := a.AsideStores(ctx)
			require.NoError(t, err)
			require.Len(t, aside, 1)
			require.Equal(t, "orphan", aside[0].Was)
		} else {
			require.NoError(t, err)
			adopted, err := a.BySlug(ctx, "orphan")
			require.NoError(t, err)
			require.Equal(t, Suspended, adopted.Status)
		}
		dirs, err := a.AsideDirs(ctx)
		require.NoError(t, err)
		require.Len(t, dirs, 1)
		require.Equal(t, ID(nobody), dirs[0].Tenant)

		// The way out of a store that is lost.
		_, err = a.Delete(ctx, id(t, a, "thor"))
		require.NoError(t, err)
		require.NoError(t, a.Purge(ctx, id(t, a, "thor")))
		findings, err = a.Doctor(ctx)
		require.NoError(t, err)
		require.Len(t, findings, 1)
		require.Equal(t, FindingStoreForeign, findings[0].Code)
	})
}

// What is under way is no fault.
func TestDoctorWhileCreating(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		var findings []Finding
		var err error
		other := open(t, p.backend(t))
		a := open(t, p.be, func(c *Config) {
			c.Hooks.OnCreate = func(ctx context.Context, _ Tenant, _ Seed) error {
				findings, err = other.Doctor(context.WithoutCancel(t.Context()))
				return err
			}
		})
		create(t, a, "thor")
		require.NoError(t, err)
		require.Empty(t, findings)
		requireHealthy(t, other)
	})
}

// A registry that was put back from before some renames has the stores of tenants at each other's places, and a name that is
// a tenant's no more. The stamps tell whose they are: nobody gets a new ID.
func TestRepairGoesByTheStamps(t *testing.T) {
	for name, renames := range map[string][][2]string{
		"swapped":   {{"thor", "x"}, {"odin", "thor"}, {"x", "odin"}},
		"moved on":  {{"thor", "donar"}, {"odin", "thor"}},
		"in a ring": {{"thor", "x"}, {"odin", "thor"}, {"loki", "odin"}, {"x", "loki"}},
	} {
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, p place) {
				a := open(t, p.be)
				tenants := map[string]Tenant{}
				owner := map[string]string{}
				for _, slug := range []string{"thor", "odin", "loki"} {
					tenants[slug] = create(t, a, slug)
					owner[slug] = string(tenants[slug].ID)
					ask(t, a, enter(t, tenants[slug]), "Of "+slug)
				}
				for _, r := range renames { // as the registry of before knows nothing of them
					from, to := backend.MustParseStore(r[0]), backend.MustParseStore(r[1])
					require.NoError(t, p.be.Rename(t.Context(), backend.Route{Store: from, Owner: owner[r[0]]}, to))
					owner[r[1]] = owner[r[0]]
				}
				for range 2 {
					findings, err := a.Doctor(t.Context())
					require.NoError(t, err)
					for _, f := range findings {
						require.NotEqual(t, FindingStoreOrphan, f.Code, "%+v", f)
						if f.Repair != "" {
							require.NoError(t, a.Repair(t.Context(), f), "%+v", f)
						}
					}
				}
				for slug, before := range tenants {
					now, err := a.ByID(t.Context(), before.ID)
					require.NoError(t, err)
					require.Equal(t, slug, now.Slug)
					require.Equal(t, []string{"Of " + slug}, questions(t, a, enter(t, now)))
				}
				require.Len(t, all(t, a), 3, "nobody was adopted")
				requireHealthy(t, a)

				next := open(t, p.backend(t), func(c *Config) { c.Tenant = []migrate.Source{longerPolls()} })
				requireMigrated(t, next, slices.Sorted(maps.Keys(tenants))...)
			})
		})
	}
}

// requireMigrated has an App migrate all tenants, and fails unless those of the slugs can be entered then.
func requireMigrated(t *testing.T, a *App, slugs ...string) {
	t.Helper()
	res, err := a.Migrator().Up(t.Context(), migrate.UpOptions{})
	require.NoError(t, err)
	require.Zero(t, res.Missing)
	require.Equal(t, len(slugs), res.Applied)
	for _, slug := range slugs {
		require.NoError(t, visit(a, t.Context(), slug, func(ctx context.Context) error {
			_, err := a.DB().ExecContext(ctx, "UPDATE polls SET open = 1")
			return err
		}), slug)
	}
}

// A store that was put there with another tenant's stamp, and entered with that, is migrated as the one whose it becomes.
func TestAdoptedCopyIsMigrated(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		thor := create(t, a, "thor")
		copied := backend.MustParseStore("copied")
		require.NoError(t, p.be.Create(t.Context(), backend.Route{Store: copied, Owner: string(thor.ID)}))
		_, err := a.Migrator().Verify(t.Context(), migrate.Fleet{})
		require.NoError(t, err)
		adopted, err := a.Adopt(t.Context(), Spec{Store: "copied"})
		require.NoError(t, err)
		require.NotEqual(t, thor.ID, adopted.ID)
		requireMigrated(t, open(t, p.backend(t), func(c *Config) { c.Tenant = []migrate.Source{longerPolls()} }), "thor", "copied")
		requireHealthy(t, a)
	})
}

func all(t *testing.T, a *App) (tenants []Tenant) {
	for tenant, err := range a.Tenants(t.Context(), Filter{}) {
		require.NoError(t, err)
		tenants = append(tenants, tenant)
	}
	return tenants
}

// The files of a tenant who is brought here are his already.
func TestFilesOfAnArrival(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		files := t.TempDir()
		a := open(t, p.be, func(c *Config) { c.FilesDir = files })
		id, err := newID()
		require.NoError(t, err)
		require.NoError(t, p.be.Create(t.Context(), backend.Route{Store: backend.MustParseStore("thor"), Owner: ArrivalOwner(id)}))
		require.NoError(t, os.Mkdir(filepath.Join(files, string(id)), 0o700))
		findings, err := a.Doctor(t.Context())
		require.NoError(t, err)
		require.Len(t, findings, 1)
		require.Equal(t, FindingArrival, findings[0].Code)
		require.NoError(t, a.Repair(t.Context(), Finding{Code: FindingFilesOrphan, Subject: string(id)}))
		require.DirExists(t, filepath.Join(files, string(id)))
	})
}
