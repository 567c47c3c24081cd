package postgres

import (
	"context"
	sqldriver "database/sql/driver"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
	"github.com/tenement-go/tenement/backend/postgres/internal/warm"
)

// conn is what we know of one real connection. It lives as long as that does; between sessions the pool has it.
type conn struct {
	be    *Backend
	res   *pgxpool.Conn // nil when the pool has let go of it
	lease warm.Lease[*conn]
	lent  bool      // a session has it
	spoke time.Time // when the server last said something on it; another owner of a lent pool may have heard it later
	pg    *pgx.Conn
	pc    *pgconn.PgConn
	fe    *pgproto3.Frontend
	types *pgtype.Map

	statements statements
	prefixes   [roleKinds][prefixKinds]prepared
	roleLost   bool                     // it was made with a role, and has it no more
	own        map[string]*ownStatement // by their text
	checks     checks
	sights     sights
	expires    time.Time // when it is too old; zero: never
	last       backend.Route
	lastAccess driver.Access
	login      string // the session user that it was made with
	tainted    bool   // the session leaves something on it; see leftover.go
	dirty      bool   // and an earlier one did, which is to be taken away first
	untidy     bool   // it cannot be cleaned in the transaction of what comes next
	tidying    bool   // the message under way does that: when it succeeds, the connection is clean
	doomed     bool   // not to be used again

	// For the session under way; kept here because there is one at a time.
	unit    unit
	tx      txState
	settled bool     // search_path is set for the whole server session: no prefix is needed
	by      *session // whose it is; usually &sess
	sess    session
	job     job
	rows    sqlRows
	wire    wire
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

func (be *Backend) newConn(pg *pgx.Conn) *conn {
	pc := pg.PgConn()
	c := &conn{
		be: be, pg: pg, pc: pc, fe: pc.Frontend(), types: pg.TypeMap(), spoke: time.Now(),
		sights: make(sights), own: make(map[string]*ownStatement), statements: be.newStatements(),
	}
	c.wire.c, c.login = c, c.sessionUser()
	c.watcher = ctxwatch.NewContextWatcher(be.buildWatcher(pc))
	pc.CustomData()[connKey] = c
	return c
}

func (be *Backend) newStatements() statements {
	switch be.mode {
	case pgx.QueryExecModeCacheStatement:
		return newStatements(be.statementCapacity, be.cfg.TenantStatements)
	case pgx.QueryExecModeCacheDescribe:
		return newStatements(be.descriptionCapacity, 0)
	}
	return newStatements(0, 0)
}

func (c *conn) close() { closeConn(c.pg) }

// named reports whether this connection may use prepared statements that have names.
func (c *conn) named() bool { return c.be.mode == pgx.QueryExecModeCacheStatement }

// idle reports whether no transaction is open on the server, so that what is sent next begins a unit of work.
func (c *conn) idle() bool { return c.pc.TxStatus() == 'I' }

// prefixed reports whether what is sent next needs the prefix.
func (c *conn) prefixed() bool { return !c.settled && (c.idle() || c.tx.unbound) }

// session is a unit of work's hold on a connection, or a series of them, for database/sql and for native use.
type session struct {
	c      *conn
	inTx   bool            // the application has begun a transaction
	late   bool            // and was refused a statement because the transaction was over
	used   bool            // it has run something: the connection is never exchanged for another after that
	held   bool            // for longer than a unit of work
	native bool            // of a handle that speaks pgx, for one call
	finish context.Context // the transaction's: database/sql's Commit has none of its own
	traced context.Context // of the query under way, when there is a tracer
	job    *job            // the last one that was run
	made   []string        // texts that may have made what takes the place of something shared; see renewed.go
}

var (
	_ driver.Session = (*session)(nil)
	_ driver.Rawer   = (*session)(nil)
)

// acquire takes a session for rt.
func (be *Backend) acquire(ctx context.Context, rt backend.Route, access driver.Access) (*session, error) {
	c, err := be.take(ctx, rt, access)
	if err != nil {
		return nil, err
	}
	return c.newSession(), nil
}

func (c *conn) newSession() *session {
	c.sess = session{c: c, made: c.sess.made[:0]}
	c.by = &c.sess
	return c.by
}

// exchange gives a broken connection up, and then takes another: nobody holds one while waiting for one.
func (s *session) exchange(ctx context.Context, begin txState, cause error) error {
	old := s.c
	rt, access := old.unit.rt, old.unit.access
	old.be.lastBreak.Store(time.Now().UnixNano())
	old.giveBack()
	fresh, err := old.be.take(ctx, rt, access)
	if err != nil {
		return errors.Join(s.fault("connect", cause), err)
	}
	// The session, and the job that it is at, stay where they are, in the broken connection's memory: nobody else will
	// use that.
	s.c, fresh.by, fresh.tx, fresh.unit.fence = fresh, s, begin, old.unit.fence
	if s.held {
		s.hold()
	}
	return nil
}

// SetReadOnly implements [driver.Session].
func (s *session) SetReadOnly(on bool) {
	if s.c.idle() {
		s.c.unit.rt.ReadOnly = on
	}
}

// hold says that whoever has the session keeps it for as long as he likes: nobody is to wait for its connection.
func (s *session) hold() {
	s.held = true
	s.c.be.warm.Hold(s.c.lease)
}

// Ping asks this very connection.
func (s *session) Ping(ctx context.Context) error {
	if err := s.usable("ping"); err != nil {
		return err
	}
	if err := s.c.ping(ctx); err != nil {
		return s.fault("ping", err)
	}
	return nil
}

// ping asks the server whether it is there. An error of its own is an answer too: what is run next is told what it is.
func (c *conn) ping(ctx context.Context) error {
	err := c.pc.Ping(ctx)
	if pe := (*pgconn.PgError)(nil); err == nil || errors.As(err, &pe) {
		c.spoke = time.Now()
	}
	return err
}

// Release gives the connection back.
func (s *session) Release() { s.c.release() }

// Raw returns the [*pgx.Conn] that the session runs on, its whole server session bound to the store, or nil behind a
// transaction pooler, which has no such sessions. What is run on it must leave search_path, the role and the connection
// itself alone; the connection is closed when the session ends. See [driver.Rawer].
func (s *session) Raw() any {
	ctx, cancel := context.WithTimeout(context.Background(), rollbackTimeout)
	defer cancel()
	c := s.c
	if s.usable("use") != nil || c.prefixed() && !s.inTx && c.settle(ctx) != nil || s.inTx && s.open(ctx) != nil {
		return nil
	}
	c.doomed, s.used = true, true
	s.hold()
	return c.pg
}

// values returns database/sql's arguments as pgx takes them.
func (s *session) values(named []sqldriver.NamedValue) []any {
	c := s.c
	args := c.args[:0]
	for i := range named {
		args = append(args, named[i].Value)
	}
	c.args = args
	return args
}
