package tenancy

import (
	"runtime"
	"sync"
	"sync/atomic"
	"weak"
)

// live is what this process knows about one tenant, shared by all copies of it. It is there for as long as someone
// holds a copy: the cache, a context, the application.
type live struct {
	id  ID
	cur atomic.Pointer[Tenant] // the latest known; nil once purged
	era atomic.Pointer[era]

	mu     sync.Mutex // orders the changes of the above
	purged bool
}

// learn takes t, which nobody else has yet, as the latest, unless something later is known already, and returns the latest (nil when purged).
func (l *live) learn(t *Tenant) *Tenant {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.take(t)
}

// enter is learn for a tenant that has come into the registry. Its ID may be that of one that was purged.
func (l *live) enter(t *Tenant) *Tenant {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.purged = false
	return l.take(t)
}

func (l *live) take(t *Tenant) *Tenant {
	t.live = l
	cur := l.cur.Load()
	if l.purged || (cur != nil && !t.after(cur)) {
		return cur
	}
	l.cur.Store(t)
	switch over := l.era.Load().Err() != nil; {
	case !t.Status.Served() && !over:
		l.era.Load().end(&NotActiveError{Slug: t.Slug, Status: t.Status, Reason: t.Reason})
	case t.Status.Served() && over:
		l.era.Store(newEra())
	}
	return t
}

// forget notes that the tenant was purged.
func (l *live) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.purged = true
	if cur := l.cur.Swap(nil); cur != nil {
		l.era.Load().end(&NotActiveError{Slug: cur.Slug, Status: Deleted})
	}
}

// replace takes t, just read from the registry, or its absence, as what is true, whatever was known: for a registry that
// went back in time.
func (l *live) replace(t *Tenant) {
	if t == nil {
		l.forget()
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.purged = false
	l.cur.Store(nil)
	l.take(t)
}

// lives finds the live of a tenant without keeping it alive, so that memory is bounded by what is in use.
type lives struct {
	mu sync.Mutex
	m  map[ID]weak.Pointer[live]
}

// find returns the live of a tenant, or nil when no one holds a copy.
func (ls *lives) find(id ID) *live {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return ls.m[id].Value()
}

// of returns the live of a tenant, a new one when no one holds a copy.
func (ls *lives) of(id ID) *live {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l := ls.m[id].Value()
	if l == nil {
		l = &live{id: id}
		l.era.Store(newEra())
		if ls.m == nil {
			ls.m = map[ID]weak.Pointer[live]{}
		}
		ls.m[id] = weak.Make(l)
		runtime.AddCleanup(l, ls.drop, id)
	}
	return l
}

// learn makes t, just read from the registry, known, and returns the latest that is known of its tenant; nil when that
// was purged.
func (ls *lives) learn(t *Tenant) *Tenant { return ls.of(t.ID).learn(t) }

// enter is learn for a tenant that has come into the registry since its ID was purged, if it ever was.
func (ls *lives) enter(t *Tenant) *Tenant { return ls.of(t.ID).enter(t) }

// forget notes that the tenant was purged.
func (ls *lives) forget(id ID) {
	if l := ls.find(id); l != nil {
		l.forget()
	}
}

func (ls *lives) drop(id ID) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if p, ok := ls.m[id]; ok && p.Value() == nil {
		delete(ls.m, id)
	}
}

// ids lists the tenants of which someone holds a copy.
func (ls *lives) ids() []ID {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ids := make([]ID, 0, len(ls.m))
	for id, p := range ls.m {
		if p.Value() != nil {
			ids = append(ids, id)
		}
	}
	return ids
}
