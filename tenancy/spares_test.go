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
	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/internal/wireproxy"
	"github.com/tenement-go/tenement/migrate"
)

// withSpares keeps n spares, which are made when the test says so.
func withSpares(n int) func(*Config) { return func(c *Config) { c.Spares = n } }

// openFilled opens an App whose spares are there.
func openFilled(t *testing.T, be backend.Backend, n int, change ...func(*Config)) *App {
	a := open(t, be, append(change, withSpares(n))...)
	require.NoError(t, a.FillSpares(t.Context()))
	return a
}

// usable counts the spares that an App can give away.
func usable(t *testing.T, a *App) (n int) {
	list, err := a.Spares(t.Context())
	require.NoError(t, err)
	for _, s := range list {
		if s.Ready {
			n++
		}
	}
	return n
}

// fromSpare reports whether a tenant was made of a spare.
func fromSpare(t Tenant) bool { return t.ofSpare() }

// requirePurged deletes and purges a tenant that was made of a spare, and looks for what is left.
func requirePurged(t *testing.T, a *App, of Tenant) {
	t.Helper()
	_, err := a.Delete(t.Context(), of.ID)
	require.NoError(t, err)
	require.NoError(t, a.Purge(t.Context(), of.ID))
	_, err = a.be.Stat(t.Context(), of.Store)
	require.ErrorIs(t, err, backend.ErrStoreMissing)
	requireHealthy(t, a)
}

// A tenant that is made of a spare is like any other: served, entered into the ledger, renamed without its store, deleted and
// purged. The doctor has nothing to say about spares, and no status counts them.
func TestCreateFromSpare(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		var events []EventKind
		a := openFilled(t, p.be, 3, func(c *Config) {
			c.Hooks.OnChange = func(_ context.Context, e Event) { events = append(events, e.Kind) }
		})
		requireHealthy(t, a)
		require.Equal(t, 3, usable(t, a))
		st, err := a.Migrator().Status(t.Context())
		require.NoError(t, err)
		require.Zero(t, st.Tenants.Total)
		_, err = a.Migrator().Verify(t.Context(), migrate.Fleet{})
		require.NoError(t, err)
		st, err = a.Migrator().Status(t.Context())
		require.NoError(t, err)
		require.Zero(t, st.Tenants.Total, "nor does a look at all stores")

		thor, err := a.Create(t.Context(), Spec{Slug: "thor", Name: "Thor", Domains: []string{"thor.example", "t.example"}, Meta: map[string]any{"plan": "pro"}})
		require.NoError(t, err)
		require.True(t, fromSpare(thor))
		require.Equal(t, Active, thor.Status)
		require.Equal(t, EventCreated, events[len(events)-1])
		again, err := a.Resolve(t.Context(), "thor.example")
		require.NoError(t, err)
		require.Equal(t, thor.ID, again.ID)
		fresh, err := one(t.Context(), a.reg.db, selectByID, string(thor.ID))
		require.NoError(t, err)
		fresh.live, thor.live = nil, nil
		require.JSONEq(t, `{"plan": "pro"}`, string(fresh.Meta))
		fresh.Meta = thor.Meta
		require.Equal(t, thor, *fresh)
		require.Equal(t, "thor.example", thor.PrimaryDomain())
		require.NoError(t, a.Migrator().Ready(t.Context(), thor.Route()), "the ledger has its row")
		ask(t, a, enter(t, thor), "Hammer?")
		require.Equal(t, 2, usable(t, a))
		requireHealthy(t, a)

		thor, err = a.Rename(t.Context(), thor.ID, "thunder")
		require.NoError(t, err)
		require.True(t, fromSpare(thor))
		require.Equal(t, []string{"Hammer?"}, questions(t, a, enter(t, thor)))
		requirePurged(t, a, thor)
	})
}

