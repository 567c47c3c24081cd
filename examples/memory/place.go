package memory

import (
	sqldriver "database/sql/driver"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"

	"modernc.org/sqlite"

	"github.com/tenement-go/tenement/backend"
)

// place is where stores are: what a directory or a server is to other backends.
type place struct {
	name   string
	users  int // guarded by places.mu
	shared *store

	mu     sync.Mutex
	stores map[string]*store
}

var places = struct {
	mu sync.Mutex
	by map[string]*place
}{by: map[string]*place{}}

// enter returns the place of that name.
func enter(name string) (*place, error) {
	places.mu.Lock()
	defer places.mu.Unlock()
	p := places.by[name]
	if p == nil {
		shared, err := newStore("")
		if err != nil {
			return nil, err
		}
		p = &place{name: name, shared: shared, stores: map[string]*store{}}
		places.by[name] = p
	}
	p.users++
	return p, nil
}

// leave takes the place away when nobody is left.
func (p *place) leave() error {
	places.mu.Lock()
	defer places.mu.Unlock()
	if p.users--; p.users > 0 {
		return nil
	}
	delete(places.by, p.name)
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.shared.now.Load().held.Close()
	for _, s := range p.stores {
		err = errors.Join(err, s.now.Load().held.Close())
	}
	return err
}

// find returns the store of a route, if it is that owner's.
func (p *place) find(op string, rt backend.Route) (*store, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.findLocked(op, rt)
}

func (p *place) findLocked(op string, rt backend.Route) (*store, error) {
	s := p.stores[rt.Store.String()]
	if s == nil || rt.Owner != "" && rt.Owner != s.owner {
		return nil, fault(op, rt.Store, backend.ErrStoreMissing)
	}
	return s, nil
}

func (p *place) all() map[string]*store {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.stores)
}

func (p *place) create(rt backend.Route) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case rt.IsZero():
		return fault("create", rt.Store, backend.ErrInvalidName)
	case p.stores[rt.Store.String()] != nil:
		return fault("create", rt.Store, backend.ErrStoreExists)
	}
	s, err := newStore(rt.Owner)
	if err != nil {
		return fault("create", rt.Store, err)
	}
	p.stores[rt.Store.String()] = s
	return nil
}

func (p *place) drop(rt backend.Route) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, err := p.findLocked("drop", rt)
	if err != nil {
		return err
	}
	delete(p.stores, rt.Store.String())
	return s.end().held.Close()
}

// rename makes a store of the same version: for sessions of the one before there is no such store any more.
func (p *place) rename(rt backend.Route, to backend.Store) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, err := p.findLocked("rename", rt)
	switch {
	case err != nil:
		return err
	case to.IsZero():
		return fault("rename", to, backend.ErrInvalidName)
	case p.stores[to.String()] != nil:
		return fault("rename", to, backend.ErrStoreExists)
	}
	delete(p.stores, rt.Store.String())
	renamed := &store{owner: s.owner, turn: make(chan struct{}, 1), gone: make(chan struct{})}
	renamed.now.Store(s.end())
	p.stores[to.String()] = renamed
	return nil
}

// store is one tenant's, or the shared one.
type store struct {
	owner string
	turn  chan struct{} // whoever has put something in is the one who writes
	gone  chan struct{} // closed when there is no such store any more

	mu  sync.Mutex // held while gone is closed, and while now is changed
	now atomic.Pointer[version]
}

// version is a database in memory that nobody changes.
type version struct {
	file string
	held sqldriver.Conn // as long as one is open the database is there
}

var made atomic.Int64 // versions, whose names are the process's

func newFile() string { return fmt.Sprintf("file:/tenement-%d?vfs=memdb", made.Add(1)) }

func newStore(owner string) (*store, error) {
	s := &store{owner: owner, turn: make(chan struct{}, 1), gone: make(chan struct{})}
	v := &version{file: newFile()}
	var err error
	if v.held, err = new(sqlite.Driver).Open(v.file); err != nil {
		return nil, err
	}
	s.now.Store(v)
	return s, nil
}

// put makes a version the newest; false says that the store is gone. Sessions that have the one before keep it.
func (s *store) put(v *version) (old *version, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isGone() {
		return nil, false
	}
	return s.now.Swap(v), true
}

// end makes an end of the store, and returns its last version.
func (s *store) end() *version {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.gone)
	return s.now.Load()
}

func (s *store) isGone() bool {
	select {
	case <-s.gone:
		return true
	default:
		return false
	}
}
