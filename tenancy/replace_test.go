package tenancy

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

// renewed makes a store with another row.
func renewed(a *App) func(ctx context.Context, t Tenant, rt backend.Route) error {
	return func(ctx context.Context, _ Tenant, rt backend.Route) error {
		if err := a.migrator.Provision(ctx, rt); err != nil {
			return err
		}
		a.step("replace: provisioned")
		_, err := a.DB().ExecContext(backend.WithRoute(ctx, rt), "INSERT INTO polls (question) VALUES ('Thunder?')")
		return err
	}
}

func TestReplace(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		thor := create(t, a, "thor", "thor.example")
		ask(t, a, enter(t, thor), "Hammer?")
		for _, fill := range []func(context.Context, Tenant, backend.Route) error{
			func(context.Context, Tenant, backend.Route) error { return errors.New("no") },
			func(ctx context.Context, t Tenant, rt backend.Route) error {
				return errors.Join(renewed(a)(ctx, t, rt), errors.New("no"))
			},
			func(ctx context.Context, t Tenant, rt backend.Route) error { _ = renewed(a)(ctx, t, rt); panic("no") },
		} {
			_, err := a.Replace(t.Context(), thor.ID, fill)
			require.ErrorContains(t, err, "no")
			require.Equal(t, []string{"Hammer?"}, questions(t, a, enter(t, thor)))
			stores, err := a.AsideStores(t.Context())
			require.NoError(t, err)
			require.Empty(t, stores)
			requireHealthy(t, a)
		}
		aside, err := a.Replace(t.Context(), thor.ID, func(ctx context.Context, tenant Tenant, rt backend.Route) error {
			err := renewed(a)(ctx, tenant, rt)
			assert.Equal(t, []string{"Hammer?"}, questions(t, a, enter(t, thor)), "it is served meanwhile")
			return err
		})
		require.NoError(t, err)
		assert.Equal(t, []string{"Thunder?"}, questions(t, a, enter(t, thor)))
		assert.Equal(t, "thor", aside.Was)
		assert.Equal(t, string(thor.ID), aside.Owner)
		was := backend.WithRoute(t.Context(), backend.Route{Store: aside.Store, Owner: aside.Owner})
		assert.Equal(t, []string{"Hammer?"}, questions(t, a, was))
		requireHealthy(t, a)
		require.NoError(t, a.PurgeAside(t.Context(), aside.Store))
		require.NoError(t, visit(a, t.Context(), "thor", func(ctx context.Context) error { ask(t, a, ctx, "and?"); return nil }))
		_, err = a.Delete(t.Context(), thor.ID)
		require.NoError(t, err)
		_, err = a.Replace(t.Context(), thor.ID, renewed(a))
		require.ErrorIs(t, err, ErrStatus)
	})
}

// S23, S84: killed at any step, the tenant has the one store or the other, whole.
func TestKilledReplace(t *testing.T) {
	if testing.Short() {
		t.Skip("starts many processes")
	}
	onEach(t, func(t *testing.T, p place) {
		e := errand{URL: p.url, Op: "replace"}
		a := open(t, p.be, func(c *Config) { c.PollInterval = 20 * time.Millisecond })
		for step, want := range map[string]string{
			"replace: begun": "Hammer?", "replace: provisioned": "Hammer?", "replace: fill done": "Hammer?",
			"replace: fill committed": "Thunder?", "replace: aside": "Thunder?", "replace: in place": "Thunder?",
			"replace: swap done": "Thunder?", "replace: swap committed": "Thunder?",
		} {
			thor := create(t, a, "thor")
			ask(t, a, enter(t, thor), "Hammer?")
			e.Step, e.Slug = step, "thor"
			require.True(t, e.send(t), step)
			require.Eventually(t, func() bool {
				ops, err := a.Operations(t.Context())
				require.NoError(t, err)
				return len(ops) == 0
			}, time.Minute, time.Millisecond, step)
			require.Equal(t, []string{want}, questions(t, a, enter(t, thor)), step)
			requireHealthy(t, a)
			stores, err := a.AsideStores(t.Context())
			require.NoError(t, err)
			require.Len(t, stores, map[string]int{"Hammer?": 0, "Thunder?": 1}[want], step)
			for _, s := range stores {
				require.NoError(t, a.PurgeAside(t.Context(), s.Store))
			}
			_, err = a.Delete(t.Context(), thor.ID)
			require.NoError(t, err)
			require.NoError(t, a.Purge(t.Context(), thor.ID))
		}
	})
}