// A spare that is given away while the doctor looks at it is no fault.
func TestDoctorBesideSignUps(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := openFilled(t, p.be, 2)
		once := false
		a.step = func(name string) {
			if name == "examine: spare seen" && !once {
				once = true
				require.True(t, fromSpare(create(t, a, "thor")))
				require.True(t, fromSpare(create(t, a, "odin")))
			}
		}
		requireHealthy(t, a)
		require.True(t, once)
		a.step = func(string) {}
		requireHealthy(t, a)
	})
}

// A spare that is asked for in vain is still there: what is taken is said as without spares.
func TestSpareErrors(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := openFilled(t, p.be, 2)
		_, err := a.Create(t.Context(), Spec{Slug: "thor", Domains: []string{"thor.example"}})
		require.NoError(t, err)
		for _, spec := range []Spec{{Slug: "thor"}, {Slug: "loki", Domains: []string{"thor.example"}}} {
			_, err = a.Create(t.Context(), spec)
			var taken *ConflictError
			require.ErrorAs(t, err, &taken)
			require.Equal(t, "thor", taken.By)
		}
		require.Equal(t, 1, usable(t, a))
		named, err := a.Create(t.Context(), Spec{Slug: "odin", Store: "valhalla"})
		require.NoError(t, err)
		require.Equal(t, "valhalla", named.Store.String())
		_, err = a.CreateBy(t.Context(), Spec{Slug: "freya"}, func(ctx context.Context, f Tenant) error { return a.Migrator().Provision(ctx, f.Route()) })
		require.NoError(t, err)
		require.Equal(t, 1, usable(t, a), "who names a store, or makes it, needs no spare")
		create(t, a, "sif")
		require.Equal(t, 0, usable(t, a))
		require.False(t, fromSpare(create(t, a, "baldr")), "and where there is none, the ordinary way")
		requireHealthy(t, a)
	})
}

// OnCreate is called in a spare too, domains wait for their approval, and a failure leaves no store.
func TestSpareHooks(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		fail := errors.New("no hammer")
		var fault error
		a := openFilled(t, p.be, 3, func(c *Config) {
			c.Hooks.ApproveDomain = func(_ context.Context, _ Tenant, d PendingDomain) error {
				if d.Host == "late.example" {
					return errors.New("not yet")
				}
				return nil
			}
		})
		a.cfg.Hooks.OnCreate = func(ctx context.Context, f Tenant, seed Seed) error {
			ask(t, a, ctx, "Welcome "+string(seed))
			return fault
		}
		thor, err := a.Create(t.Context(), Spec{Slug: "thor", Domains: []string{"late.example", "thor.example"}, Seed: 7})
		require.NoError(t, err)
		require.True(t, fromSpare(thor))
		require.Equal(t, []Domain{{Host: "thor.example", Primary: true}}, thor.Domains, "the other one is not approved")
		require.Equal(t, []string{"Welcome 7"}, questions(t, a, enter(t, thor)))
		fault = fail
		_, err = a.Create(t.Context(), Spec{Slug: "loki"})
		require.ErrorIs(t, err, fail)
		loki := bySlug(t, a, "loki")
		require.Equal(t, Failed, loki.Status)
		_, err = a.be.Stat(t.Context(), loki.Store)
		require.ErrorIs(t, err, backend.ErrStoreMissing)
		fault = nil
		again := create(t, a, "loki")
		require.Equal(t, loki.ID, again.ID)
		require.Equal(t, []string{"Welcome "}, questions(t, a, enter(t, again)))
		require.Equal(t, 1, usable(t, a))
		requireHealthy(t, a)
	})
}

