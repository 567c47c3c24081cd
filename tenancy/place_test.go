package tenancy

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	_ "github.com/tenement-go/tenement/backend/placed"
	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/internal/wireproxy"
	"github.com/tenement-go/tenement/migrate"
)

// onPlaces runs a test on a backend of two places.
func onPlaces(t *testing.T, test func(t *testing.T, p place)) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		test(t, newPlace(t, twoPlaces("sqlite:"+t.TempDir(), "sqlite:"+t.TempDir())))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, postgresPlaces(t))
	})
}

func twoPlaces(home, eu string) string {
	return "placed:?home=" + url.QueryEscape(home) + "&eu=" + url.QueryEscape(eu)
}

func postgresPlaces(t *testing.T) place {
	return newPlace(t, twoPlaces(pgtest.Shared(t).Database(t), pgtest.Shared(t).Database(t)))
}

// withoutEU is the same place while eu is down.
func withoutEU(t *testing.T, p place) place {
	t.Helper()
	u, err := url.Parse(p.url)
	require.NoError(t, err)
	down := "postgres://nobody@127.0.0.1:1/app?sslmode=disable" // where nobody listens
	if p.be.Dialect() == backend.SQLite {
		file := filepath.Join(t.TempDir(), "no directory")
		require.NoError(t, os.WriteFile(file, nil, 0o600))
		down = "sqlite:" + file
	}
	return newPlace(t, twoPlaces(u.Query().Get("home"), down))
}

// there fills a replacement as renewed does, in another place.
func there(a *App, place string) func(context.Context, Tenant, backend.Route) error {
	fill := renewed(a)
	return func(ctx context.Context, t Tenant, rt backend.Route) error {
		return fill(backend.WithPlace(ctx, place), t, rt)
	}
}

// Tenants of several places have one registry, and are migrated together: each place has a ledger and a shared set.
func TestPlaces(t *testing.T) {
	onPlaces(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		require.Equal(t, []string{"home", "eu"}, a.Places())
		placeOf := func(a *App, tenant Tenant) string {
			where, err := a.PlaceOf(t.Context(), tenant)
			require.NoError(t, err)
			return where
		}
		thor, odin := create(t, a, "thor"), create(t, a, "odin")
		assert.NotEqual(t, placeOf(a, thor), placeOf(a, odin), "where the fewest are")
		loki, err := a.Create(t.Context(), Spec{Slug: "loki", Place: "eu"})
		require.NoError(t, err)
		require.Equal(t, "eu", placeOf(a, loki))
		var field *FieldError
		_, err = a.Create(t.Context(), Spec{Slug: "freya", Place: "mars"})
		require.ErrorAs(t, err, &field)
		require.Equal(t, "place", field.Field)
		for _, tenant := range []Tenant{thor, odin, loki} {
			ask(t, a, enter(t, tenant), tenant.Slug+"?")
			require.Equal(t, []string{tenant.Slug + "?"}, questions(t, a, enter(t, tenant)))
		}
		requireHealthy(t, a)

		newer := open(t, p.backend(t), func(c *Config) { c.Tenant = []migrate.Source{longerPolls()} })
		st, err := newer.Migrator().Status(t.Context())
		require.NoError(t, err)
		require.Equal(t, migrate.TenantStatus{Total: 3, Pending: 3}, st.Tenants)
		require.True(t, st.Shared.Current)
		require.ErrorIs(t, newer.Migrator().Ready(t.Context(), loki.Route()), migrate.ErrBehind)
		res, err := newer.Migrator().Up(t.Context(), migrate.UpOptions{})
		require.NoError(t, err)
		require.Equal(t, 3, res.Applied)
		require.Equal(t, 3, res.Total)
		st, err = newer.Migrator().Status(t.Context())
		require.NoError(t, err)
		require.Equal(t, migrate.TenantStatus{Total: 3, Current: 3}, st.Tenants)
		require.NoError(t, newer.Migrator().Ready(t.Context(), loki.Route()))

		renamed, err := a.Rename(t.Context(), loki.ID, "loke")
		require.NoError(t, err)
		require.Equal(t, "eu", placeOf(a, renamed))
		requireHealthy(t, newer)
		_, err = a.Delete(t.Context(), loki.ID)
		require.NoError(t, err)
		require.NoError(t, a.Purge(t.Context(), loki.ID))
		requireHealthy(t, newer)
	})
}

