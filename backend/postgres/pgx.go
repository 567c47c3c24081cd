package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
)

// PGX is a handle that speaks pgx. It routes as the [database/sql] handles do: by the context, call by call, or to
// the store that it is bound to. It has what sqlc's DBTX for pgx asks for. It is safe for concurrent use, draws on the
// backend's one pool, and needs no closing.
type PGX struct {
	be      *Backend
	binding driver.Binding
	reads   bool // from replicas
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

var _ DBTX = (*PGX)(nil)

func (n *PGX) session(ctx context.Context) (*session, error) {
	rt, err := n.binding.Route(ctx, driver.Unit{})
	if err != nil {
		return nil, err
	}
	s, err := n.acquire(ctx, rt)
	if err == nil {
		s.native = true
	}
	return s, err
}

func (n *PGX) acquire(ctx context.Context, rt backend.Route) (*session, error) {
	if n.reads {
		return n.be.reader(ctx, rt)
	}
	return n.be.acquire(ctx, rt, n.binding.Access)
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
	return s.rows(ctx, sql, args, true)
}

// QueryRow runs sql for its first row. Errors, [backend.ErrNoTenant] too, come from Scan, which must be called. See
// [pgxpool.Pool.QueryRow].
func (n *PGX) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	s, err := n.session(ctx)
	if err != nil {
		return (*row)(&rows{err: err, closed: true})
	}
	r, _ := s.rows(ctx, sql, args, true)
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

// CopyFrom copies rows into a table, in a transaction of its own. See [pgx.Conn.CopyFrom].
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

// BeginTx begins a transaction in the context's store. It sends nothing: what the server has to say comes with the first
// statement. Its calls may use any context that names the same store or none; another gets [backend.ErrTenantMismatch],
// and the transaction stays usable. Commit or Rollback must be called. As with pgx, ctx is for the beginning only: its end
// does not roll back.
//
// Large objects belong to the whole database rather than to a tenant, so LargeObjects returns one whose calls fail.
func (n *PGX) BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error) {
	s, err := n.session(ctx)
	if err != nil {
		return nil, err
	}
	s.native = false
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
	// With a first statement of its own the session gets a connection that answers.
	if _, err := s.exec(ctx, "", nil); err != nil {
		return err
	}
	if err := s.c.settle(ctx); err != nil {
		return s.settleFault(err, errors.New("the session could not be bound to the store"))
	}
	s.hold()
	return f(s.c.pg)
}

// rows runs a query. own says that the rows are to release the session.
func (s *session) rows(ctx context.Context, sql string, args []any, own bool) (*rows, error) {
	more, err := s.query(ctx, sql, args, true)
	if err != nil {
		if own {
			s.Release()
		}
		return &rows{err: err, closed: true}, err
	}
	r := &rows{cur: &s.c.wire, types: s.c.types, s: s, ahead: more, own: own}
	if q := &s.job.queries[0]; q.plan.binary && !q.plan.parse && q.formats == nil {
		r.st = q.plan.st // whose columns and formats are always the same
	}
	if !more {
		r.Close()
	}
	return r, nil
}

// beginsTx reports whether a batch was told to begin a transaction.
func beginsTx(b *pgx.Batch) bool { return pgx.FailedBatchResults(b, errors.ErrUnsupported).Tx() != nil }

// bound is the binding of a handle.
func bound(rt backend.Route) driver.Binding {
	return driver.Binding{Fixed: rt, Access: driver.AccessTenant}
}
