package backend

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
)

// Access says with which rights a session works.
type Access uint8

// The kinds of access.
const (
	// AccessTenant: the tenant's own tables, read and write; the shared ones, read only.
	AccessTenant Access = iota
	// AccessOwner: upkeep of one store; see [Backend.Owner].
	AccessOwner
	// AccessShared: the shared store, read and write. There is no route.
	AccessShared
)

// SessionSource gives out real connections. It is what a backend implements to get its [database/sql.DB] handles from
// [OpenDB]. Implementations are safe for concurrent use.
//
// A source that is also a [driver.NamedValueChecker] checks the arguments; it must be safe for concurrent use too.
type SessionSource interface {
	// Session takes a connection for one unit of work, or for a series of them when a *sql.Conn is held. rt is zero
	// with AccessShared. It may put off taking a connection to the session's first operation. It waits for a free
	// connection no longer than ctx allows, and returns ErrStoreMissing, ErrClosed as [Backend] says.
	Session(ctx context.Context, rt Route, access Access) (Session, error)
	// Ping checks that the backend answers; no store is involved.
	Ping(ctx context.Context) error
	// Driver is returned by [database/sql.DB.Driver].
	Driver() driver.Driver
}

// Session is a real connection bound to one store. It is used by one goroutine at a time.
//
// Statements between BeginTx and the end of its [driver.Tx] belong to that transaction. A session does not return
// [driver.ErrBadConn]: whether repeating is safe is for the session to know, and it does that itself.
type Session interface {
	driver.ExecerContext
	driver.QueryerContext
	driver.ConnBeginTx
	// Release gives the connection back, exactly once, when no rows and no transaction are open any more. The session
	// drops the connection instead when it may not serve another store, or its state is in doubt.
	Release()
}

// OpenDB returns a handle over src. With AccessTenant and a zero route it is routed: each unit of work takes its route
// from its context. With a route it is bound to that store. The caller closes it; idle, it holds no session.
//
// This is for implementers of [Backend].
func OpenDB(src SessionSource, rt Route, access Access) *sql.DB {
	db := sql.OpenDB(&connector{src: src, fixed: rt, access: access})
	// Idle connections of this handle are a few words each and hold nothing real; the pool that costs something is
	// underneath. Keeping them saves building one per call.
	db.SetMaxIdleConns(1024)
	return db
}

type connector struct {
	src    SessionSource
	fixed  Route // zero: routed, or shared
	access Access
}

var _ driver.Connector = (*connector)(nil)

// Connect never touches the database: its context need not be the caller's (database/sql opens connections in the
// background when they are short), so it must not decide anything about stores.
func (c *connector) Connect(context.Context) (driver.Conn, error) {
	checker, _ := c.src.(driver.NamedValueChecker)
	return &conn{connector: c, checker: checker}, nil
}

func (c *connector) Driver() driver.Driver { return c.src.Driver() }

// conn is a virtual connection. It takes a real one (a Session) at its first operation, from that operation's context,
// and gives it back when database/sql lets go of the connection. database/sql serialises all calls on it.
type conn struct {
	*connector
	checker driver.NamedValueChecker
	sess    Session // nil: unbound
	bound   Route   // the store that sess belongs to
	inTx    bool
	tx      tx // the transaction's handle, kept here to save an allocation
}

var (
	_ driver.Conn               = (*conn)(nil)
	_ driver.ConnPrepareContext = (*conn)(nil)
	_ driver.ConnBeginTx        = (*conn)(nil)
	_ driver.ExecerContext      = (*conn)(nil)
	_ driver.QueryerContext     = (*conn)(nil)
	_ driver.Pinger             = (*conn)(nil)
	_ driver.SessionResetter    = (*conn)(nil)
	_ driver.Validator          = (*conn)(nil)
	_ driver.NamedValueChecker  = (*conn)(nil)
)

// route decides which store a call belongs to, and refuses the call when that cannot be told or is not allowed here.
func (c *conn) route(ctx context.Context) (Route, error) {
	if c.access != AccessTenant {
		return c.fixed, nil
	}
	rt, ok := RouteFrom(ctx)
	if !c.fixed.IsZero() {
		if ok && !c.fixed.permits(rt) {
			return Route{}, &Error{Op: "use pinned", Store: c.fixed.Store, Err: ErrTenantMismatch}
		}
		return c.fixed, nil
	}
	switch {
	case c.sess == nil:
		if !ok {
			return Route{}, &Error{Op: "route", Err: ErrNoTenant}
		}
		return rt, nil
	case ok && rt != c.bound:
		return Route{}, &Error{Op: "use", Store: c.bound.Store, Err: ErrTenantMismatch}
	case !ok && !c.inTx:
		// A transaction carries its tenant, so tx.Exec (which has no context) is unambiguous. A held connection does
		// not: each statement on it is a unit of work and must say where it belongs.
		return Route{}, &Error{Op: "route", Err: ErrNoTenant}
	}
	return c.bound, nil
}

