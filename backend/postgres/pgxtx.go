package postgres

import (
	"context"
	"errors"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
)

var (
	_ DBTX   = (*tx)(nil)
	_ pgx.Tx = (*tx)(nil)
)

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
	if t.s.c.wire.busy() {
		return &backend.Error{Op: "use", Store: t.bound.Store, Err: errBusy}
	}
	_, err := t.n.binding.Route(ctx, driver.Unit{Route: t.bound, InTx: true})
	return err
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
	return t.s.rows(ctx, sql, args, false)
}

func (t *tx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if err := t.use(ctx); err != nil {
		return (*row)(&rows{err: err, closed: true})
	}
	r, _ := t.s.rows(ctx, sql, args, false)
	return (*row)(r)
}

func (t *tx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, source pgx.CopyFromSource) (int64, error) {
	if err := t.use(ctx); err != nil {
		return 0, err
	}
	return t.s.copyFrom(ctx, table, columns, source)
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
	if err := t.s.open(ctx); err != nil {
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
