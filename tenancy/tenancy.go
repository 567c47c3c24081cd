package tenancy

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/migrate"
)

// App is an application's tenants: their registry, the way from a host to one of them, and their lives. It is safe for
// concurrent use, also by several processes over the same stores.
//
// A tenant's life:
//
//	provisioning → active ⇄ read-only ⇄ suspended
//	any of them → deleted (a tombstone that can be restored) → purged
//	provisioning → failed → provisioning
//
// What one App changes, its own Resolve and contexts see at once. Others see it within the bound on staleness:
// [Config.PollInterval] and what it takes to read the changes, provided that they reach the registry; one whose process was
// stopped for longer asks before it says where an address leads, or lets anybody in. A tenant that was purged is never
// mistaken for a later one of the same name, however stale the reader: the store is asked for the tenant's ID.
type App struct {
	be         backend.Backend
	cfg        Config
	log        *slog.Logger
	migrator   *migrate.Migrator
	reg        registry
	locker     backend.Locker
	operations *semaphore.Weighted // those under way in this process

	hosts, slugs, ids *table
	lives             lives
	flights           singleflight.Group
	misses            bucket
	known             knownNames
	announced         announcement

	// gen grows before anything that was known is made to be forgotten. Whoever reads the registry in order to
	// remember the answer compares it before and after.
	gen atomic.Uint64

	polling  *semaphore.Weighted // one poll at a time
	seen     mark                // up to where changes are known; whose turn it is to poll may touch it
	heard    atomic.Pointer[hearing]
	own      ownChanges
	news     news
	settling atomic.Bool // a round of settle is going on
	resumer  resumer
	spares   spares

	files *os.Root // FilesDir; nil without

	ctx    context.Context // ends with Close
	stop   context.CancelFunc
	done   sync.WaitGroup
	doneMu sync.Mutex // nothing is begun once closed is set under it
	closed atomic.Bool

	// step is called between the steps of the operations that have several. Tests die in it.
	step func(name string)
}

// Open reads the tenants of be. It makes the registry's tables when they are not there and brings them to what this
// binary needs, and on a shared store without any tables applies the shared set too; after that, the shared set is for
// the migrator to apply. It returns a [*HostRulesError] when hosts in the registry are spelled by other rules than are in
// force. The backend stays the caller's, and must be a [backend.Locker]. The caller calls Close.
func Open(ctx context.Context, be backend.Backend, cfg Config) (_ *App, err error) {
	if cfg, err = cfg.withDefaults(); err != nil {
		return nil, err
	}
	locker, ok := be.(backend.Locker)
	if !ok {
		return nil, fmt.Errorf("tenement: open: %T is no backend.Locker, which takes tenants through their lives one process at a time", be)
	}
	if p, ok := be.(backend.Placer); ok && cfg.Spares > 0 && len(p.Places()) > 1 {
		return nil, fmt.Errorf("tenement: open: Spares over several places: %w; leave it 0", errors.ErrUnsupported)
	}
	reg := registry{db: be.Shared(), d: be.Dialect(), hostRules: cfg.hostRules(), queries: func() {}}
	migrator, err := migrate.New(be, migrate.Config{
		Shared: cfg.Shared, Tenant: cfg.Tenant, System: []migrate.Source{registrySource()},
		Behind: cfg.Behind, BehindWait: cfg.BehindWait, LockTimeout: cfg.LockTimeout, AllowOutOfOrder: cfg.AllowOutOfOrder,
		Ahead: reg.ahead, Logger: cfg.Logger,
	})
	if err != nil {
		return nil, err
	}
	a := &App{
		be: be, cfg: cfg, log: cfg.Logger, migrator: migrator, locker: locker,
		operations: semaphore.NewWeighted(maxOperations),
		polling:    semaphore.NewWeighted(1),
		announced:  announcement{id: rand.Text(), turn: semaphore.NewWeighted(1)},
		reg:        reg,
		step:       func(string) {},
	}
	a.spares.fingerprint = migrator.Fingerprint()
	a.ctx, a.stop = context.WithCancel(context.Background())
	a.hosts = newTable("host", selectByHost, cfg.CacheSize, ErrUnknownHost, (*Tenant).hasDomain)
	a.slugs = newTable("slug", selectBySlug, cfg.CacheSize, ErrNotFound, func(t *Tenant, slug string) bool { return t.Slug == slug })
	a.ids = newTable("id", selectByID, cfg.CacheSize, ErrNotFound, func(t *Tenant, id string) bool { return t.ID == ID(id) })

	a.slugs.possible = func(slug string) bool { return ValidateSlug(slug) == nil }
	a.ids.possible = func(id string) bool { _, err := ParseID(id); return err == nil }

	if err := a.bootstrap(Leave(ctx)); err != nil {
		return nil, err
	}
	if cfg.FilesDir != "" {
		if err := os.MkdirAll(cfg.FilesDir, 0o750); err != nil {
			return nil, fmt.Errorf("tenement: open FilesDir: %w", err)
		}
		if a.files, err = os.OpenRoot(cfg.FilesDir); err != nil {
			return nil, fmt.Errorf("tenement: open FilesDir: %w", err)
		}
	}
	a.done.Go(a.pollLoop)
	return a, nil
}

