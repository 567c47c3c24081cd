// Package postgres keeps each tenant's store in a schema of one Postgres database.
//
// Importing it registers the URL schemes "postgres" and "postgresql" with [backend.Open]:
//
//	import _ "github.com/tenement-go/tenement/backend/postgres"
//
//	be, err := backend.Open(ctx, "postgres://app@db.example.com/app?pool_max_conns=16")
//
// # Connection strings
//
// URLs and keyword DSNs are taken as [pgxpool.ParseConfig] takes them, with all its options (pool_max_conns,
// default_query_exec_mode, …), and these of our own:
//
//   - tenant_roles: on or off (the default). See [WithTenantRoles].
//   - max_tenants_per_conn: a number of stores. See [WithMaxTenantsPerConn].
//   - tenant_statements: a number of prepared statements. See [WithTenantStatements].
//
// # How a statement finds its store
//
// Each unit of work, a statement outside a transaction or a transaction, tells the server itself which schema it works
// in: a prefix that travels ahead of it in the same message batch checks that the schema exists (and is the owner's) and
// sets search_path for this transaction only. That costs no extra round trip, relies on nothing that a pooled connection
// was used for before, and leaves nothing to be reset. It is what makes transaction-mode PgBouncer work.
//
// # What a connection may carry on
//
// A connection on which a statement made or changed something that outlives its transaction (SET, LISTEN, PREPARE, CREATE
// TEMP TABLE, …) is closed rather than used again; it is recognised by its text. What a function or a DO block does inside
// is not seen: a temporary table that one makes stays on the connection for later units of work, of other tenants too. It
// never takes the place of a table (pg_temp comes last in search_path), but its name answers where there is no other. Let
// functions make their temporary tables ON COMMIT DROP, and change settings with set_config(…, true).
package postgres

import (
	"context"
	"database/sql"
	sqldriver "database/sql/driver"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
)

func init() {
	open := func(ctx context.Context, url string) (backend.Backend, error) { return Open(ctx, url) }
	backend.Register("postgres", open)
	backend.Register("postgresql", open)
}

// DefaultMaxTenantsPerConn is how many distinct stores a connection serves before it is retired, unless
// [WithMaxTenantsPerConn] says otherwise.
const DefaultMaxTenantsPerConn = 1024

// DefaultTenantStatements is how many prepared statements a connection keeps for single stores, unless
// [WithTenantStatements] says otherwise.
const DefaultTenantStatements = 1024

// Backend is a Postgres database whose schemas are stores. It is safe for concurrent use.
type Backend struct {
	cfg    config
	pool   *pgxpool.Pool
	lent   bool // the pool is the caller's
	mode   pgx.QueryExecMode
	tracer pgx.QueryTracer // nil: none

	// buildWatcher makes what ends an operation whose context is done.
	buildWatcher func(*pgconn.PgConn) ctxwatch.Handler

	// How many statements a connection remembers; 0 means none.
	statementCapacity, descriptionCapacity int

	db     *sql.DB
	shared *sql.DB
	native PGX
	closed atomic.Bool

	// identities remembers which schema (by OID) a route's owner was last seen to own, so that the full check of the
	// stamp is needed only once per route and process; see prefix.go.
	identities struct {
		sync.RWMutex
		oid map[backend.Route]uint32
	}
	locks locks
	roles roles

	// lastBreak is when a connection was last seen broken (Unix nanoseconds): connections that were idle then are
	// pinged before they are used.
	lastBreak atomic.Int64
}

var (
	_ backend.Backend      = (*Backend)(nil)
	_ backend.ScriptRunner = (*Backend)(nil)
	_ backend.Locker       = (*Backend)(nil)
	_ backend.Sweeper      = (*Backend)(nil)
)

type config struct {
	maxTenants       int
	tenantStatements int
	roles            bool
}

// Option adjusts a backend made by [Open] or [FromPool].
type Option func(*config)