// A process that has not heard of a move finds the store by itself, in a transaction too.
func TestMovedElsewhere(t *testing.T) {
	onPlaces(t, func(t *testing.T, p place) {
		a, stale := open(t, p.be), open(t, p.backend(t))
		thor, err := a.Create(t.Context(), Spec{Slug: "thor", Place: "home"})
		require.NoError(t, err)
		ask(t, a, enter(t, thor), "Hammer?")
		require.Equal(t, []string{"Hammer?"}, questions(t, stale, enter(t, thor)))
		for i, to := range []string{"eu", "home", "eu"} {
			aside, err := a.ReplaceFrozen(t.Context(), thor.ID, "it is being moved", func(ctx context.Context, tenant Tenant, rt backend.Route) error {
				assert.Equal(t, ReadOnly, tenant.Status)
				_, err := stale.DB().ExecContext(enter(t, thor), "INSERT INTO polls (question) VALUES ('lost?')")
				assert.ErrorIs(t, err, backend.ErrStoreMissing)
				assert.Len(t, questions(t, a, backend.WithRouter(ctx, &tenant)), map[string]int{"eu": 1, "home": 2}[to])
				return there(a, to)(ctx, tenant, rt)
			})
			require.NoError(t, err)
			if i == 1 {
				require.NoError(t, stale.Migrator().Ready(t.Context(), thor.route()))
			} else {
				tx, err := stale.DB().BeginTx(enter(t, thor), nil)
				require.NoError(t, err)
				_, err = tx.Exec("INSERT INTO polls (question) VALUES ('and?')")
				require.NoError(t, err)
				require.NoError(t, tx.Commit())
				require.ElementsMatch(t, []string{"Thunder?", "and?"}, questions(t, a, enter(t, thor)))
			}
			where, err := a.PlaceOf(t.Context(), thor)
			require.NoError(t, err)
			require.Equal(t, to, where)
			now, err := a.ByID(t.Context(), thor.ID)
			require.NoError(t, err)
			require.Equal(t, Active, now.Status)
			requireHealthy(t, a)
			require.NoError(t, a.PurgeAside(t.Context(), aside.Store))
		}
	})
}

// A rename, and a move, is not over as long as the ledger of the place where the store is then cannot be written.
func TestLedgerOfAPlaceFails(t *testing.T) {
	for step, change := range map[string]struct {
		from string
		do   func(a *App, ctx context.Context, tenant Tenant) error
	}{
		"rename: store moved": {"eu", func(a *App, ctx context.Context, tenant Tenant) error {
			_, err := a.Rename(ctx, tenant.ID, "odin")
			return err
		}},
		"replace: in place": {"home", func(a *App, ctx context.Context, tenant Tenant) error {
			_, err := a.Replace(ctx, tenant.ID, there(a, "eu"))
			return err
		}},
	} {
		t.Run(step, func(t *testing.T) {
			onPlaces(t, func(t *testing.T, p place) {
				a := open(t, p.be)
				thor, err := a.Create(t.Context(), Spec{Slug: "thor", Place: change.from})
				require.NoError(t, err)
				name := func(from, to string) {
					_, err := p.be.(backend.Placer).In("eu").Shared().ExecContext(t.Context(), "ALTER TABLE "+from+" RENAME TO "+to)
					assert.NoError(t, err)
				}
				a.step = func(now string) {
					if now == step {
						name("tenement_ledger", "out_of_the_way")
					}
				}
				require.Error(t, change.do(a, t.Context(), thor))
				name("out_of_the_way", "tenement_ledger")
				other := open(t, p.backend(t))
				require.NoError(t, other.FinishOperations(t.Context()))
				now, err := other.ByID(t.Context(), thor.ID)
				require.NoError(t, err)
				require.NoError(t, other.Run(t.Context(), now, Policy{}, func(context.Context, *Tenant) error { return nil }))
				requireHealthy(t, other)
			})
		})
	}
}

// S23, S84: killed at any step of a move, the tenant is in the one place or the other, whole, and can be written to.
func TestKilledMove(t *testing.T) {
	if testing.Short() {
		t.Skip("starts many processes")
	}
	onPlaces(t, func(t *testing.T, p place) {
		e := errand{URL: p.url, Op: "move"}
		a := open(t, p.be, func(c *Config) { c.PollInterval = 20 * time.Millisecond })
		number := 0
		for step, want := range map[string]string{
			"replace: begun": "home", "replace: apart": "home", "replace: provisioned": "home", "replace: fill done": "home",
			"replace: fill committed": "eu", "replace: aside": "eu", "replace: in place": "eu",
			"replace: swap done": "eu", "replace: swap committed": "eu",
		} {
			number++
			e.Step, e.Slug = step, fmt.Sprintf("t%d", number)
			tenant, err := a.Create(t.Context(), Spec{Slug: e.Slug, Place: "home"})
			require.NoError(t, err)
			ask(t, a, enter(t, tenant), "Hammer?")
			require.True(t, e.send(t), step)
			require.Eventually(t, func() bool {
				ops, err := a.Operations(t.Context())
				require.NoError(t, err)
				now, err := a.ByID(t.Context(), tenant.ID)
				require.NoError(t, err)
				return len(ops) == 0 && now.Status == Active
			}, time.Minute, 5*time.Millisecond, step)
			where, err := a.PlaceOf(t.Context(), tenant)
			require.NoError(t, err)
			require.Equal(t, want, where, step)
			question := map[string]string{"home": "Hammer?", "eu": "Thunder?"}[want]
			require.Equal(t, []string{question}, questions(t, a, enter(t, tenant)), step)
			now, err := a.ByID(t.Context(), tenant.ID)
			require.NoError(t, err)
			ask(t, a, enter(t, now), "and?")
			requireHealthy(t, a)
		}
	})
}

