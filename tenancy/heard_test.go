package tenancy

import (
	"context"
	"crypto/rand"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// stop has the App be one whose process was stopped for longer than others wait for it to hear of a change.
func stop(a *App) {
	a.heard.Store(&hearing{at: time.Now().Add(-a.StalenessBound() - time.Second), good: a.StalenessBound()})
}

// A process that was stopped for longer than others wait for it hears of what it missed before it says who is meant: what led to
// one tenant may lead to another by now, and to one where there was none.
func TestWhoWasStoppedResolvesAnew(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		b := open(t, p.backend(t))
		const host = "thor.example"
		thor, odin := create(t, a, "thor", host), create(t, a, "odin")
		byHost := func(host string) (ID, error) {
			who, err := b.Resolve(t.Context(), host)
			if err != nil {
				return "", err
			}
			_, in, leave, err := b.Enter(t.Context(), who, Policy{})
			defer leave()
			return in.ID, err
		}
		bySlug := func(slug string) ID {
			who, err := b.ResolveSlug(t.Context(), slug)
			require.NoError(t, err)
			_, in, leave, err := b.Enter(t.Context(), who, Policy{})
			require.NoError(t, err)
			leave()
			return in.ID
		}

		in, err := byHost(host)
		require.NoError(t, err)
		require.Equal(t, thor.ID, in)
		require.Equal(t, thor.ID, bySlug("thor"))
		_, err = byHost("new.example")
		require.ErrorIs(t, err, ErrUnknownHost)
		require.ErrorIs(t, b.HostPolicy(t.Context(), "new.example"), ErrUnknownHost)

		_, err = a.MoveDomain(t.Context(), host, odin.ID)
		require.NoError(t, err)
		in, err = byHost(host)
		require.NoError(t, err)
		require.Equal(t, thor.ID, in, "within the bound it need not know")
		stop(b)
		in, err = byHost(host)
		require.NoError(t, err)
		require.Equal(t, odin.ID, in)

		_, err = a.Rename(t.Context(), thor.ID, "donar")
		require.NoError(t, err)
		another := create(t, a, "thor")
		stop(b)
		require.Equal(t, another.ID, bySlug("thor"))
		require.Equal(t, thor.ID, bySlug("donar"))

		_, err = a.AddDomain(t.Context(), odin.ID, "new.example")
		require.NoError(t, err)
		stop(b)
		require.NoError(t, b.HostPolicy(t.Context(), "new.example"))
		in, err = byHost("new.example")
		require.NoError(t, err)
		require.Equal(t, odin.ID, in)
	})
}

// While OnChange is being told of one change, however long it takes, the App hears of the others: those who are in a tenant are
// kept from writing to it, and sent out of it, within the bound.
func TestOnChangeHoldsUpNobody(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		thor, odin := create(t, a, "thor"), create(t, a, "odin")
		told, goOn := make(chan EventKind), make(chan struct{})
		b := open(t, p.backend(t), func(c *Config) {
			c.PollInterval = 50 * time.Millisecond
			c.Hooks.OnChange = func(ctx context.Context, e Event) {
				select {
				case told <- e.Kind:
				case <-ctx.Done(): // the test is over
				}
				select {
				case <-goOn:
				case <-ctx.Done():
				}
			}
		})
		ctx, _, leave, err := b.Enter(t.Context(), thor.ID, Policy{})
		require.NoError(t, err)
		defer leave()
		ask(t, b, ctx, "Hammer?")

		_, err = a.SetReadOnly(t.Context(), odin.ID, "it is copied")
		require.NoError(t, err)
		require.Equal(t, EventReadOnly, <-told)
		require.NoError(t, a.Freeze(t.Context(), thor.ID, "it is copied", func(context.Context, Tenant) error {
			_, err := b.DB().ExecContext(ctx, "INSERT INTO polls (question) VALUES ('Thunder?')")
			assert.ErrorIs(t, err, ErrReadOnly)
			return nil
		}))
		_, err = a.Suspend(t.Context(), thor.ID, "unpaid")
		require.NoError(t, err)
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Second):
			require.Fail(t, "nobody told who is in the tenant")
		}
		close(goOn)
		for _, kind := range []EventKind{EventReadOnly, EventActivated, EventSuspended} {
			require.Equal(t, kind, <-told, "in their order")
		}
	})
}

// An App that the registry did not answer for longer than its lease lets in by what it knew, until it asks again. It is waited for
// then, and no longer than that: it may have died.
func TestWhoWasCutOffIsWaitedFor(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		b := open(t, p.backend(t), func(c *Config) { c.PollInterval, c.LookupTimeout = 100*time.Millisecond, 100*time.Millisecond })
		loki := create(t, a, "loki")
		write := func() error {
			return b.Run(t.Context(), loki.ID, Policy{}, func(ctx context.Context, _ *Tenant) error {
				_, err := b.DB().ExecContext(ctx, "INSERT INTO polls (question) VALUES ($1)", rand.Text())
				return err
			})
		}
		require.NoError(t, write())

		require.NoError(t, b.polling.Acquire(t.Context(), 1)) // it gets no answer
		require.NoError(t, b.announced.turn.Acquire(t.Context(), 1))
		answered := sync.OnceFunc(func() {
			b.announced.turn.Release(1)
			b.polling.Release(1)
		})
		defer answered()
		long := time.Now().Add(-b.lease())
		b.announced.begun.Store(&long)
		_, err := a.Shared().ExecContext(t.Context(), `UPDATE tenement_apps SET seen_at = '2026-01-01T00:00:00.000000Z'`)
		require.NoError(t, err)
		b.noteDeaf()
		require.NoError(t, write(), "it serves what it knew")
		a.step = func(name string) {
			if name == "freeze: begun" {
				b.noteDeaf() // by a question that was asked before
				answered()
			}
		}
		require.NoError(t, a.Freeze(t.Context(), loki.ID, "it is copied", func(context.Context, Tenant) error {
			assert.ErrorIs(t, write(), ErrReadOnly)
			return nil
		}))
		a.step = func(string) {}

		var apps int
		_, err = a.Shared().ExecContext(t.Context(), `INSERT INTO tenement_apps (id, bound_ms, lease_ms, deaf_ms, seen_at)
			VALUES ('dead', 0, 1, 1, '2026-01-01T00:00:00.000000Z')`)
		require.NoError(t, err)
		require.NoError(t, a.Freeze(t.Context(), loki.ID, "it is copied", func(context.Context, Tenant) error {
			return a.Shared().QueryRowContext(t.Context(), `SELECT count(*) FROM tenement_apps WHERE id = 'dead'`).Scan(&apps)
		}))
		require.Zero(t, apps)
	})
}
