package postgres

import (
	"context"
	sqldriver "database/sql/driver"
	"fmt"
	"runtime"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ExecContext runs a statement and reads its result to the end.
func (s *session) ExecContext(ctx context.Context, query string, args []sqldriver.NamedValue) (sqldriver.Result, error) {
	tag, err := s.exec(ctx, query, s.values(args))
	if err != nil {
		return nil, err
	}
	return sqldriver.RowsAffected(tag.RowsAffected()), nil
}

// QueryContext runs a statement and reads ahead to its first row, or to its error.
func (s *session) QueryContext(ctx context.Context, query string, args []sqldriver.NamedValue) (sqldriver.Rows, error) {
	more, err := s.query(ctx, query, s.values(args), false)
	if err != nil {
		return nil, err
	}
	rows := &s.c.rows
	rows.reset(s, &s.c.wire, more)
	return rows, nil
}

// exec runs a statement to its end. As pgx does, it sends text without arguments by the simple protocol: it may be several
// statements.
func (s *session) exec(ctx context.Context, sql string, args []any) (tag pgconn.CommandTag, err error) {
	if s.c.be.tracer != nil {
		ctx = s.trace(ctx, sql, args)
		defer func() { s.endTrace(tag, err) }()
	}
	if _, err = s.run(ctx, "exec", sql, args, false, len(args) == 0); err != nil {
		return pgconn.CommandTag{}, err
	}
	w := &s.c.wire
	w.drain()
	if w.err != nil {
		return pgconn.CommandTag{}, s.fault("exec", w.err)
	}
	tag = w.CommandTag()
	return tag, s.renewAlone(ctx)
}

// query runs a statement up to its first row. What returns rows ends its trace with them.
func (s *session) query(ctx context.Context, sql string, args []any, native bool) (more bool, err error) {
	if s.c.be.tracer == nil {
		return s.run(ctx, "query", sql, args, native, false)
	}
	ctx = s.trace(ctx, sql, args)
	if more, err = s.run(ctx, "query", sql, args, native, false); err != nil {
		s.endTrace(pgconn.CommandTag{}, err)
	}
	return more, err
}

// run makes a job of one statement and does it.
func (s *session) run(ctx context.Context, op, sql string, args []any, native, text bool) (more bool, err error) {
	c := s.c
	j := &c.job
	s.job = j
	j.queries = append(j.queries[:0], query{sql: sql, args: args})
	q := &j.queries[0]
	j.op, j.native, j.text, j.mode = op, native, text, c.be.mode
	if len(args) > 0 {
		if j.mode, err = c.options(ctx, j.mode, q); err != nil {
			return false, s.fault(op, err)
		}
	}
	j.text = j.text || j.mode == pgx.QueryExecModeSimpleProtocol
	return s.do(ctx, j)
}

// options takes off the leading arguments that are directions to pgx rather than values.
func (c *conn) options(ctx context.Context, mode pgx.QueryExecMode, q *query) (pgx.QueryExecMode, error) {
	for len(q.args) > 0 {
		switch o := q.args[0].(type) {
		case pgx.QueryExecMode:
			// Caches are the connection's: another kind than it has is not kept for one call.
			q.args = q.args[1:]
			switch o {
			case c.be.mode, pgx.QueryExecModeExec:
				mode = o
			case pgx.QueryExecModeSimpleProtocol:
				mode = pgx.QueryExecModeExec // which differs in nothing else that a statement with arguments could tell
			default:
				mode = pgx.QueryExecModeDescribeExec
			}
		case pgx.QueryResultFormats, pgx.QueryResultFormatsByOID:
			q.formats, q.args = o, q.args[1:]
		case pgx.QueryRewriter:
			sql, args, err := o.RewriteQuery(ctx, c.pg, q.sql, q.args[1:])
			if err != nil {
				return 0, fmt.Errorf("rewrite query failed: %w", err)
			}
			q.sql, q.args = sql, args
			return mode, nil
		default:
			return mode, nil
		}
	}
	return mode, nil
}

// trace tells pgx's tracer that a query begins.
func (s *session) trace(ctx context.Context, query string, args []any) context.Context {
	if t := s.c.be.tracer; t != nil {
		ctx = t.TraceQueryStart(ctx, s.c.pg, pgx.TraceQueryStartData{SQL: query, Args: args})
		s.traced = ctx
	}
	return ctx
}

// endTrace tells it that the query is over.
func (s *session) endTrace(tag pgconn.CommandTag, err error) {
	if ctx := s.traced; ctx != nil {
		s.traced = nil
		s.c.be.tracer.TraceQueryEnd(ctx, s.c.pg, pgx.TraceQueryEndData{CommandTag: tag, Err: err})
	}
}

// momentary reports whether the session ends with the call under way, because it was made on a pooled handle. database/sql
// does not tell its drivers whether a [sql.Conn] is held, so what was called is looked for on the stack; this is asked
// only about statements that take an advisory lock.
func (s *session) momentary() bool {
	if s.used || s.native {
		return s.native
	}
	var pcs [32]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	for {
		f, more := frames.Next()
		switch {
		case strings.HasPrefix(f.Function, "database/sql.(*Conn)."), strings.HasPrefix(f.Function, "database/sql.(*Tx)."):
			return false
		case f.Function == "database/sql.(*DB).ExecContext", f.Function == "database/sql.(*DB).QueryContext",
			strings.HasPrefix(f.Function, "database/sql.(*Stmt)."):
			return true
		case !more:
			return false
		}
	}
}
