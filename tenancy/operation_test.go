package tenancy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/internal/wireproxy"
)

// interrupted has an App of its own begin an operation and stop dead at a step, as if its process had died.
func interrupted(t *testing.T, p place, step string, begin func(a *App) error, change ...func(*Config)) {
	t.Helper()
	a := open(t, p.backend(t), change...)
	died := errors.New("died")
	a.step = func(name string) {
		if name == step {
			panic(died)
		}
	}
	defer func() { require.Equal(t, died, recover(), "it should have got to the step %s", step) }()
	require.NoError(t, begin(a))
}

// cutLocks ends the connections that hold locks of ours.
func cutLocks(t *testing.T, p place) {
	t.Helper()
	var n int
	require.NoError(t, p.be.Shared().QueryRowContext(t.Context(), `SELECT count(pg_terminate_backend(pid)) FROM (SELECT DISTINCT pid FROM pg_locks
		WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND granted AND pid <> pg_backend_pid()
		AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) l`).Scan(&n))
	require.NotZero(t, n)
}

// requireOneThor fails unless thor is what one process alone has made of it.
func requireOneThor(t *testing.T, a *App) {
	t.Helper()
	thor, err := a.BySlug(t.Context(), "thor")
	require.NoError(t, err)
	require.Equal(t, Active, thor.Status)
	require.Equal(t, []string{"Hammer?"}, questions(t, a, enter(t, thor)))
	requireHealthy(t, a)
}

// S85: whoever lost the lock does nothing destructive any more.
func TestLockLost(t *testing.T) {
	t.Parallel()
	spec := Spec{Slug: "thor"}
	t.Run("create", func(t *testing.T) {
		t.Parallel()
		p := newPlace(t, pgtest.Shared(t).Database(t))
		interrupted(t, p, "create: provisioned", func(a *App) error { _, err := a.Create(t.Context(), spec); return err })
		late, next := open(t, p.backend(t)), open(t, p.backend(t))
		late.step = func(name string) {
			if name != "create: resumed" {
				return
			}
			// About to drop what is half made; and now somebody else makes and serves it.
			cutLocks(t, p)
			assert.NoError(t, next.FinishOperations(t.Context()))
			thor, err := next.BySlug(t.Context(), "thor")
			assert.NoError(t, err)
			assert.Equal(t, Active, thor.Status)
			ask(t, next, enter(t, thor), "Hammer?")
		}
		require.ErrorIs(t, late.FinishOperations(t.Context()), backend.ErrLockLost)
		requireOneThor(t, next)
	})
	t.Run("purge", func(t *testing.T) {
		t.Parallel()
		p := newPlace(t, pgtest.Shared(t).Database(t))
		late, next := open(t, p.backend(t)), open(t, p.backend(t))
		thor := create(t, late, "thor")
		_, err := late.Delete(t.Context(), thor.ID)
		require.NoError(t, err)
		late.step = func(name string) {
			if name != "purge: forgetting" {
				return
			}
			cutLocks(t, p)
			assert.NoError(t, next.FinishOperations(t.Context()))
			successor := create(t, next, "thor")
			assert.NotEqual(t, thor.ID, successor.ID)
		}
		require.ErrorIs(t, late.Purge(t.Context(), thor.ID), backend.ErrLockLost)
		successor, err := next.BySlug(t.Context(), "thor")
		require.NoError(t, err)
		require.NoError(t, next.Migrator().Ready(t.Context(), successor.Route()))
		_, _, leave, err := open(t, p.backend(t)).Enter(t.Context(), successor.Ref(), Policy{})
		require.NoError(t, err, "the ledger has its row")
		leave()
		requireHealthy(t, next)
	})
	// A lock that is lost without a word: the row says who goes on.
	t.Run("superseded", func(t *testing.T) {
		onEach(t, func(t *testing.T, p place) {
			a := open(t, p.be)
			a.step = func(name string) {
				if name == "create: filled" {
					_, err := a.Shared().ExecContext(t.Context(), "UPDATE tenement_operations SET fence = fence + 1")
					assert.NoError(t, err)
				}
			}
			_, err := a.Create(t.Context(), spec)
			require.ErrorIs(t, err, backend.ErrLockLost)
			thor, err := a.BySlug(t.Context(), "thor")
			require.NoError(t, err)
			require.Equal(t, Provisioning, thor.Status, "nothing is said about what is somebody else's now")
			a.step = func(string) {}
			require.NoError(t, a.FinishOperations(t.Context()))
			requireHealthy(t, a)
		})
	})
}

