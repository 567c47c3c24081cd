package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// sendBatch sends a batch as one message, what binds it to its store ahead of it when no transaction is open. own says
// that the results are to release the session.
func (s *session) sendBatch(ctx context.Context, b *pgx.Batch, own bool) pgx.BatchResults {
	r := &batchResults{s: s, b: b, own: own}
	if t, ok := s.c.be.tracer.(pgx.BatchTracer); ok {
		r.tracer = t
		ctx = t.TraceBatchStart(ctx, s.c.pg, pgx.TraceBatchStartData{Batch: b})
	}
	r.ctx = ctx
	if err := r.send(ctx); err != nil {
		r.finish(err)
		return pgx.FailedBatchResults(b, err)
	}
	return r
}

func (r *batchResults) send(ctx context.Context) error {
	c := r.s.c
	if beginsTx(r.b) {
		return errors.New("a batch that begins a transaction cannot be routed; use BeginTx, and SendBatch of the transaction")
	}
	if len(r.b.QueuedQueries) == 0 {
		return errors.New("the batch is empty")
	}
	j := &job{op: "send batch", mode: c.be.mode, text: c.be.mode == pgx.QueryExecModeSimpleProtocol, native: true}
	for _, q := range r.b.QueuedQueries {
		item := query{sql: q.SQL, args: q.Arguments}
		if _, err := c.options(ctx, j.mode, &item); err != nil {
			return err
		}
		q.SQL, q.Arguments = item.sql, item.args
		j.queries = append(j.queries, item)
	}
	r.j = j
	more, err := r.s.do(ctx, j)
	r.ahead = more
	return err
}

// batchResults are the results of a batch, read one after the other.
type batchResults struct {
	s      *session
	b      *pgx.Batch
	j      *job
	own    bool
	next   int   // the query whose result is next
	ahead  bool  // the first row of the first result was read already
	open   *rows // the last result
	err    error
	closed bool
	tracer pgx.BatchTracer
	ctx    context.Context
}

var _ pgx.BatchResults = (*batchResults)(nil)

// advance goes to the next result.
func (r *batchResults) advance() (*rows, error) {
	// Read on after the next one was asked for, or after the end, the last would see what the connection gets then, which
	// may be another tenant's.
	if r.open != nil {
		r.open.Close()
		r.open = nil
	}
	switch {
	case r.err != nil:
		return nil, r.err
	case r.closed:
		return nil, errors.New("batch already closed")
	case r.next >= len(r.j.queries):
		return nil, errors.New("no more results in batch")
	}
	c := r.s.c
	if r.next > 0 {
		if err := c.await(r.j, r.next); err != nil {
			c.forgetStatement(&r.j.queries[r.next], c.failed(err, false).code)
			r.err = r.s.fault("send batch", err)
			return nil, r.err
		}
	}
	rs := &rows{cur: (*batchCursor)(&c.wire), types: c.types, ahead: r.ahead, batch: r, started: time.Now()}
	r.ahead = false
	r.next++
	r.open = rs
	return rs, nil
}

// batchCursor is the wire, of which Close reads the result at hand to its end and not those after it.
type batchCursor wire

func (b *batchCursor) Next() bool                                   { return (*wire)(b).Next() }
func (b *batchCursor) RawValues() [][]byte                          { return b.values }
func (b *batchCursor) FieldDescriptions() []pgconn.FieldDescription { return b.fields }
func (b *batchCursor) Close()                                       { (*wire)(b).skip() }
func (b *batchCursor) Err() error                                   { return b.err }
func (b *batchCursor) CommandTag() pgconn.CommandTag                { return (*wire)(b).CommandTag() }

// ended notes that a result was read to its end.
func (r *batchResults) ended(rs *rows) {
	c := r.s.c
	q := &r.j.queries[r.next-1]
	if rs.err != nil {
		if r.err = rs.err; c.wire.at() == stepQuery {
			c.forgetStatement(q, c.failed(rs.err, false).code)
		}
	}
	if r.tracer != nil {
		r.tracer.TraceBatchQuery(r.ctx, c.pg, pgx.TraceBatchQueryData{
			SQL: r.b.QueuedQueries[r.next-1].SQL, Args: r.b.QueuedQueries[r.next-1].Arguments,
			CommandTag: rs.tag, Err: rs.err, ReadStartTime: rs.started,
		})
	}
}

func (r *batchResults) Exec() (pgconn.CommandTag, error) {
	rs, err := r.advance()
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	rs.Close()
	return rs.tag, rs.err
}

func (r *batchResults) Query() (pgx.Rows, error) {
	rs, err := r.advance()
	if err != nil {
		return &rows{err: err, closed: true}, err
	}
	return rs, nil
}

func (r *batchResults) QueryRow() pgx.Row {
	rs, err := r.advance()
	if err != nil {
		return (*row)(&rows{err: err, closed: true})
	}
	return (*row)(rs)
}

// Close runs the callbacks of the results that were not read, and reads the message to its end.
func (r *batchResults) Close() error {
	if r.closed {
		return r.err
	}
	for r.err == nil && r.next < len(r.j.queries) {
		if fn := r.b.QueuedQueries[r.next].Fn; fn != nil {
			before := r.next
			if err := fn(r); err != nil && r.err == nil {
				r.err = err
			}
			if r.next == before {
				break // the callback read nothing
			}
			continue
		}
		_, _ = r.Exec()
	}
	if r.open != nil {
		r.open.Close()
		r.open = nil
	}
	w := &r.s.c.wire
	w.drain()
	if r.err == nil && w.err != nil {
		r.err = r.s.fault("send batch", w.err)
	}
	r.finish(r.err)
	return r.err
}

func (r *batchResults) Tx() pgx.Tx { return nil }

// finish ends the batch.
func (r *batchResults) finish(err error) {
	r.closed = true
	if err != nil && r.j != nil {
		r.s.c.discard(r.j)
	}
	if r.tracer != nil {
		r.tracer.TraceBatchEnd(r.ctx, r.s.c.pg, pgx.TraceBatchEndData{Err: err})
	}
	if r.own {
		r.s.Release()
	}
}
