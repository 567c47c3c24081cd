// Package sqlite keeps each tenant's store in a SQLite file of its own.
//
// Importing it makes the URL scheme "sqlite" known to [backend.Open]; "sqlite:DIR" is a directory:
//
//	DIR/shared.db            the shared store
//	DIR/tenants/STORE.db     one file per tenant (with SQLite's -wal and -shm beside it while it is open)
//	DIR/templates/HASH.db    what new stores are copies of
//	DIR/locks, DIR/moving    what processes that share the directory tell each other
//
// The URL's query parameters are max_open, max_readers, busy_timeout, synchronous, cache_size and statements; see
// [Options] for what they mean.
//
// Inside a tenant the shared tables can be read, unqualified or as public.x, and not written. What could get around that,
// or reach another store, is refused with [backend.ErrReadOnlyShared]: ATTACH, DETACH, VACUUM INTO and the pragmas that
// are not known to be harmless; so are ANALYZE and REINDEX without a name, which reach the shared tables too (write ANALYZE main).
// Other pragmas hold for the unit of work that runs them (hold a [database/sql.Conn] to run
// several statements under one).
//
// Every store has one table of this package's own, tenement_store, which carries its owner. It cannot be written.
//
// Several processes may share the directory, on one machine (SQLite's WAL needs shared memory). What one of them does to
// a store, another one notices within a quarter of a second; until then it may go on reading what was dropped, but a
// write that went to a dropped or renamed file is never reported as done. On Windows a store that another process has
// open cannot be dropped or renamed.
package sqlite

import (
	"context"
	"database/sql"
	sqldriver "database/sql/driver"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
)

func init() {
	backend.Register(scheme, func(ctx context.Context, url string) (backend.Backend, error) {
		opts, err := ParseURL(url)
		if err != nil {
			return nil, err
		}
		return Open(ctx, opts)
	})
}

// Backend is a directory of stores. It is safe for concurrent use, also by several processes.
type Backend struct {
	opts   Options
	dir    string // absolute
	attach string // the statement that attaches the shared store
	setup  string // what readies a store's connection
	epoch  time.Time
	locks  locks

	db, sharedDB *sql.DB
	shared       *store
	capacity     *semaphore.Weighted // stores that may be open

	mu      sync.Mutex
	closed  bool
	stores  map[backend.Store]*store
	lru     store // head of the list of those that nobody uses
	waiting int   // callers who wait for capacity
	count   int   // stores that are open, or closing
	trim    chan struct{}
	blocked map[backend.Store]chan struct{} // by Drop or Rename, closed when they end
	closing map[backend.Store]chan struct{} // closed when the store is

	templates templates
	unsynced  unsynced

	stop    chan struct{} // closed by Close
	janitor sync.WaitGroup
}

var (
	_ backend.Backend = (*Backend)(nil)
	_ driver.Source   = (*Backend)(nil)
	_ backend.Locker  = (*Backend)(nil)
)

// Open opens a directory of stores, making it when it is missing. It returns an error that wraps
// [backend.ErrInvalidURL] and names the field when an option is wrong. The caller closes the backend.
func Open(ctx context.Context, opts Options) (*Backend, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(opts.Dir)
	if err != nil {
		return nil, &backend.Error{Op: "open", Err: err}
	}
	b := &Backend{
		opts: opts, dir: dir, epoch: time.Now(),
		locks:    locks{dir: filepath.Join(dir, "locks"), m: map[string]*keyLock{}},
		capacity: semaphore.NewWeighted(int64(opts.MaxOpenStores)),
		stores:   map[backend.Store]*store{},
		blocked:  map[backend.Store]chan struct{}{},
		closing:  map[backend.Store]chan struct{}{},
		trim:     make(chan struct{}, 1),
		stop:     make(chan struct{}),
	}
	b.lru.prev, b.lru.next = &b.lru, &b.lru
	for _, d := range []string{dir, b.tenants(), b.templateDir(), b.locks.dir, b.moving()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, &backend.Error{Op: "open", Err: fmt.Errorf("cannot make the directory: %w", err)}
		}
	}
	path := filepath.Join(dir, "shared.db")
	b.attach = "ATTACH '" + strings.ReplaceAll(uri(path, "ro"), "'", "''") + "' AS " + sharedSchema
	b.setup = opts.settings()
	b.shared = b.newStore(backend.Store{}, path)
	b.shared.setup += "; " + b.attach
	if err := b.openShared(ctx); err != nil {
		return nil, &backend.Error{Op: "open", Err: fmt.Errorf("%s: %w", b.shared.path, err)}
	}
	b.db = driver.OpenDB(b, backend.Route{}, driver.AccessTenant)
	b.sharedDB = driver.OpenDB(b, backend.Route{}, driver.AccessShared)
	b.janitor.Go(b.watch)
	return b, nil
}

