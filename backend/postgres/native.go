package postgres

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
)

// PGX is a handle that speaks pgx. It routes as the [database/sql] handles do: by the context, call by call, or to
// the store that it is bound to. It has what sqlc's DBTX for pgx asks for. It is safe for concurrent use, draws on the
// backend's one pool, and needs no closing.
type PGX struct {
	be     *Backend
	fixed  backend.Route // zero: the context decides
	access driver.Access
}

// DBTX is what [PGX] and the transactions that it begins have in common, and what sqlc generates for pgx.
type DBTX interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
	CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, source pgx.CopyFromSource) (int64, error)
	Begin(ctx context.Context) (pgx.Tx, error)
}

var (
	_ DBTX   = (*PGX)(nil)
	_ DBTX   = (*tx)(nil)
	_ pgx.Tx = (*tx)(nil)
)

// route decides where a call belongs.
func (n *PGX) route(ctx context.Context) (backend.Route, error) {
	rt, ok := backend.RouteFrom(ctx)
	if n.fixed.IsZero() {
		if !ok {
			return backend.Route{}, &backend.Error{Op: "route", Err: backend.ErrNoTenant}
		}
		return rt, nil
	}
	if ok && !permits(n.fixed, rt) {
		return backend.Route{}, &backend.Error{Op: "use pinned", Store: n.fixed.Store, Err: backend.ErrTenantMismatch}
	}
	return n.fixed, nil
}

// permits reports whether a context that names rt may use what is bound to r. An owner that either leaves open matches
// any.
func permits(r, rt backend.Route) bool {
	return r.Store == rt.Store && (r.Owner == "" || rt.Owner == "" || r.Owner == rt.Owner)
}

func (n *PGX) session(ctx context.Context) (*session, error) {
	rt, err := n.route(ctx)
	if err != nil {
		return nil, err
	}
	return n.be.acquire(ctx, rt, n.access)
}

// Exec runs sql; without arguments it may be several statements. See [pgxpool.Pool.Exec].
func (n *PGX) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	s, err := n.session(ctx)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	defer s.Release()
	return s.exec(ctx, sql, args)
}

// Query runs sql and returns its rows, which hold a connection until they are closed or read to the end. See
// [pgxpool.Pool.Query].
func (n *PGX) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	s, err := n.session(ctx)
	if err != nil {
		return &rows{err: err, closed: true}, err
	}
	return s.nativeQuery(ctx, sql, args, true)
}

// QueryRow runs sql for its first row. Errors, [backend.ErrNoTenant] too, come from Scan, which must be called. See
// [pgxpool.Pool.QueryRow].
func (n *PGX) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	s, err := n.session(ctx)
	if err != nil {
		return (*row)(&rows{err: err, closed: true})
	}
	r, _ := s.nativeQuery(ctx, sql, args, true)
	return (*row)(r)
}

// SendBatch sends the batch as one transaction, in the round trips that pgx needs for it. See [pgx.Conn.SendBatch].
// A batch that begins a transaction ([pgx.Batch.BeginTx]) is refused: use [PGX.Begin] and the transaction's SendBatch.
func (n *PGX) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	s, err := n.session(ctx)
	if err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	return s.sendBatch(ctx, b, true)
}

// CopyFrom copies rows into a table, in a transaction of its own: two round trips, BEGIN and COMMIT, more than pgx spends.
// See [pgx.Conn.CopyFrom].
func (n *PGX) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, source pgx.CopyFromSource) (int64, error) {
	t, err := n.Begin(ctx)
	if err != nil {
		return 0, err
	}
	count, err := t.CopyFrom(ctx, table, columns, source)
	if err != nil {
		_ = t.Rollback(ctx)
		return 0, err
	}
	return count, t.Commit(ctx)
}

// Begin begins a transaction with the default options; see [PGX.BeginTx].
func (n *PGX) Begin(ctx context.Context) (pgx.Tx, error) {
	return n.BeginTx(ctx, pgx.TxOptions{})
}

