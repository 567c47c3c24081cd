package memory

import (
	"context"
	sqldriver "database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"time"

	"modernc.org/sqlite"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
)

// conn is what a connection of modernc's can do.
type conn interface {
	sqldriver.Conn
	sqldriver.ExecerContext
	sqldriver.QueryerContext
	NewBackup(to string) (*sqlite.Backup, error)
	NewRestore(from string) (*sqlite.Backup, error)
}

// session is a database in memory of its own with what is in a store. It is made for it and closed with it: nothing is left of
// one tenant for the next.
type session struct {
	be       *Backend
	rt       backend.Route
	store    *store
	conn     conn
	tenant   bool // it sees the shared tables, and may not change them
	readOnly bool

	has, public *version // what it has copied, and what is attached
	writes      bool     // it has the store's turn
	inTx        bool     // that database/sql knows of
	rows        int      // open
}

var _ driver.Session = (*session)(nil)

// Session implements [driver.Source].
func (b *Backend) Session(ctx context.Context, rt backend.Route, access driver.Access) (driver.Session, error) {
	if err := b.open("use"); err != nil {
		return nil, err
	}
	s := &session{
		be: b, rt: rt, store: b.place.shared, tenant: access != driver.AccessShared,
		readOnly: rt.ReadOnly && access == driver.AccessTenant,
	}
	if s.tenant {
		var err error
		if s.store, err = b.find("use", rt); err != nil {
			return nil, err
		}
	}
	select {
	case b.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	c, err := new(sqlite.Driver).Open(":memory:?_time_format=sqlite&_pragma=foreign_keys(1)")
	if err != nil {
		<-b.slots
		return nil, err
	}
	s.conn = c.(conn)
	return s, nil
}

// SetReadOnly implements [driver.Session]. Within a transaction that a text has begun, where this pragma fails (it does nothing
// else), it is as it was.
func (s *session) SetReadOnly(on bool) {
	if on != s.readOnly && s.do("PRAGMA temp.synchronous = 1") == nil {
		s.readOnly = on
	}
}

// begin readies the session for a unit of work: it has the newest version, and if it is to write, the turn.
func (s *session) begin(ctx context.Context, writes bool) error {
	if err := s.there(); err != nil {
		return err
	}
	if s.inTx {
		return nil
	}
	if err := s.hold(); err != nil || s.writes {
		return err
	}
	if writes {
		select {
		case s.store.turn <- struct{}{}:
			s.writes = true
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	err := s.there() // it may have waited
	if err == nil {
		err = s.refresh(writes)
	}
	if err != nil {
		s.leave()
	}
	return err
}

// hold keeps the connection from writing, or does so no longer.
func (s *session) hold() error {
	if s.readOnly {
		return s.do("PRAGMA query_only = ON")
	}
	return s.do("PRAGMA query_only = OFF")
}

// refresh copies the newest version, unless there are rows open, which are of an older one.
func (s *session) refresh(writes bool) error {
	now, public := s.store.now.Load(), s.be.place.shared.now.Load()
	switch {
	case s.rows > 0 && writes && s.has != now:
		return fault("use", s.rt.Store, fmt.Errorf("%w: rows of an older version are open", backend.ErrBusy))
	case s.rows > 0:
		return nil
	}
	if s.has != now {
		from, err := s.conn.NewRestore(now.file)
		if err == nil {
			err = copyAll(from)
		}
		if err != nil {
			return err
		}
		s.has = now
	}
	if s.tenant && s.public != public {
		if s.public != nil {
			if err := s.do("DETACH DATABASE public"); err != nil {
				return err
			}
		}
		// An unqualified name is looked for in the store first, and then here.
		if err := s.do("ATTACH DATABASE '" + public.file + "&mode=ro' AS public"); err != nil {
			return err
		}
		s.public = public
	}
	return nil
}

func copyAll(b *sqlite.Backup) error {
	_, err := b.Step(-1)
	return errors.Join(err, b.Finish())
}

// end ends a unit of work: what was committed is the next version. A transaction that a text has begun goes on.
func (s *session) end() error {
	if !s.writes || s.inTx || s.rows > 0 || s.do("BEGIN") != nil {
		return nil
	}
	defer s.leave()
	if err := s.do("ROLLBACK"); err != nil {
		return err
	}
	v := &version{file: newFile()}
	to, err := s.conn.NewBackup(v.file)
	if err != nil {
		return err
	}
	if _, err := to.Step(-1); err != nil {
		return errors.Join(err, to.Finish())
	}
	if v.held, err = to.Commit(); err != nil {
		return err
	}
	old, ok := s.store.put(v)
	if !ok {
		return errors.Join(s.there(), v.held.Close())
	}
	s.has = v
	return old.held.Close()
}

// leave gives the turn back.
func (s *session) leave() {
	if s.writes {
		s.writes = false
		<-s.store.turn
	}
}

// there says whether the session may go on.
func (s *session) there() error {
	if err := s.be.open("use"); err != nil {
		return err
	}
	if s.store.isGone() {
		return fault("use", s.rt.Store, backend.ErrStoreMissing)
	}
	return nil
}

// do runs a statement of the backend's own.
func (s *session) do(statement string) error {
	_, err := s.conn.ExecContext(context.Background(), statement, nil)
	return err
}

// said gives the errors that callers test for their names.
func (s *session) said(err error) error {
	var coded interface{ Code() int }
	switch {
	case !errors.As(err, &coded) || coded.Code()&0xff != 8: // SQLITE_READONLY
		return err
	case s.readOnly:
		return fault("use", s.rt.Store, fmt.Errorf("%w: %w", backend.ErrReadOnly, err))
	}
	return fault("use", s.rt.Store, fmt.Errorf("%w: %w", backend.ErrReadOnlyShared, err))
}

// ExecContext implements [driver.Session].
func (s *session) ExecContext(ctx context.Context, query string, args []sqldriver.NamedValue) (sqldriver.Result, error) {
	if err := s.begin(ctx, !s.readOnly); err != nil {
		return nil, err
	}
	res, err := s.conn.ExecContext(ctx, query, written(args))
	if err = both(s.said(err), s.end()); err != nil { // of a text of several, some may have been committed
		return nil, err
	}
	return res, nil
}

// QueryContext implements [driver.Session].
func (s *session) QueryContext(ctx context.Context, query string, args []sqldriver.NamedValue) (sqldriver.Rows, error) {
	args = written(args)
	if err := s.begin(ctx, false); err != nil {
		return nil, err
	}
	if !s.readOnly && !s.writes && s.changes(ctx, query, args) {
		if err := s.begin(ctx, true); err != nil {
			return nil, err
		}
	}
	inner, err := s.conn.QueryContext(ctx, query, args)
	if err != nil {
		return nil, both(s.said(err), s.end())
	}
	s.rows++
	return &rows{inner, s}, nil
}

// changes asks SQLite whether a query begins a transaction that writes. Of several statements it would run those behind the
// first: they are taken for such.
func (s *session) changes(ctx context.Context, query string, args []sqldriver.NamedValue) bool {
	if strings.Contains(strings.TrimRight(query, "; \t\r\n"), ";") {
		return true
	}
	plan, err := s.conn.QueryContext(ctx, "EXPLAIN "+query, args)
	if err != nil {
		return true
	}
	defer func() { _ = plan.Close() }()
	const opcode, p2 = 1, 3
	for step := make([]sqldriver.Value, len(plan.Columns())); plan.Next(step) == nil; {
		if step[opcode] == "Transaction" && step[p2] != int64(0) {
			return true
		}
	}
	return false
}

// both is [errors.Join] where there are two: callers look for the driver's own error behind one.
func both(err, other error) error {
	switch {
	case err == nil:
		return other
	case other == nil:
		return err
	}
	return errors.Join(err, other)
}

// written has times written as SQLite's own functions write them.
func written(args []sqldriver.NamedValue) []sqldriver.NamedValue {
	for i, a := range args {
		if t, ok := a.Value.(time.Time); ok {
			args[i].Value = t.UTC().Format("2006-01-02 15:04:05.000000")
		}
	}
	return args
}

// Ping implements [driver.Session].
func (s *session) Ping(context.Context) error { return s.there() }

// Release implements [driver.Session].
func (s *session) Release() {
	s.leave()
	_ = s.conn.Close()
	<-s.be.slots
}

// BeginTx implements [driver.Session]. A transaction is serializable, whichever level is asked for.
func (s *session) BeginTx(ctx context.Context, opts sqldriver.TxOptions) (sqldriver.Tx, error) {
	if err := s.begin(ctx, !s.readOnly && !opts.ReadOnly); err != nil {
		return nil, err
	}
	t := &tx{s, opts.ReadOnly && !s.readOnly}
	err := s.do("BEGIN")
	if err == nil && t.readOnly {
		err = s.do("PRAGMA query_only = ON")
	}
	if err != nil {
		return nil, both(err, s.end())
	}
	s.inTx = true
	return t, nil
}

type tx struct {
	s        *session
	readOnly bool // for as long as it lasts
}

// Commit implements [sqldriver.Tx].
func (t *tx) Commit() error {
	if err := t.s.there(); err != nil {
		return errors.Join(err, t.Rollback())
	}
	return t.finish("COMMIT")
}

// Rollback implements [sqldriver.Tx].
func (t *tx) Rollback() error { return t.finish("ROLLBACK") }

func (t *tx) finish(statement string) error {
	err := t.s.do(statement)
	if t.readOnly {
		err = errors.Join(err, t.s.do("PRAGMA query_only = OFF"))
	}
	t.s.inTx = false
	return both(err, t.s.end())
}

// rows end when their store does.
type rows struct {
	sqldriver.Rows
	s *session
}

// Next implements [sqldriver.Rows].
func (r *rows) Next(dest []sqldriver.Value) error {
	if err := r.s.there(); err != nil {
		return err
	}
	return r.s.said(r.Rows.Next(dest))
}

// Close implements [sqldriver.Rows].
func (r *rows) Close() error {
	err := r.Rows.Close()
	r.s.rows--
	return both(err, r.s.end())
}

// ColumnTypeDatabaseTypeName implements [sqldriver.RowsColumnTypeDatabaseTypeName].
func (r *rows) ColumnTypeDatabaseTypeName(i int) string {
	return r.Rows.(sqldriver.RowsColumnTypeDatabaseTypeName).ColumnTypeDatabaseTypeName(i)
}
