package backendtest

import (
	"context"
	"database/sql"
	sqldriver "database/sql/driver"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"modernc.org/sqlite"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
)

// fault is something that a backend could do wrong.
type fault string

const (
	// In the routing.
	defaultTenant       fault = "a call without a tenant goes to the last one"
	pingNeedsTenant     fault = "ping needs a tenant"
	heldLends           fault = "a held connection lends its tenant"
	stickyRoute         fault = "a connection goes on serving the store that it served before"
	mismatchIgnored     fault = "a context that names another tenant is ignored"
	mismatchFollowed    fault = "a context that names another tenant is followed inside a transaction"
	mismatchAborts      fault = "a context that names another tenant ends the transaction"
	sessionPerStatement fault = "a held connection takes another session for each statement"
	preparedSticks      fault = "a prepared statement stays in the store it was prepared for"
	nestedBegin         fault = "a second BEGIN is taken for granted"
	pinFollows          fault = "a pinned handle follows the context"
	pinIgnores          fault = "a pinned handle ignores the context"
	ownerFollows        fault = "the owner's handle follows the context"
	idleHolds           fault = "an idle handle keeps its session"
	sharedFollows       fault = "the shared handle follows the context"
	noPrepare           fault = "statements cannot be prepared"
	misroutes           fault = "now and then a session is another store's"

	// In the sessions.
	missingIsShared fault = "a missing store is answered from the shared one"
	ownerUnchecked  fault = "the owner is not checked"
	goneServed      fault = "a session goes on serving a store that is gone"
	followsName     fault = "a session follows its store's name, to whatever store has it now"
	anyIsStore      fault = "whatever has the name of a store is one"
	staleCache      fault = "a process remembers stores that another one dropped"
	reused          fault = "sessions are reused as they were left"
	attachesAll     fault = "every store is attached under its name"
	sharedWritable  fault = "the shared store is attached for writing"
	sharedWins      fault = "the shared table wins"
	sharedAbsent    fault = "the shared store is not attached"
	rollbackKeeps   fault = "a rollback commits"
	commitLoses     fault = "a commit rolls back"
	rollbackStrays  fault = "after ROLLBACK in a statement's text the session is in the shared store"
	errorStrays     fault = "after an error the next session is in the shared store"
	endStrays       fault = "after COMMIT in a statement's text the session is in the shared store"
	cancelLeaks     fault = "a session whose context was cancelled is never given back"
	contextIgnored  fault = "waiting does not end with the context"
	readOnlyIgnored fault = "a read-only transaction may write"
	routeWrites     fault = "a read-only route may write"
	readOnlyStays   fault = "a read-only route makes its store read-only"
	routeStays      fault = "a session that is held is as read-only as when it was taken"
	routeChanges    fault = "a read-only transaction becomes what the context of a statement says"
	isolationFixed  fault = "isolation levels are refused"
	oneCursor       fault = "a query closes the one before"
	oneSession      fault = "a store has one session at a time"
	planCached      fault = "a query's columns are remembered for all tenants"
	vacuumRefused   fault = "VACUUM runs in a transaction"
	readsOutside    fault = "queries run outside the transaction"
	timesAsPrinted  fault = "times are stored as Go prints them"
	valuesAsText    fault = "values come back as text"
	countsNothing   fault = "RowsAffected is always 0"
	errorsAsText    fault = "the driver's errors are turned into text"
	columnsUnnamed  fault = "columns have no names"
	argumentsPadded fault = "missing arguments are NULL"
	resultsCut      fault = "results end after 1,000 rows"
	valuesCut       fault = "values end after 1 MB"
	ownersOnly      fault = "the tenant may not use what its owner made"

	replicaWrites     fault = "a replica is written to"
	nowhereIsShared   fault = "calls without a tenant are answered from the shared store"
	nowhereAnswersNot fault = "nowhere has no functions"

	// In the stores.
	createAgain   fault = "creating a store again succeeds"
	unstamped     fault = "stores are not stamped"
	dropKeeps     fault = "a dropped store stays"
	renameCopies  fault = "the old name stays"
	namesFolded   fault = "hyphens are folded into underscores"
	listsAll      fault = "the shared store is listed too"
	zeroIsShared  fault = "the zero store is the shared one"
	closeIgnored  fault = "a closed backend goes on"
	closeWaits    fault = "Close waits for sessions"
	closeSticks   fault = "what a caller closed stays closed"
	scriptsStop   fault = "scripts after a failing one are not run"
	scriptsFirst  fault = "all scripts run in the first one's store"
	scriptsKeep   fault = "a failing script keeps the store it made"
	scriptsWait   fault = "the lock timeout of scripts is ignored"
	scriptsSingle fault = "scripts cannot run at once"
	buildsAlways  fault = "the template is built each time"
	buildsHalf    fault = "a template whose build failed is used"
	locksNothing  fault = "a lock excludes nobody"
	triesVaguely  fault = "who tries for a lock is not told whether it is held"
	fencesNothing fault = "a fence keeps nothing out"
	workUnfenced  fault = "a fence keeps no statement out"
	locksAll      fault = "there is one lock for all keys"
	sweepsNothing fault = "sweeping removes nothing"
	backsUpAny    fault = "a backup replaces what is there"
	adoptsEmpty   fault = "what is adopted is empty"
	adoptsAll     fault = "what is a store is adopted again"
	copyLoses     fault = "what is copied in is counted and not kept"
	copyTorn      fault = "a reader that fails is one that has ended"
	stampUnfenced fault = "a fence keeps no stamp out"
)

// place is where the model's stores are: a directory, and what its processes would keep on disk beside it.
type place struct {
	dir string

	mu        sync.Mutex
	seq       int
	stores    map[string]*modelStore
	locks     map[string]chan struct{}
	templates map[string]string
	building  sync.Mutex
	left      map[string]bool
}

type modelStore struct {
	name, owner, path string // guarded by place.mu; name is "" once it is gone
	foreign           bool   // made by another hand
	busy              sync.Mutex
}