// OnCreate may create other tenants, eight at once.
func TestCreateWithinCreate(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var a *App
		a = open(t, p.be, func(c *Config) {
			c.Hooks.OnCreate = func(ctx context.Context, tenant Tenant, _ Seed) error {
				if _, err := a.Delete(ctx, tenant.ID); !errors.Is(err, ErrStatus) {
					return fmt.Errorf("it waits for itself: %w", err)
				}
				if len(tenant.Slug) > 2 {
					return nil
				}
				_, err := a.Create(ctx, Spec{Slug: tenant.Slug + "-trial"})
				return err
			}
		})
		var group sync.WaitGroup
		for i := range 8 {
			group.Go(func() {
				_, err := a.Create(ctx, Spec{Slug: fmt.Sprintf("t%d", i)})
				assert.NoError(t, err)
			})
		}
		group.Wait()
		requireHealthy(t, a)
	})
}

// S73: nobody holds a connection of the pool while waiting for another.
func TestSmallPools(t *testing.T) {
	t.Parallel()
	for _, size := range []string{"1", "2"} {
		t.Run(size, func(t *testing.T) {
			t.Parallel()
			u, err := url.Parse(pgtest.Shared(t).Database(t))
			require.NoError(t, err)
			q := u.Query()
			q.Set("pool_max_conns", size)
			u.RawQuery = q.Encode()
			p := newPlace(t, u.String())
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			var a *App
			a = open(t, p.be, func(c *Config) {
				c.PollInterval = 50 * time.Millisecond
				c.Hooks.OnCreate = func(ctx context.Context, _ Tenant, _ Seed) error { ask(t, a, ctx, "Hammer?"); return nil }
			})
			var group sync.WaitGroup
			for i := range 4 {
				group.Go(func() {
					tenant, err := a.Create(ctx, Spec{Slug: fmt.Sprintf("t%d", i)})
					if !assert.NoError(t, err) {
						return
					}
					assert.NoError(t, a.Run(ctx, tenant, Policy{}, func(ctx context.Context, _ *Tenant) error {
						_, err := a.DB().ExecContext(ctx, "INSERT INTO polls (question) VALUES ('Why?')")
						return err
					}))
					_, err = a.Rename(ctx, tenant.ID, tenant.Slug+"-renamed")
					assert.NoError(t, err)
					_, err = a.Delete(ctx, tenant.ID)
					assert.NoError(t, err)
					assert.NoError(t, a.Purge(ctx, tenant.ID))
				})
			}
			group.Wait()
			_, err = a.Doctor(ctx)
			require.NoError(t, err)
		})
	}
}

// A tenant whose creation failed is not stuck.
func TestFailedCreationHasWaysOut(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		broken := errors.New("no hammer")
		fail := true
		var seeds []string
		a := open(t, p.be, func(c *Config) {
			c.Hooks.OnCreate = func(_ context.Context, _ Tenant, seed Seed) error {
				seeds = append(seeds, string(seed))
				if fail {
					return broken
				}
				return nil
			}
		})
		failed := func(slug string) ID {
			fail, seeds = true, nil
			_, err := a.Create(t.Context(), Spec{Slug: slug, Seed: map[string]string{"founder": "Odin"}})
			require.ErrorIs(t, err, broken)
			fail = false
			ops, err := a.Operations(t.Context())
			require.NoError(t, err)
			require.Len(t, ops, 1)
			require.True(t, ops[0].Stopped)
			require.Contains(t, ops[0].Error, "no hammer")
			require.NoError(t, a.FinishOperations(t.Context()), "it is not tried again by itself")
			require.Len(t, seeds, 1)
			return id(t, a, slug)
		}
		// Deleted, purged, made anew.
		thor := failed("thor")
		_, err := a.Delete(t.Context(), thor)
		require.NoError(t, err)
		require.NoError(t, a.Purge(t.Context(), thor))
		requireHealthy(t, a)
		create(t, a, "thor")

		// Repaired: with what Create was told.
		odin := failed("odin")
		findings, err := a.Doctor(t.Context())
		require.NoError(t, err)
		require.Len(t, findings, 1)
		require.Equal(t, FindingFailed, findings[0].Code)
		require.NoError(t, a.Repair(t.Context(), findings[0]))
		require.Equal(t, []string{`{"founder":"Odin"}`, `{"founder":"Odin"}`}, seeds)
		now, err := a.ByID(t.Context(), odin)
		require.NoError(t, err)
		require.Equal(t, Active, now.Status)
		requireHealthy(t, a)
		var kept int
		require.NoError(t, a.Shared().QueryRowContext(t.Context(), "SELECT count(*) FROM tenement_operations").Scan(&kept))
		require.Zero(t, kept, "the seed is forgotten")

		// Deleted, restored, created again.
		loki := failed("loki")
		_, err = a.Delete(t.Context(), loki)
		require.NoError(t, err)
		restored, err := a.Restore(t.Context(), loki)
		require.NoError(t, err)
		require.Equal(t, Failed, restored.Status)
		require.Equal(t, loki, create(t, a, "loki").ID)
		requireHealthy(t, a)
	})
}

