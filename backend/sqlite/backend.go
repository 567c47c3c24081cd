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
	"sync/atomic"
	"time"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
)

func init() {
	backend.Register(scheme, func(ctx context.Context, url string) (backend.Backend, error) {
		return Open(ctx, url, Config{})
	})
}

// Backend is a directory of stores. It is safe for concurrent use, also by several processes.
type Backend struct {
	cfg    Config
	dir    string // absolute
	attach string // the statement that attaches the shared store
	setup  string // what readies a store's connection
	epoch  time.Time
	locks  locks

	db, lenientDB, sharedDB *driver.Handle
	reader                  *driver.Handle // of routes that are read-only

	shared      *store
	keeper      raw // keeps the shared store's -wal in place: see openShared
	stores      *shelf
	descriptors descriptors

	templates templates
	unsynced  unsynced

	stop    chan struct{} // closed by Close
	janitor sync.WaitGroup
}

var (
	_ backend.Backend    = (*Backend)(nil)
	_ driver.Source      = (*Backend)(nil)
	_ driver.Nowhere     = (*Backend)(nil)
	_ backend.Locker     = (*Backend)(nil)
	_ backend.Nowherer   = (*Backend)(nil)
	_ backend.Replicator = (*Backend)(nil)
)

// Open opens a directory of stores, making it when it is missing. dir is its path, or a URL: "sqlite:DIR" with query
// parameters, percent-escapes resolved (%3F for a question mark in DIR, %25 for a per cent sign); "sqlite:///var/data" is
// "/var/data". It returns an error that wraps [backend.ErrInvalidURL] and says what is wrong with a field or parameter,
// and the remedy. The caller closes the backend.
func Open(ctx context.Context, dir string, cfg Config) (*Backend, error) {
	var err error
	if strings.HasPrefix(dir, scheme+":") {
		if dir, cfg, err = parseURL(dir, cfg); err != nil {
			return nil, err
		}
	}
	if cfg, err = cfg.withDefaults(); err != nil {
		return nil, err
	}
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, &backend.Error{Op: "open", Err: err}
	}
	b := &Backend{
		cfg: cfg, dir: dir, epoch: time.Now(), setup: cfg.settings(),
		locks: locks{dir: filepath.Join(dir, "locks")},
		stop:  make(chan struct{}),
	}
	b.descriptors.limit, b.descriptors.scarce = descriptorLimit(), make(chan struct{}, 1)
	b.stores = newShelf(b, min(cfg.MaxOpenStores, b.descriptors.stores()))
	b.locks.retry = b.withDescriptors
	for _, d := range []string{dir, b.tenants(), b.templateDir(), b.locks.dir, b.moving()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, &backend.Error{Op: "open", Err: fmt.Errorf("cannot make the directory: %w", err)}
		}
	}
	if err := b.openShared(ctx, filepath.Join(dir, "shared.db")); err != nil {
		return nil, &backend.Error{Op: "open", Err: fmt.Errorf("%s: %w", b.shared.path, err)}
	}
	b.db = driver.NewHandle(b, driver.AccessTenant, nil)
	b.lenientDB = driver.NewNowhereHandle(b, nil)
	b.sharedDB = driver.NewHandle(b, driver.AccessShared, nil)
	b.reader = driver.NewHandle(driver.ReadOnly(b), driver.AccessTenant, nil)
	b.janitor.Go(func() { b.stores.watch(b.stop) })
	return b, nil
}

// openShared makes the shared store when it is missing and opens the connection that keeps its -wal and -shm in place: a
// tenant's connections, which only read it, could not make them. Nobody else uses that one, so nothing closes it.
func (b *Backend) openShared(ctx context.Context, path string) error {
	b.attach = "ATTACH '" + strings.ReplaceAll(uri(path, "ro"), "'", "''") + "' AS " + sharedSchema
	b.shared = b.newStore(backend.Store{}, path)
	b.shared.shared = true
	r, err := dial(ctx, dsn(path, "rwc"))
	if err != nil {
		return err
	}
	if _, err = r.ExecContext(ctx, busyTimeout(b.cfg.BusyTimeout)+"; "+b.setup+"; PRAGMA main.journal_mode=WAL; SELECT count(*) FROM sqlite_schema", nil); err == nil {
		b.shared.file, err = os.Lstat(path)
	}
	if err != nil {
		return errors.Join(err, r.Close())
	}
	b.keeper = r
	return nil
}

func (b *Backend) tenants() string { return filepath.Join(b.dir, "tenants") }
func (b *Backend) moving() string  { return filepath.Join(b.dir, "moving") }

// marker returns the file that is there while a store is being renamed.
func (b *Backend) marker(s backend.Store) string { return filepath.Join(b.moving(), s.String()) }

