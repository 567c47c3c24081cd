package postgres

import (
	"context"
	"database/sql"
	sqldriver "database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
)

// conn is what we know of one real connection. It lives as long as that does; between sessions the pool has it.
type conn struct {
	be    *Backend
	res   *pgxpool.Conn // while a session has it
	pg    *pgx.Conn
	pc    *pgconn.PgConn
	fe    *pgproto3.Frontend
	types *pgtype.Map

	statements statements // by text: prepared on the server
	described  statements // by text: descriptions only
	prefixes   [roleKinds][prefixKinds]prepared
	roleLost   bool                       // it was made with a role, and has it no more
	tenants    map[backend.Store]struct{} // whom it has served
	last       backend.Store

	// For the session under way; kept here because there is one at a time.
	unit    unit
	settled bool // search_path is set for the whole server session: no prefix is needed
	doomed  bool // not to be pooled again
	sess    session
	rows    sqlRows
	wire    wire
	ran     *statement // the one that the wire last ran, if it is a known one and its result has the usual formats
	watcher *ctxwatch.ContextWatcher

	// Buffers.
	eqb           pgx.ExtendedQueryBuilder
	args          []any
	bind          pgproto3.Bind // of the prefix
	statementBind pgproto3.Bind
	prefixParams  [][]byte
}

// connKey is where a connection keeps its conn among pgx's custom data.
const connKey = "github.com/tenement-go/tenement/backend/postgres"

// session is a unit of work's hold on a connection, for database/sql and for native use.
type session struct {
	c      *conn
	inTx   bool
	finish context.Context // the transaction's: database/sql's Commit has none of its own
	traced context.Context // of the query under way, when there is a tracer
}

var (
	_ driver.Session = (*session)(nil)
	_ sqldriver.Tx   = (*sqlTx)(nil)
)

// acquire takes a connection for rt.
func (be *Backend) acquire(ctx context.Context, rt backend.Route, access driver.Access) (*session, error) {
	c, err := be.take(ctx, rt, access)
	if err != nil {
		return nil, err
	}
	c.sess = session{c: c}
	return &c.sess, nil
}

func (be *Backend) take(ctx context.Context, rt backend.Route, access driver.Access) (*conn, error) {
	if be.closed.Load() {
		return nil, &backend.Error{Op: "connect", Store: rt.Store, Err: backend.ErrClosed}
	}
	res, err := be.pool.Acquire(ctx)
	if err != nil {
		if be.closed.Load() {
			err = backend.ErrClosed
		}
		return nil, &backend.Error{Op: "connect", Store: rt.Store, Err: err}
	}
	pg := res.Conn()
	pc := pg.PgConn()
	c, _ := pc.CustomData()[connKey].(*conn)
	if c == nil {
		c = &conn{pg: pg, pc: pc, fe: pc.Frontend(), types: pg.TypeMap(), tenants: make(map[backend.Store]struct{})}
		c.wire.c = c
		c.watcher = ctxwatch.NewContextWatcher(be.buildWatcher(pc))
		pc.CustomData()[connKey] = c
	}
	c.be, c.res = be, res
	c.bindUnit(rt, access)
	if access != driver.AccessShared && rt.Store != c.last {
		c.last = rt.Store
		c.tenants[rt.Store] = struct{}{}
	}
	return c, nil
}

// Ping asks this very connection.
func (s *session) Ping(ctx context.Context) error { return s.c.pc.Ping(ctx) }

// Release gives the connection back to the pool, or closes it when it may not serve anyone else.
func (s *session) Release() {
	s.c.release()
}

func (c *conn) release() {
	if c.wire.open {
		// Rows that nobody closed.
		c.wire.lost(errBusy)
	}
	if c.pc.IsClosed() {
		c.be.lastBreak.Store(time.Now().UnixNano())
	} else if c.doomed || len(c.tenants) > c.be.cfg.MaxTenantsPerConn {
		c.close()
	}
	res := c.res
	c.res, c.rows.s, c.rows.cur = nil, nil, nil
	clear(c.args[:cap(c.args)])
	res.Release() // and destroys what is closed, busy or in a transaction
}

// close ends the connection politely, without waiting long.
func (c *conn) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.pg.Close(ctx)
}

// named reports whether this connection may use prepared statements that have names.
func (c *conn) named() bool { return c.be.mode == pgx.QueryExecModeCacheStatement }

// idle reports whether no transaction is open, so that what is sent next is a unit of work of its own.
func (c *conn) idle() bool { return c.pc.TxStatus() == 'I' }

// prefixed reports whether what is sent next needs the prefix.
func (c *conn) prefixed() bool { return !c.settled && c.idle() }

// watched returns a context that spares pgconn the watching of one that cannot be cancelled.
func watched(ctx context.Context) context.Context {
	if ctx.Done() == nil {
		return context.Background()
	}
	return ctx
}

