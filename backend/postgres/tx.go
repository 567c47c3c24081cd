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

	"github.com/tenement-go/tenement/backend"
)

// txState is where a transaction stands that the server does not know, or not all, of yet.
type txState struct {
	begin   string // BEGIN, which waits for the first statement and goes ahead of it in the same message
	unbound bool   // it was sent; the prefix was not
}

func (t txState) open() bool { return t.begin != "" || t.unbound }

var _ sqldriver.Tx = (*sqlTx)(nil)

// BeginTx begins a transaction that is bound to the store. Nothing is sent: BEGIN waits for the first statement.
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

// begin notes that a transaction begins with this text.
func (s *session) begin(ctx context.Context, text string) (err error) {
	ctx = s.trace(ctx, text, nil)
	defer func() { s.endTrace(pgconn.NewCommandTag("BEGIN"), err) }()
	switch err := s.usable("begin"); {
	case err != nil:
		return err
	case !s.c.idle() || s.c.tx.open():
		return &backend.Error{Op: "begin", Store: s.c.unit.rt.Store, Err: errors.New("a transaction is already open on this connection")}
	case ctx.Err() != nil:
		return s.fault("begin", ctx.Err())
	}
	s.c.tx = txState{begin: text}
	s.inTx, s.late = true, false
	s.hold()
	return nil
}

// open sends BEGIN by itself, where what comes next does not take it along.
func (s *session) open(ctx context.Context) error {
	if !s.c.tx.open() {
		return s.usable("use")
	}
	return s.start(ctx, "begin")
}

// start sends what goes ahead of a statement by itself: a cleaning, BEGIN, what binds the session to its store.
func (s *session) start(ctx context.Context, op string) error {
	_, err := s.do(ctx, &job{op: op, text: s.c.be.mode == pgx.QueryExecModeSimpleProtocol, mode: s.c.be.mode})
	return err
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

var (
	// errOver: what is run now would be outside of the transaction.
	errOver = fmt.Errorf("%w: a statement's text (COMMIT, ROLLBACK, ABORT, PREPARE TRANSACTION) has ended it; "+
		"end it by Commit or Rollback of its handle, and begin another for what comes after", errDone)
	errDone = fmt.Errorf("the transaction is over (%w, %w)", pgx.ErrTxClosed, sql.ErrTxDone)
)

// over reports whether the transaction that the application began has ended by other means than its handle's Commit and
// Rollback. The server says so with each answer.
func (s *session) over() bool {
	return s.inTx && s.c.tx.begin == "" && s.c.idle() && !s.c.pc.IsClosed()
}

// lasted reports whether what ended a transaction that is over did so with success. It was the last that was run: nothing
// is after it.
func (s *session) lasted() bool {
	w := &s.c.wire
	return w.err == nil && (w.tagged("COMMIT") || w.tagged("PREPARE TRANSACTION"))
}

// commitOver is Commit of a transaction that is over. After a COMMIT that succeeded it has nothing to add, as with pgx,
// unless something was refused since. Anything else is an error, where pgx hears "COMMIT" of a server that has no
// transaction open, and believes it.
func (s *session) commitOver() error {
	switch {
	case !s.lasted():
		return &backend.Error{Op: "commit", Store: s.c.unit.rt.Store, Err: fmt.Errorf("%w: %w", pgx.ErrTxCommitRollback, errOver)}
	case s.late:
		return &backend.Error{Op: "commit", Store: s.c.unit.rt.Store, Err: errOver}
	}
	return nil
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

// commit ends the transaction. One that sent nothing ends without a word.
func (s *session) commit(ctx context.Context, text string) (err error) {
	c, over := s.c, s.over()
	s.inTx = false
	ctx = s.trace(ctx, text, nil)
	defer func() { s.endTrace(c.wire.CommandTag(), err) }()
	if over {
		c.tx = txState{}
		return s.commitOver()
	}
	if c.tx.begin != "" {
		c.tx = txState{}
		c.wire.tagLen = copy(c.wire.tag[:], "COMMIT")
		return nil
	}
	c.tx = txState{}
	if err := s.renew(ctx); err != nil {
		_ = c.rollback(ctx) // whoever holds the connection believes that it is over
		return s.fault("commit", err)
	}
	if err := c.texts(ctx, text, nil); err != nil {
		if !c.idle() {
			c.close()
		}
		return s.fault("commit", err)
	}
	if c.wire.tagged("ROLLBACK") {
		return pgx.ErrTxCommitRollback
	}
	return nil
}

// rollbackTimeout bounds a rollback, which has to survive the cancellation of what it rolls back.
const rollbackTimeout = 5 * time.Second

func (s *session) rollback(ctx context.Context) (err error) {
	c, over := s.c, s.over()
	s.inTx = false
	ctx = s.trace(ctx, "rollback", nil)
	defer func() { s.endTrace(pgconn.NewCommandTag("ROLLBACK"), err) }()
	if over && s.lasted() {
		c.tx = txState{}
		return &backend.Error{Op: "rollback", Store: c.unit.rt.Store, Err: errOver}
	}
	s.made = s.made[:0]
	if over {
		c.tx = txState{}
		return nil
	}
	if err := c.rollback(ctx); err != nil {
		return s.fault("rollback", err)
	}
	return nil
}

// rollback ends the transaction, or the connection.
func (c *conn) rollback(ctx context.Context) error {
	unsent := c.tx.begin != ""
	c.tx = txState{}
	if unsent || c.pc.IsClosed() || c.pc.IsBusy() || c.wire.busy() {
		// The server rolls back when the connection ends, which release sees to.
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
	defer cancel()
	if err := c.texts(ctx, "rollback", nil); err != nil {
		c.close()
		return err
	}
	return nil
}
