package tenancy

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

// Whoever enters while another announces the App waits for that no longer than its own context lasts: with a mutex a
// hundred of them waited for a registry whose disk was full.
func TestWaitForTheAnnouncementEnds(t *testing.T) {
	t.Parallel()
	be, err := backend.Open(t.Context(), "sqlite:"+t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, be.Close()) })
	a := open(t, be)
	thor := create(t, a, "thor")

	require.NoError(t, a.announced.turn.Acquire(t.Context(), 1)) // somebody is at it
	ctx, cancel := context.WithCancel(t.Context())
	entered := make(chan error)
	go func() {
		_, _, leave, err := a.Enter(ctx, thor.ID, Policy{})
		leave()
		entered <- err
	}()
	cancel()
	err = <-entered
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, ErrUnavailable)
	a.announced.turn.Release(1)

	_, _, leave, err := a.Enter(t.Context(), thor.ID, Policy{})
	require.NoError(t, err)
	leave()
}

// An App that lets somebody in for the first time, or again after its announcement had lapsed, has heard of what was changed
// while nobody waited for it: it does not go by what it found out before.
func TestWhoAnnouncesHasHeard(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		late := func(slug string) (b *App, known *Tenant) {
			made := create(t, a, slug)
			b = open(t, p.backend(t))
			known, err := b.ResolveID(t.Context(), made.ID)
			require.NoError(t, err)
			return b, known
		}
		write := func(b *App, who *Tenant) error {
			return b.Run(t.Context(), who, Policy{}, func(ctx context.Context, _ *Tenant) error {
				_, err := b.DB().ExecContext(ctx, "INSERT INTO polls (question) VALUES ('Hammer?')")
				return err
			})
		}

		b, thor := late("thor")
		require.NoError(t, a.Freeze(t.Context(), thor.ID, "it is copied", func(context.Context, Tenant) error {
			assert.ErrorIs(t, write(b, thor), ErrReadOnly)
			return nil
		}))
		require.NoError(t, b.Close()) // nobody waits for it any more

		b, odin := late("odin")
		_, err := a.Delete(t.Context(), odin.ID)
		require.NoError(t, err)
		a.step = func(name string) {
			if name == "purge: claimed" {
				assert.ErrorIs(t, write(b, odin), ErrNotActive)
			}
		}
		require.NoError(t, a.Purge(t.Context(), odin.ID))
		a.step = func(string) {}
		require.NoError(t, b.Close())

		b, loki := late("loki")
		require.NoError(t, write(b, loki))
		_, err = b.Shared().ExecContext(t.Context(), `UPDATE tenement_apps SET seen_at = '2026-01-01T00:00:00.000000Z'`)
		require.NoError(t, err)
		b.announced.next, b.announced.until = time.Time{}, time.Time{}
		require.NoError(t, a.Freeze(t.Context(), loki.ID, "it is copied", func(context.Context, Tenant) error {
			require.NoError(t, b.renewDue(t.Context()))
			assert.ErrorIs(t, write(b, loki), ErrReadOnly)
			return nil
		}))
	})
}

// OnChange may enter tenants, also when what it is told of is what makes the App announce itself, and refresh what is known.
func TestOnChangeEnters(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		thor := create(t, a, "thor")
		var b *App
		var told []EventKind
		b = open(t, p.backend(t), func(c *Config) {
			c.Hooks.OnChange = func(ctx context.Context, e Event) {
				told = append(told, e.Kind)
				assert.NoError(t, b.Run(ctx, e.Tenant.ID, Policy{Operator: true}, func(context.Context, *Tenant) error { return nil }))
				assert.NoError(t, b.Refresh(ctx))
			}
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := a.Suspend(ctx, thor.ID, "unpaid")
		require.NoError(t, err)
		_, err = into(b, ctx, thor.ID)
		require.ErrorIs(t, err, ErrNotActive)
		require.NoError(t, b.Refresh(ctx))
		require.Equal(t, []EventKind{EventSuspended}, told)
		_, err = a.Activate(ctx, thor.ID)
		require.NoError(t, err)
		require.NoError(t, b.Refresh(ctx))
		require.Equal(t, []EventKind{EventSuspended, EventActivated}, told)
	})
}

// An App that never let anybody in, and whose poll tells of a change, can let in while it tells of it.
func TestOnChangeEntersFirst(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		thor := create(t, a, "thor")
		var b *App
		b = open(t, p.backend(t), func(c *Config) {
			c.Hooks.OnChange = func(ctx context.Context, e Event) {
				assert.NoError(t, b.Run(ctx, e.Tenant.ID, Policy{Operator: true}, func(context.Context, *Tenant) error { return nil }))
			}
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := a.Suspend(ctx, thor.ID, "unpaid")
		require.NoError(t, err)
		require.NoError(t, b.Refresh(ctx))
		require.True(t, b.announced.made.Load())
	})
}