// model is a backend as simple as can be, slow and right but for its faults: each session is a new SQLite connection.
type model struct {
	*place
	faults              map[fault]bool
	slots               chan struct{}
	db, lenient, shared lasting
	reader              *sql.DB // under state

	state  sync.Mutex
	closed bool
	last   backend.Route
	stray  bool
	count  int
	cursor *modelRows
	plans  map[string]int
	frozen map[string]bool // files that a read-only route was seen for
	idle   map[string][]sqldriver.Conn
	cache  map[string]*modelStore
	using  sync.WaitGroup
	single sync.Mutex
}

var (
	_ backend.Backend      = (*model)(nil)
	_ driver.Source        = (*model)(nil)
	_ backend.ScriptRunner = (*model)(nil)
	_ backend.Templater    = (*model)(nil)
	_ backend.Locker       = (*model)(nil)
	_ backend.Sweeper      = (*model)(nil)
	_ backend.Backuper     = (*model)(nil)
	_ backend.Adopter      = (*model)(nil)
	_ backend.Nowherer     = (*model)(nil)
)

func modelConfig(faults ...fault) Config {
	return Config{
		SharedReadOnly: true,
		StoresApart:    true,
		Foreign: func(ctx context.Context, be backend.Backend, s backend.Store) error {
			m := be.(*model)
			if err := m.Create(ctx, backend.Route{Store: s}); err != nil {
				return err
			}
			db := m.Maintenance(backend.Route{Store: s})
			_, err := db.ExecContext(ctx, notesSQLite+`; INSERT INTO notes (mark) VALUES ('stray')`)
			m.mu.Lock()
			defer m.mu.Unlock()
			m.stores[m.key(s)].foreign = true
			return errors.Join(err, db.Close())
		},
		New: func(t testing.TB) func(int) backend.Backend {
			p := &place{
				dir: t.TempDir(), stores: map[string]*modelStore{}, locks: map[string]chan struct{}{},
				templates: map[string]string{}, left: map[string]bool{},
			}
			return func(maxConns int) backend.Backend {
				if maxConns == 0 {
					maxConns = 64
				}
				m := &model{
					place: p, faults: map[fault]bool{}, slots: make(chan struct{}, maxConns), plans: map[string]int{}, frozen: map[string]bool{},
					idle: map[string][]sqldriver.Conn{}, cache: map[string]*modelStore{},
				}
				for _, f := range faults {
					m.faults[f] = true
				}
				m.db, m.shared = m.lasting(driver.AccessTenant), m.lasting(driver.AccessShared)
				m.lenient = driver.NewNowhereHandle(m, slog.New(slog.DiscardHandler))
				t.Cleanup(func() {
					_ = m.close(false)
					m.state.Lock()
					defer m.state.Unlock()
					for _, conns := range m.idle {
						for _, c := range conns {
							_ = c.Close()
						}
					}
				})
				return m
			}
		},
		Native: func(be backend.Backend) Native { return modelNative{be.DB(), be.DB()} },
	}
}

func (m *model) Dialect() backend.Dialect             { return backend.SQLite }
func (m *model) DB() *sql.DB                          { return m.db.DB() }
func (m *model) DBOrNowhere() *sql.DB                 { return m.lenient.DB() }
func (m *model) Shared() *sql.DB                      { return m.shared.DB() }
func (m *model) DBFor(rt backend.Route) *sql.DB       { return m.handle(rt, driver.AccessTenant) }
func (m *model) Maintenance(rt backend.Route) *sql.DB { return m.handle(rt, driver.AccessMaintenance) }
func (m *model) Ping(context.Context) error           { return m.open("ping") }
func (m *model) Driver() sqldriver.Driver             { return driver.Unnamed() }
func (m *model) sharedPath() string                   { return filepath.Join(m.dir, "shared.db") }
func fail(op string, s backend.Store, e error) error  { return &backend.Error{Op: op, Store: s, Err: e} }

func (m *model) handle(rt backend.Route, access driver.Access) *sql.DB {
	if loose(m.faults) {
		return sql.OpenDB(&looseConnector{m, rt, access})
	}
	return driver.OpenDB(m, rt, access)
}

// loose reports whether a fault is one of the virtual connection's.
func loose(faults map[fault]bool) bool {
	for _, f := range []fault{
		defaultTenant, pingNeedsTenant, heldLends, stickyRoute, mismatchIgnored, mismatchFollowed, mismatchAborts, sessionPerStatement,
		preparedSticks, nestedBegin, pinFollows, pinIgnores, ownerFollows, idleHolds, sharedFollows, noPrepare,
	} {
		if faults[f] {
			return true
		}
	}
	return false
}

// lasting is a handle that is the backend's.
type lasting interface {
	DB() *sql.DB
	Close() error
}

// once is one that stays closed when a caller closes it.
type once struct{ db *sql.DB }

func (o once) DB() *sql.DB  { return o.db }
func (o once) Close() error { return o.db.Close() }

func (m *model) lasting(access driver.Access) lasting {
	if m.faults[closeSticks] || loose(m.faults) {
		return once{m.handle(backend.Route{}, access)}
	}
	return driver.NewHandle(m, access, slog.New(slog.DiscardHandler))
}

// QueryNowhere opens a database in memory, and the shared one if that is its fault.
func (m *model) QueryNowhere(ctx context.Context, query string, args []sqldriver.NamedValue) (sqldriver.Rows, error) {
	path := ":memory:"
	switch {
	case m.faults[nowhereIsShared]:
		path = m.sharedPath()
	case m.faults[nowhereAnswersNot]:
		return nil, errors.New("no")
	}
	connector, err := sqlite.NewConnector(path)
	if err != nil {
		return nil, err
	}
	c, err := connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := c.(sqldriver.QueryerContext).QueryContext(ctx, query, args)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return &nowhereRows{rows, c}, nil
}

