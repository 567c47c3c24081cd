package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/tenement-go/tenement/backend/driver"
)

// sendBatch sends a batch, the prefix ahead of it when no transaction is open. own says that the results are to release
// the session.
func (s *session) sendBatch(ctx context.Context, b *pgx.Batch, own bool) pgx.BatchResults {
	fail := func(err error) pgx.BatchResults {
		if own {
			s.Release()
		}
		return pgx.FailedBatchResults(b, err)
	}
	if beginsTx(b) {
		return fail(errors.New("a batch that begins a transaction cannot be routed; use BeginTx, and SendBatch of the transaction"))
	}
	if len(b.QueuedQueries) == 0 {
		return fail(nil)
	}
	for _, q := range b.QueuedQueries {
		if len(q.Arguments) == 0 {
			continue
		}
		if rewriter, ok := q.Arguments[0].(pgx.QueryRewriter); ok {
			sql, args, err := rewriter.RewriteQuery(ctx, s.c.pg, q.SQL, q.Arguments[1:])
			if err != nil {
				return fail(fmt.Errorf("rewrite query failed: %w", err))
			}
			q.SQL, q.Arguments = sql, args
		}
	}
	var br pgx.BatchResults
	_, err := s.retrying(ctx, "", func(c *conn) (cursor, stage, error) {
		var (
			at  stage
			err error
		)
		if c.be.mode == pgx.QueryExecModeSimpleProtocol {
			br, at, err = c.simpleBatch(ctx, b)
		} else {
			br, at, err = c.extendedBatch(watched(ctx), b)
		}
		return nil, at, err
	})
	if err != nil {
		return fail(err)
	}
	return &batchResults{BatchResults: br, types: s.c.types, s: s, own: own}
}

// simpleBatch has pgx write the prefix and the batch into one text.
func (c *conn) simpleBatch(ctx context.Context, b *pgx.Batch) (pgx.BatchResults, stage, error) {
	var all pgx.Batch
	values := make([]any, 0, 4)
	for _, p := range c.params() {
		values = append(values, string(p))
	}
	prefixed := c.prefixed()
	if prefixed {
		all.Queue(prefixSQL[c.unit.role][c.unit.kind], values...)
	}
	if err := c.mayBatchAll(b); err != nil {
		return nil, stageStatement, err
	}
	all.QueuedQueries = append(all.QueuedQueries, b.QueuedQueries...)
	br := c.pg.SendBatch(ctx, &all)
	if !prefixed {
		return br, 0, nil
	}
	prefix, err := br.Query()
	if err == nil && prefix.Next() {
		c.prefixDone(false, prefix.RawValues())
	}
	prefix.Close()
	if err = errors.Join(err, prefix.Err()); err != nil {
		_ = br.Close()
		return nil, stagePrefix, err
	}
	return br, 0, nil
}

// mayBatch refuses a query of a batch after which the rest of the batch would belong to no tenant.
func mayBatch(t traits, last bool) error {
	switch {
	case t&chains != 0:
		return errChain
	case t&ownTx != 0, t&ends != 0 && !last:
		return errOwnTx
	}
	return nil
}

// mayBatchAll is mayBatch for all queries of a batch.
func (c *conn) mayBatchAll(b *pgx.Batch) error {
	for i, q := range b.QueuedQueries {
		t := classify(q.SQL)
		c.doomed = c.doomed || t&sticky != 0
		if err := mayBatch(t, i == len(b.QueuedQueries)-1); err != nil {
			return fmt.Errorf("query %d of the batch: %w", i+1, err)
		}
	}
	return nil
}

