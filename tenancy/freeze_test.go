package tenancy

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

func TestFreeze(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		// Another process, as it were. A change counts as heard after twice the interval, which has to be enough on a busy
		// machine.
		other := open(t, p.backend(t), func(c *Config) { c.PollInterval = time.Second })
		thor, err := a.Create(t.Context(), Spec{Slug: "thor"})
		require.NoError(t, err)
		there, err := other.BySlug(t.Context(), "thor")
		require.NoError(t, err)
		elsewhere, err := into(other, t.Context(), there)
		require.NoError(t, err)
		ctx := enter(t, thor)
		write := func(a *App, ctx context.Context, question string) error {
			_, err := a.DB().ExecContext(ctx, "INSERT INTO polls (question) VALUES ($1)", question)
			return err
		}
		require.NoError(t, write(other, elsewhere, "before"))

		died := errors.New("no")
		err = a.Freeze(t.Context(), thor.ID, "it is copied", func(_ context.Context, was Tenant) error {
			assert.Equal(t, Active, was.Status)
			assert.ErrorIs(t, write(a, ctx, "inside"), ErrReadOnly)
			assert.ErrorIs(t, write(other, elsewhere, "inside"), ErrReadOnly, "every process has heard of it")
			assert.Equal(t, []string{"before"}, questions(t, other, elsewhere), "reads go on")
			return died
		})
		require.ErrorIs(t, err, died)
		require.NoError(t, other.Close()) // nobody waits for it any more
		require.NoError(t, write(a, ctx, "after"))
		ops, err := a.Operations(t.Context())
		require.NoError(t, err)
		assert.Empty(t, ops)

		// It is let go too when the caller's context is over, and what an operator says meanwhile counts.
		short, cancel := context.WithCancel(t.Context())
		err = a.Freeze(short, thor.ID, "it is copied", func(ctx context.Context, _ Tenant) error { cancel(); return ctx.Err() })
		require.ErrorIs(t, err, context.Canceled)
		now, err := a.BySlug(t.Context(), "thor")
		require.NoError(t, err)
		assert.Equal(t, Active, now.Status)
		err = a.Freeze(t.Context(), thor.ID, "it is copied", func(ctx context.Context, _ Tenant) error {
			_, err := a.SetReadOnly(ctx, thor.ID, "the bill")
			return err
		})
		require.NoError(t, err)
		for _, status := range []func() (Tenant, error){
			func() (Tenant, error) { return a.BySlug(t.Context(), "thor") },
			func() (Tenant, error) { return a.Suspend(t.Context(), thor.ID, "the bill") },
			func() (Tenant, error) { return a.Delete(t.Context(), thor.ID) },
		} {
			was, err := status()
			require.NoError(t, err)
			require.NoError(t, a.Freeze(t.Context(), thor.ID, "it is copied", func(context.Context, Tenant) error { return nil }))
			now, err := a.ByID(t.Context(), thor.ID)
			require.NoError(t, err)
			assert.Equal(t, was.Status, now.Status)
			assert.Equal(t, was.Version, now.Version)
		}
	})
}