func (s *session) values(named []sqldriver.NamedValue) []any {
	c := s.c
	args := c.args[:0]
	for i := range named {
		args = append(args, named[i].Value)
	}
	c.args = args
	return args
}

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
	cur, more, err := s.query(ctx, query, s.values(args), false)
	if err != nil {
		return nil, err
	}
	rows := &s.c.rows
	if rows.open {
		// Cannot be: pgconn refuses a second statement while a result is open.
		cur.Close()
		return nil, &backend.Error{Op: "query", Store: s.c.unit.rt.Store, Err: errors.New("another result is still open")}
	}
	rows.reset(s, cur, more)
	return rows, nil
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

// exec runs a statement to its end.
func (s *session) exec(ctx context.Context, query string, args []any) (tag pgconn.CommandTag, err error) {
	if s.c.be.tracer != nil {
		ctx = s.trace(ctx, query, args)
		defer func() { s.endTrace(tag, err) }()
	}
	var cur cursor
	if len(args) == 0 {
		// As pgx does: text without arguments goes by the simple protocol, and may be several statements.
		cur, err = s.retrying(ctx, query, func(c *conn) (cursor, stage, error) { return c.text(ctx, query) })
	} else {
		cur, _, err = s.run(ctx, query, args, false)
	}
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	cur.Close()
	if err := cur.Err(); err != nil {
		return pgconn.CommandTag{}, s.fault("exec", err)
	}
	return cur.CommandTag(), nil
}

// fault dresses an error of a statement: the database's own is returned as it is, anything else says where it happened.
func (s *session) fault(op string, err error) error {
	var (
		pe *pgconn.PgError
		be *backend.Error
	)
	switch {
	case errors.As(err, &be):
		return err
	case errors.As(err, &pe):
		if s.c.be.deniedShared(s.c.unit.access, pe) {
			return readOnlyFault(op, s.c.unit.rt.Store, err)
		}
		return err
	}
	return &backend.Error{Op: op, Store: s.c.unit.rt.Store, Err: err}
}

func (s *session) missing() error {
	rt := s.c.unit.rt
	s.c.be.forget(rt)
	return &backend.Error{Op: "use", Store: rt.Store, Err: backend.ErrStoreMissing}
}

// BeginTx opens a transaction that is bound to the store, in the round trip of BEGIN.
func (s *session) BeginTx(ctx context.Context, opts sqldriver.TxOptions) (sqldriver.Tx, error) {
	var o pgx.TxOptions
	switch sql.IsolationLevel(opts.Isolation) {
	case sql.LevelDefault:
	case sql.LevelReadUncommitted:
		o.IsoLevel = pgx.ReadUncommitted
	case sql.LevelReadCommitted:
		o.IsoLevel = pgx.ReadCommitted
	case sql.LevelRepeatableRead, sql.LevelSnapshot:
		o.IsoLevel = pgx.RepeatableRead
	case sql.LevelSerializable:
		o.IsoLevel = pgx.Serializable
	default:
		return nil, &backend.Error{Op: "begin", Store: s.c.unit.rt.Store, Err: fmt.Errorf(
			"isolation level %q is not one that Postgres has", sql.IsolationLevel(opts.Isolation))}
	}
	if opts.ReadOnly {
		o.AccessMode = pgx.ReadOnly
	}
	if err := s.begin(ctx, beginSQL(o)); err != nil {
		return nil, err
	}
	s.finish = ctx
	return (*sqlTx)(s), nil
}

// beginSQL returns the text that begins a transaction with o.
func beginSQL(o pgx.TxOptions) string {
	if o == (pgx.TxOptions{}) {
		return "begin"
	}
	if o.BeginQuery != "" {
		return o.BeginQuery
	}
	text := "begin"
	if o.IsoLevel != "" {
		text += " isolation level " + string(o.IsoLevel)
	}
	if o.AccessMode != "" {
		text += " " + string(o.AccessMode)
	}
	if o.DeferrableMode != "" {
		text += " " + string(o.DeferrableMode)
	}
	return text
}

// sqlTx is the session as database/sql ends its transaction.
type sqlTx session

func (t *sqlTx) Commit() error {
	s := (*session)(t)
	return s.commit(s.finish, "commit")
}

func (t *sqlTx) Rollback() error {
	return (*session)(t).rollback(context.Background())
}

func (s *session) commit(ctx context.Context, text string) error {
	s.inTx = false
	if _, err := s.c.sendText(watched(ctx), text, false); err != nil {
		if !s.c.idle() {
			s.c.close()
		}
		return s.fault("commit", err)
	}
	if w := &s.c.wire; string(w.tag[:w.tagLen]) == "ROLLBACK" {
		return pgx.ErrTxCommitRollback
	}
	return nil
}

// rollbackTimeout bounds a rollback, which has to survive the cancellation of what it rolls back.
const rollbackTimeout = 5 * time.Second

func (s *session) rollback(ctx context.Context) error {
	s.inTx = false
	if s.c.pc.IsClosed() || s.c.pc.IsBusy() || s.c.wire.open {
		// The server rolls back when the connection ends, which Release sees to.
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
	defer cancel()
	if _, err := s.c.sendText(ctx, "rollback", false); err != nil {
		s.c.close()
		return s.fault("rollback", err)
	}
	return nil
}
