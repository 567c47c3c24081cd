// Package memory is a backend that keeps its stores in memory: an example of what a backend has to have, and of nothing
// else. CONTRIBUTING goes through it step by step. It passes the conformance suite (memory_test.go) for what it claims;
// it has none of the optional abilities, and so is none to open tenants on, which takes a [backend.Locker].
//
//	be, err := backend.Open(ctx, "memory:NAME")
//
// Whoever opens the same NAME in one process has the same stores, until all of them have closed it.
//
// SQLite's databases in memory have no write-ahead log: a writer would have its readers wait. So a store is a version, which
// nobody changes; a session has a copy of it to itself, and what it commits is the next version. It is for small stores.
//
// A tenant's session has the shared tables for reading only, which SQLite sees to. It may ATTACH what it likes: so the backend is
// no barrier to SQL that means harm, and does not claim that stores are apart.
package memory

import (
	"cmp"
	"context"
	"database/sql"
	sqldriver "database/sql/driver"
	"errors"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
)

func init() {
	backend.Register("memory", func(_ context.Context, url string) (backend.Backend, error) {
		return Open(strings.TrimPrefix(url, "memory:"), 0)
	})
}

// Backend is the backend. It is safe for concurrent use.
type Backend struct {
	*place
	db, shared *driver.Handle

	slots chan struct{} // whoever has put something in may have a session

	mu     sync.Mutex
	closed bool
}

var (
	_ backend.Backend = (*Backend)(nil)
	_ driver.Source   = (*Backend)(nil)
)

// Open opens the place of that name, which is empty when nobody has it open, for at most maxSessions at once; 0 means 64.
// The caller closes the backend.
func Open(name string, maxSessions int) (*Backend, error) {
	at, err := enter(name)
	if err != nil {
		return nil, fault("open", backend.Store{}, err)
	}
	b := &Backend{place: at, slots: make(chan struct{}, cmp.Or(maxSessions, 64))}
	b.db, b.shared = driver.NewHandle(b, driver.AccessTenant, nil), driver.NewHandle(b, driver.AccessShared, nil)
	return b, nil
}

// Dialect implements [backend.Backend].
func (b *Backend) Dialect() backend.Dialect { return backend.SQLite }

// DB implements [backend.Backend].
func (b *Backend) DB() *sql.DB { return b.db.DB() }

// Shared implements [backend.Backend].
func (b *Backend) Shared() *sql.DB { return b.shared.DB() }

// DBFor implements [backend.Backend].
func (b *Backend) DBFor(rt backend.Route) *sql.DB { return driver.OpenDB(b, rt, driver.AccessTenant) }

// Maintenance implements [backend.Backend].
func (b *Backend) Maintenance(rt backend.Route) *sql.DB {
	return driver.OpenDB(b, rt, driver.AccessMaintenance)
}

// Ping implements [driver.Source].
func (b *Backend) Ping(context.Context) error { return b.open("ping") }

// Driver implements [driver.Source].
func (b *Backend) Driver() sqldriver.Driver { return driver.Unnamed() }

// Create implements [backend.Backend].
func (b *Backend) Create(_ context.Context, rt backend.Route) error {
	if err := b.open("create"); err != nil {
		return err
	}
	return b.create(rt)
}

// Drop implements [backend.Backend].
func (b *Backend) Drop(_ context.Context, rt backend.Route) error {
	if err := b.open("drop"); err != nil {
		return err
	}
	return b.drop(rt)
}

// Rename implements [backend.Backend].
func (b *Backend) Rename(_ context.Context, rt backend.Route, to backend.Store) error {
	if err := b.open("rename"); err != nil {
		return err
	}
	return b.rename(rt, to)
}

// Stat implements [backend.Backend].
func (b *Backend) Stat(_ context.Context, s backend.Store) (backend.StoreInfo, error) {
	if err := b.open("stat"); err != nil {
		return backend.StoreInfo{}, err
	}
	found, err := b.find("stat", backend.Route{Store: s})
	if err != nil {
		return backend.StoreInfo{}, err
	}
	return backend.StoreInfo{Store: s, Owner: found.owner, Bytes: -1}, nil
}

// Stores implements [backend.Backend].
func (b *Backend) Stores(context.Context) iter.Seq2[backend.StoreInfo, error] {
	return func(yield func(backend.StoreInfo, error) bool) {
		if err := b.open("list"); err != nil {
			yield(backend.StoreInfo{}, err)
			return
		}
		stores := b.all()
		for _, name := range slices.Sorted(maps.Keys(stores)) {
			if !yield(backend.StoreInfo{Store: backend.MustParseStore(name), Owner: stores[name].owner, Bytes: -1}, nil) {
				return
			}
		}
	}
}

// Close implements [backend.Backend].
func (b *Backend) Close() error {
	b.mu.Lock()
	again := b.closed
	b.closed = true
	b.mu.Unlock()
	if again {
		return nil
	}
	return errors.Join(b.db.Close(), b.shared.Close(), b.leave())
}

// open says whether the backend is.
func (b *Backend) open(op string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return fault(op, backend.Store{}, backend.ErrClosed)
	}
	return nil
}

func fault(op string, s backend.Store, err error) error {
	return &backend.Error{Op: op, Store: s, Err: err}
}