// nowhereRows close their connection with themselves.
type nowhereRows struct {
	sqldriver.Rows
	conn sqldriver.Conn
}

func (r *nowhereRows) Close() error { return errors.Join(r.Rows.Close(), r.conn.Close()) }

func (m *model) open(op string) error {
	m.state.Lock()
	defer m.state.Unlock()
	if m.closed && !m.faults[closeIgnored] {
		return fail(op, backend.Store{}, backend.ErrClosed)
	}
	return nil
}

func (m *model) key(s backend.Store) string {
	if m.faults[namesFolded] {
		return strings.ReplaceAll(s.String(), "-", "_")
	}
	return s.String()
}

// find returns the store of a route. The caller holds place.mu.
func (m *model) find(op string, rt backend.Route) (*modelStore, error) {
	s := m.stores[m.key(rt.Store)]
	if cached := m.cache[m.key(rt.Store)]; cached != nil && m.faults[staleCache] {
		s = cached
	}
	if rt.IsZero() {
		s = nil
	}
	if s != nil && s.foreign && !m.faults[anyIsStore] {
		s = nil
	}
	if s == nil || (rt.Owner != "" && rt.Owner != s.owner && !m.faults[ownerUnchecked]) {
		return nil, fail(op, rt.Store, backend.ErrStoreMissing)
	}
	m.cache[m.key(rt.Store)] = s
	return s, nil
}

func (m *model) Create(ctx context.Context, rt backend.Route) error {
	if err := errors.Join(m.open("create"), fenced(ctx)); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if rt.IsZero() {
		return fail("create", rt.Store, backend.ErrInvalidName)
	}
	if m.stores[m.key(rt.Store)] != nil {
		if m.faults[createAgain] {
			return nil
		}
		return fail("create", rt.Store, backend.ErrStoreExists)
	}
	m.seq++
	s := &modelStore{name: rt.Store.String(), owner: rt.Owner, path: filepath.Join(m.dir, fmt.Sprintf("%d.db", m.seq))}
	if m.faults[unstamped] {
		s.owner = ""
	}
	m.stores[m.key(rt.Store)] = s
	return nil
}

func (m *model) Drop(ctx context.Context, rt backend.Route) error {
	if err := errors.Join(m.open("drop"), fenced(ctx)); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s, err := m.find("drop", rt)
	if err != nil {
		return err
	}
	if m.faults[dropKeeps] {
		return nil
	}
	m.remove(s)
	return nil
}

// remove makes a store a leftover. The caller holds place.mu.
func (m *model) remove(s *modelStore) {
	for k, other := range m.stores {
		if other == s {
			delete(m.stores, k)
		}
	}
	s.name = ""
	m.left[s.path] = true
}

func (m *model) Rename(ctx context.Context, rt backend.Route, to backend.Store) error {
	if err := errors.Join(m.open("rename"), fenced(ctx)); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s, err := m.find("rename", rt)
	switch {
	case err != nil:
		return err
	case to.IsZero():
		return fail("rename", to, backend.ErrInvalidName)
	case m.stores[m.key(to)] != nil:
		return fail("rename", to, backend.ErrStoreExists)
	}
	if !m.faults[renameCopies] {
		delete(m.stores, m.key(rt.Store))
	}
	s.name = to.String()
	m.stores[m.key(to)] = s
	return nil
}

func (m *model) Adopt(ctx context.Context, rt backend.Route) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.stores[m.key(rt.Store)]
	switch {
	case s == nil || rt.IsZero():
		return m.stamp(ctx, s, rt.Owner, backend.ErrStoreMissing)
	case !s.foreign && !m.faults[adoptsAll]:
		return m.stamp(ctx, s, rt.Owner, backend.ErrStoreExists)
	case m.faults[adoptsEmpty]:
		_ = os.Remove(s.path)
	}
	return m.stamp(ctx, s, rt.Owner, nil)
}

func (m *model) Restamp(ctx context.Context, rt backend.Route, owner string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, err := m.find("restamp", rt)
	return m.stamp(ctx, s, owner, err)
}

// stamp writes an owner into a store, unless there is an error. The caller holds place.mu.
func (m *model) stamp(ctx context.Context, s *modelStore, owner string, err error) error {
	if lost := errors.Join(m.open("stamp"), fenced(ctx)); lost != nil && !m.faults[stampUnfenced] {
		return lost
	}
	if err == nil {
		s.owner, s.foreign = owner, false
	}
	return err
}

