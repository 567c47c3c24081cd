package tenancy

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/pgtest"
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
		_, err = b.Shared().ExecContext(t.Context(), `UPDATE tenement_apps SET seen_at = '2026-01-01T00:00:00.000000Z', bound_ms = 0, deaf_ms = 0`)
		require.NoError(t, err)
		later := time.Now().Add(time.Hour)
		b.announced.begun.Store(&later) // its clock was set back
		require.NoError(t, a.Freeze(t.Context(), loki.ID, "it is copied", func(context.Context, Tenant) error {
			require.NoError(t, b.renewDue(t.Context()))
			assert.ErrorIs(t, write(b, loki), ErrReadOnly)
			return nil
		}))
	})
}

// A process that was stopped for longer than others wait for it hears of what it missed before it lets anybody in, and is waited
// for again when it was taken for dead; unless the registry does not answer.
func TestWhoWasStoppedHasHeard(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		b := open(t, p.backend(t), func(c *Config) { c.LookupTimeout = 2 * time.Second })
		known := func(slug string) *Tenant {
			who, err := b.ResolveID(t.Context(), create(t, a, slug).ID)
			require.NoError(t, err)
			return who
		}
		asked := 0
		write := func(who *Tenant) error {
			asked++
			return b.Run(t.Context(), who, Policy{}, func(ctx context.Context, _ *Tenant) error {
				_, err := b.DB().ExecContext(ctx, "INSERT INTO polls (question) VALUES ($1)", fmt.Sprint(asked))
				return err
			})
		}
		stopped := func() {
			b.heard.Store(&hearing{at: time.Now().Add(-b.StalenessBound() - time.Second), good: b.StalenessBound()})
		}
		thor, odin, loki, freyr := known("thor"), known("odin"), known("loki"), known("freyr")
		require.NoError(t, write(thor))
		require.NoError(t, write(odin))

		_, err := a.SetReadOnly(t.Context(), thor.ID, "it is copied")
		require.NoError(t, err)
		_, err = a.Delete(t.Context(), odin.ID)
		require.NoError(t, err)
		require.NoError(t, write(thor), "within the bound it need not know")
		stopped()
		require.ErrorIs(t, write(thor), ErrReadOnly)
		require.ErrorIs(t, write(odin), ErrNotActive)

		_, err = b.Shared().ExecContext(t.Context(), `DELETE FROM tenement_apps`) // by one who took it for dead
		require.NoError(t, err)
		long := time.Now().Add(-b.lease())
		b.announced.begun.Store(&long)
		require.NoError(t, a.Freeze(t.Context(), loki.ID, "it is copied", func(context.Context, Tenant) error {
			assert.ErrorIs(t, write(loki), ErrReadOnly)
			var apps int
			require.NoError(t, a.Shared().QueryRowContext(t.Context(), `SELECT count(*) FROM tenement_apps`).Scan(&apps))
			assert.Equal(t, 1, apps)
			return nil
		}))

		require.NoError(t, b.polling.Acquire(t.Context(), 1)) // who asks gets no answer
		stopped()
		short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, _, _, err = b.Enter(short, freyr, Policy{})
		require.ErrorIs(t, err, ErrUnavailable)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NoError(t, write(freyr))
		require.True(t, b.current(), "nobody else waits")
		b.polling.Release(1)
	})
}

func TestSince(t *testing.T) {
	now := time.Now()
	assert.Equal(t, time.Minute, since(now.Add(-time.Minute), now))
	assert.Equal(t, time.Minute, since(now.Add(-time.Minute).Round(0), now), "the machine slept, and the monotonic clock stood still")
	assert.Greater(t, since(now.Add(time.Hour), now), time.Hour, "the clock was set back")
	assert.Greater(t, since(time.Time{}, now), time.Hour, "never")
}