// extendedBatch sends the batch with prepared or described statements, in pgx's round trips: one more when there are
// statements that this connection has not seen.
func (c *conn) extendedBatch(ctx context.Context, b *pgx.Batch) (pgx.BatchResults, stage, error) {
	known := make(map[string]*statement, len(b.QueuedQueries))
	if c.be.mode != pgx.QueryExecModeExec {
		if at, err := c.prepareAll(ctx, b, known); err != nil {
			return nil, at, err
		}
	}
	u := &c.unit
	var batch pgconn.Batch
	prefixed := c.prefixed()
	if prefixed {
		batch.ExecParams(prefixSQL[u.role][u.kind], c.params(), nil, nil, nil)
	}
	callsCode := false
	for i, q := range b.QueuedQueries {
		st := known[q.SQL]
		var (
			t   traits
			err error
		)
		if st == nil {
			t = classify(q.SQL)
			err = c.eqb.Build(c.types, nil, q.Arguments)
		} else {
			t = st.traits
			if len(st.sd.ParamOIDs) != len(q.Arguments) {
				err = fmt.Errorf("expected %d arguments, got %d", len(st.sd.ParamOIDs), len(q.Arguments))
			} else {
				err = c.eqb.Build(c.types, st.sd, q.Arguments)
			}
		}
		c.doomed = c.doomed || t&sticky != 0
		callsCode = callsCode || t&calls != 0
		if err == nil {
			err = mayBatch(t, i == len(b.QueuedQueries)-1)
		}
		if err != nil {
			return nil, stageStatement, fmt.Errorf("query %d of the batch: %w", i+1, err)
		}
		switch {
		case st == nil:
			batch.ExecParams(q.SQL, c.eqb.ParamValues, nil, c.eqb.ParamFormats, nil)
		case st.varied, st.store != u.rt.Store, st.traits&star != 0 && !prefixed:
			batch.ExecParams(q.SQL, c.eqb.ParamValues, st.sd.ParamOIDs, c.eqb.ParamFormats, nil)
		case st.sd.Name == "":
			batch.ExecParams(q.SQL, c.eqb.ParamValues, st.sd.ParamOIDs, c.eqb.ParamFormats, c.eqb.ResultFormats)
		default:
			// The batch keeps the formats, and the builder uses its slice again.
			formats := append([]int16(nil), c.eqb.ResultFormats...)
			batch.ExecStatement(st.sd, c.eqb.ParamValues, c.eqb.ParamFormats, formats)
		}
	}
	if callsCode && c.prefixed() {
		if at, err := c.settleCall(ctx); err != nil {
			return nil, at, err
		}
	}
	mrr := c.pc.ExecBatch(ctx, &batch)
	if !prefixed {
		return &extendedResults{c: c, b: b, mrr: mrr}, 0, nil
	}
	if !mrr.NextResult() {
		return nil, stagePrefix, errorOr(mrr.Close(), errNoAnswer)
	}
	rr := mrr.ResultReader()
	if rr.NextRow() {
		c.prefixDone(false, rr.Values())
	}
	if _, err := rr.Close(); err != nil {
		_ = mrr.Close()
		return nil, stagePrefix, err
	}
	return &extendedResults{c: c, b: b, mrr: mrr}, 0, nil
}

var errNoAnswer = errors.New("the server ended the message without an answer")

func errorOr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// prepareAll finds the batch's statements, and has those that are new prepared or described in one round trip.
func (c *conn) prepareAll(ctx context.Context, b *pgx.Batch, known map[string]*statement) (stage, error) {
	set, capacity, named := &c.described, 0, false
	switch c.be.mode {
	case pgx.QueryExecModeCacheStatement:
		set, capacity = &c.statements, c.be.statementCapacity
		named = capacity > 0
	case pgx.QueryExecModeCacheDescribe:
		capacity = c.be.descriptionCapacity
	}
	var fresh []string
	for _, q := range b.QueuedQueries {
		if _, ok := known[q.SQL]; ok {
			continue
		}
		var st *statement
		if capacity > 0 {
			st = set.get(q.SQL)
		}
		if c.foreign(st) {
			set.remove(q.SQL)
			st = nil
		}
		if st == nil {
			fresh = append(fresh, q.SQL)
		}
		known[q.SQL] = st
	}
	if len(fresh) == 0 {
		return 0, nil
	}
	p := c.pc.StartPipeline(ctx)
	for _, old := range c.statements.drop {
		p.SendDeallocate(old)
	}
	at := stageStatement
	if c.prefixed() {
		at = stagePrefix
		p.SendQueryParams(prefixSQL[c.unit.role][c.unit.kind], c.params(), nil, nil, nil)
	}
	for _, sql := range fresh {
		name := ""
		if named {
			name = statementName(sql)
		}
		p.SendQueryParams(sharedSQL, [][]byte{textArray(words(sql))}, nil, nil, nil)
		p.SendPrepare(name, sql, nil)
	}
	at, err := c.readPrepared(p, at, fresh, known)
	if closeErr := p.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		if named {
			for _, sql := range fresh {
				if set.m[sql] == nil {
					c.statements.drop = append(c.statements.drop, statementName(sql))
				}
			}
		}
		return at, err
	}
	c.statements.drop = c.statements.drop[:0]
	for _, sql := range fresh {
		if capacity > 0 {
			set.put(sql, known[sql], capacity)
		}
	}
	return 0, nil
}