// Two processes, each with a pool of one connection on Postgres, never claim one spare.
func TestSparesAreClaimedOnce(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		one := p
		if p.be.Dialect() == backend.Postgres {
			one.url += "&pool_max_conns=1"
		}
		const each = 6
		first := openFilled(t, one.backend(t), 8)
		apps := []*App{first, open(t, one.backend(t), withSpares(8))}
		var mu sync.Mutex
		var group sync.WaitGroup
		stores, spares := map[string]bool{}, 0
		for i, a := range apps {
			for j := range each {
				group.Go(func() {
					tenant, err := a.Create(t.Context(), Spec{Slug: fmt.Sprintf("t%d-%d", i, j)})
					if !assert.NoError(t, err) {
						return
					}
					ask(t, a, enter(t, tenant), "Hammer?")
					mu.Lock()
					defer mu.Unlock()
					stores[tenant.Store.String()] = true
					if fromSpare(tenant) {
						spares++
					}
				})
			}
		}
		group.Wait()
		require.Len(t, stores, 2*each)
		require.Equal(t, 8, spares)
		require.NoError(t, first.FillSpares(t.Context()))
		require.Equal(t, 8, usable(t, first))
		requireHealthy(t, first)
	})
}

// A new version makes the spares anew, an older one leaves those of a later alone, and both make tenants.
func TestSparesOfAnotherVersion(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		old := openFilled(t, p.be, 2)
		later := open(t, p.backend(t), withSpares(2), func(c *Config) { c.Tenant = []migrate.Source{longerPolls()} })
		require.Zero(t, usable(t, later))
		require.False(t, fromSpare(create(t, later, "thor")))
		require.NoError(t, later.FillSpares(t.Context()))
		require.Equal(t, 2, usable(t, later))
		list, err := later.Spares(t.Context())
		require.NoError(t, err)
		require.Len(t, list, 2)

		require.NoError(t, old.FillSpares(t.Context()))
		require.False(t, fromSpare(create(t, old, "loki")))
		require.Equal(t, 2, usable(t, later))
		odin := create(t, later, "odin")
		require.True(t, fromSpare(odin))
		require.NoError(t, later.Migrator().Ready(t.Context(), odin.Route()))
	})
}

// Who wants fewer has the others removed; who wants none is told of them, and a repair removes them.
func TestSparesNoLongerWanted(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		openFilled(t, p.be, 4)
		fewer := openFilled(t, p.backend(t), 1)
		require.Equal(t, 1, usable(t, fewer))
		none := open(t, p.backend(t))
		require.False(t, fromSpare(create(t, none, "thor")))
		findings, err := none.Doctor(t.Context())
		require.NoError(t, err)
		require.Len(t, findings, 1)
		require.Equal(t, FindingSpare, findings[0].Code)
		_, err = none.Adopt(t.Context(), Spec{Store: findings[0].Subject, Slug: "loki"})
		require.ErrorIs(t, err, ErrConflict)
		require.NoError(t, none.Repair(t.Context(), findings[0]))
		requireHealthy(t, none)
		for info, err := range none.be.Stores(t.Context()) {
			require.NoError(t, err)
			require.Equal(t, "thor", info.Store.String())
		}
	})
}

// An App fills the pool by itself, when it is opened and behind those who take from it.
func TestSparesAreFilledBehind(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be, withSpares(2), func(c *Config) { c.PollInterval = 10 * time.Millisecond })
		for i := range 2 {
			require.Eventually(t, func() bool { return usable(t, a) == 2 }, 20*time.Second, 5*time.Millisecond)
			require.True(t, fromSpare(create(t, a, fmt.Sprint("t", i))))
			require.True(t, fromSpare(create(t, a, fmt.Sprint("u", i))))
		}
	})
}

