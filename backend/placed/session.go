package placed

import (
	"context"
	sqldriver "database/sql/driver"
	"errors"
	"fmt"
	"io"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
)

// source gives out the sessions of the place where the route's store is or, with fixed, of that place's shared store.
type source struct {
	b     *Backend
	fixed *place
}

var _ driver.Source = source{}

func (s source) Session(ctx context.Context, rt backend.Route, access driver.Access) (driver.Session, error) {
	if s.b.closed.Load() {
		return nil, &backend.Error{Op: "use", Store: rt.Store, Err: backend.ErrClosed}
	}
	if s.fixed != nil {
		o, err := s.fixed.open(ctx)
		if err != nil {
			return nil, err
		}
		return o.src.Session(ctx, rt, access)
	}
	sess := &session{b: s.b, rt: rt, access: access, fresh: true}
	sess.lock, _ = ctx.Value(fenceKey{}).(*lock)
	err := s.b.following(ctx, rt.Store, func(o *opened) (err error) {
		sess.Session, err = s.b.sessionAt(ctx, o, rt, access)
		sess.at = o
		return err
	})
	if err != nil {
		return nil, err
	}
	return sess, nil
}

// sessionAt returns a session of a place, fenced as ctx is.
func (b *Backend) sessionAt(ctx context.Context, o *opened, rt backend.Route, access driver.Access) (driver.Session, error) {
	ctx, err := b.fence(ctx, o)
	if err != nil {
		return nil, err
	}
	return o.src.Session(ctx, rt, access)
}

func (s source) Ping(ctx context.Context) error {
	switch {
	case s.b.closed.Load():
		return &backend.Error{Op: "ping", Err: backend.ErrClosed}
	case s.fixed == nil:
		return s.b.home.src.Ping(ctx)
	}
	o, err := s.fixed.open(ctx)
	if err != nil {
		return err
	}
	return o.src.Ping(ctx)
}

func (s source) Driver() sqldriver.Driver { return driver.Unnamed() }

// CheckNamedValue is the dialect's.
func (s source) CheckNamedValue(v *sqldriver.NamedValue) error {
	if c, ok := s.b.home.src.(sqldriver.NamedValueChecker); ok {
		return c.CheckNamedValue(v)
	}
	return sqldriver.ErrSkip
}

// nowhere answers at home what is asked without a tenant.
type nowhere struct{ source }

func (n nowhere) QueryNowhere(ctx context.Context, query string, args []sqldriver.NamedValue) (sqldriver.Rows, error) {
	if src, ok := n.b.home.src.(driver.Nowhere); ok && !n.b.closed.Load() {
		return src.QueryNowhere(ctx, query, args)
	}
	return nil, fmt.Errorf("nowhere: %w", errors.ErrUnsupported)
}

// session is a place's session that begins anew elsewhere when its first statement finds that the store has been moved:
// nothing has been run then.
type session struct {
	driver.Session
	b      *Backend
	rt     backend.Route
	access driver.Access
	at     *opened
	fresh  bool  // nothing has been run
	lock   *lock // that fences it; nil: none

	// The transaction that is open, as it was begun.
	tx       sqldriver.Tx
	beginCtx context.Context
	opts     sqldriver.TxOptions
}

var (
	_ driver.Rawer  = (*session)(nil)
	_ driver.Copier = (*session)(nil)
)

// usable refuses what comes after Close, also where the place is lent and goes on.
func (s *session) usable() error {
	if s.b.closed.Load() {
		return &backend.Error{Op: "use", Store: s.rt.Store, Err: backend.ErrClosed}
	}
	return nil
}

// moved reports whether an operation that failed should be tried once more, elsewhere. It asks home, and so gives back what
// the session holds first: that may be a connection to home.
func (s *session) moved(ctx context.Context, err error) bool {
	if !s.fresh {
		return false
	}
	s.fresh = false
	if !errors.Is(err, backend.ErrStoreMissing) {
		return false
	}
	if s.tx != nil {
		_ = s.tx.Rollback()
	}
	s.Release()
	was := s.at
	if o, ok := s.b.elsewhere(ctx, s.rt.Store, was, err); ok {
		s.at = o
	}
	if s.lock != nil {
		ctx = s.lock.Fence(ctx) // the statement's may be none at all
	}
	if s.Session, err = s.b.sessionAt(ctx, s.at, s.rt, s.access); err == nil && s.tx != nil {
		var tx sqldriver.Tx
		if tx, err = s.Session.BeginTx(s.beginCtx, s.opts); err != nil {
			s.Release()
		} else {
			s.tx = tx
		}
	}
	if err != nil {
		s.Session = lost{err}
		if s.tx != nil {
			s.tx = lost{err}
		}
		return false
	}
	return s.at != was
}