// A tenant that an operator deletes while it is frozen is, once it is restored, what it was before the freeze.
func TestDeletedWhileFrozen(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		remove := func(id ID) { _, err := a.Delete(t.Context(), id); require.NoError(t, err) }
		restored := func(id ID) Tenant {
			remaining, err := a.Operations(t.Context())
			require.NoError(t, err)
			require.Empty(t, remaining)
			now, err := a.Restore(t.Context(), id)
			require.NoError(t, err)
			requireHealthy(t, a)
			return now
		}
		freeze := func(id ID, meanwhile func()) {
			require.NoError(t, a.Freeze(t.Context(), id, "it is copied", func(context.Context, Tenant) error { meanwhile(); return nil }))
		}

		thor := create(t, a, "thor")
		freeze(thor.ID, func() { remove(thor.ID) })
		now := restored(thor.ID)
		require.Equal(t, Active, now.Status)
		require.Empty(t, now.Reason)
		_, err := a.ReplaceFrozen(t.Context(), thor.ID, "it is copied", func(ctx context.Context, was Tenant, rt backend.Route) error {
			remove(thor.ID)
			return renewed(a)(ctx, was, rt)
		})
		require.NoError(t, err)
		now = restored(thor.ID)
		require.Equal(t, Active, now.Status)
		require.Empty(t, now.Reason)
		require.NoError(t, a.Run(t.Context(), now, Policy{}, func(ctx context.Context, _ *Tenant) error { ask(t, a, ctx, "Hammer?"); return nil }))

		// Restored while the freeze lasts it is frozen still, and active afterwards.
		freeze(thor.ID, func() {
			remove(thor.ID)
			now, err := a.Restore(t.Context(), thor.ID)
			require.NoError(t, err)
			require.Equal(t, ReadOnly, now.Status)
		})
		require.Equal(t, Active, bySlug(t, a, "thor").Status)

		// What an operator says stays, in whatever words.
		_, err = a.SetReadOnly(t.Context(), thor.ID, "the bill")
		require.NoError(t, err)
		freeze(thor.ID, func() { remove(thor.ID) })
		now = restored(thor.ID)
		require.Equal(t, ReadOnly, now.Status)
		require.Equal(t, "the bill", now.Reason)
		_, err = a.Activate(t.Context(), thor.ID)
		require.NoError(t, err)
		freeze(thor.ID, func() {
			_, err := a.Suspend(t.Context(), thor.ID, "it is copied")
			require.NoError(t, err)
			remove(thor.ID)
		})
		now = restored(thor.ID)
		require.Equal(t, Suspended, now.Status)
		require.Equal(t, "it is copied", now.Reason)
	})
}

// The same when its process has died, and another one lets go of it.
func TestDeletedWhileFrozenByTheDead(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		thor := create(t, a, "thor")
		require.True(t, errand{URL: p.url, Op: "freeze", Slug: "thor", Step: "freeze: inside"}.send(t))
		_, err := a.Delete(t.Context(), thor.ID)
		require.NoError(t, err)
		require.NoError(t, a.FinishOperations(t.Context()))
		now, err := a.Restore(t.Context(), thor.ID)
		require.NoError(t, err)
		require.Equal(t, Active, now.Status)
		require.Empty(t, now.Reason)
	})
}

// A freeze that nobody gave a reason for ends like any other.
func TestFreezeWithoutReason(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		thor := create(t, a, "thor")
		require.NoError(t, a.Freeze(t.Context(), thor.ID, "", func(context.Context, Tenant) error {
			require.Equal(t, ReadOnly, bySlug(t, a, "thor").Status)
			return nil
		}))
		require.Equal(t, Active, bySlug(t, a, "thor").Status)
		_, err := a.ReplaceFrozen(t.Context(), thor.ID, "", func(ctx context.Context, was Tenant, rt backend.Route) error {
			require.NotEqual(t, thor.Store, was.Store, "nobody writes to it any more")
			return renewed(a)(ctx, was, rt)
		})
		require.NoError(t, err)
		require.Equal(t, Active, bySlug(t, a, "thor").Status)
	})
}

// A tenant is written to again whenever the process dies that froze it.
func TestKilledFreeze(t *testing.T) { // S84
	if testing.Short() {
		t.Skip("starts many processes")
	}
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be, func(c *Config) { c.PollInterval = 20 * time.Millisecond })
		for i, step := range []string{"freeze: begun", "freeze: inside", "freeze: done"} {
			e := errand{URL: p.url, Op: "freeze", Slug: fmt.Sprintf("t%d", i), Step: step}
			made, err := a.Create(t.Context(), Spec{Slug: e.Slug})
			require.NoError(t, err)
			require.True(t, e.send(t), step)
			require.Eventually(t, func() bool {
				now, err := a.ByID(t.Context(), made.ID)
				return err == nil && now.Status == Active
			}, time.Minute, time.Millisecond, step)
			requireHealthy(t, a)
		}
	})
}

