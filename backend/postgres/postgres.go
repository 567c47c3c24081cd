package postgres

import (
	"context"
	"database/sql"
	sqldriver "database/sql/driver"
	"errors"
	"fmt"
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
	"github.com/tenement-go/tenement/backend/postgres/internal/warm"
)

func init() {
	open := func(ctx context.Context, url string) (backend.Backend, error) {
		be, err := Open(ctx, url, Config{})
		if err != nil {
			return nil, err // and no Backend that is a nil pointer
		}
		return be, nil
	}
	backend.Register("postgres", open)
	backend.Register("postgresql", open)
}

// Backend is a Postgres database whose schemas are stores. It is safe for concurrent use.
type Backend struct {
	cfg  Config
	pool *pgxpool.Pool
	warm *warm.Keeper[*conn]
	lent bool // the pool is the caller's
	// replica: its server may be a standby, where nothing fences what is renamed or dropped; see check.go.
	replica bool
	mode    pgx.QueryExecMode
	tracer  pgx.QueryTracer // nil: none

	// buildWatcher makes what ends an operation whose context is done.
	buildWatcher func(*pgconn.PgConn) ctxwatch.Handler

	// How many statements a connection remembers; 0 means none.
	statementCapacity, descriptionCapacity int

	db, lenient, shared *driver.Handle

	nowhere chan struct{} // has one in it while [source.QueryNowhere] has a connection

	native PGX
	closed atomic.Bool

	replicas replicas

	// identities remembers which schema (by OID) a route's owner was last seen to own, so that the full check of the
	// stamp is needed only once per route and process; see prefix.go.
	identities struct {
		sync.RWMutex
		oid map[backend.Route]uint32
	}
	locks  locks
	varied answers
	alike  alikes
	// stalePlans is what a pooler has prepared that the server refuses; see pooled.go.
	stalePlans stalePlans
	roles      roles
	citus      citus

	// lastBreak is when a connection was last seen broken (Unix nanoseconds): connections that were idle then are
	// pinged before they are used.
	lastBreak atomic.Int64

	maxConns         int
	lifetime, jitter time.Duration // of a connection
	pooled           atomic.Bool   // a pooler stands between us and the server
	otherText        bool          // what the server does not report of how it writes values is set in another way; see conn.readsText
	firstSights      atomic.Int64
}

var (
	_ backend.Backend      = (*Backend)(nil)
	_ backend.ScriptRunner = (*Backend)(nil)
	_ backend.Locker       = (*Backend)(nil)
	_ backend.Sweeper      = (*Backend)(nil)
	_ backend.Advisor      = (*Backend)(nil)
	_ backend.Nowherer     = (*Backend)(nil)
)

// Open connects to the database that url names, a URL or keyword DSN, and checks that it answers. It returns an error that
// wraps [backend.ErrInvalidURL] when url or cfg is wrong. No error holds a password. The caller closes the backend.
func Open(ctx context.Context, url string, cfg Config) (*Backend, error) {
	return openAs(ctx, url, cfg, false)
}

// openAs opens a backend, or what reads from a replica of one.
func openAs(ctx context.Context, url string, cfg Config, replica bool) (*Backend, error) {
	pc, err := parsePool(url, &cfg)
	if err != nil {
		return nil, &backend.Error{Op: "open", Err: err}
	}
	be, err := newBackend(cfg, pc.ConnConfig)
	if err != nil {
		return nil, err
	}
	be.replica = replica
	pc.ShouldPing = be.shouldPing
	pc.ConnConfig.BuildContextWatcherHandler = be.buildWatcher
	pc.BeforeConnect = be.roles.beforeConnect
	be.pool, err = pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		be.lent = true // there is none to close
		return nil, errors.Join(&backend.Error{Op: "open", Err: err}, be.Close())
	}
	return be.start(ctx)
}

// parsePool reads a connection string, and takes our own options out of it.
func parsePool(url string, cfg *Config) (*pgxpool.Config, error) {
	pc, err := pgxpool.ParseConfig(oneReplicaParam(url))
	if err != nil {
		return nil, parseFault(err)
	}
	return pc, cfg.takeParams(pc.ConnConfig.RuntimeParams)
}

// FromPool makes a backend over a pool that the caller made, and checks that it answers. The pool stays the caller's:
// it is neither changed nor closed. Its connections may be used for other things in between.
func FromPool(ctx context.Context, pool *pgxpool.Pool, cfg Config) (*Backend, error) {
	if pool == nil {
		return nil, &backend.Error{Op: "open", Err: errors.New("the pool is nil")}
	}
	be, err := newBackend(cfg, pool.Config().ConnConfig)
	if err != nil {
		return nil, err
	}
	be.pool, be.lent = pool, true
	return be.start(ctx)
}

// newBackend makes a backend without a pool.
func newBackend(cfg Config, cc *pgx.ConnConfig) (*Backend, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, &backend.Error{Op: "open", Err: err}
	}
	be := &Backend{
		cfg:                 cfg,
		mode:                cc.DefaultQueryExecMode,
		tracer:              cc.Tracer,
		statementCapacity:   cc.StatementCacheCapacity,
		descriptionCapacity: cc.DescriptionCacheCapacity,
		nowhere:             make(chan struct{}, 1),
	}
	if err := be.newReplicas(); err != nil {
		return nil, &backend.Error{Op: "open", Err: err}
	}
	be.buildWatcher = be.watcherOf(cc)
	be.identities.oid = make(map[backend.Route]uint32)
	be.native = PGX{be: be, binding: bound(backend.Route{})}
	be.db = driver.NewHandle((*source)(be), driver.AccessTenant, cfg.Logger)
	be.lenient = driver.NewNowhereHandle((*source)(be), cfg.Logger)
	be.shared = driver.NewHandle((*source)(be), driver.AccessShared, cfg.Logger)
	be.replicas.db = driver.NewHandle(driver.ReadOnly(readSource{be}), driver.AccessTenant, cfg.Logger)
	be.replicas.native = PGX{be: be, binding: bound(backend.Route{}), reads: true}
	return be, nil
}

