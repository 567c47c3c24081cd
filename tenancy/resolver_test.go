package tenancy

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

// insertTenants puts tenants that have no stores into the registry, each with two domains.
func insertTenants(t testing.TB, a *App, n int) {
	tx, err := a.Shared().BeginTx(t.Context(), nil)
	require.NoError(t, err)
	defer func() { _ = tx.Rollback() }()
	const per = 200
	for from := 0; from < n; from += per {
		var tenants, domains []string
		for i := from; i < min(n, from+per); i++ {
			id, err := newID()
			require.NoError(t, err)
			tenants = append(tenants, fmt.Sprintf("('%s', 'made-%d', 'Made', 'active', 'made-%d', %s, %s)", id, i, i, a.reg.now(), a.reg.now()))
			domains = append(domains, fmt.Sprintf("('made-%d.example', '%s', TRUE), ('made-%d.test', '%s', FALSE)", i, id, i, id))
		}
		_, err = tx.ExecContext(t.Context(), `INSERT INTO tenement_tenants (id, slug, name, status, store, created_at, updated_at) VALUES `+strings.Join(tenants, ","))
		require.NoError(t, err)
		_, err = tx.ExecContext(t.Context(), `INSERT INTO tenement_domains (host, tenant_id, is_primary) VALUES `+strings.Join(domains, ","))
		require.NoError(t, err)
	}
	require.NoError(t, tx.Commit())
}

func TestResolve(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		thor := create(t, a, "thor", "thor.polls.local", "bücher.example")
		for _, host := range []string{
			"thor.polls.local", "THOR.Polls.local", "thor.polls.local.", "thor.polls.local:8000", "bücher.example", "xn--bcher-kva.example",
		} { // S40
			got, err := a.Resolve(t.Context(), host)
			require.NoError(t, err, host)
			require.Equal(t, thor.ID, got.ID, host)
		}
		_, err := a.Resolve(t.Context(), "www.thor.polls.local")
		require.ErrorIs(t, err, ErrUnknownHost, "www. is another host unless asked for")
		www := open(t, p.be, func(c *Config) { c.IgnoreWWW = true })
		got, err := www.Resolve(t.Context(), "WWW.thor.polls.local")
		require.NoError(t, err)
		require.Equal(t, thor.ID, got.ID)

		_, err = a.Resolve(t.Context(), "tho r.polls.local") // S41
		require.ErrorIs(t, err, ErrMalformedHost)
		_, err = a.Resolve(t.Context(), "odin.polls.local") // S42
		require.ErrorIs(t, err, ErrUnknownHost)
		require.ErrorIs(t, err, ErrNotFound)
		require.NotErrorIs(t, err, ErrUnavailable)

		got, err = a.ResolveSlug(t.Context(), "thor")
		require.NoError(t, err)
		require.Equal(t, thor.ID, got.ID)
		got, err = a.ResolveID(t.Context(), thor.ID)
		require.NoError(t, err)
		require.Equal(t, thor.ID, got.ID)
		for _, slug := range []string{"", "odin", "Thor", strings.Repeat("a", 64), "thor\x00"} {
			_, err = a.ResolveSlug(t.Context(), slug)
			require.ErrorIs(t, err, ErrNotFound, "%q", slug)
		}
		byDomain, err := a.ByDomain(t.Context(), "THOR.polls.local")
		require.NoError(t, err)
		require.Equal(t, thor.ID, byDomain.ID)
		_, err = a.ByDomain(t.Context(), "odin.polls.local")
		require.ErrorIs(t, err, ErrUnknownHost)
		byID, err := a.ByID(t.Context(), thor.ID)
		require.NoError(t, err)
		require.Equal(t, thor, byID)
	})
}

// What this App does itself it sees at once, also where it remembered that there was nothing.
func TestResolveAfterOwnChange(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		missing := func(host string) {
			_, err := a.Resolve(t.Context(), host)
			require.ErrorIs(t, err, ErrUnknownHost)
		}
		leads := func(host, slug string) {
			got, err := a.Resolve(t.Context(), host)
			require.NoError(t, err)
			require.Equal(t, slug, got.Slug)
		}
		missing("thor.example")
		_, err := a.ResolveSlug(t.Context(), "thor")
		require.ErrorIs(t, err, ErrNotFound)
		create(t, a, "thor", "thor.example")
		leads("thor.example", "thor")
		missing("donar.example")
		_, err = a.AddDomain(t.Context(), id(t, a, "thor"), "donar.example")
		require.NoError(t, err)
		leads("donar.example", "thor")
		_, err = a.Rename(t.Context(), id(t, a, "thor"), "donar")
		require.NoError(t, err)
		leads("donar.example", "donar")
		_, err = a.ResolveSlug(t.Context(), "thor")
		require.ErrorIs(t, err, ErrNotFound)
		_, err = a.RemoveDomain(t.Context(), id(t, a, "donar"), "donar.example")
		require.NoError(t, err)
		missing("donar.example")
		_, err = a.Suspend(t.Context(), id(t, a, "donar"), "")
		require.NoError(t, err)
		got, err := a.Resolve(t.Context(), "thor.example")
		require.NoError(t, err)
		require.Equal(t, Suspended, got.Status)
	})
}