func TestEnroll(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		for _, q := range []place{newPlace(t, "sqlite:"+t.TempDir()), p} {
			a, b := open(t, newPlaceLike(t, p).be, func(c *Config) {
				c.Hooks.ApproveDomain = func(_ context.Context, _ Tenant, d PendingDomain) error {
					if d.Host == "pending.example" {
						return errors.New("not yet")
					}
					return nil
				}
			}), open(t, q.be)
			thor, err := a.Create(t.Context(), Spec{Slug: "thor", Name: "Thor", Domains: []string{"thor.example", "pending.example"}, Meta: map[string]any{"plan": "free"}})
			require.NoError(t, err)
			thor, err = a.Rename(WithActor(t.Context(), "Odin"), thor.ID, "donar")
			require.NoError(t, err)
			thor, err = a.Delete(t.Context(), thor.ID)
			require.NoError(t, err)
			require.NoError(t, b.CheckEnroll(t.Context(), []Tenant{thor}))
			require.NoError(t, b.migrator.Provision(t.Context(), thor.route()))
			require.NoError(t, b.Enroll(t.Context(), a, []ID{thor.ID}))

			same, err := b.ByID(t.Context(), thor.ID)
			require.NoError(t, err)
			assert.JSONEq(t, string(thor.Meta), string(same.Meta))
			thor.live, thor.Meta, same.live, same.Meta = nil, nil, nil, nil
			assert.Equal(t, thor, same)
			was, err := a.PendingDomains(t.Context(), thor.ID)
			require.NoError(t, err)
			pending, err := b.PendingDomains(t.Context(), thor.ID)
			require.NoError(t, err)
			assert.Equal(t, was, pending)
			before, err := a.History(t.Context(), thor.ID, 0)
			require.NoError(t, err)
			history, err := b.History(t.Context(), thor.ID, 0)
			require.NoError(t, err)
			require.Len(t, history, len(before)+1)
			assert.Equal(t, EventEnrolled, history[0].Kind)
			for i, c := range before {
				c.Revision = history[i+1].Revision
				assert.Equal(t, c, history[i+1])
			}
			restored, err := b.Restore(t.Context(), thor.ID)
			require.NoError(t, err)
			assert.Equal(t, Active, restored.Status)
			require.NoError(t, b.Refresh(t.Context()))
			requireHealthy(t, b)

			// What is taken is said, and nothing is entered.
			require.ErrorIs(t, b.Enroll(t.Context(), a, []ID{thor.ID}), ErrConflict)
			for _, spec := range []Spec{{Slug: "loki"}, {Slug: "other", Domains: []string{"loki.example"}}} {
				_, err = b.Create(t.Context(), spec)
				require.NoError(t, err)
			}
			hel, err := a.Create(t.Context(), Spec{Slug: "hel"})
			require.NoError(t, err)
			loki, err := a.Create(t.Context(), Spec{Slug: "loki"})
			require.NoError(t, err)
			require.NoError(t, b.be.Create(t.Context(), hel.route()))
			require.ErrorIs(t, b.Enroll(t.Context(), a, []ID{hel.ID, loki.ID}), ErrSlugTaken)
			_, err = b.ByID(t.Context(), hel.ID)
			require.ErrorIs(t, err, ErrNotFound)

			// So is a store that is not there, or another's.
			require.NoError(t, b.be.Drop(t.Context(), hel.route()))
			require.ErrorIs(t, b.Enroll(t.Context(), a, []ID{hel.ID}), backend.ErrStoreMissing)
			require.NoError(t, b.be.Create(t.Context(), backend.Route{Store: hel.Store, Owner: string(loki.ID)}))
			require.ErrorIs(t, b.Enroll(t.Context(), a, []ID{hel.ID}), backend.ErrStoreMissing)
			_, err = b.ByID(t.Context(), hel.ID)
			require.ErrorIs(t, err, ErrNotFound)
			loki, err = a.AddDomain(t.Context(), hel.ID, "loki.example")
			require.NoError(t, err)
			require.ErrorIs(t, b.CheckEnroll(t.Context(), []Tenant{loki}), ErrDomainTaken)
		}
	})
}
