package driver

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"

	"github.com/tenement-go/tenement/backend"
)

type connector struct {
	src     Source
	binding Binding
	nowhere Nowhere // nil: a query without a tenant fails
	onClose func()  // called once when the handle is closed; may be nil
}

func newConnector(src Source, b Binding, onClose func()) *connector {
	if r, ok := src.(readOnly); ok {
		src, b.ReadOnly = r.Source, true
	}
	return &connector{src: src, binding: b, onClose: onClose}
}

var (
	_ driver.Connector = (*connector)(nil)
	_ io.Closer        = (*connector)(nil)
)

// Close is called by [sql.DB.Close].
func (c *connector) Close() error {
	if c.onClose != nil {
		c.onClose()
	}
	return nil
}

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
	sess    Session       // nil: unbound
	bound   backend.Route // the store that sess belongs to
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
	_ Copier                    = (*conn)(nil)
)

// route decides which store a call belongs to.
func (c *conn) route(ctx context.Context) (backend.Route, error) {
	return c.binding.Route(ctx, Unit{Route: c.bound, InTx: c.inTx})
}

// bind returns the session for a call, taking one if there is none yet.
func (c *conn) bind(ctx context.Context) (Session, error) {
	rt, err := c.route(ctx)
	if err != nil {
		return nil, err
	}
	if c.sess != nil {
		if !c.inTx && c.binding.Access == AccessTenant {
			c.sess.SetReadOnly(rt.ReadOnly) // each statement on a held connection is a unit of work
		}
		return c.sess, nil
	}
	sess, err := c.src.Session(ctx, rt, c.binding.Access)
	if err != nil {
		return nil, err
	}
	c.sess, c.bound = sess, rt
	return sess, nil
}

func (c *conn) release() {
	if sess := c.sess; sess != nil {
		c.sess, c.bound, c.inTx = nil, backend.Route{}, false
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

// Ping asks the connection that is held, and takes none when one is.
func (c *conn) Ping(ctx context.Context) error {
	if c.sess != nil {
		return c.sess.Ping(ctx)
	}
	return c.src.Ping(ctx)
}

// Raw is what an interface assertion on the connection in [sql.Conn.Raw] finds: the driver's own connection, or nil
// when the session has none to show or nothing has been run on it yet.
func (c *conn) Raw() any {
	if r, ok := c.sess.(Rawer); ok {
		return r.Raw()
	}
	return nil
}

// CopyOut implements [Copier] where the session does.
func (c *conn) CopyOut(ctx context.Context, w io.Writer, query string) (int64, error) {
	copier, err := c.copier(ctx)
	if err != nil {
		return 0, err
	}
	return copier.CopyOut(ctx, w, query)
}

// CopyIn implements [Copier] where the session does.
func (c *conn) CopyIn(ctx context.Context, r io.Reader, query string) (int64, error) {
	copier, err := c.copier(ctx)
	if err != nil {
		return 0, err
	}
	return copier.CopyIn(ctx, r, query)
}

func (c *conn) copier(ctx context.Context) (Copier, error) {
	sess, err := c.bind(ctx)
	if err != nil {
		return nil, err
	}
	copier, ok := sess.(Copier)
	switch {
	case !ok:
		return nil, fmt.Errorf("tenement: copy: %w by this backend", errors.ErrUnsupported)
	case !c.inTx:
		return nil, errors.New("tenement: copy: begin a transaction on the connection first")
	}
	return copier, nil
}

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
	switch {
	case err == nil:
		return sess.QueryContext(ctx, query, args)
	case c.nowhere != nil && c.sess == nil && errors.Is(err, backend.ErrNoTenant):
		return c.queryNowhere(ctx, query, args)
	}
	return nil, err
}

func (c *conn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	sess, err := c.bind(ctx)
	if err != nil {
		return nil, err
	}
	if c.inTx {
		return nil, &backend.Error{Op: "begin", Store: c.bound.Store, Err: errors.New("a transaction is already open on this connection")}
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

// PrepareContext keeps the text: no store is touched, so no tenant is needed. The statement is prepared on, and cached
// by, whichever real connection runs it, and is refused there when its context names no tenant. A context that names
// the wrong one is refused at once.
func (c *conn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	if _, err := c.route(ctx); errors.Is(err, backend.ErrTenantMismatch) {
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