// WithMaxTenantsPerConn retires a connection, once it is idle, after it has served n distinct stores: the server keeps
// about 10 KB in each of its processes for every table or index that the process ever touched, and never lets go of it.
// n ≤ 0 means the default, [DefaultMaxTenantsPerConn]. Through PgBouncer the server's connections are not ours to retire;
// use its server_lifetime.
func WithMaxTenantsPerConn(n int) Option {
	return func(c *config) { c.maxTenants = n }
}

// WithTenantStatements bounds the prepared statements that a connection keeps for single stores, in the query mode
// cache_statement. A statement's plan is only good for the store that it was made for, and making a new one costs the
// server more than the rest of a point read; so a connection that alternates between stores keeps one of each, the least
// recently used going first. Each takes the server some 10 KB. 0 means none: every change of store costs a new plan.
// Defaults to [DefaultTenantStatements].
func WithTenantStatements(n int) Option {
	return func(c *config) { c.tenantStatements = max(n, 0) }
}

// WithTenantRoles turns roles on: each store gets a role (NOLOGIN) that may use its own schema and read the shared one,
// and each unit of work assumes it, so that the server refuses a statement that names another tenant's schema or writes
// to a shared table (SQLSTATE 42501). The log-in needs the CREATEROLE privilege.
//
// It stops mistakes and injected identifiers. It does not stop SQL that sets out to assume another role (SET ROLE, RESET
// ROLE, set_config('role', …)): the one log-in may assume every tenant's role, and such a statement therefore can too.
// What a unit of work does to its role ends with it.
//
// Stores made while roles were off get theirs by [Backend.EnsureRoles].
func WithTenantRoles(on bool) Option {
	return func(c *config) { c.roles = on }
}

// Open connects to the database that url names, a URL or keyword DSN, and checks that it answers. The options override
// those in url. It returns an error that wraps [backend.ErrInvalidURL] when url is wrong. No error holds a password.
// The caller closes the backend.
func Open(ctx context.Context, url string, options ...Option) (*Backend, error) {
	pc, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, &backend.Error{Op: "open", Err: parseFault(err)}
	}
	cfg := config{tenantStatements: DefaultTenantStatements}
	if err := cfg.takeParams(pc.ConnConfig.RuntimeParams); err != nil {
		return nil, &backend.Error{Op: "open", Err: err}
	}
	be := newBackend(cfg, options, pc.ConnConfig)
	pc.ShouldPing = be.shouldPing
	be.pool, err = pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		be.lent = true // there is none to close
		return nil, errors.Join(&backend.Error{Op: "open", Err: err}, be.Close())
	}
	if err := be.check(ctx); err != nil {
		_ = be.Close()
		return nil, err
	}
	return be, nil
}

// FromPool makes a backend over a pool that the caller made, and checks that it answers. The pool stays the caller's:
// it is neither changed nor closed. Its connections may be used for other things in between.
func FromPool(ctx context.Context, pool *pgxpool.Pool, options ...Option) (*Backend, error) {
	if pool == nil {
		return nil, &backend.Error{Op: "open", Err: errors.New("the pool is nil")}
	}
	be := newBackend(config{tenantStatements: DefaultTenantStatements}, options, pool.Config().ConnConfig)
	be.pool, be.lent = pool, true
	if err := be.check(ctx); err != nil {
		_ = be.Close()
		return nil, err
	}
	return be, nil
}

func newBackend(cfg config, options []Option, cc *pgx.ConnConfig) *Backend {
	for _, o := range options {
		o(&cfg)
	}
	if cfg.maxTenants <= 0 {
		cfg.maxTenants = DefaultMaxTenantsPerConn
	}
	be := &Backend{
		cfg:                 cfg,
		mode:                cc.DefaultQueryExecMode,
		tracer:              cc.Tracer,
		buildWatcher:        cc.BuildContextWatcherHandler,
		statementCapacity:   cc.StatementCacheCapacity,
		descriptionCapacity: cc.DescriptionCacheCapacity,
	}
	be.identities.oid = make(map[backend.Route]uint32)
	be.native = PGX{be: be, access: driver.AccessTenant}
	be.db = driver.OpenDB((*source)(be), backend.Route{}, driver.AccessTenant)
	be.shared = driver.OpenDB((*source)(be), backend.Route{}, driver.AccessShared)
	return be
}