// What an undone replacement has made and could not remove in its time, or because somebody is in it, is removed by who goes on.
func TestUndoneReplacementInUse(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		thor := create(t, a, "thor")
		ask(t, a, enter(t, thor), "Hammer?")
		interrupted(t, p, "replace: fill done", func(a *App) error {
			_, err := a.Replace(t.Context(), thor.ID, renewed(a))
			return err
		})
		var fresh backend.StoreInfo
		for info, err := range p.be.Stores(t.Context()) {
			require.NoError(t, err)
			if isAside(info.Store) {
				fresh = info
			}
		}
		tx, err := p.be.DB().BeginTx(backend.WithRoute(t.Context(), backend.Route{Store: fresh.Store, Owner: fresh.Owner}), nil)
		require.NoError(t, err)
		_, err = tx.Exec("UPDATE polls SET question = question")
		require.NoError(t, err)
		short, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		_ = a.FinishOperations(short) // SQLite takes the file away from who is in it
		_ = tx.Rollback()
		require.NoError(t, a.FinishOperations(t.Context()))
		left, err := a.AsideStores(t.Context())
		require.NoError(t, err)
		require.Empty(t, left)
		require.Equal(t, []string{"Hammer?"}, questions(t, a, enter(t, thor)))
		requireHealthy(t, a)
	})
}

// requireHeld shows that the stores of a replacement under way are nobody's to remove.
func requireHeld(t *testing.T, p place, a *App, want int) {
	t.Helper()
	found := 0
	for info, err := range p.be.Stores(t.Context()) {
		require.NoError(t, err)
		if isAside(info.Store) {
			found++
			var refused *StatusError
			require.ErrorAs(t, a.PurgeAside(t.Context(), info.Store), &refused)
			require.Equal(t, "thor", refused.Slug)
		}
	}
	require.Equal(t, want, found)
	listed, err := a.AsideStores(t.Context())
	require.NoError(t, err)
	require.Empty(t, listed)
}

// Who removes what was set aside does not remove what a replacement is at, which may be all that the tenant has.
func TestPurgeAsideDuringReplacement(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		thor := create(t, a, "thor")
		ask(t, a, enter(t, thor), "Hammer?")
		_, err := a.ReplaceFrozen(t.Context(), thor.ID, "it is copied", func(ctx context.Context, was Tenant, rt backend.Route) error {
			err := renewed(a)(ctx, was, rt)
			requireHeld(t, p, a, 2)
			return errors.Join(err, errors.New("no"))
		})
		require.ErrorContains(t, err, "no")
		require.Equal(t, []string{"Hammer?"}, questions(t, a, enter(t, thor)))
		requireHealthy(t, a)

		interrupted(t, p, "replace: aside", func(a *App) error {
			_, err := a.Replace(t.Context(), thor.ID, renewed(a))
			return err
		})
		requireHeld(t, p, a, 2)
		require.NoError(t, a.FinishOperations(t.Context()))
		require.Equal(t, []string{"Thunder?"}, questions(t, a, enter(t, thor)))
		requireHealthy(t, a)
		listed, err := a.AsideStores(t.Context())
		require.NoError(t, err)
		require.Len(t, listed, 1)
		require.NoError(t, a.PurgeAside(t.Context(), listed[0].Store))
	})
}

// Somebody removed one of the two stores of a replacement all the same. A tenant keeps the other, and of one that has none it
// is said.
func TestReplacementWhoseStoresAreRemoved(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		remove := func(which func(opArgs) string) {
			ops, err := a.Operations(t.Context())
			require.NoError(t, err)
			require.Len(t, ops, 1)
			require.NoError(t, p.be.Drop(t.Context(), backend.Route{Store: backend.MustParseStore(which(ops[0].args))}))
		}
		thor := create(t, a, "thor")
		ask(t, a, enter(t, thor), "Hammer?")
		interrupted(t, p, "replace: aside", func(a *App) error {
			_, err := a.Replace(t.Context(), thor.ID, renewed(a))
			return err
		})
		remove(func(args opArgs) string { return args.Store })
		require.ErrorIs(t, a.FinishOperations(t.Context()), backend.ErrStoreMissing)
		require.Equal(t, []string{"Hammer?"}, questions(t, a, enter(t, thor)))
		require.NoError(t, visit(a, t.Context(), "thor", func(ctx context.Context) error { ask(t, a, ctx, "and?"); return nil }))
		requireHealthy(t, a)

		_, err := a.ReplaceFrozen(t.Context(), thor.ID, "it is copied", func(context.Context, Tenant, backend.Route) error {
			remove(func(args opArgs) string { return args.Aside })
			return errors.New("no")
		})
		require.ErrorContains(t, err, "no")
		require.ErrorIs(t, err, backend.ErrStoreMissing)
		findings, err := a.Doctor(t.Context())
		require.NoError(t, err)
		require.Len(t, findings, 1)
		require.Equal(t, FindingStoreMissing, findings[0].Code)
		if _, err = a.Replace(t.Context(), thor.ID, renewed(a)); err != nil { // it cannot tell of the old one
			require.ErrorIs(t, err, backend.ErrStoreMissing)
		}
		require.Equal(t, []string{"Thunder?"}, questions(t, a, enter(t, thor)))
		requireHealthy(t, a)
	})
}
