package tenancy

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/maypok86/otter/v2"
)

// Resolve returns the tenant that host leads to, whatever its status (see [App.Enter]). host is normalised first. It
// returns ErrMalformedHost, ErrUnknownHost, or ErrUnavailable when the registry cannot be asked about a host that is
// not in the cache. A host in the cache costs no allocation and takes no lock. The tenant must not be written to.
//
// Where Enter returns another *Tenant than it was given, it has heard of a change since, and host may lead to another by now:
// who lets in by host looks it up again then, as package httpx does.
func (a *App) Resolve(ctx context.Context, host string) (*Tenant, error) {
	name, err := a.NormalizeHost(host)
	if err != nil {
		return nil, err
	}
	return a.resolve(ctx, a.hosts, name)
}

// NormalizeHost is [NormalizeHost] as this App compares hosts: with [Config.IgnoreWWW], without a leading "www.".
func (a *App) NormalizeHost(host string) (string, error) {
	name, err := NormalizeHost(host)
	if err == nil && a.cfg.IgnoreWWW {
		name = stripWWW(name)
	}
	return name, err
}

// ResolveSlug is [App.Resolve] for a slug. It returns ErrNotFound for one that no tenant has or could have.
func (a *App) ResolveSlug(ctx context.Context, slug string) (*Tenant, error) {
	return a.resolve(ctx, a.slugs, slug)
}

// ResolveID is [App.Resolve] for a tenant's ID. It returns ErrNotFound for one that no tenant has.
func (a *App) ResolveID(ctx context.Context, id ID) (*Tenant, error) {
	return a.resolve(ctx, a.ids, string(id))
}

// table is one way to find tenants: by host, slug or ID.
type table struct {
	name    string
	query   string
	unknown error
	has     func(t *Tenant, key string) bool // whether key leads to t
	// possible refuses what can lead to none, before anyone is asked; nil when only such keys arrive.
	possible func(key string) bool

	// found has tenants that may since have changed: a hit counts when it is still the latest its live knows. absent
	// has the time until which a key is taken to lead to none. They are apart so that a scan of random hosts drives
	// no tenant out.
	found  *otter.Cache[string, *Tenant]
	absent *otter.Cache[string, time.Time]
}

func newTable(name, query string, size int, unknown error, has func(*Tenant, string) bool) *table {
	return &table{
		name: name, query: query, unknown: unknown, has: has,
		found:  otter.Must(&otter.Options[string, *Tenant]{MaximumSize: size}),
		absent: otter.Must(&otter.Options[string, time.Time]{MaximumSize: size}),
	}
}

func (a *App) resolve(ctx context.Context, tb *table, key string) (*Tenant, error) {
	if a.closed.Load() { // what is in memory gets old from then on
		return nil, ErrClosed
	}
	if a.heard.Load().old() {
		if err := a.catchUp(ctx); err != nil {
			return nil, fmt.Errorf("tenement: resolve %s %q: %w", tb.name, key, err)
		}
	}
	t, ok := tb.found.GetIfPresent(key)
	if ok && t.live.cur.Load() == t {
		return t, nil
	}
	return a.resolveSlow(ctx, tb, key, t)
}

func (a *App) resolveSlow(ctx context.Context, tb *table, key string, old *Tenant) (*Tenant, error) {
	if old != nil {
		if t := old.live.cur.Load(); t != nil && tb.has(t, key) {
			tb.found.Set(key, t)
			return t, nil
		}
	}
	if tb.possible != nil && !tb.possible(key) {
		return nil, tb.unknown
	}
	if until, ok := tb.absent.GetIfPresent(key); ok && time.Now().Before(until) {
		return nil, tb.unknown
	}
	// The question is asked once for all who wait for it, so it must not end with the one who came first. Who comes after
	// a change does not join those who asked before it: their answer may be on its way.
	flight := tb.name + " " + strconv.FormatUint(a.gen.Load(), 36) + " " + key
	answer := a.flights.DoChan(flight, func() (any, error) {
		ctx, cancel := context.WithTimeout(a.ctx, a.cfg.LookupTimeout)
		defer cancel()
		return a.load(ctx, tb, key)
	})
	select {
	case r := <-answer:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*Tenant), nil
	case <-ctx.Done():
		return nil, fmt.Errorf("tenement: resolve %s %q: %w", tb.name, key, context.Cause(ctx))
	}
}

// load asks the registry and remembers the answer, unless a change was heard of meanwhile: then it asks again.
func (a *App) load(ctx context.Context, tb *table, key string) (*Tenant, error) {
	for attempt := 0; ; attempt++ {
		gen := a.gen.Load()
		t, err := a.ask(ctx, tb, key)
		a.step("resolve: answered")
		switch {
		case err == nil:
			if t = a.lives.learn(t); t == nil || !tb.has(t, key) {
				// What is known already is newer than what was read.
				if attempt < 3 {
					continue
				}
				return nil, tb.unknown
			}
			tb.found.Set(key, t)
		case errors.Is(err, ErrNotFound):
			a.leadsNowhere(tb, key, gen)
		case errors.Is(err, context.Canceled) && a.closed.Load():
			return nil, ErrClosed
		default:
			return nil, fmt.Errorf("tenement: resolve %s %q: %w: %w", tb.name, key, ErrUnavailable, err)
		}
		if a.gen.Load() == gen {
			if err != nil {
				return nil, tb.unknown
			}
			return t, nil
		}
		tb.found.Invalidate(key)
		tb.absent.Invalidate(key)
		if attempt == 3 {
			if err != nil {
				return nil, tb.unknown
			}
			return t, nil
		}
	}
}

// leadsNowhere remembers that key led to none in a generation, unless that is over. Whoever counts it up calls leadsTo after
// that, which comes before this, or after it, at one key: so nobody finds here what a change that was acknowledged has made untrue.
func (a *App) leadsNowhere(tb *table, key string, gen uint64) {
	tb.absent.Compute(key, func(until time.Time, _ bool) (time.Time, otter.ComputeOp) {
		if a.gen.Load() != gen {
			return until, otter.CancelOp
		}
		return time.Now().Add(a.cfg.UnknownTTL), otter.WriteOp
	})
}

// ask is one look at the registry. Names that lead nowhere may cost it only so much: past that, the names there are
// must all be in memory, and only those are asked for.
func (a *App) ask(ctx context.Context, tb *table, key string) (*Tenant, error) {
	paid := a.misses.take()
	if !paid {
		ok, err := a.known.has(ctx, a, tb.name, key)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, ErrNotFound
		}
	}
	a.reg.queries()
	t, err := one(ctx, a.reg.db, tb.query, key)
	if paid && err == nil {
		a.misses.refund()
	}
	return t, err
}

// learned makes this process act on what is now known about a tenant; entered says that it has come into the registry. The
// generation must have been counted up.
func (a *App) learned(t *Tenant, entered bool) {
	a.known.add(t)
	if entered {
		a.lives.enter(t)
	} else {
		a.lives.learn(t)
	}
	a.slugs.leadsTo(t, t.Slug)
	a.ids.leadsTo(t, string(t.ID))
	for _, d := range t.Domains {
		a.hosts.leadsTo(t, d.Host)
	}
}

// leadsTo forgets what says otherwise: that key leads nowhere, or to a tenant that has lost it without our having heard.
func (tb *table) leadsTo(t *Tenant, key string) {
	tb.absent.Invalidate(key)
	if other, ok := tb.found.GetIfPresent(key); ok && other.ID != t.ID {
		tb.found.Invalidate(key)
	}
}