// A move to a place that is down, or goes down before it is over, leaves the tenant where it was, and in service. What the
// place has got of it is listed once it is back.
func TestMoveToAPlaceThatIsDown(t *testing.T) {
	onPlaces(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		thor, err := a.Create(t.Context(), Spec{Slug: "thor", Place: "home"})
		require.NoError(t, err)
		ask(t, a, enter(t, thor), "Hammer?")
		down := open(t, withoutEU(t, p).be)
		requireInService := func() {
			t.Helper()
			ops, err := down.Operations(t.Context())
			require.NoError(t, err)
			require.Empty(t, ops)
			now, err := down.ByID(t.Context(), thor.ID)
			require.NoError(t, err)
			require.Equal(t, Active, now.Status)
			require.Equal(t, []string{"Hammer?"}, questions(t, down, enter(t, now)))
			_, err = down.DB().ExecContext(enter(t, now), "UPDATE polls SET question = question")
			require.NoError(t, err)
		}
		_, err = down.ReplaceFrozen(t.Context(), thor.ID, "it is being moved", there(down, "eu"))
		require.ErrorIs(t, err, backend.ErrUnreachable)
		requireInService()

		interrupted(t, p, "replace: fill done", func(a *App) error {
			_, err := a.ReplaceFrozen(t.Context(), thor.ID, "it is being moved", there(a, "eu"))
			return err
		})
		require.ErrorIs(t, down.FinishOperations(t.Context()), backend.ErrUnreachable)
		requireInService()

		requireHealthy(t, a)
		left, err := a.AsideStores(t.Context())
		require.NoError(t, err)
		require.Len(t, left, 1)
		require.NoError(t, a.PurgeAside(t.Context(), left[0].Store))
		requireHealthy(t, a)
	})
}

// What was interrupted is finished although another place is down.
func TestInterruptedBesideAPlaceThatIsDown(t *testing.T) {
	onPlaces(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		thor, err := a.Create(t.Context(), Spec{Slug: "thor", Place: "home"})
		require.NoError(t, err)
		ask(t, a, enter(t, thor), "Hammer?")
		interrupted(t, p, "rename: store moved", func(a *App) error { _, err := a.Rename(t.Context(), thor.ID, "odin"); return err })
		failing := errors.New("no")
		down := open(t, withoutEU(t, p).be, func(c *Config) {
			c.Hooks.OnCreate = func(context.Context, Tenant, Seed) error { return failing }
		})
		require.NoError(t, down.FinishOperations(t.Context()))
		odin, err := down.BySlug(t.Context(), "odin")
		require.NoError(t, err)
		require.Equal(t, []string{"Hammer?"}, questions(t, down, enter(t, odin)))

		freya := Spec{Slug: "freya", Place: "home"}
		_, err = down.Create(t.Context(), freya)
		require.ErrorIs(t, err, failing)
		failing = nil
		made, err := down.Create(t.Context(), freya)
		require.NoError(t, err)
		require.Empty(t, questions(t, down, enter(t, made)))

		_, err = a.Delete(t.Context(), odin.ID)
		require.NoError(t, err)
		interrupted(t, p, "purge: drop done", func(a *App) error { return a.Purge(t.Context(), odin.ID) })
		require.NoError(t, down.FinishOperations(t.Context()))
		ops, err := down.Operations(t.Context())
		require.NoError(t, err)
		require.Empty(t, ops)
		requireHealthy(t, a)
	})
}