// BeginTx begins a transaction in the context's store. Its calls may use any context that names the same store or none;
// another gets [backend.ErrTenantMismatch], and the transaction stays usable. Commit or Rollback must be called. As with
// pgx, ctx is for the beginning only: its end does not roll back.
//
// Large objects belong to the whole database rather than to a tenant, so LargeObjects returns one whose calls fail.
func (n *PGX) BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error) {
	s, err := n.session(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.begin(ctx, beginSQL(options)); err != nil {
		s.Release()
		return nil, err
	}
	return &tx{s: s, n: n, bound: s.c.unit.rt, commit: options.CommitQuery}, nil
}

// AcquireFunc lends f a connection whose whole server session is bound to the context's store: for LISTEN, session-level
// settings and whatever else needs one. The connection is closed afterwards, so this is not for the hot path. It fails
// behind a transaction-mode pooler, which has no such sessions. f must not keep the connection.
func (n *PGX) AcquireFunc(ctx context.Context, f func(*pgx.Conn) error) error {
	s, err := n.session(ctx)
	if err != nil {
		return err
	}
	defer s.Release()
	_, err = s.retrying(ctx, "", func(c *conn) (cursor, stage, error) {
		return nil, stagePrefix, c.settle(ctx)
	})
	if err != nil {
		return err
	}
	return f(s.c.pg)
}

// nativeQuery runs a query. own says that the rows are to release the session.
func (s *session) nativeQuery(ctx context.Context, sql string, args []any, own bool) (*rows, error) {
	cur, more, err := s.query(ctx, sql, args, true)
	if err != nil {
		if own {
			s.Release()
		}
		return &rows{err: err, closed: true}, err
	}
	r := &rows{cur: cur, types: s.c.types, s: s, st: s.c.ran, ahead: more, own: own}
	if !more {
		r.Close()
	}
	return r, nil
}

// rows are pgx.Rows over a cursor whose first row has been read ahead.
type rows struct {
	cur    cursor // nil when the query failed
	types  *pgtype.Map
	s      *session   // nil for a result of a batch
	st     *statement // keeps the scan plans, when there is one
	plans  []scanPlan
	ahead  bool // the row read ahead has not been asked for
	own    bool // the session is to be released at the end
	single bool // for QueryRow
	closed bool
	tag    pgconn.CommandTag
	last   []pgconn.FieldDescription // when closed
	err    error
}

var _ pgx.Rows = (*rows)(nil)

// scanPlan is how a column is scanned into a type of destination.
type scanPlan struct {
	into reflect.Type
	plan pgtype.ScanPlan
}

func (r *rows) Close() {
	if r.closed {
		return
	}
	r.closed = true
	r.cur.Close()
	if err := r.cur.Err(); err != nil {
		if r.s != nil {
			err = r.s.fault("query", err)
		}
		r.fail(err)
	}
	// After the release the cursor is someone else's.
	if !r.single {
		r.tag, r.last = r.cur.CommandTag(), r.cur.FieldDescriptions()
	}
	if r.s != nil && r.s.traced != nil {
		r.s.endTrace(r.cur.CommandTag(), r.err)
	}
	if r.own {
		r.s.Release()
	}
}

func (r *rows) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

func (r *rows) Next() bool {
	if r.closed {
		return false
	}
	if r.ahead {
		r.ahead = false
		return true
	}
	if r.cur.Next() {
		return true
	}
	r.Close()
	return false
}

func (r *rows) Scan(dest ...any) error {
	err := r.scan(dest)
	if err != nil && !r.closed {
		r.fail(err)
		r.Close()
	}
	return err
}

func (r *rows) scan(dest []any) error {
	if r.closed {
		return errorOr(r.err, errors.New("rows is closed"))
	}
	fields, values := r.cur.FieldDescriptions(), r.cur.RawValues()
	if len(dest) == 1 {
		if whole, ok := dest[0].(pgx.RowScanner); ok {
			return whole.ScanRow(r)
		}
	}
	if len(fields) != len(values) {
		return fmt.Errorf("number of field descriptions must equal number of values, got %d and %d", len(fields), len(values))
	}
	if len(fields) != len(dest) {
		return fmt.Errorf("number of field descriptions must equal number of destinations, got %d and %d", len(fields), len(dest))
	}
	if r.plans == nil {
		// A statement's columns and formats are always the same, so its plans are good for the next result too.
		if r.st != nil && len(r.st.plans) == len(dest) {
			r.plans = r.st.plans
		} else {
			r.plans = make([]scanPlan, len(dest))
			if r.st != nil {
				r.st.plans = r.plans
			}
		}
	}
	for i, d := range dest {
		if d == nil {
			continue
		}
		p := &r.plans[i]
		if into := reflect.TypeOf(d); p.into != into {
			*p = scanPlan{into: into, plan: r.types.PlanScan(fields[i].DataTypeOID, fields[i].Format, d)}
		}
		if err := p.plan.Scan(values[i], d); err != nil {
			return pgx.ScanArgError{ColumnIndex: i, FieldName: fields[i].Name, Err: err}
		}
	}
	return nil
}

func (r *rows) Values() ([]any, error) {
	if r.closed {
		return nil, errorOr(r.err, errors.New("rows is closed"))
	}
	values, err := decoded(r.types, r.cur.FieldDescriptions(), r.cur.RawValues())
	if err != nil {
		r.fail(err)
		r.Close()
		return nil, err
	}
	return values, nil
}

func (r *rows) Err() error { return r.err }

func (r *rows) CommandTag() pgconn.CommandTag { return r.tag }

func (r *rows) FieldDescriptions() []pgconn.FieldDescription {
	switch {
	case r.cur == nil:
		return nil
	case r.closed:
		return r.last
	}
	return r.cur.FieldDescriptions()
}

func (r *rows) RawValues() [][]byte {
	if r.closed {
		return nil
	}
	return r.cur.RawValues()
}

// Conn returns nil: the connection serves other tenants too, and is not to be used past the router.
func (r *rows) Conn() *pgx.Conn { return nil }

func (r *rows) TypeMap() *pgtype.Map { return r.types }

// row is the first of rows.
type row rows

func (r *row) Scan(dest ...any) error {
	rs := (*rows)(r)
	rs.single = true
	defer rs.Close() // survives a Scanner that panics
	for _, d := range dest {
		if _, ok := d.(*pgtype.DriverBytes); ok {
			return errors.New("cannot scan into *pgtype.DriverBytes from QueryRow")
		}
	}
	if !rs.Next() {
		if rs.err != nil {
			return rs.err
		}
		return pgx.ErrNoRows
	}
	if err := rs.Scan(dest...); err != nil {
		return err
	}
	rs.Close()
	return rs.err
}

// tx is a transaction or, nested, a savepoint in one.
type tx struct {
	s      *session
	n      *PGX
	bound  backend.Route
	commit string // text to commit with, when not the usual
	outer  *tx    // nil: the transaction itself
	point  int    // the savepoint's number
	points int    // savepoints made so far, counted by the outermost
	closed bool
}

// use refuses a call that is too late or whose context names another tenant.
func (t *tx) use(ctx context.Context) error {
	for o := t; o != nil; o = o.outer {
		if o.closed {
			return pgx.ErrTxClosed
		}
	}
	if t.s.c.wire.open {
		return t.s.busyError("use")
	}
	rt, ok := backend.RouteFrom(ctx)
	if !ok || rt == t.bound || !t.n.fixed.IsZero() && permits(t.bound, rt) {
		return nil
	}
	return &backend.Error{Op: "use", Store: t.bound.Store, Err: backend.ErrTenantMismatch}
}

func (t *tx) outermost() *tx {
	for t.outer != nil {
		t = t.outer
	}
	return t
}

func (t *tx) Begin(ctx context.Context) (pgx.Tx, error) {
	if err := t.use(ctx); err != nil {
		return nil, err
	}
	o := t.outermost()
	o.points++
	inner := &tx{s: t.s, n: t.n, bound: t.bound, outer: t, point: o.points}
	if _, err := t.s.exec(ctx, "savepoint "+inner.savepoint(), nil); err != nil {
		return nil, err
	}
	return inner, nil
}

func (t *tx) savepoint() string { return "tenement_" + strconv.Itoa(t.point) }

func (t *tx) Commit(ctx context.Context) error {
	if err := t.use(ctx); err != nil {
		return err
	}
	t.closed = true
	if t.outer != nil {
		_, err := t.s.exec(ctx, "release savepoint "+t.savepoint(), nil)
		return err
	}
	defer t.s.Release()
	text := t.commit
	if text == "" {
		text = "commit"
	}
	return t.s.commit(ctx, text)
}

func (t *tx) Rollback(ctx context.Context) error {
	for o := t; o != nil; o = o.outer {
		if o.closed {
			return pgx.ErrTxClosed
		}
	}
	// Whatever the context says about the tenant: undoing is always right.
	t.closed = true
	if t.outer != nil {
		_, err := t.s.exec(ctx, "rollback to savepoint "+t.savepoint(), nil)
		return err
	}
	defer t.s.Release()
	return t.s.rollback(ctx)
}

func (t *tx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if err := t.use(ctx); err != nil {
		return pgconn.CommandTag{}, err
	}
	return t.s.exec(ctx, sql, args)
}

func (t *tx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if err := t.use(ctx); err != nil {
		return &rows{err: err, closed: true}, err
	}
	return t.s.nativeQuery(ctx, sql, args, false)
}

func (t *tx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if err := t.use(ctx); err != nil {
		return (*row)(&rows{err: err, closed: true})
	}
	r, _ := t.s.nativeQuery(ctx, sql, args, false)
	return (*row)(r)
}

func (t *tx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, source pgx.CopyFromSource) (int64, error) {
	if err := t.use(ctx); err != nil {
		return 0, err
	}
	count, err := t.s.c.pg.CopyFrom(ctx, table, columns, source)
	if err != nil {
		return 0, t.s.fault("copy", err)
	}
	return count, nil
}

func (t *tx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	if err := t.use(ctx); err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	if beginsTx(b) {
		return pgx.FailedBatchResults(b, errors.New("Batch.BeginTx cannot be used within a transaction"))
	}
	return t.s.sendBatch(ctx, b, false)
}

// Prepare prepares a statement on the transaction's connection under a name of the caller's.
func (t *tx) Prepare(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error) {
	if err := t.use(ctx); err != nil {
		return nil, err
	}
	t.s.c.doomed = true // the name must not meet the next one who chooses it
	return t.s.c.pg.Prepare(ctx, name, sql)
}

// LargeObjects returns one whose calls fail with [pgx.ErrTxClosed]: see [PGX.BeginTx].
func (t *tx) LargeObjects() pgx.LargeObjects {
	var b pgx.Batch
	b.BeginTx(pgx.TxOptions{})
	return pgx.FailedBatchResults(&b, errors.ErrUnsupported).Tx().LargeObjects()
}

// Conn returns nil: the connection serves other tenants too, and is not to be used past the router.
func (t *tx) Conn() *pgx.Conn { return nil }

// beginsTx reports whether a batch was told to begin a transaction.
func beginsTx(b *pgx.Batch) bool { return pgx.FailedBatchResults(b, errors.ErrUnsupported).Tx() != nil }