// bootstrap makes the registry's tables what this binary needs, and reads how far the changes are.
func (a *App) bootstrap(ctx context.Context) error {
	fault := func(err error) error { return fmt.Errorf("tenement: open the registry: %w", err) }
	there, err := a.reg.tables(ctx)
	if err != nil {
		return fault(err)
	}
	var version int64
	if there.registry {
		if version, err = a.reg.version(ctx); err != nil {
			return fault(err)
		}
	}
	if version < registryVersion {
		if err := a.migrator.Prepare(ctx); err != nil {
			return fault(err)
		}
	}
	if version == 0 && !there.others {
		// Tables of an existing application are another matter: whether they are to be migrated or are a baseline is
		// not for us to say.
		if _, err := a.migrator.Up(ctx, migrate.UpOptions{Scope: migrate.SharedOnly}); err != nil {
			return fault(err)
		}
	}
	if err := a.checkHostRules(ctx); err != nil {
		return err
	}
	begun := time.Now()
	if a.seen, err = a.reg.head(ctx); err != nil {
		return fault(err)
	}
	a.noteHeard(begun)
	return nil
}

// Close stops what the App does on its own, lazy migrations and operations that it took up included, and waits for it. The
// backend stays open. Resolve, Enter and the like fail with ErrClosed afterwards; contexts that were entered stay as they
// are, and hear of no change any more. So a server is shut down first.
func (a *App) Close() error {
	a.doneMu.Lock()
	closed := a.closed.Swap(true)
	a.doneMu.Unlock()
	if closed {
		return nil
	}
	a.stop()
	a.done.Wait()
	a.withdraw()
	if err := a.migrator.Close(); err != nil {
		return err
	}
	if a.files != nil {
		return a.files.Close()
	}
	return nil
}

// background runs fn until it returns, unless the App is closed; Close waits for it.
func (a *App) background(fn func()) {
	a.doneMu.Lock()
	defer a.doneMu.Unlock()
	if !a.closed.Load() {
		a.done.Go(fn)
	}
}

// DB returns the handle that sends each call to the store of the tenant that its context is in; see
// [backend.Backend.DB].
func (a *App) DB() *sql.DB { return a.be.DB() }

// DBOrNowhere returns a handle that is DB's but for one thing: a query whose context names no tenant is answered from
// nowhere, where the database's functions are and no table of anyone's; see [backend.Nowherer]. It is for libraries that
// ask the database something when they are opened, without a context of the caller's. It is DB's handle where the
// backend has no such place.
func (a *App) DBOrNowhere() *sql.DB {
	if n, ok := a.be.(backend.Nowherer); ok {
		return n.DBOrNowhere()
	}
	return a.be.DB()
}

// Shared returns the handle on the shared store; see [backend.Backend.Shared].
func (a *App) Shared() *sql.DB { return a.be.Shared() }

// Backend returns the backend that the App was opened with.
func (a *App) Backend() backend.Backend { return a.be }

// Migrator returns the migrator of the App's sources, those of the registry included.
func (a *App) Migrator() *migrate.Migrator { return a.migrator }

// Ready returns nil when the App can serve: the registry answers. A server's readiness probe asks it.
func (a *App) Ready(ctx context.Context) error {
	if a.closed.Load() {
		return ErrClosed
	}
	return a.Refresh(ctx)
}

// StalenessBound is how old what this App believes about a tenant can be while it reaches the registry.
func (a *App) StalenessBound() time.Duration { return 2 * a.cfg.PollInterval }
