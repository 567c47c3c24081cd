package tenancy

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/migrate"
)

// Config says how an application's tenants are kept. It is copied by [Open].
type Config struct {
	// Shared and Tenant are the two sets of migrations; see [migrate.Config]. The registry's own come on top.
	Shared, Tenant []migrate.Source

	// Hooks are called as tenants come and go.
	Hooks Hooks

	// CacheSize is the greatest number of hosts, of slugs and of IDs whose tenants are kept in memory, and of those
	// that are known to lead to none. Defaults to 10,000.
	CacheSize int

	// PollInterval is how often the registry is asked for changes that other processes made. Defaults to 1 second;
	// negative means never, for programs that run one command and end.
	PollInterval time.Duration

	// UnknownTTL is how long a host that leads to no tenant is remembered as such when no change is heard of. Defaults
	// to 1 minute.
	UnknownTTL time.Duration

	// LookupTimeout bounds one question to the registry on behalf of a request. Defaults to 5 seconds.
	LookupTimeout time.Duration

	// IgnoreWWW makes "www.a.example" the same host as "a.example", when registered and when looked up.
	IgnoreWWW bool

	// FilesDir is the directory in which each tenant gets one of its own for its files; see [App.Dir]. Empty means
	// that there are none. It is made when it is not there.
	FilesDir string

	// Lazy migrates a tenant that is behind when it is first entered, instead of refusing it; see [migrate.Migrate].
	Lazy bool

	// SkipVersionGate serves tenants whatever version their stores are at.
	SkipVersionGate bool

	// Migrate has the other settings of the migrator. Its Shared, Tenant, System and Logger are set from the above.
	Migrate migrate.Config

	// Logger gets what is not worth an error: polls that failed, hooks that did. Defaults to discarding it.
	Logger *slog.Logger
}

// Hooks are an application's part in the life of its tenants.
type Hooks struct {
	// OnCreate fills a new tenant's store, in the tenant's context, before the tenant is served for the first time. An
	// error makes Create fail; creating the tenant again starts over with an empty store.
	OnCreate func(ctx context.Context, t Tenant) error

	// OnChange is told of every change of a tenant after it was made, by this process (before the call that made it
	// returns) or, within the bound on staleness, by another (from the poller, one at a time, which should not be held
	// up). It may be told of a change twice. The context is in no tenant.
	OnChange func(ctx context.Context, e Event)
}

// EventKind says what happened to a tenant.
type EventKind string

// The kinds of events.
const (
	EventClaimed   EventKind = "claimed"   // its slug and domains were taken, its store is about to be made
	EventCreated   EventKind = "created"   // it is active for the first time
	EventFailed    EventKind = "failed"    // making it failed
	EventUpdated   EventKind = "updated"   // name or metadata
	EventRenamed   EventKind = "renamed"   // slug or store
	EventSuspended EventKind = "suspended" //
	EventResumed   EventKind = "resumed"   //
	EventDeleted   EventKind = "deleted"   // it became a tombstone
	EventRestored  EventKind = "restored"  //
	EventPurged    EventKind = "purged"    // it is gone
	EventDomains   EventKind = "domains"   // a host was added, removed, moved or made primary
)

// Event is a change of a tenant.
type Event struct {
	Kind EventKind
	// Tenant is the tenant after the change. Of one that was purged by another process only the ID is certain.
	Tenant Tenant
	// Remote: another process made the change.
	Remote bool
}

// App is an application's tenants: their registry, the way from a host to one of them, and their lives. It is safe for
// concurrent use, also by several processes over the same stores.
//
// A tenant's life:
//
//	provisioning → active ⇄ suspended
//	active, suspended → deleted (a tombstone that can be restored) → purged
//	provisioning → failed → provisioning
//
// What one App changes, its own Resolve and contexts see at once. Others see it within the bound on staleness:
// [Config.PollInterval] and what it takes to read the changes, provided that they reach the registry. A tenant that
// was purged is never mistaken for a later one of the same name, however stale the reader: the store is asked for the
// tenant's ID.
type App struct {
	be       backend.Backend
	cfg      Config
	log      *slog.Logger
	migrator *migrate.Migrator
	reg      registry
	locks    keyedLocks
	// lockSlots has a value for each operation that holds locks of the backend.
	lockSlots chan struct{}

	hosts, slugs, ids *table
	lives             lives
	flights           singleflight.Group
	misses            bucket
	known             knownNames

	// gen grows before anything that was known is made to be forgotten. Whoever reads the registry in order to
	// remember the answer compares it before and after.
	gen atomic.Uint64

	pollMu sync.Mutex // one poll at a time
	seen   int64      // the revision up to which changes are known; under pollMu
	ownMu  sync.Mutex
	own    map[int64]struct{} // revisions that this App made, not yet seen by a poll

	files *os.Root // FilesDir; nil without

	ctx    context.Context // ends with Close
	stop   context.CancelFunc
	done   sync.WaitGroup
	closed atomic.Bool

	// step is called between the steps of the operations that have several. Tests die in it.
	step func(name string)
}