// S45
func TestChangesOfOtherProcesses(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		type told struct {
			kind EventKind
			slug string
		}
		var events []told
		a := open(t, p.be, func(c *Config) {
			c.Hooks.OnChange = func(ctx context.Context, e Event) {
				assert.True(t, e.Remote)
				events = append(events, told{e.Kind, e.Tenant.Slug})
			}
		})
		other := open(t, p.backend(t))
		resolve := func(host string) (string, error) {
			got, err := a.Resolve(t.Context(), host)
			if err != nil {
				return "", err
			}
			return got.Slug + " " + string(got.Status), nil
		}
		_, err := resolve("thor.example")
		require.ErrorIs(t, err, ErrUnknownHost)
		create(t, other, "thor", "thor.example")
		odin := create(t, other, "odin", "odin.example")
		_, err = resolve("thor.example")
		require.ErrorIs(t, err, ErrUnknownHost, "not heard of yet")
		require.NoError(t, a.Refresh(t.Context()))
		for _, step := range []struct {
			change func() error
			want   string
		}{
			{func() error { return nil }, "thor active"},
			{func() error { _, err := other.Suspend(t.Context(), id(t, other, "thor"), ""); return err }, "thor suspended"},
			{func() error {
				_, err := other.MoveDomain(t.Context(), "thor.example", id(t, other, "odin"))
				return err
			}, "odin active"},
			{func() error { _, err := other.Rename(t.Context(), id(t, other, "odin"), "wotan"); return err }, "wotan active"},
			{func() error {
				_, err := other.RemoveDomain(t.Context(), id(t, other, "wotan"), "thor.example")
				return err
			}, ""},
			{func() error {
				_, err := other.AddDomain(t.Context(), id(t, other, "wotan"), "thor.example")
				return err
			}, "wotan active"},
			{func() error { _, err := other.Delete(t.Context(), id(t, other, "wotan")); return err }, "wotan deleted"},
			{func() error { return other.Purge(t.Context(), id(t, other, "wotan")) }, ""},
		} {
			require.NoError(t, step.change())
			require.NoError(t, a.Refresh(t.Context()))
			got, err := resolve("thor.example")
			require.Equal(t, step.want, got)
			if step.want == "" {
				require.ErrorIs(t, err, ErrUnknownHost)
			}
		}
		_, err = a.ResolveID(t.Context(), odin.ID)
		require.ErrorIs(t, err, ErrNotFound)
		require.Contains(t, events, told{EventCreated, "thor"})
		require.Contains(t, events, told{EventSuspended, "thor"})
		require.Contains(t, events, told{EventPurged, ""})

		// More changes than the list keeps: all is read anew.
		thor, err := a.ResolveSlug(t.Context(), "thor")
		require.NoError(t, err)
		require.Equal(t, Suspended, thor.Status)
		_, err = resolve("thor.example")
		require.ErrorIs(t, err, ErrUnknownHost)
		_, err = other.Activate(t.Context(), id(t, other, "thor"))
		require.NoError(t, err)
		_, err = other.AddDomain(t.Context(), id(t, other, "thor"), "thor.example")
		require.NoError(t, err)
		_, err = other.Shared().ExecContext(t.Context(), `DELETE FROM tenement_changes`)
		require.NoError(t, err)
		require.NoError(t, a.Refresh(t.Context()))
		got, err := resolve("thor.example")
		require.NoError(t, err)
		require.Equal(t, "thor active", got)
	})
}

// S45, with the poller itself.
func TestPollerRuns(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		heard := make(chan Event, 10)
		open(t, p.be, func(c *Config) {
			c.PollInterval = time.Millisecond
			c.Hooks.OnChange = func(ctx context.Context, e Event) { heard <- e }
		})
		create(t, open(t, p.backend(t)), "thor")
		for e := range heard {
			if e.Kind == EventCreated {
				return
			}
		}
	})
}