// path returns the file of a store. A store's name holds nothing that means something to a file system.
func (b *Backend) path(s backend.Store) string {
	return filepath.Join(b.tenants(), s.String()+storeExt)
}

func (b *Backend) isClosed() bool { return b.stores.isShut() }

// now is a monotonic clock.
func (b *Backend) now() time.Duration { return time.Since(b.epoch) }

// Dialect implements [backend.Backend].
func (b *Backend) Dialect() backend.Dialect { return backend.SQLite }

// DB implements [backend.Backend].
func (b *Backend) DB() *sql.DB { return b.db.DB() }

// DBOrNowhere implements [backend.Nowherer]: nowhere is an empty database in memory.
func (b *Backend) DBOrNowhere() *sql.DB { return b.lenientDB.DB() }

// Shared implements [backend.Backend]. Statements that write, and those within a transaction that is not read-only, name
// the shared tables unqualified; other reads may also name them public.x.
func (b *Backend) Shared() *sql.DB { return b.sharedDB.DB() }

// Replica implements [backend.Replicator]. There are no copies: it reads the stores themselves.
func (b *Backend) Replica() *sql.DB { return b.reader.DB() }

// Position implements [backend.Replicator]. Nothing is ever behind.
func (b *Backend) Position(context.Context) (backend.Position, error) { return "", nil }

// DBFor implements [backend.Backend]. The handle remembers PRAGMA foreign_keys, which the others forget with the unit of
// work: sent on any of its connections, it holds for all later calls of the handle, as it does by luck for a pool of one.
func (b *Backend) DBFor(rt backend.Route) *sql.DB {
	return driver.OpenDB(pinned{b, new(keys)}, rt, driver.AccessTenant)
}

// Maintenance implements [backend.Backend]. The shared tables are read-only. Foreign keys are not enforced while it is at
// work, so that a table can be rebuilt without its children being deleted; what a transaction of it leaves broken makes its
// commit fail with a [*ForeignKeyError], and a new foreign key to a shared table with a [*SharedParentError].
func (b *Backend) Maintenance(rt backend.Route) *sql.DB {
	return driver.OpenDB(b, rt, driver.AccessMaintenance)
}

// pinned is the source of a handle that remembers.
type pinned struct {
	*Backend
	keys *keys
}

func (p pinned) Session(ctx context.Context, rt backend.Route, access driver.Access) (driver.Session, error) {
	s, err := p.session(ctx, rt, access)
	if err != nil {
		return nil, err
	}
	s.keys = p.keys
	return s, nil
}

// keys is what a handle remembers of PRAGMA foreign_keys.
type keys struct{ disabled atomic.Bool }

func (k *keys) off() bool { return k != nil && k.disabled.Load() }

// Session implements [driver.Source].
func (b *Backend) Session(ctx context.Context, rt backend.Route, access driver.Access) (driver.Session, error) {
	s, err := b.session(ctx, rt, access)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (b *Backend) session(ctx context.Context, rt backend.Route, access driver.Access) (*session, error) {
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
		if st, err = b.stores.acquire(ctx, rt); err == nil {
			// What has begun goes on in this store, whatever has its name later.
			if err = fenced(ctx); err != nil {
				b.stores.release(st)
			}
		}
		if err != nil {
			return nil, &backend.Error{Op: "open", Store: rt.Store, Err: err}
		}
	}
	s := sessions.Get().(*session)
	s.b, s.st, s.upkeep = b, st, access == driver.AccessMaintenance
	s.frozen = rt.ReadOnly && access == driver.AccessTenant
	return s, nil
}

// Ping implements [driver.Source]. It looks at the disk: the directory and the shared store must be where they were.
func (b *Backend) Ping(ctx context.Context) error {
	err := ctx.Err()
	if b.isClosed() {
		err = backend.ErrClosed
	}
	if err == nil {
		err = b.shared.verify()
	}
	if err == nil {
		_, err = os.Stat(b.tenants())
	}
	if err != nil {
		return &backend.Error{Op: "ping", Err: err}
	}
	return nil
}

// Driver implements [driver.Source].
func (b *Backend) Driver() sqldriver.Driver { return driver.Unnamed() }

// Close implements [backend.Backend].
func (b *Backend) Close() error {
	if !b.stores.shutDown() {
		return nil
	}
	close(b.stop)
	b.shared.lose(backend.ErrClosed)
	b.janitor.Wait()
	defer b.locks.keys.close()
	return errors.Join(b.keeper.Close(), b.db.Close(), b.lenientDB.Close(), b.sharedDB.Close(), b.reader.Close())
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

// Source implements [driver.Sourcer].
func (b *Backend) Source() driver.Source { return b }