// A registry that is older than its stores takes for a spare what has become a customer's. That is neither given away nor
// removed.
func TestOlderRegistryKeepsASpareThatWasGiven(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := openFilled(t, p.be, 1)
		list, err := a.Spares(t.Context())
		require.NoError(t, err)
		thor := create(t, a, "thor")
		require.True(t, fromSpare(thor))
		ask(t, a, enter(t, thor), "Hammer?")
		for _, query := range []string{
			`DELETE FROM tenement_tenants`, `DELETE FROM tenement_spares`,
			`INSERT INTO tenement_spares (id, state, fingerprint) VALUES ('` + string(list[0].ID) + `', 'ready', '` + list[0].print + `')`,
		} {
			_, err := a.Shared().ExecContext(t.Context(), query)
			require.NoError(t, err)
		}
		require.NoError(t, a.forgetAll(t.Context()))
		loki := create(t, a, "loki")
		require.False(t, fromSpare(loki))
		require.Empty(t, questions(t, a, enter(t, loki)))
		require.NoError(t, a.FillSpares(t.Context()))
		require.Equal(t, 1, usable(t, a))
		require.Equal(t, []string{"Hammer?"}, questions(t, a, backend.WithRoute(t.Context(), thor.route())))
		findings, err := a.Doctor(t.Context())
		require.NoError(t, err)
		require.Len(t, findings, 1)
		require.Equal(t, FindingStoreOrphan, findings[0].Code)
		require.NoError(t, a.Repair(t.Context(), findings[0]))
		again, err := one(t.Context(), a.reg.db, selectByID, string(thor.ID))
		require.NoError(t, err)
		require.Equal(t, []string{"Hammer?"}, questions(t, a, backend.WithRoute(t.Context(), again.route())))
	})
}

// S23, S84: killed at any step of filling, emptying and claiming, the next one that fills leaves as many as are wanted.
func TestKilledOverSpares(t *testing.T) {
	if testing.Short() {
		t.Skip("starts many processes")
	}
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be, withSpares(2))
		for _, step := range []string{"spares: entered", "spares: made", "spares: ready", "spares: dropping", "spares: dropped"} {
			require.NoError(t, a.FillSpares(t.Context()))
			e := errand{URL: p.url, Op: "spares", Step: step, Spares: 4}
			if step == "spares: dropping" || step == "spares: dropped" {
				e.Spares = 1
			}
			require.True(t, e.send(t), step)
			require.NoError(t, a.FillSpares(t.Context()), step)
			require.Equal(t, 2, usable(t, a), step)
			requireHealthy(t, a)
			n := 0
			for _, err := range a.be.Stores(t.Context()) {
				require.NoError(t, err)
				n++
			}
			require.Equal(t, 2, n, step)
		}
	})
}

// The same of those who create: the tenant is made by whoever goes on, or there is none and its spare is back.
func TestKilledWithASpare(t *testing.T) {
	if testing.Short() {
		t.Skip("starts many processes")
	}
	onEach(t, func(t *testing.T, p place) {
		e := errand{URL: p.url, Files: t.TempDir(), Op: "create"}
		a := openFilled(t, p.be, 8, func(c *Config) { c.FilesDir = e.Files })
		a.cfg.Hooks.OnCreate = fillOnCreate(a)
		for i, step := range append([]string{"create: stamped"}, stepsOf["create"]...) {
			e := e
			e.Step, e.Slug, e.Spares = step, fmt.Sprint("t", i), 8
			require.True(t, e.send(t), step)
			require.NoError(t, a.FinishOperations(t.Context()), step)
			e.verify(t, a, Tenant{})
			require.True(t, fromSpare(*bySlug(t, a, e.Slug)))
			requireHealthy(t, a)
			require.NoError(t, a.FillSpares(t.Context()))
		}
		require.Equal(t, 8, usable(t, a))
	})
}

// A sign-up that gets a spare takes one message on Postgres.
func TestSpareTripsOnPostgres(t *testing.T) {
	t.Parallel()
	url := pgtest.Shared(t).Database(t)
	proxy, err := wireproxy.NewURL(url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = proxy.Close() })
	a := openFilled(t, newPlace(t, proxy.URL(url)).be, 20)
	for i := range 4 { // each statement is prepared at its first use
		create(t, a, fmt.Sprint("first-", i), fmt.Sprintf("first-%d.example", i))
	}
	for i := range 4 {
		proxy.ResetRoundTrips()
		require.True(t, fromSpare(create(t, a, fmt.Sprint("again-", i), fmt.Sprintf("again-%d.example", i))))
		require.EqualValues(t, 1, proxy.RoundTrips())
	}
}