// That a host is unknown is not remembered once the change that makes it known has been acknowledged, not for a moment.
func TestStaleAbsenceIsNotRemembered(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		thor := create(t, a, "thor")
		var acknowledged atomic.Bool
		a.hosts.absent = otter.Must(&otter.Options[string, time.Time]{
			MaximumSize: 10,
			OnAtomicDeletion: func(e otter.DeletionEvent[string, time.Time]) {
				assert.False(t, acknowledged.Load(), "%s was taken for unknown until now", e.Key)
			},
		})
		a.step = func(name string) {
			if name == "resolve: answered" && !acknowledged.Load() {
				_, err := a.AddDomain(t.Context(), thor.ID, "thor.example")
				assert.NoError(t, err)
				acknowledged.Store(true)
			}
		}
		got, err := a.Resolve(t.Context(), "thor.example")
		require.NoError(t, err)
		require.True(t, acknowledged.Load())
		require.Equal(t, thor.ID, got.ID)
		_, absent := a.hosts.absent.GetIfPresent("thor.example")
		require.False(t, absent)
	})
}

// A read that is overtaken by a change must not be remembered.
func TestStaleReadIsNotRemembered(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		stop := make(chan struct{})
		var readers sync.WaitGroup
		for range 4 {
			readers.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						a.hosts.found.Invalidate("thor.example")
						_, _ = a.Resolve(t.Context(), "thor.example")
					}
				}
			})
		}
		create(t, a, "thor", "thor.example")
		for i := range 20 {
			var err error
			want := Suspended
			if i%2 == 0 {
				_, err = a.Suspend(t.Context(), id(t, a, "thor"), "")
			} else {
				want = Active
				_, err = a.Activate(t.Context(), id(t, a, "thor"))
			}
			require.NoError(t, err)
			got, err := a.Resolve(t.Context(), "thor.example")
			require.NoError(t, err)
			require.Equal(t, want, got.Status)
		}
		for i := range 10 {
			if i%2 == 0 {
				_, err := a.RemoveDomain(t.Context(), id(t, a, "thor"), "thor.example")
				require.NoError(t, err)
				_, err = a.Resolve(t.Context(), "thor.example")
				require.ErrorIs(t, err, ErrUnknownHost)
			} else {
				_, err := a.AddDomain(t.Context(), id(t, a, "thor"), "thor.example")
				require.NoError(t, err)
				_, err = a.Resolve(t.Context(), "thor.example")
				require.NoError(t, err)
			}
		}
		close(stop)
		readers.Wait()
	})
}

// counting counts the questions that the resolver asks.
func counting(a *App) *atomic.Int64 {
	var n atomic.Int64
	a.reg.queries = func() { n.Add(1) }
	return &n
}

func TestOneQuestionForManyWaiters(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		create(t, a, "thor", "thor.example")
		a.hosts.found.InvalidateAll()
		asked := counting(a)
		hold := make(chan struct{})
		var arrived atomic.Int32
		a.reg.queries = func() { asked.Add(1); <-hold }
		var waiters sync.WaitGroup
		for range 50 {
			waiters.Go(func() {
				arrived.Add(1)
				_, err := a.Resolve(t.Context(), "thor.example")
				assert.NoError(t, err)
			})
		}
		// One who gives up does not take the answer away from the others.
		impatient, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := a.Resolve(impatient, "thor.example")
		require.ErrorIs(t, err, context.Canceled)
		for arrived.Load() < 50 {
			runtime.Gosched()
		}
		close(hold)
		waiters.Wait()
		require.LessOrEqual(t, asked.Load(), int64(2), "late ones may find the question answered and the cache filled, or ask once more")
	})
}