// Open reads the tenants of be. It makes the registry's tables when they are not there, and on a shared store without
// any tables applies the shared set too; after that, the shared set is for the migrator to apply. The backend stays
// the caller's. The caller calls Close.
func Open(ctx context.Context, be backend.Backend, cfg Config) (*App, error) {
	cfg.CacheSize = cmp.Or(cfg.CacheSize, 10_000)
	cfg.PollInterval = cmp.Or(cfg.PollInterval, time.Second)
	cfg.UnknownTTL = cmp.Or(cfg.UnknownTTL, time.Minute)
	cfg.LookupTimeout = cmp.Or(cfg.LookupTimeout, 5*time.Second)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.CacheSize < 0 {
		return nil, errors.New("tenement: open: CacheSize is negative; leave it 0 for the default")
	}

	mc := cfg.Migrate
	mc.Shared, mc.Tenant, mc.Logger = cfg.Shared, cfg.Tenant, cfg.Logger
	mc.System = []migrate.Source{registrySource()}
	if cfg.Lazy {
		mc.Behind = migrate.Migrate
	}
	migrator, err := migrate.New(be, mc)
	if err != nil {
		return nil, err
	}
	a := &App{
		be: be, cfg: cfg, log: cfg.Logger, migrator: migrator,
		reg:  registry{db: be.Shared(), queries: func() {}},
		own:  map[int64]struct{}{},
		step: func(string) {},

		lockSlots: make(chan struct{}, maxLocks),
	}
	a.ctx, a.stop = context.WithCancel(context.Background())
	a.hosts = newTable("host", selectByHost, cfg.CacheSize, ErrUnknownHost, (*Tenant).hasDomain)
	a.slugs = newTable("slug", selectBySlug, cfg.CacheSize, ErrNotFound, func(t *Tenant, slug string) bool { return t.Slug == slug })
	a.ids = newTable("id", selectByID, cfg.CacheSize, ErrNotFound, func(t *Tenant, id string) bool { return t.ID == ID(id) })

	a.slugs.possible = func(slug string) bool { return ValidateSlug(slug) == nil }
	a.ids.possible = func(id string) bool { _, err := ParseID(id); return err == nil }

	if err := a.bootstrap(Leave(ctx)); err != nil {
		return nil, fmt.Errorf("tenement: open the registry: %w", err)
	}
	if cfg.FilesDir != "" {
		if err := os.MkdirAll(cfg.FilesDir, 0o750); err != nil {
			return nil, fmt.Errorf("tenement: open FilesDir: %w", err)
		}
		if a.files, err = os.OpenRoot(cfg.FilesDir); err != nil {
			return nil, fmt.Errorf("tenement: open FilesDir: %w", err)
		}
	}
	if cfg.PollInterval > 0 {
		a.done.Go(a.pollLoop)
	}
	return a, nil
}

// bootstrap makes the registry's tables if they are missing, and reads how far the changes are.
func (a *App) bootstrap(ctx context.Context) error {
	tables, err := a.sharedTables(ctx)
	if err != nil {
		return err
	}
	if !tables.registry {
		if err := a.migrator.Prepare(ctx); err != nil {
			return err
		}
		if !tables.others {
			// Of an existing application's tables it is not for us to say whether they are to be migrated or are a baseline.
			if _, err := a.migrator.Up(ctx, migrate.UpOptions{Scope: migrate.SharedOnly}); err != nil {
				return err
			}
		}
	}
	return a.reg.db.QueryRowContext(ctx, `SELECT revision FROM tenement_revision WHERE id = 1`).Scan(&a.seen)
}

type sharedTables struct{ registry, others bool }

func (a *App) sharedTables(ctx context.Context) (found sharedTables, err error) {
	query := `SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!'`
	if a.be.Dialect() == backend.Postgres {
		query = `SELECT c.relname FROM pg_catalog.pg_class c WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace`
	}
	rows, err := a.reg.db.QueryContext(ctx, query)
	if err != nil {
		return found, err
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return found, err
		}
		switch {
		case name == "tenement_changes":
			found.registry = true
		case !strings.HasPrefix(name, "tenement_") && !strings.HasPrefix(name, "goose_"):
			found.others = true
		}
	}
	return found, rows.Err()
}

// Close stops what the App does on its own and waits for it. The backend stays open. Calls of Resolve and the like fail
// with ErrClosed afterwards; contexts that were entered stay as they are.
func (a *App) Close() error {
	if a.closed.Swap(true) {
		return nil
	}
	a.stop()
	a.done.Wait()
	if a.files != nil {
		return a.files.Close()
	}
	return nil
}

// DB returns the handle that sends each call to the store of the tenant that its context is in; see
// [backend.Backend.DB].
func (a *App) DB() *sql.DB { return a.be.DB() }

// Shared returns the handle on the shared store; see [backend.Backend.Shared].
func (a *App) Shared() *sql.DB { return a.be.Shared() }

// Backend returns the backend that the App was opened with.
func (a *App) Backend() backend.Backend { return a.be }

// Migrator returns the migrator of the App's sources, those of the registry included.
func (a *App) Migrator() *migrate.Migrator { return a.migrator }

// StalenessBound is how old what this App believes about a tenant can be while it reaches the registry. It is zero when
// it does not poll.
func (a *App) StalenessBound() time.Duration { return max(0, 2*a.cfg.PollInterval) }