// Deleted while it is being created: after that.
func TestDeleteDuringCreate(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		filling, deleting := make(chan ID), make(chan struct{})
		a := open(t, p.be, func(c *Config) {
			c.Hooks.OnCreate = func(_ context.Context, tenant Tenant, _ Seed) error {
				filling <- tenant.ID
				<-deleting
				return nil
			}
		})
		other := open(t, p.backend(t))
		done := make(chan error)
		go func() { _, err := a.Create(t.Context(), Spec{Slug: "thor"}); done <- err }()
		thor := <-filling
		go func() { _, err := other.Delete(t.Context(), thor); done <- err }()
		close(deleting)
		require.NoError(t, <-done)
		require.NoError(t, <-done)
		now, err := a.ByID(t.Context(), thor)
		require.NoError(t, err)
		require.Equal(t, Deleted, now.Status)
		require.NoError(t, a.Purge(t.Context(), thor))
		requireHealthy(t, a)
	})
}

// A tenant that is changed while it is being made stays changed, and is active.
func TestChangedDuringCreate(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		other := open(t, p.backend(t))
		a.step = func(name string) {
			if name == "create: make done" {
				donar := "Donar"
				_, err := other.Update(t.Context(), id(t, other, "thor"), Patch{Name: &donar})
				assert.NoError(t, err)
			}
		}
		thor := create(t, a, "thor", "thor.example")
		require.Equal(t, Active, thor.Status)
		require.Equal(t, "Donar", thor.Name)
		a.step = func(string) {}
		again, err := a.BySlug(t.Context(), "thor")
		require.NoError(t, err)
		require.Equal(t, thor, again)
		requireHealthy(t, a)
	})
}

// Many who want the same domains, in any order, wait for no circle: one gets them, the others hear whose they are.
func TestClaimsOfTheSameDomains(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		hosts := []string{"a.example", "b.example", "c.example", "d.example"}
		var made atomic.Int32
		var group sync.WaitGroup
		for i := range 16 {
			wanted := slices.Clone(hosts)
			rand.Shuffle(len(wanted), func(i, j int) { wanted[i], wanted[j] = wanted[j], wanted[i] })
			group.Go(func() {
				_, err := a.Create(t.Context(), Spec{Slug: fmt.Sprintf("t%d", i), Domains: wanted})
				if err == nil {
					made.Add(1)
					return
				}
				assert.ErrorIs(t, err, ErrDomainTaken)
			})
		}
		group.Wait()
		require.EqualValues(t, 1, made.Load())
		entered := 0
		for _, err := range a.Tenants(t.Context(), Filter{}) {
			require.NoError(t, err)
			entered++
		}
		require.Equal(t, 1, entered)
		requireHealthy(t, a)
	})
}

// Who enters a tenant that is being renamed elsewhere, and asks the ledger, which has the new name already, waits for the
// rename; who enters it then serves it, though nobody has told them yet.
func TestEnterDuringRename(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		thor := create(t, a, "thor")
		ask(t, a, enter(t, thor), "Hammer?")
		others := []*App{open(t, p.backend(t)), open(t, p.backend(t))}
		for _, other := range others {
			_, err := other.ResolveID(t.Context(), thor.ID) // it has the old name
			require.NoError(t, err)
		}
		visit := func(other *App) error {
			return other.Run(t.Context(), thor.Ref(), Policy{}, func(ctx context.Context, _ *Tenant) error {
				require.Equal(t, []string{"Hammer?"}, questions(t, other, ctx))
				return nil
			})
		}
		entered := make(chan error, 1)
		a.step = func(name string) {
			if name == "rename: move done" {
				go func() { entered <- visit(others[0]) }()
				select {
				case err := <-entered:
					entered <- fmt.Errorf("it was let in, or refused, meanwhile: %w", err)
				case <-time.After(100 * time.Millisecond): // it waits, or has not begun
				}
			}
		}
		_, err := a.Rename(t.Context(), thor.ID, "donar")
		require.NoError(t, err)
		require.NoError(t, <-entered)
		require.NoError(t, visit(others[1]))
	})
}