// S44
func TestScanOfUnknownHosts(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be, func(c *Config) { c.CacheSize = 1000 })
		insertTenants(t, a, 500)
		asked := counting(a)
		start := time.Now()
		var scanners sync.WaitGroup
		for s := range 4 {
			scanners.Go(func() {
				for i := range 25_000 {
					_, err := a.Resolve(t.Context(), fmt.Sprintf("h%d-%d.example", s, i))
					if !assert.ErrorIs(t, err, ErrUnknownHost) {
						return
					}
				}
			})
		}
		scanners.Wait()
		seconds := time.Since(start).Seconds()
		require.LessOrEqual(t, float64(asked.Load()), missBurst+1+missRate*(seconds+1))
		a.hosts.absent.CleanUp()
		require.LessOrEqual(t, a.hosts.absent.EstimatedSize(), 1000)

		// Tenants are found all the while, those made meanwhile too.
		got, err := a.Resolve(t.Context(), "made-7.test")
		require.NoError(t, err)
		require.Equal(t, "made-7", got.Slug)
		create(t, a, "thor", "thor.example")
		_, err = a.Resolve(t.Context(), "thor.example")
		require.NoError(t, err)
		other := open(t, p.backend(t))
		create(t, other, "odin", "odin.example")
		require.NoError(t, a.Refresh(t.Context()))
		_, err = a.Resolve(t.Context(), "odin.example")
		require.NoError(t, err)
	})
}

// Not parallel: the count is the process's.
func TestHitCostsNoAllocation(t *testing.T) {
	a := open(t, newPlace(t, "sqlite:"+t.TempDir()).be)
	thor := create(t, a, "thor", "thor.polls.local")
	ctx := t.Context()
	for _, host := range []string{"thor.polls.local", "thor.polls.local:8000", "thor.polls.local."} {
		_, err := a.Resolve(ctx, host)
		require.NoError(t, err)
		require.Zero(t, testing.AllocsPerRun(100, func() {
			if got, err := a.Resolve(ctx, host); err != nil || got.ID != thor.ID {
				panic("not found")
			}
		}), host)
	}
	_, _, done, err := a.Enter(ctx, &thor, Policy{})
	require.NoError(t, err)
	done()
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() {
		_, _, done, err := a.Enter(ctx, &thor, Policy{})
		if err != nil {
			panic(err)
		}
		done()
	}), 2.0)
}

// 100,000 tenants would be too many for a test; what counts is that memory follows the cache's size.
func TestMemoryIsBoundedByTheCache(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be, func(c *Config) { c.CacheSize = 100 })
		const n = 2000
		insertTenants(t, a, n)
		for i := range n {
			_, err := a.Resolve(t.Context(), fmt.Sprintf("made-%d.example", i))
			require.NoError(t, err)
		}
		a.hosts.found.CleanUp()
		require.LessOrEqual(t, a.hosts.found.EstimatedSize(), 100)
		require.Eventually(t, func() bool {
			runtime.GC()
			return len(a.lives.ids()) <= 110
		}, time.Minute, time.Millisecond, "what fell out of the cache is let go of")
	})
}

func TestClosed(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be, func(c *Config) { c.PollInterval = time.Millisecond })
		create(t, a, "thor", "thor.example")
		thor, err := a.Resolve(t.Context(), "thor.example")
		require.NoError(t, err)
		require.NoError(t, a.Run(t.Context(), thor, Policy{}, func(context.Context, *Tenant) error { return nil }))
		require.NoError(t, a.Close())
		require.NoError(t, a.Close())
		for _, host := range []string{"odin.example", "thor.example"} {
			_, err = a.Resolve(t.Context(), host)
			require.ErrorIs(t, err, ErrClosed, "also of what is in memory, which nothing keeps current any more")
		}
		err = a.Run(t.Context(), thor, Policy{}, func(context.Context, *Tenant) error { return nil })
		require.ErrorIs(t, err, ErrClosed, "who purges a tenant does not wait for this App any more")
		_, err = p.be.Stat(t.Context(), backend.MustParseStore("thor"))
		require.NoError(t, err, "the backend is the caller's")
	})
}

func benchmarkResolve(b *testing.B, host string) {
	a := open(b, newPlace(b, "sqlite:"+b.TempDir()).be)
	create(b, a, "thor", "thor.polls.local")
	ctx := b.Context()
	if _, err := a.Resolve(ctx, host); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := a.Resolve(ctx, host); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkResolveHit(b *testing.B)     { benchmarkResolve(b, "thor.polls.local") }
func BenchmarkResolveHitPort(b *testing.B) { benchmarkResolve(b, "thor.polls.local:8000") }

// S73: who asks for changes while a poll is under way, in a registry that does not answer, waits no longer than its context.
func TestRefreshEndsWithItsContext(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be, func(c *Config) { c.PollInterval = time.Hour })
		require.NoError(t, a.polling.Acquire(t.Context(), 1)) // as a poll that is under way has it
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, a.Refresh(ctx), context.Canceled)
		a.polling.Release(1)
		require.NoError(t, a.Refresh(t.Context()))
	})
}