func (m *model) Stat(_ context.Context, s backend.Store) (backend.StoreInfo, error) {
	if err := m.open("stat"); err != nil {
		return backend.StoreInfo{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	found, err := m.find("stat", backend.Route{Store: s})
	if err != nil {
		return backend.StoreInfo{}, err
	}
	return backend.StoreInfo{Store: s, Owner: found.owner, Bytes: -1}, nil
}

func (m *model) Stores(context.Context) iter.Seq2[backend.StoreInfo, error] {
	return func(yield func(backend.StoreInfo, error) bool) {
		if err := m.open("list"); err != nil {
			yield(backend.StoreInfo{}, err)
			return
		}
		m.mu.Lock()
		stores := maps.Clone(m.stores)
		m.mu.Unlock()
		if m.faults[listsAll] {
			stores["shared-store"] = &modelStore{}
		}
		for _, name := range slices.Sorted(maps.Keys(stores)) {
			if stores[name].foreign && !m.faults[anyIsStore] {
				continue
			}
			if !yield(backend.StoreInfo{Store: backend.MustParseStore(name), Owner: stores[name].owner, Bytes: -1}, nil) {
				return
			}
		}
	}
}

func (m *model) Close() error { return m.close(m.faults[closeWaits]) }

func (m *model) close(wait bool) error {
	m.state.Lock()
	m.closed = true
	m.state.Unlock()
	if wait {
		m.using.Wait()
	}
	if m.faults[closeIgnored] {
		return nil
	}
	if m.reader != nil {
		_ = m.reader.Close()
	}
	return errors.Join(m.db.Close(), m.lenient.Close(), m.shared.Close())
}

func (m *model) RunScripts(ctx context.Context, scripts []backend.Script, opt backend.ScriptOptions) []error {
	if m.faults[scriptsSingle] {
		if !m.single.TryLock() {
			return []error{errors.New("busy")}
		}
		defer m.single.Unlock()
	}
	errs := make([]error, len(scripts))
	for i, s := range scripts {
		if m.faults[scriptsFirst] {
			s.Route = scripts[0].Route
		}
		errs[i] = m.script(ctx, s, opt)
		if errs[i] != nil && m.faults[scriptsStop] {
			break
		}
	}
	return errs
}

func (m *model) script(ctx context.Context, s backend.Script, opt backend.ScriptOptions) (err error) {
	if err := fenced(ctx); err != nil {
		return err
	}
	if s.Create {
		if err := m.Create(ctx, s.Route); err != nil {
			return err
		}
		defer func() {
			if err != nil && !m.faults[scriptsKeep] {
				_ = m.Drop(ctx, s.Route)
			}
		}()
	}
	limited := ctx // for the waits
	if opt.LockTimeout > 0 && !m.faults[scriptsWait] {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, opt.LockTimeout)
		defer cancel()
	}
	sess, err := m.Session(limited, s.Route, driver.AccessMaintenance)
	if err != nil {
		return err
	}
	defer sess.Release()
	tx, err := sess.BeginTx(limited, sqldriver.TxOptions{})
	if err != nil {
		return err
	}
	if _, err := sess.ExecContext(ctx, s.SQL, nil); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

func (m *model) Flush(context.Context) error { return nil }

func (m *model) CreateFrom(ctx context.Context, rt backend.Route, key string, build func(context.Context, *sql.DB) error) error {
	m.building.Lock()
	defer m.building.Unlock()
	path := m.templates[key]
	if path == "" || m.faults[buildsAlways] {
		template := backend.Route{Store: backend.MustParseStore("template-" + strings.ToLower(key))}
		if err := m.Create(ctx, template); err != nil {
			return err
		}
		db := m.Maintenance(template)
		err := build(ctx, db)
		err = errors.Join(err, db.Close())
		m.mu.Lock()
		s := m.stores[m.key(template.Store)]
		m.remove(s)
		delete(m.left, s.path)
		m.mu.Unlock()
		if err != nil {
			if m.faults[buildsHalf] {
				m.templates[key] = s.path
				_ = m.Create(ctx, rt)
			}
			return err
		}
		path = s.path
		m.templates[key] = path
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := m.Create(ctx, rt); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return os.WriteFile(m.stores[m.key(rt.Store)].path, text, 0o600)
}

func (m *model) Backup(ctx context.Context, rt backend.Route, path string) error {
	if _, err := os.Lstat(path); err == nil {
		if !m.faults[backsUpAny] {
			return os.ErrExist
		}
		_ = os.Remove(path)
	}
	db := m.Maintenance(rt)
	_, err := db.ExecContext(ctx, "VACUUM INTO ?", path)
	return errors.Join(err, db.Close())
}

func (m *model) Lock(ctx context.Context, key string) (backend.Lock, error) {
	if m.faults[locksNothing] {
		return &modelLock{faulty: true, free: func() {}}, nil
	}
	lock := m.lockOf(key)
	select {
	case lock <- struct{}{}:
		return m.held(lock), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (m *model) TryLock(ctx context.Context, key string) (backend.Lock, error) {
	if err := ctx.Err(); err != nil && !m.faults[triesVaguely] {
		return nil, err
	}
	if m.faults[locksNothing] {
		return &modelLock{faulty: true, free: func() {}}, nil
	}
	lock := m.lockOf(key)
	select {
	case lock <- struct{}{}:
		return m.held(lock), nil
	default:
	}
	if m.faults[triesVaguely] {
		return nil, context.DeadlineExceeded
	}
	return nil, backend.ErrBusy
}

// lockOf returns the channel that holds a token while somebody has the key.
func (m *model) lockOf(key string) chan struct{} {
	if m.faults[locksAll] {
		key = ""
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	lock := m.locks[key]
	if lock == nil {
		lock = make(chan struct{}, 1)
		m.locks[key] = lock
	}
	return lock
}

func (m *model) held(lock chan struct{}) backend.Lock {
	return &modelLock{faulty: m.faults[fencesNothing], free: func() { <-lock }}
}

type modelLock struct {
	faulty bool
	lost   atomic.Bool
	free   func()
}

func (l *modelLock) Fence(ctx context.Context) context.Context {
	return context.WithValue(ctx, modelFence{}, l)
}

func (l *modelLock) Check(context.Context) error {
	if l.lost.Load() && !l.faulty {
		return backend.ErrLockLost
	}
	return nil
}

func (l *modelLock) Unlock() {
	if !l.lost.Swap(true) {
		l.free()
	}
}

type modelFence struct{}

// fenced returns the error of a fence whose lock was lost.
func fenced(ctx context.Context) error {
	if l, ok := ctx.Value(modelFence{}).(*modelLock); ok {
		return l.Check(ctx)
	}
	return nil
}

func (m *model) Leftovers(context.Context) ([]backend.Leftover, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var left []backend.Leftover
	for path := range m.left {
		left = append(left, backend.Leftover{Name: path, Kind: "file", Detail: "a dropped store"})
	}
	return left, nil
}

func (m *model) Sweep(_ context.Context, l backend.Leftover) error {
	if m.faults[sweepsNothing] {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.left, l.Name)
	if err := os.Remove(l.Name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// Session opens a connection.
func (m *model) Session(ctx context.Context, rt backend.Route, access driver.Access) (driver.Session, error) {
	if err := m.open("use"); err != nil {
		return nil, err
	}
	if err := fenced(ctx); err != nil && access != driver.AccessShared && !m.faults[workUnfenced] {
		return nil, err
	}
	if m.faults[contextIgnored] {
		ctx = context.WithoutCancel(ctx)
	}
	select {
	case m.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s := &modelSession{m: m, rt: rt, access: access, ctx: ctx}
	if err := s.connect(); err != nil {
		<-m.slots
		return nil, err
	}
	m.using.Add(1)
	if s.store != nil && m.faults[oneSession] {
		s.store.busy.Lock()
	}
	m.state.Lock()
	defer m.state.Unlock()
	if access == driver.AccessTenant {
		m.last = rt
	}
	return s, nil
}

type modelSession struct {
	m      *model
	rt     backend.Route
	access driver.Access
	ctx    context.Context // of the call that took it
	store  *modelStore     // nil: the shared one
	name   string
	path   string
	conn   sqldriver.Conn
	old    []sqldriver.Conn
	outer  sqldriver.Conn // another connection to the store, for readsOutside
	inTx   bool
	frozen bool // its route is read-only
}

// connect finds the file and opens it.
func (s *modelSession) connect() error {
	m := s.m
	s.store, s.path = nil, m.sharedPath()
	m.state.Lock()
	m.count++
	stray := m.stray && s.access == driver.AccessTenant
	if m.faults[misroutes] && m.count%11 == 0 && s.access == driver.AccessTenant && m.last.Store != s.rt.Store && !m.last.IsZero() {
		s.rt = m.last
	}
	m.stray = false
	m.state.Unlock()
	zero := s.rt.IsZero() && m.faults[zeroIsShared]
	if s.access != driver.AccessShared && !stray && !zero {
		m.mu.Lock()
		store, err := m.find("use", s.rt)
		if err != nil && !(m.faults[missingIsShared] && s.access == driver.AccessTenant) {
			m.mu.Unlock()
			return err
		}
		if err == nil {
			s.store, s.name, s.path = store, store.name, store.path
		}
		m.mu.Unlock()
	}
	m.state.Lock()
	if pooled := m.idle[s.path]; len(pooled) > 0 {
		s.conn, m.idle[s.path] = pooled[len(pooled)-1], pooled[:len(pooled)-1]
		m.state.Unlock()
		return nil
	}
	m.state.Unlock()
	var err error
	if s.conn, err = m.connect(s.path, s.access); err == nil {
		err = s.freeze(s.rt)
	}
	return err
}

func (s *modelSession) SetReadOnly(on bool) {
	if !s.m.faults[routeStays] {
		s.rt.ReadOnly = on
		_ = s.freeze(s.rt)
	}
}

// freeze makes the connection read-only, or not, as rt says.
func (s *modelSession) freeze(rt backend.Route) error {
	m := s.m
	m.state.Lock()
	m.frozen[s.path] = m.frozen[s.path] || rt.ReadOnly
	s.frozen = s.access == driver.AccessTenant && !m.faults[routeWrites] && (rt.ReadOnly || m.faults[readOnlyStays] && m.frozen[s.path])
	m.state.Unlock()
	mode := "OFF"
	if s.frozen {
		mode = "ON"
	}
	_, err := s.conn.(sqldriver.ExecerContext).ExecContext(context.Background(), "PRAGMA query_only = "+mode, nil)
	return err
}

func (m *model) connect(path string, access driver.Access) (sqldriver.Conn, error) {
	conn, err := (&sqlite.Driver{}).Open("file:" + path + "?_txlock=immediate&_time_format=sqlite" +
		"&_pragma=busy_timeout(10000)&_pragma=synchronous(off)&_pragma=foreign_keys(1)&_pragma=journal_mode(wal)")
	if err != nil {
		return nil, err
	}
	var statements []string
	mode := "?mode=ro"
	if m.faults[sharedWritable] {
		mode = "?mode=rw"
	}
	if !m.faults[sharedAbsent] {
		if _, err := os.Stat(m.sharedPath()); err != nil && access != driver.AccessShared {
			first, err := m.connect(m.sharedPath(), driver.AccessShared)
			if err != nil {
				return nil, errors.Join(err, conn.Close())
			}
			_ = first.Close()
		}
		statements = append(statements, `ATTACH DATABASE 'file:`+m.sharedPath()+mode+`' AS public`)
	}
	if m.faults[attachesAll] {
		m.mu.Lock()
		for name, s := range m.stores {
			if s.path != path && access == driver.AccessTenant {
				statements = append(statements, `ATTACH DATABASE '`+s.path+`' AS "`+name+`"`)
			}
		}
		m.mu.Unlock()
	}
	if m.faults[sharedWins] && access == driver.AccessTenant {
		statements = append(statements, `CREATE TEMPORARY VIEW notes AS SELECT * FROM public.notes`)
	}
	for _, statement := range statements {
		if _, err := conn.(sqldriver.ExecerContext).ExecContext(context.Background(), statement, nil); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	return conn, nil
}

var forbidden = regexp.MustCompile(`(?i)^\s*(ATTACH|DETACH|PRAGMA)\b`)

// check says whether the session may go on.
func (s *modelSession) check(ctx context.Context, query string) error {
	m := s.m
	if err := m.open("use"); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.store != nil && s.access != driver.AccessShared {
		m.mu.Lock()
		gone := s.store.name != s.name || s.name == ""
		m.mu.Unlock()
		if gone && m.faults[followsName] && !s.inTx {
			s.old = append(s.old, s.conn) // rows may be open on it
			owner := s.rt.Owner
			s.rt.Owner = ""
			err := s.connect()
			s.rt.Owner = owner
			if err != nil {
				s.conn, _ = m.connect(s.path, s.access)
				return err
			}
		} else if gone && !m.faults[goneServed] {
			return fail("use", s.rt.Store, backend.ErrStoreMissing)
		}
	}
	if !m.faults[reused] && s.access != driver.AccessShared {
		for statement := range strings.SplitSeq(query, ";") {
			if forbidden.MatchString(statement) {
				return fail("use", s.rt.Store, backend.ErrReadOnlyShared)
			}
		}
	}
	if m.faults[vacuumRefused] && strings.HasPrefix(query, "VACUUM") {
		return errors.New("cannot VACUUM from within a transaction")
	}
	return nil
}

// strays moves the session to the shared store, as a lost search_path does.
func (s *modelSession) strays() {
	s.old = append(s.old, s.conn)
	s.store, s.path = nil, s.m.sharedPath()
	s.conn, _ = s.m.connect(s.path, driver.AccessShared)
}

func (s *modelSession) after(query string, err error) error {
	m := s.m
	if err != nil && m.faults[errorStrays] {
		m.state.Lock()
		m.stray = true
		m.state.Unlock()
	}
	words := strings.ToUpper(query)
	if (m.faults[rollbackStrays] && strings.Contains(words, "ROLLBACK TO")) ||
		(m.faults[endStrays] && (strings.HasPrefix(words, "COMMIT") || strings.HasPrefix(words, "ROLLBACK"))) {
		s.strays()
	}
	var code interface{ Code() int }
	if errors.As(err, &code) && code.Code()&0xff == 8 && s.frozen {
		return fail("use", s.rt.Store, fmt.Errorf("%w: %w", backend.ErrReadOnly, err))
	}
	if errors.As(err, &code) && (code.Code()&0xff == 8 || strings.Contains(err.Error(), "readonly")) {
		return fail("use", s.rt.Store, fmt.Errorf("%w: %w", backend.ErrReadOnlyShared, err))
	}
	// An object of the attached store that cannot be referred to from here is a way around the rule as well.
	if err != nil && m.faults[errorsAsText] {
		return errors.New(err.Error())
	}
	return err
}

func (s *modelSession) args(query string, args []sqldriver.NamedValue) []sqldriver.NamedValue {
	if s.m.faults[argumentsPadded] && len(args) == 0 && strings.Contains(query, "$1") {
		return []sqldriver.NamedValue{{Ordinal: 1}}
	}
	for i, a := range args {
		if t, ok := a.Value.(time.Time); ok && !s.m.faults[timesAsPrinted] {
			args[i].Value = t.UTC().Format("2006-01-02 15:04:05.000000")
		}
	}
	return args
}

func (s *modelSession) ExecContext(ctx context.Context, query string, args []sqldriver.NamedValue) (sqldriver.Result, error) {
	if err := s.check(ctx, query); err != nil {
		return nil, err
	}
	m := s.m
	if m.faults[ownersOnly] && s.access == driver.AccessTenant && (strings.Contains(query, "authors") || strings.Contains(query, "INTO own ")) {
		return nil, errors.New("permission denied for table authors")
	}
	if rt, ok := backend.RouteFrom(ctx); ok && s.inTx && m.faults[routeChanges] {
		if err := s.freeze(rt); err != nil {
			return nil, err
		}
	}
	result, err := s.conn.(sqldriver.ExecerContext).ExecContext(ctx, query, s.args(query, args))
	if err := s.after(query, err); err != nil {
		return nil, err
	}
	if m.faults[countsNothing] {
		return sqldriver.ResultNoRows, nil
	}
	return result, nil
}

func (s *modelSession) QueryContext(ctx context.Context, query string, args []sqldriver.NamedValue) (sqldriver.Rows, error) {
	if err := s.check(ctx, query); err != nil {
		return nil, err
	}
	conn := s.conn
	if s.inTx && s.m.faults[readsOutside] && strings.HasPrefix(query, "SELECT") {
		if s.outer == nil {
			var err error
			if s.outer, err = s.m.connect(s.path, s.access); err != nil {
				return nil, err
			}
		}
		conn = s.outer
	}
	inner, err := conn.(sqldriver.QueryerContext).QueryContext(ctx, query, s.args(query, args))
	if err := s.after(query, err); err != nil {
		return nil, err
	}
	rows := &modelRows{s: s, Rows: inner}
	s.m.state.Lock()
	defer s.m.state.Unlock()
	if s.m.faults[planCached] && strings.Contains(query, "*") {
		if n, ok := s.m.plans[query]; ok && n != len(inner.Columns()) {
			_ = inner.Close()
			return nil, errors.New("cached plan must not change result type")
		}
		s.m.plans[query] = len(inner.Columns())
	}
	s.m.cursor = rows
	return rows, nil
}

var _ driver.Copier = (*modelSession)(nil)

// CopyIn knows no COPY: each line is a note.
func (s *modelSession) CopyIn(ctx context.Context, r io.Reader, _ string) (rows int64, err error) {
	text, err := io.ReadAll(r)
	if err != nil && !s.m.faults[copyTorn] {
		return 0, err
	}
	for mark := range strings.Lines(string(text)) {
		rows++
		if s.m.faults[copyLoses] {
			continue
		}
		args := []sqldriver.NamedValue{{Ordinal: 1, Value: strings.TrimSuffix(mark, "\n")}}
		if _, err := s.ExecContext(ctx, insertNote, args); err != nil {
			return 0, err
		}
	}
	return rows, nil
}

// CopyOut writes the notes.
func (s *modelSession) CopyOut(ctx context.Context, w io.Writer, _ string) (n int64, err error) {
	rows, err := s.QueryContext(ctx, selectMarks, nil)
	if err != nil {
		return 0, err
	}
	for row := make([]sqldriver.Value, 1); ; n++ {
		if err = rows.Next(row); err != nil {
			break
		}
		if _, err = fmt.Fprintln(w, row[0]); err != nil {
			break
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, errors.Join(err, rows.Close())
}

func (s *modelSession) BeginTx(ctx context.Context, opts sqldriver.TxOptions) (sqldriver.Tx, error) {
	if err := s.check(ctx, ""); err != nil {
		return nil, err
	}
	if s.m.faults[isolationFixed] && opts.Isolation != 0 {
		return nil, errors.New("isolation level is not supported")
	}
	if opts.ReadOnly && s.m.faults[readOnlyIgnored] {
		opts.ReadOnly = false
	}
	readOnly := opts.ReadOnly && !s.frozen // for the transaction
	statement := "BEGIN IMMEDIATE"
	if readOnly || s.frozen {
		statement = "BEGIN"
	}
	exec := s.conn.(sqldriver.ExecerContext)
	if _, err := exec.ExecContext(ctx, statement, nil); err != nil {
		return nil, err
	}
	if readOnly {
		if _, err := exec.ExecContext(ctx, "PRAGMA query_only = ON", nil); err != nil {
			return nil, err
		}
	}
	s.inTx = true
	return &modelTx{s, readOnly}, nil
}

func (s *modelSession) Ping(context.Context) error { return nil }

func (s *modelSession) Release() {
	m := s.m
	if s.outer != nil {
		_ = s.outer.Close()
	}
	for _, c := range s.old {
		_ = c.Close()
	}
	if s.store != nil && m.faults[oneSession] {
		s.store.busy.Unlock()
	}
	if m.faults[reused] {
		m.state.Lock()
		m.idle[s.path] = append(m.idle[s.path], s.conn)
		m.state.Unlock()
	} else {
		_ = s.conn.Close()
	}
	m.using.Done()
	if m.faults[cancelLeaks] && s.ctx.Err() != nil {
		return
	}
	<-m.slots
}

type modelTx struct {
	s        *modelSession
	readOnly bool
}

func (t *modelTx) end(statement string) error {
	s := t.s
	s.inTx = false
	exec := s.conn.(sqldriver.ExecerContext)
	_, err := exec.ExecContext(context.Background(), statement, nil)
	if t.readOnly {
		_, pragmaErr := exec.ExecContext(context.Background(), "PRAGMA query_only = OFF", nil)
		err = errors.Join(err, pragmaErr)
	}
	return err
}

func (t *modelTx) Commit() error {
	if err := t.s.check(context.Background(), ""); err != nil {
		return errors.Join(err, t.end("ROLLBACK"))
	}
	if t.s.m.faults[commitLoses] {
		return t.end("ROLLBACK")
	}
	return t.end("COMMIT")
}

func (t *modelTx) Rollback() error {
	if t.s.m.faults[rollbackKeeps] {
		return t.end("COMMIT")
	}
	return t.end("ROLLBACK")
}

type modelRows struct {
	sqldriver.Rows
	s *modelSession
	n int
}

func (r *modelRows) Columns() []string {
	columns := r.Rows.Columns()
	if r.s.m.faults[columnsUnnamed] {
		return make([]string, len(columns))
	}
	return columns
}

func (r *modelRows) ColumnTypeDatabaseTypeName(i int) string {
	return r.Rows.(sqldriver.RowsColumnTypeDatabaseTypeName).ColumnTypeDatabaseTypeName(i)
}

func (r *modelRows) Next(dest []sqldriver.Value) error {
	m := r.s.m
	if err := r.s.check(context.Background(), ""); err != nil {
		return err
	}
	m.state.Lock()
	current := m.cursor == r
	m.state.Unlock()
	if m.faults[oneCursor] && !current {
		return io.EOF
	}
	if r.n++; m.faults[resultsCut] && r.n > 1000 {
		return io.EOF
	}
	if err := r.Rows.Next(dest); err != nil {
		return err
	}
	for i, v := range dest {
		if t, ok := v.(time.Time); ok {
			dest[i] = t
		}
		if text, ok := v.(string); ok && m.faults[valuesCut] && len(text) > 1<<20 {
			dest[i] = text[:1<<20]
		}
		if m.faults[valuesAsText] {
			dest[i] = fmt.Sprint(v)
		}
	}
	return nil
}

// looseConnector stands for driver.OpenDB, with faults in the routing.
type looseConnector struct {
	m      *model
	fixed  backend.Route
	access driver.Access
}

func (c *looseConnector) Connect(context.Context) (sqldriver.Conn, error) {
	return &looseConn{looseConnector: c}, nil
}
func (c *looseConnector) Driver() sqldriver.Driver { return driver.Unnamed() }

type looseConn struct {
	*looseConnector
	sess  driver.Session
	old   []driver.Session
	bound backend.Route
	tx    sqldriver.Tx
}

func (c *looseConn) route(ctx context.Context) (backend.Route, error) {
	f := c.m.faults
	rt, ok := backend.RouteFrom(ctx)
	access := c.access
	switch {
	case access == driver.AccessShared && f[sharedFollows] && ok:
		return rt, nil
	case access == driver.AccessShared:
		return c.fixed, nil
	case access == driver.AccessMaintenance && f[ownerFollows] && ok:
		return rt, nil
	case access == driver.AccessMaintenance:
		return c.fixed, nil
	case !c.fixed.IsZero() && f[pinFollows]:
		if !ok {
			return rt, fail("route", backend.Store{}, backend.ErrNoTenant)
		}
		return rt, nil
	case !c.fixed.IsZero():
		if ok && !f[pinIgnores] && (rt.Store != c.fixed.Store || (rt.Owner != "" && rt.Owner != c.fixed.Owner)) {
			return rt, fail("use", c.fixed.Store, backend.ErrTenantMismatch)
		}
		return c.fixed, nil
	case c.sess == nil && !ok && f[defaultTenant]:
		c.m.state.Lock()
		defer c.m.state.Unlock()
		return c.m.last, nil
	case c.sess == nil && !ok:
		return rt, fail("route", backend.Store{}, backend.ErrNoTenant)
	case c.sess == nil:
		return rt, nil
	case !ok && c.tx == nil && !f[heldLends] && !f[stickyRoute]:
		return rt, fail("route", backend.Store{}, backend.ErrNoTenant)
	case ok && rt != c.bound && f[mismatchFollowed]:
		return rt, nil
	case ok && rt != c.bound && !f[mismatchIgnored] && !f[stickyRoute]:
		if c.tx != nil && f[mismatchAborts] {
			_ = c.tx.Rollback()
		}
		return rt, fail("use", c.bound.Store, backend.ErrTenantMismatch)
	}
	return c.bound, nil
}

func (c *looseConn) bind(ctx context.Context) (driver.Session, error) {
	rt, err := c.route(ctx)
	if err != nil {
		return nil, err
	}
	if c.sess != nil && ((rt != c.bound && c.m.faults[mismatchFollowed]) || (c.m.faults[sessionPerStatement] && c.tx == nil)) {
		c.old = append(c.old, c.sess)
		c.sess = nil
	}
	if c.sess == nil {
		access := c.access
		if access == driver.AccessShared && !rt.IsZero() {
			access = driver.AccessTenant
		}
		if c.sess, err = c.m.Session(ctx, rt, access); err != nil {
			c.sess = nil
			return nil, err
		}
		c.bound = rt
	}
	return c.sess, nil
}

// CopyOut and CopyIn are as loose as the rest.
func (c *looseConn) CopyOut(ctx context.Context, w io.Writer, query string) (int64, error) {
	sess, err := c.bind(ctx)
	if err != nil {
		return 0, err
	}
	return sess.(*modelSession).CopyOut(ctx, w, query)
}

func (c *looseConn) CopyIn(ctx context.Context, r io.Reader, query string) (int64, error) {
	sess, err := c.bind(ctx)
	if err != nil {
		return 0, err
	}
	return sess.(*modelSession).CopyIn(ctx, r, query)
}

func (c *looseConn) release() {
	for _, sess := range c.old {
		sess.Release()
	}
	c.old = nil
	if c.sess != nil {
		c.sess.Release()
		c.sess, c.tx = nil, nil
	}
}

func (c *looseConn) IsValid() bool {
	if (c.m.faults[idleHolds] && !c.fixed.IsZero()) || (c.m.faults[stickyRoute] && c.access == driver.AccessTenant) {
		return true
	}
	c.release()
	return true
}

func (c *looseConn) Close() error {
	c.release()
	return nil
}

func (c *looseConn) Ping(ctx context.Context) error {
	if c.m.faults[pingNeedsTenant] {
		if _, err := c.route(ctx); err != nil {
			return err
		}
	}
	return c.m.Ping(ctx)
}

func (c *looseConn) ExecContext(ctx context.Context, query string, args []sqldriver.NamedValue) (sqldriver.Result, error) {
	sess, err := c.bind(ctx)
	if err != nil {
		return nil, err
	}
	return sess.ExecContext(ctx, query, args)
}

func (c *looseConn) QueryContext(ctx context.Context, query string, args []sqldriver.NamedValue) (sqldriver.Rows, error) {
	sess, err := c.bind(ctx)
	if err != nil {
		return nil, err
	}
	return sess.QueryContext(ctx, query, args)
}

func (c *looseConn) BeginTx(ctx context.Context, opts sqldriver.TxOptions) (sqldriver.Tx, error) {
	sess, err := c.bind(ctx)
	if err != nil {
		return nil, err
	}
	if c.tx != nil {
		if c.m.faults[nestedBegin] {
			return &looseTx{c, c.tx}, nil
		}
		return nil, errors.New("a transaction is already open")
	}
	tx, err := sess.BeginTx(ctx, opts)
	if err != nil {
		return nil, err
	}
	c.tx = tx
	return &looseTx{c, tx}, nil
}

func (c *looseConn) Begin() (sqldriver.Tx, error) {
	return c.BeginTx(context.Background(), sqldriver.TxOptions{})
}

func (c *looseConn) PrepareContext(ctx context.Context, query string) (sqldriver.Stmt, error) {
	rt, err := c.route(ctx)
	if err != nil {
		return nil, err
	}
	if c.m.faults[noPrepare] {
		return nil, errors.New("not prepared")
	}
	return &looseStmt{c, query, rt}, nil
}

func (c *looseConn) Prepare(query string) (sqldriver.Stmt, error) {
	return c.PrepareContext(context.Background(), query)
}

type looseTx struct {
	c     *looseConn
	inner sqldriver.Tx
}

func (t *looseTx) Commit() error   { t.c.tx = nil; return t.inner.Commit() }
func (t *looseTx) Rollback() error { t.c.tx = nil; return t.inner.Rollback() }

type looseStmt struct {
	c     *looseConn
	query string
	rt    backend.Route
}

func (s *looseStmt) Close() error  { return nil }
func (s *looseStmt) NumInput() int { return -1 }

func (s *looseStmt) context(ctx context.Context) context.Context {
	if s.c.m.faults[preparedSticks] {
		return backend.WithRoute(ctx, s.rt)
	}
	return ctx
}

func (s *looseStmt) ExecContext(ctx context.Context, args []sqldriver.NamedValue) (sqldriver.Result, error) {
	return s.c.ExecContext(s.context(ctx), s.query, args)
}

func (s *looseStmt) QueryContext(ctx context.Context, args []sqldriver.NamedValue) (sqldriver.Rows, error) {
	return s.c.QueryContext(s.context(ctx), s.query, args)
}

func (s *looseStmt) Exec([]sqldriver.Value) (sqldriver.Result, error) { return nil, sqldriver.ErrSkip }

func (s *looseStmt) Query([]sqldriver.Value) (sqldriver.Rows, error) { return nil, sqldriver.ErrSkip }

// modelNative is the routed handle again, by another name.
type modelNative struct {
	db *sql.DB
	on interface {
		execer
		QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	}
}

func (n modelNative) Exec(ctx context.Context, query string, args ...any) error {
	_, err := n.on.ExecContext(ctx, query, args...)
	return err
}

func (n modelNative) QueryRow(ctx context.Context, query string, args ...any) interface{ Scan(dest ...any) error } {
	return n.on.QueryRowContext(ctx, query, args...)
}

func (n modelNative) InTx(ctx context.Context, fn func(Native) error) error {
	tx, err := n.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if err := fn(modelNative{n.db, tx}); err != nil {
		return err
	}
	return tx.Commit()
}