// What OnCreate does after its lock was lost never gets into the store of whoever started over, and what goes on after it
// does, if the creation succeeded.
func TestOnCreateOutlivesItsLock(t *testing.T) {
	t.Parallel()
	spec := Spec{Slug: "thor"}
	t.Run("lost", func(t *testing.T) {
		t.Parallel()
		p := newPlace(t, pgtest.Shared(t).Database(t))
		ways := map[string]func(a *App, ctx context.Context) error{
			"a statement": func(a *App, ctx context.Context) error {
				_, err := a.DB().ExecContext(ctx, "INSERT INTO polls (question) VALUES ('late')")
				return err
			},
			"a transaction": func(a *App, ctx context.Context) error {
				tx, err := a.DB().BeginTx(ctx, nil)
				if err != nil {
					return err
				}
				if _, err = tx.Exec("INSERT INTO polls (question) VALUES ('late')"); err != nil {
					return errors.Join(err, tx.Rollback())
				}
				return tx.Commit()
			},
			"outside of a transaction": func(a *App, ctx context.Context) error {
				_, err := a.DB().ExecContext(ctx, "VACUUM polls")
				return err
			},
		}
		first := true
		var next *App
		fill := func(a **App) func(*Config) {
			return func(c *Config) {
				c.Hooks.OnCreate = func(ctx context.Context, _ Tenant, _ Seed) error {
					if first {
						first = false
						cutLocks(t, p)
						assert.NoError(t, next.FinishOperations(t.Context()))
						for name, do := range ways {
							assert.ErrorIs(t, do(*a, ctx), backend.ErrLockLost, name)
						}
						return nil
					}
					_, err := (*a).DB().ExecContext(ctx, "INSERT INTO polls (question) VALUES ('Hammer?')")
					return err
				}
			}
		}
		var late *App
		late = open(t, p.backend(t), fill(&late))
		next = open(t, p.backend(t), fill(&next))
		_, err := late.Create(t.Context(), spec)
		require.ErrorIs(t, err, backend.ErrLockLost)
		requireOneThor(t, next)
	})
	t.Run("over", func(t *testing.T) {
		onEach(t, func(t *testing.T, p place) {
			var a *App
			var kept []context.Context
			failing := true
			a = open(t, p.be, func(c *Config) {
				c.Hooks.OnCreate = func(ctx context.Context, _ Tenant, _ Seed) error {
					kept = append(kept, context.WithoutCancel(ctx))
					if failing {
						return errors.New("not this time")
					}
					return nil
				}
			})
			_, err := a.Create(t.Context(), spec)
			require.ErrorContains(t, err, "not this time")
			failing = false
			_, err = a.Create(t.Context(), spec)
			require.NoError(t, err)
			_, err = a.DB().ExecContext(kept[0], "INSERT INTO polls (question) VALUES ('late')")
			require.ErrorIs(t, err, backend.ErrLockLost)
			ask(t, a, kept[1], "Welcome?")
			require.Equal(t, []string{"Welcome?"}, questions(t, a, kept[1]))
		})
	})
}

// halfThor leaves the creation of thor half done, with nobody at work on it.
func halfThor(t *testing.T, p place) {
	t.Helper()
	interrupted(t, p, "create: provisioned", func(a *App) error { _, err := a.Create(t.Context(), Spec{Slug: "thor"}); return err })
}

// requireFinished fails unless thor was made, and nothing is left to do.
func requireFinished(t *testing.T, a *App) {
	t.Helper()
	ops, err := a.Operations(t.Context())
	require.NoError(t, err)
	require.Empty(t, ops)
	require.Equal(t, Active, bySlug(t, a, "thor").Status)
	requireHealthy(t, a)
}

// Somebody is at work on an operation when the lock is refused, not when it takes long to be asked for.
func TestFinishOperationsFromFarAway(t *testing.T) {
	t.Parallel()
	url := pgtest.Shared(t).Database(t)
	p := newPlace(t, url)
	halfThor(t, p)
	proxy, err := wireproxy.NewURL(url)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, proxy.Close()) })
	far, err := backend.Open(t.Context(), proxy.URL(url))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, far.Close()) })
	a := open(t, far)
	proxy.SetLatency(busyAfter / 3) // a round trip, of which connecting takes several
	require.NoError(t, a.FinishOperations(t.Context()))
	proxy.SetLatency(0)
	requireFinished(t, a)
}

