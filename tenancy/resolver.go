package tenancy

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"
)

// Resolve returns the tenant that host leads to, whatever its status (see [App.Serve]). host is normalised first. It
// returns ErrMalformedHost, ErrUnknownHost, or ErrUnavailable when the registry cannot be asked about a host that is
// not in the cache. A host in the cache costs no allocation and takes no lock. The tenant must not be written to.
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
	if a.closed.Load() {
		return nil, ErrClosed
	}
	// The question is asked once for all who wait for it, so it must not end with the one who came first.
	answer := a.flights.DoChan(tb.name+" "+key, func() (any, error) {
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
			tb.absent.Set(key, time.Now().Add(a.cfg.UnknownTTL))
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

// bucket limits how often names that lead nowhere are asked for.
type bucket struct {
	mu     sync.Mutex
	tokens float64
	at     time.Time
}

const (
	missBurst = 32 // also how many cold names may be asked for at once before knownNames is built
	missRate  = 4  // per second
)

func (b *bucket) take() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if b.at.IsZero() {
		b.tokens = missBurst
	} else {
		b.tokens = min(missBurst, b.tokens+now.Sub(b.at).Seconds()*missRate)
	}
	b.at = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

func (b *bucket) refund() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tokens = min(missBurst, b.tokens+1)
}

// knownNames is the set of all hosts, slugs and IDs, as 64-bit hashes under a secret seed: 8 bytes a name. It is built
// when someone floods the server with names that lead nowhere, kept up to date while that goes on, and dropped after.
type knownNames struct {
	mu      sync.Mutex
	set     *nameSet
	next    *nameSet // being built
	built   chan struct{}
	err     error
	touched time.Time
}

type nameSet struct {
	seed   maphash.Seed
	sorted []uint64
	added  map[uint64]struct{}
}

// knownIdle is how long the set is kept when it is not asked.
const knownIdle = time.Minute

func (s *nameSet) hash(kind, key string) uint64 {
	var h maphash.Hash
	h.SetSeed(s.seed)
	h.WriteString(kind)
	h.WriteByte(' ')
	h.WriteString(key)
	return h.Sum64()
}

// has reports whether there is such a name, or was since the set was built.
func (k *knownNames) has(ctx context.Context, a *App, kind, key string) (bool, error) {
	k.mu.Lock()
	for k.set == nil {
		if k.built == nil {
			k.next = &nameSet{seed: maphash.MakeSeed(), added: map[uint64]struct{}{}}
			k.built = make(chan struct{})
			go k.build(a, k.next, k.built)
		}
		built := k.built
		k.mu.Unlock()
		select {
		case <-built:
		case <-ctx.Done():
			return false, ctx.Err()
		}
		k.mu.Lock()
		if k.set == nil && k.err != nil {
			err := k.err
			k.mu.Unlock()
			return false, err
		}
	}
	defer k.mu.Unlock()
	k.touched = time.Now()
	h := k.set.hash(kind, key)
	if _, ok := slices.BinarySearch(k.set.sorted, h); ok {
		return true, nil
	}
	_, ok := k.set.added[h]
	return ok, nil
}

func (k *knownNames) build(a *App, s *nameSet, built chan struct{}) {
	ctx, cancel := context.WithTimeout(a.ctx, max(a.cfg.LookupTimeout, 30*time.Second))
	defer cancel()
	a.reg.queries()
	sorted, err := readNames(ctx, a.reg.db, s)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.next == s {
		if k.err = err; err == nil {
			s.sorted = sorted
			k.set, k.touched = s, time.Now()
		}
		k.next, k.built = nil, nil
	}
	close(built)
}

func readNames(ctx context.Context, q querier, s *nameSet) ([]uint64, error) {
	rows, err := q.QueryContext(ctx, `SELECT 'host', host FROM tenement_domains UNION ALL SELECT 'slug', slug FROM tenement_tenants
		UNION ALL SELECT 'id', id FROM tenement_tenants`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var sorted []uint64
	for rows.Next() {
		var kind, key string
		if err := rows.Scan(&kind, &key); err != nil {
			return nil, err
		}
		sorted = append(sorted, s.hash(kind, key))
	}
	slices.Sort(sorted)
	return slices.Clip(sorted), rows.Err()
}

// add keeps the set complete as names come up.
func (k *knownNames) add(t *Tenant) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range []*nameSet{k.set, k.next} {
		if s == nil {
			continue
		}
		s.added[s.hash("slug", t.Slug)] = struct{}{}
		s.added[s.hash("id", string(t.ID))] = struct{}{}
		for _, d := range t.Domains {
			s.added[s.hash("host", d.Host)] = struct{}{}
		}
	}
}

// forget drops the set: always, or when no one needed it for a while.
func (k *knownNames) forget(always bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if always {
		// Who waits for the one being built starts over.
		k.set, k.next, k.built, k.err = nil, nil, nil, nil
	} else if k.set != nil && (time.Since(k.touched) > knownIdle || len(k.set.added) > len(k.set.sorted)+100_000) {
		k.set = nil
	}
}

// learned makes this process act on what is now known about a tenant. The generation must have been counted up.
func (a *App) learned(t *Tenant) {
	a.known.add(t)
	a.lives.learn(t)
	a.slugs.absent.Invalidate(t.Slug)
	a.ids.absent.Invalidate(string(t.ID))
	for _, d := range t.Domains {
		a.hosts.absent.Invalidate(d.Host)
	}
}

func (a *App) pollLoop() {
	tick := time.NewTicker(a.cfg.PollInterval)
	defer tick.Stop()
	for failed := false; ; {
		select {
		case <-a.ctx.Done():
			return
		case <-tick.C:
		}
		ctx, cancel := context.WithTimeout(a.ctx, max(a.cfg.PollInterval, a.cfg.LookupTimeout))
		err := a.Refresh(ctx)
		cancel()
		switch {
		case err == nil && failed:
			a.log.Info("tenement: the registry answers again")
		case err != nil && !failed && a.ctx.Err() == nil:
			a.log.Warn("tenement: the registry cannot be asked for changes; tenants in the cache are served as they were", "error", err)
		}
		failed = err != nil
		a.known.forget(false)
	}
}

// Refresh asks the registry for changes now, as is done every PollInterval. It returns when they were acted on.
func (a *App) Refresh(ctx context.Context) error {
	a.pollMu.Lock()
	defer a.pollMu.Unlock()
	for {
		more, err := a.poll(Leave(ctx))
		if err != nil {
			return fmt.Errorf("tenement: read the registry's changes: %w: %w", ErrUnavailable, err)
		}
		if !more {
			return nil
		}
	}
}

type change struct {
	revision int64
	touch
}

const changesPerPoll = 1000

func (a *App) poll(ctx context.Context) (more bool, err error) {
	rows, err := a.reg.db.QueryContext(ctx, `SELECT r.revision, COALESCE(c.revision, 0), COALESCE(c.tenant_id, ''), COALESCE(c.kind, '')
		FROM tenement_revision r LEFT JOIN tenement_changes c ON c.revision > $1 WHERE r.id = 1
		ORDER BY c.revision LIMIT `+fmt.Sprint(changesPerPoll), a.seen)
	if err != nil {
		return false, err
	}
	defer rows.Close()
	var (
		head    int64
		changes []change
	)
	for rows.Next() {
		var c change
		if err := rows.Scan(&head, &c.revision, &c.id, &c.kind); err != nil {
			return false, err
		}
		if c.revision != 0 {
			changes = append(changes, c)
		}
	}
	if err := rows.Err(); err != nil {
		return false, err
	}
	rows.Close()
	if head == a.seen {
		return false, nil
	}
	if len(changes) == 0 || changes[0].revision != a.seen+1 {
		// Changes that are not listed any more, or a registry that was put back from a backup.
		if err := a.forgetAll(ctx); err != nil {
			return false, err
		}
		a.seen = head
		return false, nil
	}
	last := changes[len(changes)-1].revision
	remote := a.notOwn(changes)
	if len(remote) > 0 {
		if err := a.learnChanges(ctx, remote); err != nil {
			return false, err
		}
	}
	a.seen = last
	a.dropOwn(last)
	return len(changes) == changesPerPoll, nil
}

func (a *App) notOwn(changes []change) []change {
	a.ownMu.Lock()
	defer a.ownMu.Unlock()
	return slices.DeleteFunc(changes, func(c change) bool { _, own := a.own[c.revision]; return own })
}

func (a *App) dropOwn(last int64) {
	a.ownMu.Lock()
	defer a.ownMu.Unlock()
	for r := range a.own {
		if r <= last {
			delete(a.own, r)
		}
	}
}

// learnChanges reads the tenants that were changed by others.
func (a *App) learnChanges(ctx context.Context, changes []change) error {
	a.gen.Add(1)
	var ids []ID
	for _, c := range changes {
		ids = append(ids, c.id)
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	tenants, err := a.relearn(ctx, ids)
	if err != nil {
		return err
	}
	if a.cfg.Hooks.OnChange == nil {
		return nil
	}
	for _, c := range changes {
		e := Event{Kind: c.kind, Tenant: Tenant{ID: c.id}, Remote: true}
		if t := tenants[c.id]; t != nil {
			e.Tenant = *t
		}
		a.cfg.Hooks.OnChange(ctx, e)
	}
	return nil
}

// relearn reads tenants anew. Those that are gone come back as nil.
func (a *App) relearn(ctx context.Context, ids []ID) (map[ID]*Tenant, error) {
	tenants, err := many(ctx, a.reg.db, ids)
	if err != nil {
		return nil, err
	}
	byID := make(map[ID]*Tenant, len(tenants))
	for _, t := range tenants {
		a.learned(t)
		byID[t.ID] = t
	}
	for _, id := range ids {
		if byID[id] == nil {
			if l := a.lives.find(id); l != nil {
				l.forget()
			}
		}
	}
	return byID, nil
}

// forgetAll is for when it is not known what changed.
func (a *App) forgetAll(ctx context.Context) error {
	a.gen.Add(1)
	a.known.forget(true)
	for _, tb := range []*table{a.hosts, a.slugs, a.ids} {
		tb.absent.InvalidateAll()
	}
	// What is in use is read anew rather than forgotten, so that those who were suspended are told.
	_, err := a.relearn(ctx, a.lives.ids())
	return err
}