// permits reports whether a context that names rt may use a handle pinned to r. An owner that either leaves open
// matches any.
func (r Route) permits(rt Route) bool {
	return r.Store == rt.Store && (r.Owner == "" || rt.Owner == "" || r.Owner == rt.Owner)
}

// bind returns the session for a call, taking one if there is none yet.
func (c *conn) bind(ctx context.Context) (Session, error) {
	rt, err := c.route(ctx)
	if err != nil {
		return nil, err
	}
	if c.sess != nil {
		return c.sess, nil
	}
	sess, err := c.src.Session(ctx, rt, c.access)
	if err != nil {
		return nil, err
	}
	c.sess, c.bound = sess, rt
	return sess, nil
}

func (c *conn) release() {
	if sess := c.sess; sess != nil {
		c.sess, c.bound, c.inTx = nil, Route{}, false
		sess.Release()
	}
}

// IsValid is called each time the connection goes back into the sql.DB: the moment to give the session back.
func (c *conn) IsValid() bool {
	c.release()
	return true
}

// ResetSession has nothing to do: nothing outlives the session. It is here because database/sql keeps a connection
// after a cancelled transaction only when the driver has both this and IsValid.
func (c *conn) ResetSession(context.Context) error { return nil }

func (c *conn) Close() error {
	c.release()
	return nil
}

func (c *conn) Ping(ctx context.Context) error { return c.src.Ping(ctx) }

func (c *conn) CheckNamedValue(nv *driver.NamedValue) error {
	if c.checker == nil {
		return driver.ErrSkip
	}
	return c.checker.CheckNamedValue(nv)
}

func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	sess, err := c.bind(ctx)
	if err != nil {
		return nil, err
	}
	return sess.ExecContext(ctx, query, args)
}

func (c *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	sess, err := c.bind(ctx)
	if err != nil {
		return nil, err
	}
	return sess.QueryContext(ctx, query, args)
}

func (c *conn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	sess, err := c.bind(ctx)
	if err != nil {
		return nil, err
	}
	if c.inTx {
		return nil, &Error{Op: "begin", Store: c.bound.Store, Err: errors.New("a transaction is already open on this connection")}
	}
	inner, err := sess.BeginTx(ctx, opts)
	if err != nil {
		return nil, err
	}
	c.inTx = true
	c.tx = tx{c: c, inner: inner}
	return &c.tx, nil
}

// Begin is required by driver.Conn; database/sql uses BeginTx.
func (c *conn) Begin() (driver.Tx, error) {
	return c.BeginTx(context.Background(), driver.TxOptions{})
}

// PrepareContext keeps the text. The statement is prepared on, and cached by, whichever real connection runs it; the
// context is only asked whether it may run at all.
func (c *conn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	if _, err := c.route(ctx); err != nil {
		return nil, err
	}
	return &stmt{c: c, query: query}, nil
}

// Prepare is required by driver.Conn; database/sql uses PrepareContext.
func (c *conn) Prepare(query string) (driver.Stmt, error) {
	return c.PrepareContext(context.Background(), query)
}

type tx struct {
	c     *conn
	inner driver.Tx
}

func (t *tx) Commit() error {
	t.c.inTx = false
	return t.inner.Commit()
}

func (t *tx) Rollback() error {
	t.c.inTx = false
	return t.inner.Rollback()
}

type stmt struct {
	c     *conn
	query string
}

var (
	_ driver.StmtExecContext  = (*stmt)(nil)
	_ driver.StmtQueryContext = (*stmt)(nil)
)

func (s *stmt) Close() error { return nil }

// NumInput is unknown: the text has not been parsed. The database checks the count.
func (s *stmt) NumInput() int { return -1 }

func (s *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return s.c.ExecContext(ctx, s.query, args)
}

func (s *stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return s.c.QueryContext(ctx, s.query, args)
}

func (s *stmt) Exec(args []driver.Value) (driver.Result, error) {
	return s.ExecContext(context.Background(), named(args))
}

func (s *stmt) Query(args []driver.Value) (driver.Rows, error) {
	return s.QueryContext(context.Background(), named(args))
}

func named(args []driver.Value) []driver.NamedValue {
	nv := make([]driver.NamedValue, len(args))
	for i, a := range args {
		nv[i] = driver.NamedValue{Ordinal: i + 1, Value: a}
	}
	return nv
}

// closedDriver is a driver.Driver for handles that are never opened by name.
type closedDriver struct{}

// NoOpenDriver returns a [driver.Driver] whose Open always fails, for [SessionSource.Driver] of backends whose handles
// cannot be opened by name.
func NoOpenDriver() driver.Driver { return closedDriver{} }

func (closedDriver) Open(string) (driver.Conn, error) {
	return nil, &Error{Op: "open", Err: errors.New("this driver has no data source names; use backend.Open")}
}