// Nor when its own process has no room for it.
func TestFinishOperationsWaitsForItsTurn(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		halfThor(t, p)
		a := open(t, p.be)
		require.NoError(t, a.operations.Acquire(t.Context(), maxOperations))
		short, cancel := context.WithTimeout(t.Context(), 3*busyAfter)
		defer cancel()
		require.ErrorIs(t, a.FinishOperations(short), context.DeadlineExceeded)
		a.operations.Release(maxOperations)
		require.NoError(t, a.FinishOperations(t.Context()))
		requireFinished(t, a)
	})
}

// Who holds the lock is at work, for as long as he holds it.
func TestFinishOperationsLeavesThoseThatAreWorkedOn(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		halfThor(t, p)
		a, other := open(t, p.be), open(t, p.backend(t))
		ops, err := a.Operations(t.Context())
		require.NoError(t, err)
		require.Len(t, ops, 1)
		require.NoError(t, other.withTenant(t.Context(), "look", ops[0].Tenant, func(context.Context, *held) error {
			require.NoError(t, a.FinishOperations(t.Context()))
			left, err := a.Operations(t.Context())
			require.NoError(t, err)
			require.Equal(t, ops, left)
			return nil
		}))
		require.NoError(t, a.FinishOperations(t.Context()))
		requireFinished(t, a)
	})
}

// A server that does not answer says nothing of others.
func TestFinishOperationsSaysThatItWasNotTold(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "sqlite:"+t.TempDir())
	halfThor(t, p)
	a := open(t, p.be)
	locker := a.locker
	a.locker = &silent{locker}
	err := a.FinishOperations(t.Context())
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NotErrorIs(t, err, backend.ErrBusy)
	a.locker = locker
	require.NoError(t, a.FinishOperations(t.Context()))
	requireFinished(t, a)
}

// silent is a server that does not say who has a lock.
type silent struct{ backend.Locker }

func (*silent) TryLock(ctx context.Context, _ string) (backend.Lock, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// A claim whose process died while the server committed it may come to light only once the next has looked whether there is any:
// it is finished first all the same. SQLite commits nothing for the dead.
func TestClaimOfTheDeadIsCommittedLate(t *testing.T) {
	t.Parallel()
	for name, next := range map[string]func(ctx context.Context, a *App, thor Tenant) error{
		"rename": func(ctx context.Context, a *App, thor Tenant) error {
			_, err := a.Rename(ctx, thor.ID, "loki")
			return err
		},
		"replace": func(ctx context.Context, a *App, thor Tenant) error {
			_, err := a.Replace(ctx, thor.ID, renewed(a))
			return err
		},
		"freeze": func(ctx context.Context, a *App, thor Tenant) error {
			return a.Freeze(ctx, thor.ID, "", func(context.Context, Tenant) error { return nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t, pgtest.Shared(t).Database(t))
			a, dead := open(t, p.be), open(t, p.backend(t))
			thor := create(t, a, "thor")
			claimed, commits, over := make(chan struct{}), make(chan struct{}), make(chan error, 2)
			go func() {
				_, err := dead.reg.change(t.Context(), func(ctx context.Context, tx *registryTx) error {
					_, err := tx.begin(ctx, thor.ID, OpRename, "donar", opArgs{Slug: "donar", Store: "donar"})
					close(claimed)
					<-commits
					return err
				})
				over <- err
			}()
			<-claimed
			go func() { over <- next(t.Context(), a, thor) }()
			require.Eventually(t, func() bool {
				var waiting int
				require.NoError(t, p.be.Shared().QueryRowContext(t.Context(), `SELECT count(*) FROM pg_stat_activity
					WHERE wait_event_type = 'Lock' AND datname = current_database()`).Scan(&waiting))
				return waiting == 1
			}, time.Minute, time.Millisecond)
			close(commits)
			require.NoError(t, <-over)
			require.NoError(t, <-over)
			ops, err := a.Operations(t.Context())
			require.NoError(t, err)
			require.Empty(t, ops)
			now, err := a.ByID(t.Context(), thor.ID)
			require.NoError(t, err)
			require.Equal(t, map[string]string{"rename": "loki", "replace": "donar", "freeze": "donar"}[name], now.Slug)
			requireHealthy(t, a)
		})
	}
}