// A process whose lock is lost while it renames a store in another place than home is waited for by the one that undoes its
// operation: the tenant has its store.
func TestLockLostWhileAPlaceIsWaitedFor(t *testing.T) {
	t.Parallel()
	begin := func(t *testing.T) (p place, late *App, thor Tenant) {
		p = postgresPlaces(t)
		late = open(t, p.backend(t))
		thor, err := late.Create(t.Context(), Spec{Slug: "thor", Place: "eu"})
		require.NoError(t, err)
		ask(t, late, enter(t, thor), "Hammer?")
		return p, late, thor
	}
	sees := func(t *testing.T, be backend.Backend, query string) {
		t.Helper()
		require.Eventually(t, func() bool {
			var seen bool
			err := be.Shared().QueryRowContext(t.Context(), query).Scan(&seen)
			return err == nil && seen
		}, time.Minute, time.Millisecond)
	}
	// succeed has the lock change hands, and returns once the successor waits, or has not waited.
	succeed := func(t *testing.T, p place) {
		t.Helper()
		cutLocks(t, p)
		next := open(t, p.backend(t), func(c *Config) { c.PollInterval = 20 * time.Millisecond })
		require.Eventually(t, func() bool {
			var asking int
			ops, err := next.Operations(t.Context())
			require.NoError(t, err)
			require.NoError(t, p.be.(backend.Placer).In("eu").Shared().QueryRowContext(t.Context(), `SELECT count(*) FROM pg_stat_activity
				WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%pg_try_advisory_lock(%'`).Scan(&asking))
			return len(ops) == 0 || asking == 2
		}, time.Minute, time.Millisecond)
	}
	requireOver := func(t *testing.T, p place) {
		t.Helper()
		sees(t, p.be, `SELECT NOT EXISTS (SELECT 1 FROM tenement_operations)`)
		requireNotRenamed(t, p)
		now, err := open(t, p.backend(t)).BySlug(t.Context(), "thor")
		require.NoError(t, err)
		require.Equal(t, Active, now.Status)
	}
	t.Run("replace", func(t *testing.T) {
		t.Parallel()
		p, late, thor := begin(t)
		tx, err := open(t, p.be).DB().BeginTx(enter(t, thor), nil)
		require.NoError(t, err)
		_, err = tx.Exec("UPDATE polls SET question = question")
		require.NoError(t, err)
		over := make(chan error, 1)
		go func() {
			_, err := late.ReplaceFrozen(t.Context(), thor.ID, "it is being moved", there(late, "home"))
			over <- err
		}()
		sees(t, p.be.(backend.Placer).In("eu"), `SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))`)
		succeed(t, p)
		require.NoError(t, tx.Commit())
		require.ErrorIs(t, <-over, backend.ErrLockLost)
		requireOver(t, p)
		requireHealthy(t, open(t, p.backend(t)))
	})
	t.Run("rename", func(t *testing.T) {
		t.Parallel()
		p, late, thor := begin(t)
		tx, err := p.be.Shared().BeginTx(t.Context(), nil)
		require.NoError(t, err)
		_, err = tx.Exec("LOCK TABLE tenement_places IN SHARE MODE")
		require.NoError(t, err)
		over := make(chan error, 1)
		go func() { _, err := late.Rename(t.Context(), thor.ID, "donar"); over <- err }()
		sees(t, p.be, `SELECT EXISTS (SELECT 1 FROM pg_locks WHERE relation = 'tenement_places'::regclass AND NOT granted)`)
		_, err = p.be.Shared().ExecContext(t.Context(), usurp)
		require.NoError(t, err)
		succeed(t, p)
		require.NoError(t, tx.Rollback())
		require.ErrorIs(t, <-over, backend.ErrLockLost)
		requireOver(t, p)
	})
}

// The same where the other place was up when it was opened, and what it fails with is its driver's.
func TestInterruptedBesideAPlaceThatGoesDown(t *testing.T) {
	t.Parallel()
	eu := pgtest.Shared(t).Database(t)
	proxy, err := wireproxy.NewURL(eu)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, proxy.Close()) })
	p := newPlace(t, twoPlaces(pgtest.Shared(t).Database(t), proxy.URL(eu)))
	a := open(t, p.be)
	thor, err := a.Create(t.Context(), Spec{Slug: "thor", Place: "home"})
	require.NoError(t, err)
	ask(t, a, enter(t, thor), "Hammer?")
	interrupted(t, p, "rename: store moved", func(a *App) error { _, err := a.Rename(t.Context(), thor.ID, "odin"); return err })
	proxy.Refuse(true)
	proxy.CutAll()
	require.NoError(t, a.FinishOperations(t.Context()))
	odin, err := a.BySlug(t.Context(), "odin")
	require.NoError(t, err)
	require.Equal(t, []string{"Hammer?"}, questions(t, a, enter(t, odin)))
}
