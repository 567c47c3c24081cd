package tenancy

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// usurp enters a tenant with a slug, past our own rules.
const usurp = `INSERT INTO tenement_tenants (id, slug, name, status, store, created_at, updated_at)
	SELECT '01900000-0000-7000-8000-000000000000', 'donar', 'Donar', 'deleted', 'elsewhere', created_at, updated_at FROM tenement_tenants`

// requireNotRenamed fails unless thor is served, by one who knows nothing of it, as if it had never been renamed.
func requireNotRenamed(t *testing.T, p place) {
	t.Helper()
	a := open(t, p.backend(t))
	require.NoError(t, visit(a, t.Context(), "thor", func(ctx context.Context) error {
		require.Equal(t, []string{"Hammer?"}, questions(t, a, ctx))
		return nil
	}))
	ops, err := a.Operations(t.Context())
	require.NoError(t, err)
	require.Empty(t, ops)
	left, err := a.migrator.Stores(t.Context())
	require.NoError(t, err)
	require.Equal(t, []backend.Store{backend.MustParseStore("thor")}, left, "so does the ledger")
}

// A rename that somebody gets in the way of is undone.
func TestRenameUndone(t *testing.T) {
	for _, step := range []string{"rename: claimed", "rename: store moved", "rename: move done"} {
		t.Run(step, func(t *testing.T) {
			onEach(t, func(t *testing.T, p place) {
				a := open(t, p.be)
				thor := create(t, a, "thor")
				ask(t, a, enter(t, thor), "Hammer?")
				interrupted(t, p, step, func(a *App) error { _, err := a.Rename(t.Context(), thor.ID, "donar"); return err })
				_, err := a.Create(t.Context(), Spec{Slug: "donar"})
				require.ErrorIs(t, err, ErrSlugTaken, "it is spoken for")
				_, err = a.Shared().ExecContext(t.Context(), usurp)
				require.NoError(t, err)
				require.ErrorIs(t, a.FinishOperations(t.Context()), ErrSlugTaken)
				requireNotRenamed(t, p)
			})
		})
	}
}

// So is one whose slug somebody takes while the store is being moved, and the caller hears of it.
func TestRenameOvertaken(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		thor := create(t, a, "thor")
		ask(t, a, enter(t, thor), "Hammer?")
		a.step = func(name string) {
			if name == "rename: move done" {
				_, err := a.Shared().ExecContext(t.Context(), usurp)
				assert.NoError(t, err)
			}
		}
		_, err := a.Rename(t.Context(), thor.ID, "donar")
		require.ErrorIs(t, err, ErrSlugTaken)
		requireNotRenamed(t, p)
	})
	// It is taken when the rename asks whether it is, and nobody can see that yet.
	t.Run("unseen", func(t *testing.T) {
		t.Parallel()
		p := newPlace(t, pgtest.Shared(t).Database(t))
		a := open(t, p.be)
		thor := create(t, a, "thor")
		ask(t, a, enter(t, thor), "Hammer?")
		tx, err := p.backend(t).Shared().BeginTx(t.Context(), nil)
		require.NoError(t, err)
		defer func() { _ = tx.Rollback() }()
		a.step = func(name string) {
			if name == "rename: claimed" {
				_, err := tx.ExecContext(t.Context(), usurp)
				assert.NoError(t, err)
			}
		}
		renamed := make(chan error, 1)
		go func() { _, err := a.Rename(t.Context(), thor.ID, "donar"); renamed <- err }()
		require.Eventually(t, func() bool {
			var waits bool
			err := p.be.Shared().QueryRowContext(t.Context(), `SELECT EXISTS (SELECT 1 FROM pg_stat_activity
				WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event = 'transactionid')`).Scan(&waits)
			return err == nil && waits
		}, time.Minute, time.Millisecond)
		require.NoError(t, tx.Commit())
		require.ErrorIs(t, <-renamed, ErrSlugTaken)
		requireNotRenamed(t, p)
	})
}

// A rename whose store is at neither of its names, as an older registry may have it, does not stand in the way of what mends
// that.
func TestRenameOfAStoreThatIsElsewhere(t *testing.T) {
	for name, foreign := range map[string]bool{"nothing is in its place": false, "another's is in its place": true} {
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, p place) {
				thor := strayed(t, p, foreign)
				require.NoError(t, p.be.Rename(t.Context(), thor.route(), backend.MustParseStore("loki")))
				a := open(t, p.be)
				require.ErrorIs(t, a.FinishOperations(t.Context()), backend.ErrStoreMissing)
				for range 2 { // what the ledger has of the old name is found next
					findings, err := a.Doctor(t.Context())
					require.NoError(t, err)
					for _, f := range findings {
						if f.Subject != "donar" {
							require.NoError(t, a.Repair(t.Context(), f), "%+v", f)
						}
					}
				}
				now, err := a.ByID(t.Context(), thor.ID)
				require.NoError(t, err)
				require.Equal(t, "thor", now.Slug)
				require.Equal(t, "loki", now.Store.String())
				require.NoError(t, visit(a, t.Context(), "thor", func(ctx context.Context) error {
					require.Equal(t, []string{"Hammer?"}, questions(t, a, ctx))
					return nil
				}))
			})
		})
	}
	t.Run("it is gone", func(t *testing.T) {
		onEach(t, func(t *testing.T, p place) {
			thor := strayed(t, p, false)
			require.NoError(t, p.be.Drop(t.Context(), thor.route()))
			a := open(t, p.be)
			require.ErrorIs(t, a.FinishOperations(t.Context()), backend.ErrStoreMissing)
			_, err := a.Delete(t.Context(), thor.ID)
			require.NoError(t, err)
			require.NoError(t, a.Purge(t.Context(), thor.ID))
			requireHealthy(t, a)
		})
	})
}

// strayed makes thor, whose rename to donar was interrupted. foreign: there is a store donar, of another owner.
func strayed(t *testing.T, p place, foreign bool) Tenant {
	a := open(t, p.be)
	thor := create(t, a, "thor")
	ask(t, a, enter(t, thor), "Hammer?")
	interrupted(t, p, "rename: claimed", func(a *App) error { _, err := a.Rename(t.Context(), thor.ID, "donar"); return err })
	if foreign {
		require.NoError(t, p.be.Create(t.Context(), backend.Route{Store: backend.MustParseStore("donar"), Owner: "someone"}))
	}
	return thor
}