// Others can hear of a change once it is committed, which may be long after it was made: who freezes or purges waits from then on.
func TestHeardFromTheCommit(t *testing.T) {
	t.Parallel()
	const bound = 300 * time.Millisecond
	p := newPlace(t, pgtest.Shared(t).Database(t))
	a := open(t, p.be)
	thor, odin := create(t, a, "thor"), create(t, a, "odin")
	other := p.backend(t).Shared()
	_, err := other.ExecContext(t.Context(), `INSERT INTO tenement_apps (id, bound_ms, lease_ms, seen_at) VALUES ('deaf', $1, 3600000, `+a.reg.now()+`)`, bound.Milliseconds())
	require.NoError(t, err)
	now := func() (at time.Time) {
		assert.NoError(t, other.QueryRowContext(t.Context(), `SELECT clock_timestamp()`).Scan(&at))
		return at
	}
	// slowly has what change does committed only after the bound.
	slowly := func(change func() error) (committed time.Time, done chan error) {
		tx, err := other.BeginTx(t.Context(), nil)
		require.NoError(t, err)
		_, err = tx.ExecContext(t.Context(), `SELECT 1 FROM tenement_revision WHERE id = 1 FOR UPDATE`)
		require.NoError(t, err)
		done = make(chan error, 1)
		go func() { done <- change() }()
		var waits bool
		require.Eventually(t, func() bool {
			err := p.be.Shared().QueryRowContext(t.Context(), `SELECT EXISTS (SELECT 1 FROM pg_stat_activity
				WHERE datname = current_database() AND wait_event_type = 'Lock' AND query_start < clock_timestamp() - interval '400 ms')`).Scan(&waits)
			return err == nil && waits
		}, time.Minute, time.Millisecond)
		committed = now()
		require.NoError(t, tx.Commit())
		return committed, done
	}

	var begun time.Time
	committed, done := slowly(func() error {
		return a.Freeze(t.Context(), thor.ID, "it is copied", func(context.Context, Tenant) error { begun = now(); return nil })
	})
	require.NoError(t, <-done)
	assert.GreaterOrEqual(t, begun.Sub(committed), bound, "frozen")

	committed, done = slowly(func() error { _, err := a.Delete(t.Context(), odin.ID); return err })
	require.NoError(t, <-done)
	// The history of a tenant who was brought here comes after it, and says when things were done elsewhere.
	_, err = other.ExecContext(t.Context(), `WITH r AS (UPDATE tenement_revision SET revision = revision + 1 WHERE id = 1 RETURNING revision)
		INSERT INTO tenement_changes (revision, tenant_id, kind, nonce, actor, detail, at)
		SELECT revision, 'another', 'created', $1, '', '', '2026-01-01T00:00:00.000000Z' FROM r`, historyNonce)
	require.NoError(t, err)
	a.step = func(name string) {
		if name == "purge: heard" {
			begun = now()
		}
	}
	require.NoError(t, a.Purge(t.Context(), odin.ID))
	a.step = func(string) {}
	assert.GreaterOrEqual(t, begun.Sub(committed), bound, "purged")

	// What was followed by another change long ago is waited for no more.
	_, err = a.Delete(t.Context(), thor.ID)
	require.NoError(t, err)
	create(t, a, "loki")
	_, err = other.ExecContext(t.Context(), `UPDATE tenement_changes SET at = '2026-01-01T00:00:00.000000Z'`)
	require.NoError(t, err)
	_, err = other.ExecContext(t.Context(), `UPDATE tenement_apps SET bound_ms = 3600000`)
	require.NoError(t, err)
	require.NoError(t, a.Purge(t.Context(), thor.ID))
}

// What was done to a tenant elsewhere, before he came, is his history and nothing that changes now.
func TestEnrolledIsToldOnce(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		from := open(t, newPlaceLike(t, p).be)
		thor := create(t, from, "thor")
		for _, change := range []func() (Tenant, error){
			func() (Tenant, error) { return from.Suspend(t.Context(), thor.ID, "unpaid") },
			func() (Tenant, error) { return from.Delete(t.Context(), thor.ID) },
			func() (Tenant, error) { return from.Restore(t.Context(), thor.ID) },
			func() (Tenant, error) { return from.Activate(t.Context(), thor.ID) },
		} {
			_, err := change()
			require.NoError(t, err)
		}
		told := map[string][]EventKind{}
		listening := func(name string) *App {
			return open(t, p.backend(t), func(c *Config) {
				c.Hooks.OnChange = func(_ context.Context, e Event) { told[name] = append(told[name], e.Kind) }
			})
		}
		b, c := listening("b"), listening("c")
		require.NoError(t, c.Refresh(t.Context()))
		require.NoError(t, b.migrator.Provision(t.Context(), thor.route()))
		require.NoError(t, b.Enroll(t.Context(), from, []ID{thor.ID}))
		require.NoError(t, b.Refresh(t.Context()))
		require.NoError(t, c.Refresh(t.Context()))
		require.Equal(t, map[string][]EventKind{"b": {EventEnrolled}, "c": {EventEnrolled}}, told)
		history, err := c.History(t.Context(), thor.ID, 0)
		require.NoError(t, err)
		require.Equal(t, EventEnrolled, history[0].Kind)
		require.Greater(t, len(history), 4)
	})
}

// OnChange is told of each change by others once: that the context of who heard of it is over does not concern it.
func TestOnChangeIsNotHurried(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		thor := create(t, a, "thor")
		var told []error
		b := open(t, p.backend(t), func(c *Config) {
			c.Hooks.OnChange = func(ctx context.Context, _ Event) { told = append(told, ctx.Err()) }
		})
		require.NoError(t, b.Refresh(t.Context()))
		_, err := a.Suspend(t.Context(), thor.ID, "unpaid")
		require.NoError(t, err)
		require.NoError(t, b.hear(t.Context()))
		over, cancel := context.WithCancel(t.Context())
		cancel()
		require.Error(t, b.Refresh(over))
		require.Equal(t, []error{nil}, told)
	})
}

// OnChange that is told within an operation cannot have what that holds, and does not wait for it.
func TestOnChangeWithinAnOperation(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		thor := create(t, a, "thor")
		var b *App
		var refused []error
		b = open(t, p.backend(t), func(c *Config) {
			c.Hooks.OnChange = func(ctx context.Context, e Event) {
				if e.Remote {
					refused = append(refused, b.Freeze(ctx, e.Tenant.ID, "", func(context.Context, Tenant) error { return nil }))
				}
			}
		})
		require.NoError(t, b.Refresh(t.Context()))
		_, err := a.Delete(t.Context(), thor.ID)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.NoError(t, b.Purge(ctx, thor.ID))
		require.Len(t, refused, 1)
		var status *StatusError
		require.ErrorAs(t, refused[0], &status)
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