// readPrepared reads the answers to what prepareAll sent.
func (c *conn) readPrepared(p *pgconn.Pipeline, at stage, fresh []string, known map[string]*statement) (stage, error) {
	if err := p.Sync(); err != nil {
		return stagePrefix, err
	}
	next, shared := 0, false
	for {
		result, err := p.GetResults()
		if err != nil {
			return at, err
		}
		switch r := result.(type) {
		case *pgconn.ResultReader:
			switch row := r.NextRow(); {
			case row && at == stagePrefix:
				c.prefixDone(false, r.Values())
			case row:
				shared = string(r.Values()[0]) == "t"
			}
			if _, err := r.Close(); err != nil {
				return at, err
			}
			at = stageStatement
		case *pgconn.StatementDescription:
			sql := fresh[next]
			next++
			r.SQL = sql
			if c.be.mode == pgx.QueryExecModeCacheStatement && c.be.statementCapacity > 0 {
				r.Name = statementName(sql)
			}
			st := c.newStatement(r, classify(sql))
			st.varied = shared && c.unit.access != driver.AccessShared
			known[sql] = st
		case *pgconn.PipelineSync:
			return 0, nil
		case nil:
			return at, errNoAnswer
		}
	}
}

// batchResults releases the session, when it is its own, at the end.
type batchResults struct {
	pgx.BatchResults
	types *pgtype.Map
	s     *session
	own   bool
	open  *rows // the last result
}

// closeLast ends the last result. Read on after the next one was asked for, or after the end, it would see what the
// connection gets then, which may be another tenant's.
func (r *batchResults) closeLast() {
	if r.open != nil {
		r.open.Close()
		r.open = nil
	}
}

func (r *batchResults) Exec() (pgconn.CommandTag, error) {
	r.closeLast()
	return r.BatchResults.Exec()
}

func (r *batchResults) Query() (pgx.Rows, error) {
	r.closeLast()
	cur, err := r.BatchResults.Query()
	if err != nil {
		return &rows{err: err, closed: true}, err
	}
	r.open = &rows{cur: cur, types: r.types}
	return r.open, nil
}

func (r *batchResults) QueryRow() pgx.Row {
	rs, err := r.Query()
	if err != nil {
		return (*row)(&rows{err: err, closed: true})
	}
	return (*row)(rs.(*rows))
}

func (r *batchResults) Close() error {
	r.closeLast()
	err := r.BatchResults.Close()
	if r.s != nil {
		if err != nil {
			err = r.s.fault("send batch", err)
		}
		if r.own {
			r.s.Release()
		}
		r.s = nil
	}
	return err
}

// extendedResults reads a batch's results from a pgconn message.
type extendedResults struct {
	c      *conn
	b      *pgx.Batch
	mrr    *pgconn.MultiResultReader
	next   int
	err    error
	closed bool
}

var _ pgx.BatchResults = (*extendedResults)(nil)

// advance goes to the next result.
func (r *extendedResults) advance() (*pgconn.ResultReader, error) {
	switch {
	case r.err != nil:
		return nil, r.err
	case r.closed:
		return nil, errors.New("batch already closed")
	}
	r.next++
	if !r.mrr.NextResult() {
		r.err = errorOr(r.mrr.Close(), errors.New("no more results in batch"))
		if r.next <= len(r.b.QueuedQueries) {
			var pe *pgconn.PgError
			if errors.As(r.err, &pe) {
				r.c.restate(r.b.QueuedQueries[r.next-1].SQL, pe.Code)
			}
		}
		return nil, r.err
	}
	return r.mrr.ResultReader(), nil
}

func (r *extendedResults) Exec() (pgconn.CommandTag, error) {
	rr, err := r.advance()
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	tag, err := rr.Close()
	if err != nil {
		r.err = err
		_ = r.mrr.Close()
	}
	return tag, err
}

func (r *extendedResults) Query() (pgx.Rows, error) {
	rr, err := r.advance()
	if err != nil {
		return &rows{err: err, closed: true}, err
	}
	return &rows{cur: pgx.RowsFromResultReader(r.c.types, rr), types: r.c.types}, nil
}

func (r *extendedResults) QueryRow() pgx.Row {
	rs, err := r.Query()
	if err != nil {
		return (*row)(&rows{err: err, closed: true})
	}
	return (*row)(rs.(*rows))
}

func (r *extendedResults) Close() error {
	if r.closed {
		return r.err
	}
	for r.err == nil && r.next < len(r.b.QueuedQueries) {
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
	r.closed = true
	if err := r.mrr.Close(); r.err == nil {
		r.err = err
	}
	return r.err
}

func (r *extendedResults) Tx() pgx.Tx { return nil }