// What stamps stores on Postgres is no tenant's to call.
func TestNoTenantStamps(t *testing.T) {
	t.Parallel()
	a := openFilled(t, newPlace(t, pgtest.Shared(t).Database(t)).be, 1)
	thor := create(t, a, "thor")
	err := a.Run(t.Context(), thor, Policy{}, func(ctx context.Context, thor *Tenant) error {
		_, err := a.DB().ExecContext(ctx, `SELECT public.tenement_stamp($1, 'tenement:loki')`, thor.Store.String())
		return err
	})
	require.ErrorContains(t, err, "permission denied for function tenement_stamp")
	requireHealthy(t, a)
}

// S84: a creation that ends between the claim of a spare and its stamp leaves a store that is still stamped as a spare. It is the
// tenant's: made use of when the tenant is created again, and removed with it.
func TestSpareClaimedAndNotStamped(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := openFilled(t, p.be, 4)
		a.cfg.Hooks.OnCreate = fillOnCreate(a)
		cut := func(slug string) Tenant {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			a.step = func(name string) {
				if name == "create: claimed" {
					cancel()
				}
			}
			defer func() { a.step = func(string) {} }()
			_, err := a.Create(ctx, Spec{Slug: slug})
			require.ErrorIs(t, err, context.Canceled)
			failed := *bySlug(t, a, slug)
			require.Equal(t, Failed, failed.Status)
			require.True(t, fromSpare(failed))
			info, err := a.be.Stat(t.Context(), failed.Store)
			require.NoError(t, err)
			require.Equal(t, spareOwner(failed.ID), info.Owner)
			return failed
		}
		failed := cut("thor")
		thor, err := a.Create(t.Context(), Spec{Slug: "thor"})
		require.NoError(t, err)
		require.Equal(t, failed.ID, thor.ID)
		require.Equal(t, failed.Store, thor.Store)

		failed = cut("loki")
		_, err = a.CreateBy(t.Context(), Spec{Slug: "loki"}, func(ctx context.Context, f Tenant) error { return a.Migrator().Provision(ctx, f.Route()) })
		require.NoError(t, err)
		require.Equal(t, failed.ID, bySlug(t, a, "loki").ID)

		failed = cut("odin")
		_, err = a.Delete(t.Context(), failed.ID)
		require.NoError(t, err)
		requireHealthy(t, a)
		_, err = a.Restore(t.Context(), failed.ID)
		require.NoError(t, err)
		requirePurged(t, a, failed)
		aside, err := a.AsideStores(t.Context())
		require.NoError(t, err)
		require.Empty(t, aside)
	})
}

// A creation that others took up before it had the tenant's lock is gone on with: it does not succeed with what they have left.
func TestSpareTakenUpByOthers(t *testing.T) {
	for name, others := range map[string]func(b *App, ctx context.Context, id ID) error{
		"they fail": func(b *App, ctx context.Context, _ ID) error {
			_ = b.FinishOperations(ctx)
			return nil
		},
		"they delete it": func(b *App, ctx context.Context, id ID) error { _, err := b.Delete(ctx, id); return err },
	} {
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, p place) {
				b := open(t, p.backend(t))
				b.cfg.Hooks.OnCreate = func(context.Context, Tenant, Seed) error { return errors.New("no") }
				a := openFilled(t, p.be, 3)
				called := 0
				a.cfg.Hooks.OnCreate = func(context.Context, Tenant, Seed) error { called++; return nil }
				a.step = func(step string) {
					if step == "create: claimed" {
						a.step = func(string) {}
						assert.NoError(t, others(b, t.Context(), bySlug(t, b, "thor").ID))
					}
				}
				thor, err := a.Create(t.Context(), Spec{Slug: "thor"})
				if name == "they delete it" {
					require.ErrorIs(t, err, ErrSlugTaken)
					return
				}
				require.NoError(t, err)
				require.Equal(t, Active, thor.Status)
				require.Equal(t, 1, called)
				enter(t, thor)
				requireHealthy(t, a)
			})
		})
	}
}