// lost stands for a session that could not be had.
type lost struct{ err error }

func (l lost) ExecContext(context.Context, string, []sqldriver.NamedValue) (sqldriver.Result, error) {
	return nil, l.err
}

func (l lost) QueryContext(context.Context, string, []sqldriver.NamedValue) (sqldriver.Rows, error) {
	return nil, l.err
}

func (l lost) BeginTx(context.Context, sqldriver.TxOptions) (sqldriver.Tx, error) { return nil, l.err }
func (l lost) Ping(context.Context) error                                         { return l.err }
func (l lost) SetReadOnly(bool)                                                   {}
func (l lost) Release()                                                           {}
func (l lost) Commit() error                                                      { return l.err }
func (l lost) Rollback() error                                                    { return nil }

func (s *session) ExecContext(ctx context.Context, query string, args []sqldriver.NamedValue) (sqldriver.Result, error) {
	if err := s.usable(); err != nil {
		return nil, err
	}
	res, err := s.Session.ExecContext(ctx, query, args)
	if s.moved(ctx, err) {
		return s.Session.ExecContext(ctx, query, args)
	}
	return res, err
}

func (s *session) QueryContext(ctx context.Context, query string, args []sqldriver.NamedValue) (sqldriver.Rows, error) {
	if err := s.usable(); err != nil {
		return nil, err
	}
	rows, err := s.Session.QueryContext(ctx, query, args)
	if s.moved(ctx, err) {
		return s.Session.QueryContext(ctx, query, args)
	}
	return rows, err
}

func (s *session) BeginTx(ctx context.Context, opts sqldriver.TxOptions) (sqldriver.Tx, error) {
	if err := s.usable(); err != nil {
		return nil, err
	}
	fresh := s.fresh
	tx, err := s.Session.BeginTx(ctx, opts)
	if err != nil && s.moved(ctx, err) {
		tx, err = s.Session.BeginTx(ctx, opts)
	}
	if err != nil {
		return nil, err
	}
	// Where BEGIN goes to the server with the first statement, that one finds out.
	s.tx, s.beginCtx, s.opts, s.fresh = tx, ctx, opts, fresh
	return (*sessionTx)(s), nil
}

// sessionTx is the transaction of a session, wherever that is by now.
type sessionTx session

func (t *sessionTx) end() sqldriver.Tx {
	tx := t.tx
	t.tx, t.beginCtx = nil, nil
	return tx
}

func (t *sessionTx) Commit() error   { return t.end().Commit() }
func (t *sessionTx) Rollback() error { return t.end().Rollback() }

// SetReadOnly implements [driver.Session].
func (s *session) SetReadOnly(on bool) {
	s.rt.ReadOnly = on // for the session of another place
	s.Session.SetReadOnly(on)
}

// find has a statement that does nothing find out whether the store has been moved, ahead of what cannot be tried twice.
func (s *session) find(ctx context.Context) error {
	if !s.fresh {
		return nil
	}
	_, err := s.ExecContext(ctx, "", nil)
	return err
}

// Raw implements driver.Rawer.
func (s *session) Raw() any {
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	defer cancel()
	if s.find(ctx) != nil {
		return nil
	}
	if r, ok := s.Session.(driver.Rawer); ok {
		return r.Raw()
	}
	return nil
}

// CopyOut implements driver.Copier.
func (s *session) CopyOut(ctx context.Context, w io.Writer, query string) (int64, error) {
	c, err := s.copier(ctx)
	if err != nil {
		return 0, err
	}
	return c.CopyOut(ctx, w, query)
}

// CopyIn implements driver.Copier.
func (s *session) CopyIn(ctx context.Context, r io.Reader, query string) (int64, error) {
	c, err := s.copier(ctx)
	if err != nil {
		return 0, err
	}
	return c.CopyIn(ctx, r, query)
}

// copier returns what copies where the store is: a reader that was read, or a writer that was written to, is no more what
// it was.
func (s *session) copier(ctx context.Context) (driver.Copier, error) {
	if err := s.find(ctx); err != nil {
		return nil, err
	}
	c, ok := s.Session.(driver.Copier)
	if !ok {
		return nil, fmt.Errorf("tenement: copy: %w by this backend", errors.ErrUnsupported)
	}
	return c, nil
}