// start finds out what the server is, and closes the backend when it does not answer.
func (be *Backend) start(ctx context.Context) (*Backend, error) {
	err := be.check(ctx)
	if err == nil {
		err = be.detectCitus(ctx)
	}
	if err == nil {
		err = be.prepareRoles(ctx)
	}
	if err != nil {
		_ = be.Close()
		return nil, err
	}
	return be, nil
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
// "password=", up to the last '@' if there is one: what a malformed string's password, or a piece of it, could be.
func leaks(connString, reason string) bool {
	for _, mark := range []string{":", "password=", "password ="} {
		_, rest, found := strings.Cut(connString, mark)
		if !found {
			continue
		}
		if end := strings.LastIndexByte(rest, '@'); end >= 0 {
			rest = rest[:end]
		}
		for _, piece := range strings.FieldsFunc(rest, func(r rune) bool { return strings.ContainsRune(":@ '&/?#[]", r) }) {
			if len(piece) >= 3 && strings.Contains(reason, piece) {
				return true
			}
		}
	}
	return false
}

// greetSQL asks for the process's number, and whether values are written otherwise than pgx reads them; see conn.readsText.
const greetSQL = "select pg_catalog.pg_backend_pid()::pg_catalog.int4" +
	",pg_catalog.current_setting('bytea_output') operator(pg_catalog.<>) 'hex'" +
	" or pg_catalog.current_setting('extra_float_digits')::pg_catalog.int4 operator(pg_catalog.<) 1"

// check makes sure that the database answers, and asks whether it is a pooler who does: those make up process numbers of
// their own.
func (be *Backend) check(ctx context.Context) error {
	err := be.pool.AcquireFunc(ctx, func(c *pgxpool.Conn) error {
		var pid uint32
		err := c.QueryRow(ctx, greetSQL, be.queryMode()).Scan(&pid, &be.otherText)
		be.pooled.Store(pid != c.Conn().PgConn().PID())
		return err
	})
	if err == nil {
		be.warm = be.newKeeper()
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

// Dialect returns [backend.Postgres].
func (be *Backend) Dialect() backend.Dialect { return backend.Postgres }

// DB returns the routed handle; see [backend.Backend].
func (be *Backend) DB() *sql.DB { return be.db.DB() }

// DBOrNowhere returns the routed handle that answers from nowhere; see [backend.Nowherer].
func (be *Backend) DBOrNowhere() *sql.DB { return be.lenient.DB() }

// Shared returns the handle on the shared store, the schema public.
func (be *Backend) Shared() *sql.DB { return be.shared.DB() }

// DBFor returns a new handle bound to rt. The caller closes it.
func (be *Backend) DBFor(rt backend.Route) *sql.DB {
	return driver.OpenDB((*source)(be), rt, driver.AccessTenant)
}

// Maintenance returns a new handle on rt for its upkeep, with the rights of the role that does tenants' work (the log-in's
// where roles are off). The caller closes it.
func (be *Backend) Maintenance(rt backend.Route) *sql.DB {
	return driver.OpenDB((*source)(be), rt, driver.AccessMaintenance)
}

// PGX returns the routed handle that speaks pgx, the same one each time.
func (be *Backend) PGX() *PGX { return &be.native }

// PGXFor returns a handle that speaks pgx and is bound to rt, as [Backend.DBFor]. It needs no closing.
func (be *Backend) PGXFor(rt backend.Route) *PGX {
	return &PGX{be: be, binding: bound(rt)}
}

// Close closes the handles, and the pool when it is the backend's own. See [backend.Backend].
func (be *Backend) Close() error {
	if be.closed.Swap(true) {
		return nil
	}
	err := errors.Join(be.db.Close(), be.lenient.Close(), be.shared.Close(), be.replicas.close())
	if be.warm != nil {
		be.warm.Close()
	}
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
	_ driver.Nowhere              = (*source)(nil)
	_ sqldriver.NamedValueChecker = (*source)(nil)
)

// Source implements [driver.Sourcer].
func (be *Backend) Source() driver.Source { return (*source)(be) }

func (s *source) Session(ctx context.Context, rt backend.Route, access driver.Access) (driver.Session, error) {
	sess, err := (*Backend)(s).acquire(ctx, rt, access)
	if err != nil {
		return nil, err
	}
	return sess.watch(access), nil
}

func (s *source) Ping(ctx context.Context) error {
	be := (*Backend)(s)
	if be.closed.Load() {
		return &backend.Error{Op: "ping", Err: backend.ErrClosed}
	}
	return be.withConn(ctx, "ping", backend.Route{}, func(c *pgx.Conn) error { return c.Ping(ctx) })
}

func (s *source) Driver() sqldriver.Driver { return driver.Unnamed() }

// CheckNamedValue lets every value through: pgx encodes by the type that the server expects, and knows sqldriver.Valuer.
func (s *source) CheckNamedValue(*sqldriver.NamedValue) error { return nil }