// takeParams takes our own options out of the parameters that pgx would send to the server.
func (c *config) takeParams(params map[string]string) error {
	for name, take := range map[string]func(string) error{
		"tenant_roles": func(v string) error {
			switch v {
			case "on", "off":
				c.roles = v == "on"
				return nil
			}
			return fmt.Errorf("%w: tenant_roles=%q is not one of on, off", backend.ErrInvalidURL, v)
		},
		"tenant_statements": func(v string) error {
			n, err := strconv.Atoi(v)
			if err != nil || n < 0 {
				return fmt.Errorf("%w: tenant_statements=%q is not a whole number of at least 0", backend.ErrInvalidURL, v)
			}
			c.tenantStatements = n
			return nil
		},
		"max_tenants_per_conn": func(v string) error {
			n, err := strconv.Atoi(v)
			if err != nil || n < 1 {
				return fmt.Errorf("%w: max_tenants_per_conn=%q is not a whole number of at least 1", backend.ErrInvalidURL, v)
			}
			c.maxTenants = n
			return nil
		},
	} {
		if v, ok := params[name]; ok {
			delete(params, name)
			if err := take(v); err != nil {
				return err
			}
		}
	}
	return nil
}

// parseFault describes why pgx refused a connection string, without the string, which may hold a password that pgx
// could not tell apart.
func parseFault(err error) error {
	var pe *pgconn.ParseConfigError
	if !errors.As(err, &pe) {
		return fmt.Errorf("%w: pgx cannot parse it", backend.ErrInvalidURL)
	}
	// The text is "cannot parse `…`: reason"; only the part between the quotes can hold secrets of ours to keep, but
	// the inner error may quote them too.
	reason := pe.Error()
	if i := strings.LastIndex(reason, "`: "); i >= 0 {
		reason = reason[i+len("`: "):]
	}
	if leaks(pe.ConnString, reason) {
		reason = "it cannot be parsed"
	}
	return fmt.Errorf("%w: %s; use postgres://USER@HOST/DATABASE?OPTION=VALUE or a keyword DSN", backend.ErrInvalidURL, reason)
}

// leaks reports whether reason repeats a long enough part of the connection string that follows a ':' or a
// "password=": what a malformed string's password could be.
func leaks(connString, reason string) bool {
	for _, mark := range []string{":", "password=", "password ="} {
		rest := connString
		for {
			i := strings.Index(rest, mark)
			if i < 0 {
				break
			}
			rest = rest[i+len(mark):]
			secret := strings.TrimLeft(rest, " '")
			if j := strings.IndexAny(secret, "@ '&/"); j >= 0 {
				secret = secret[:j]
			}
			if len(secret) >= 3 && strings.Contains(reason, secret) {
				return true
			}
		}
	}
	return false
}

// check makes sure that the database answers.
func (be *Backend) check(ctx context.Context) error {
	err := be.pool.Ping(ctx)
	if err == nil && be.cfg.roles {
		return be.prepareRoles(ctx)
	}
	if err == nil {
		return nil
	}
	var pe *pgconn.PgError
	if errors.As(err, &pe) {
		switch pe.Code {
		case "42704", "22023": // the server does not know a parameter or its value
			return &backend.Error{Op: "open", Err: fmt.Errorf("%w: the server refuses an option: %w", backend.ErrInvalidURL, pe)}
		}
	}
	return &backend.Error{Op: "connect", Err: err}
}

// shouldPing decides, for a pool of our own, whether an idle connection is checked before it is used: after a second,
// as is pgx's default, or when connections have been breaking since.
func (be *Backend) shouldPing(_ context.Context, p pgxpool.ShouldPingParams) bool {
	if p.IdleDuration > time.Second {
		return true
	}
	broke := be.lastBreak.Load()
	return broke != 0 && time.Now().UnixNano()-p.IdleDuration.Nanoseconds() <= broke
}