// openShared makes the shared store when it is missing and opens the connection that keeps its -wal in place: a tenant's
// connections, which only read it, could not make one.
func (b *Backend) openShared(ctx context.Context) error {
	b.shared.dsn = dsn(b.shared.path, "rwc")
	c, _, err := b.shared.dial(ctx)
	if err != nil {
		return err
	}
	if _, err := c.raw.ExecContext(ctx, "PRAGMA main.journal_mode=WAL; SELECT count(*) FROM sqlite_schema", nil); err != nil {
		_ = c.close()
		return err
	}
	b.shared.dsn = dsn(b.shared.path, "rw")
	b.shared.conns = append(b.shared.conns, c)
	b.shared.idle = append(b.shared.idle, c)
	close(b.shared.ready)
	b.shared.opened = true
	return nil
}

func (b *Backend) tenants() string { return filepath.Join(b.dir, "tenants") }
func (b *Backend) moving() string  { return filepath.Join(b.dir, "moving") }

// path returns the file of a store. A store's name holds nothing that means something to a file system.
func (b *Backend) path(s backend.Store) string {
	return filepath.Join(b.tenants(), s.String()+storeExt)
}

func (b *Backend) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

// Dialect implements [backend.Backend].
func (b *Backend) Dialect() backend.Dialect { return backend.SQLite }

// DB implements [backend.Backend].
func (b *Backend) DB() *sql.DB { return b.db }

// Shared implements [backend.Backend]. Statements that write, and those within a transaction that is not read-only, name
// the shared tables unqualified; other reads may also name them public.x.
func (b *Backend) Shared() *sql.DB { return b.sharedDB }

// Pin implements [backend.Backend].
func (b *Backend) DBFor(rt backend.Route) *sql.DB { return driver.OpenDB(b, rt, driver.AccessTenant) }

// Owner implements [backend.Backend]. Its rights are those of Pin: the shared tables are read-only.
func (b *Backend) Maintenance(rt backend.Route) *sql.DB {
	return driver.OpenDB(b, rt, driver.AccessMaintenance)
}

// Session implements [driver.Source].
func (b *Backend) Session(ctx context.Context, rt backend.Route, access driver.Access) (driver.Session, error) {
	st := b.shared
	if access == driver.AccessShared {
		if err := st.fate(); err != nil {
			return nil, &backend.Error{Op: "open", Err: err}
		}
	} else {
		if rt.IsZero() {
			return nil, &backend.Error{Op: "open", Err: backend.ErrNoTenant}
		}
		var err error
		if st, err = b.acquire(ctx, rt); err != nil {
			return nil, &backend.Error{Op: "open", Store: rt.Store, Err: err}
		}
	}
	s := sessions.Get().(*session)
	s.b, s.st = b, st
	return s, nil
}

// Ping implements [driver.Source].
func (b *Backend) Ping(ctx context.Context) error {
	if b.isClosed() {
		return &backend.Error{Op: "ping", Err: backend.ErrClosed}
	}
	return ctx.Err()
}

// Driver implements [driver.Source].
func (b *Backend) Driver() sqldriver.Driver { return driver.Unnamed() }

// Close implements [backend.Backend].
func (b *Backend) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	open := make([]*store, 0, len(b.stores))
	for _, st := range b.stores {
		open = append(open, st)
	}
	b.mu.Unlock()
	close(b.stop)
	for _, st := range open {
		select {
		case <-st.ready:
			st.seize(backend.ErrClosed)
		default: // its opener finds the backend closed
		}
	}
	b.shared.seize(backend.ErrClosed)
	b.janitor.Wait()
	return errors.Join(b.db.Close(), b.sharedDB.Close())
}

// watch closes stores: the ones that were unused for longest, a few ahead of need, so that whoever opens one does not have
// to close another first; and those that another process wants to rename.
func (b *Backend) watch() {
	tick := time.NewTicker(noticeWithin)
	defer tick.Stop()
	for {
		select {
		case <-b.stop:
			return
		case <-b.trim:
			b.makeRoom()
		case <-tick.C:
			b.yieldMoving()
		}
	}
}

// spare is how many of the stores that may be open are kept closed ahead of need.
func (b *Backend) spare() int { return min(8, b.opts.MaxOpenStores/16) }

func (b *Backend) makeRoom() {
	for {
		b.mu.Lock()
		victim := b.lru.prev
		if b.closed || victim == &b.lru || b.count <= b.opts.MaxOpenStores-b.spare() {
			b.mu.Unlock()
			return
		}
		done := b.unmap(victim)
		b.mu.Unlock()
		done()
	}
}

func (b *Backend) yieldMoving() {
	entries, err := os.ReadDir(b.moving())
	if err != nil {
		return // asked again at the next tick; the other process waits
	}
	for _, e := range entries {
		name, err := backend.ParseStore(e.Name())
		if err != nil {
			continue
		}
		b.mu.Lock()
		done := func() {}
		if st := b.stores[name]; st != nil {
			done = b.unmap(st)
		}
		b.mu.Unlock()
		done()
	}
}

// Stat implements [backend.Backend].
func (b *Backend) Stat(ctx context.Context, s backend.Store) (backend.StoreInfo, error) {
	info, err := b.stat(ctx, s)
	if err != nil {
		return backend.StoreInfo{}, &backend.Error{Op: "stat", Store: s, Err: err}
	}
	return info, nil
}

// Dir returns the absolute path of the directory that holds everything.
func (b *Backend) Dir() string { return b.dir }