// Dialect returns [backend.Postgres].
func (be *Backend) Dialect() backend.Dialect { return backend.Postgres }

// DB returns the routed handle; see [backend.Backend].
func (be *Backend) DB() *sql.DB { return be.db }

// Shared returns the handle on the shared store, the schema public.
func (be *Backend) Shared() *sql.DB { return be.shared }

// DBFor returns a new handle bound to rt. The caller closes it.
func (be *Backend) DBFor(rt backend.Route) *sql.DB {
	return driver.OpenDB((*source)(be), rt, driver.AccessTenant)
}

// Maintenance returns a new handle on rt with the rights of the log-in. The caller closes it.
func (be *Backend) Maintenance(rt backend.Route) *sql.DB {
	return driver.OpenDB((*source)(be), rt, driver.AccessMaintenance)
}

// PGX returns the routed handle that speaks pgx, the same one each time.
func (be *Backend) PGX() *PGX { return &be.native }

// PGXFor returns a handle that speaks pgx and is bound to rt, as [Backend.DBFor]. It needs no closing.
func (be *Backend) PGXFor(rt backend.Route) *PGX {
	return &PGX{be: be, fixed: rt, access: driver.AccessTenant}
}

// Close closes the handles, and the pool when it is the backend's own. See [backend.Backend].
func (be *Backend) Close() error {
	if be.closed.Swap(true) {
		return nil
	}
	err := errors.Join(be.db.Close(), be.shared.Close())
	be.locks.close()
	if be.lent {
		return err
	}
	// pgxpool waits for connections that are in use. Close promises not to.
	done := make(chan struct{})
	go func() {
		defer close(done)
		be.pool.Close()
	}()
	if be.pool.Stat().AcquiredConns() == 0 {
		<-done
	}
	return err
}

// forget drops what is remembered about a store's identity.
func (be *Backend) forget(rt backend.Route) {
	be.identities.Lock()
	delete(be.identities.oid, rt)
	be.identities.Unlock()
}

func (be *Backend) forgetStore(s backend.Store) {
	be.identities.Lock()
	for rt := range be.identities.oid {
		if rt.Store == s {
			delete(be.identities.oid, rt)
		}
	}
	be.identities.Unlock()
}

func (be *Backend) identity(rt backend.Route) (oid uint32, known bool) {
	be.identities.RLock()
	oid, known = be.identities.oid[rt]
	be.identities.RUnlock()
	return oid, known
}

// maxIdentities bounds the memory of the identities: a hundred bytes each.
const maxIdentities = 1 << 17

func (be *Backend) remember(rt backend.Route, oid uint32) {
	be.identities.Lock()
	if len(be.identities.oid) >= maxIdentities {
		clear(be.identities.oid)
	}
	be.identities.oid[rt] = oid
	be.identities.Unlock()
}

// source is the Backend as database/sql's virtual connections see it.
type source Backend

var (
	_ driver.Source               = (*source)(nil)
	_ sqldriver.NamedValueChecker = (*source)(nil)
)

func (s *source) Session(ctx context.Context, rt backend.Route, access driver.Access) (driver.Session, error) {
	return (*Backend)(s).acquire(ctx, rt, access)
}

func (s *source) Ping(ctx context.Context) error {
	be := (*Backend)(s)
	if be.closed.Load() {
		return &backend.Error{Op: "ping", Err: backend.ErrClosed}
	}
	if err := be.pool.Ping(ctx); err != nil {
		return &backend.Error{Op: "ping", Err: err}
	}
	return nil
}

func (s *source) Driver() sqldriver.Driver { return driver.Unnamed() }

// CheckNamedValue lets every value through: pgx encodes by the type that the server expects, and knows sqldriver.Valuer.
func (s *source) CheckNamedValue(*sqldriver.NamedValue) error { return nil }
