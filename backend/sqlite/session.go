package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/semaphore"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/broken"
)

// session is one unit of work, or a series of them. It takes its connection at its first statement, when it is known
// whether to queue for the writer's turn first: those who wait for that hold no connection meanwhile.
type session struct {
	b  *Backend
	st *store
	c  *conn

	keys   *keys // a handle's memory of PRAGMA foreign_keys; nil: it has none
	upkeep bool  // migrations are at work: see [session.checkUpkeep]
	strict bool  // foreign keys were enforced before the migration's transaction, and are to be again after it

	slot bool // counted as a reader
	turn bool // is the store's writer

	tx       txState
	readOnly bool // the transaction is
	frozen   bool // the route is: nothing may be written
	defined  bool // the transaction made or altered tables
	ended    bool // a statement may have ended a transaction, and nobody has looked yet whether the store is still there
}

var sessions = sync.Pool{New: func() any { return new(session) }}

// Ping implements [driver.Session]. It looks at the disk: the store must still be there.
func (s *session) Ping(ctx context.Context) error {
	if err := s.b.Ping(ctx); err != nil {
		return err
	}
	if err := s.st.fate(); err != nil {
		return s.fail("ping", err)
	}
	return s.st.stillThere("ping")
}

// SetReadOnly implements [driver.Session].
func (s *session) SetReadOnly(on bool) {
	if s.frozen == on || s.tx != none {
		return
	}
	s.frozen = on
	if c := s.c; c != nil {
		c.mu.Lock()
		defer c.unlock()
		c.readOnly = on
	}
}

// fail wraps an error of ours.
func (s *session) fail(op string, err error) error {
	return &backend.Error{Op: op, Store: s.st.name, Err: err}
}

// wait acquires one unit of sem in order of arrival, for as long as ctx allows, or BusyTimeout if it has no deadline, and the
// store is there.
func (s *session) wait(ctx context.Context, sem *semaphore.Weighted, op, what string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	patience := s.b.ownWait(ctx)
	switch err := s.st.await(ctx, sem, patience); {
	case err == nil:
		return nil
	case errors.Is(err, s.st.fate()):
		return s.fail(op, err)
	case patience == 0:
		return s.fail(op, fmt.Errorf("waiting for %s: %w", what, err))
	case ctx.Err() != nil:
		return ctx.Err()
	default:
		return s.fail(op, fmt.Errorf("%w: no %s within %v; end transactions and close rows before working outside of "+
			"them, or give the call a context with a later deadline", ErrBusy, what, patience))
	}
}

// takeTurn makes the session the store's writer.
func (s *session) takeTurn(ctx context.Context, op string) error {
	if s.turn {
		return nil
	}
	if !broken.Queue {
		if err := s.wait(ctx, s.st.turn, op, "turn to write"); err != nil {
			return err
		}
	}
	s.turn = true
	return nil
}

// endTurn lets the next one write, unless a transaction goes on.
func (s *session) endTurn() {
	if s.turn && (s.tx == none || s.tx == lost) {
		s.turn = false
		if !broken.Queue {
			s.st.turn.Release(1)
		}
	}
}

// bind gets the session its connection. The writer has one in any case, the others share a bounded number.
func (s *session) bind(ctx context.Context, op string, write bool) error {
	if s.c != nil {
		return nil
	}
	if write && !s.frozen {
		if err := s.takeTurn(ctx, op); err != nil {
			return err
		}
	} else {
		if err := s.wait(ctx, s.st.slots, op, "free connection"); err != nil {
			return err
		}
		s.slot = true
	}
	c, err := s.st.take(ctx)
	if err != nil {
		s.endTurn()
		s.endSlot()
		return s.fail(op, err)
	}
	s.c = c
	c.mu.Lock()
	defer c.unlock()
	c.readOnly = s.frozen
	if err := c.usable(op); err != nil {
		return err
	}
	return s.explain(op, c.setForeignKeys(ctx, !s.upkeep && !s.keys.off()))
}

func (s *session) endSlot() {
	if s.slot {
		s.slot = false
		s.st.slots.Release(1)
	}
}

// ready brings the session to where query can run: bound, compiled, and the writer if need be.
func (s *session) ready(ctx context.Context, op, query string) (*stmt, error) {
	if err := s.bind(ctx, op, likelyWrite(query)); err != nil {
		return nil, err
	}
	for {
		st, err := s.compile(ctx, op, query)
		if err != nil || st.effects&writes == 0 || s.turn || s.readOnly || s.frozen {
			return st, err
		}
		s.c.mu.Lock() // whoever loses the store closes the connection meanwhile
		err = st.done()
		s.c.unlock()
		if err != nil {
			return nil, err
		}
		// Those who wait to write hold no statement that reads.
		if err := s.takeTurn(ctx, op); err != nil {
			return nil, err
		}
	}
}

// compile has query compiled and says whether it may run.
func (s *session) compile(ctx context.Context, op, query string) (*stmt, error) {
	c := s.c
	c.mu.Lock()
	defer c.unlock()
	if err := c.usable(op); err != nil {
		return nil, err
	}
	if s.tx == lost {
		return nil, s.fail(op, errLostTx)
	}
	c.effects, c.denied = 0, notDenied
	st, err := c.compile(ctx, query)
	if err != nil {
		return nil, s.settle(op, err)
	}
	c.tainted = c.tainted || st.effects&taints != 0 // some pragmas take effect when they are compiled
	switch {
	case st.effects&sharedRead != 0 && s.tx == begun && !s.readOnly && !c.tenant:
		// The shared store, attached to itself for the sake of its name, is another snapshot: it would not show what
		// the transaction wrote.
		err = errors.New("within a transaction on the shared handle, name tables without public")
	case st.effects&writes != 0 && s.frozen && st.driver != nil:
		err = backend.ErrReadOnly
	case st.effects&writes != 0 && s.readOnly && st.driver != nil:
		err = errReadOnlyTx
	}
	if err != nil {
		_ = st.done()
		return nil, s.fail(op, err)
	}
	return st, nil
}

func (s *session) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if err := formatTimes(args); err != nil {
		return nil, err
	}
	last, err := s.execAhead(ctx, query, args)
	if err != nil {
		return nil, err
	}
	return s.execText(ctx, last, args)
}

func (s *session) execText(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	st, err := s.ready(ctx, "exec", query)
	if err != nil {
		s.endTurn()
		return nil, err
	}
	res, err := s.exec(ctx, st, args)
	if s.outdated(ctx, st, err) {
		if st, err = s.ready(ctx, "exec", query); err == nil {
			res, err = s.exec(ctx, st, args)
		}
	}
	if err = s.end("exec", err); err != nil {
		return nil, err
	}
	return res, nil
}

func (s *session) exec(ctx context.Context, st *stmt, args []driver.NamedValue) (res driver.Result, err error) {
	c := s.c
	c.mu.Lock()
	defer c.unlock()
	if err := s.enter(ctx, "exec", st); err != nil {
		return nil, err
	}
	if st.driver == nil {
		if res, err = c.raw.ExecContext(ctx, st.query, args); res == nil {
			res = driver.ResultNoRows // a text without a statement
		}
	} else {
		c.vacuum = st.vacuum
		if s.lone(st) {
			res, err = s.define(ctx, st, args)
		} else {
			res, err = st.driver.ExecContext(ctx, args)
		}
		st.effects |= c.effects & sharedRead // SQLite compiles it anew where the schema has changed
		c.vacuum = false
		if cerr := st.done(); err == nil {
			err = cerr
		}
	}
	return res, s.settle("exec", err)
}

func (s *session) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if err := formatTimes(args); err != nil {
		return nil, err
	}
	query, err := s.execAhead(ctx, query, args)
	if err != nil {
		return nil, err
	}
	st, err := s.ready(ctx, "query", query)
	if err != nil {
		s.endTurn()
		return nil, err
	}
	r, err := s.query(ctx, st, args)
	if s.outdated(ctx, st, err) {
		if st, err = s.ready(ctx, "query", query); err == nil {
			r, err = s.query(ctx, st, args)
		}
	}
	if err != nil {
		return nil, s.end("query", err)
	}
	if s.turn && s.tx == none {
		r.last = true // what they read is still to be written (RETURNING)
		return r, nil
	}
	if err := s.end("query", nil); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (s *session) query(ctx context.Context, st *stmt, args []driver.NamedValue) (*rows, error) {
	c := s.c
	c.mu.Lock()
	defer c.unlock()
	if err := s.enter(ctx, "query", st); err != nil {
		return nil, err
	}
	r := &st.rows
	var err error
	switch {
	case st.driver == nil:
		r.in, err = c.raw.QueryContext(ctx, st.query, args)
	case s.lone(st):
		_, err = s.define(ctx, st, args)
		r.in = noRows{}
	default:
		c.vacuum = st.vacuum
		r.in, err = st.driver.QueryContext(ctx, args)
		st.effects |= c.effects & sharedRead
		c.vacuum = false
	}
	if err = s.settle("query", err); err != nil {
		r.in = nil
		_ = st.done()
		return nil, err
	}
	r.s, r.c, r.st, r.last = s, c, st, false
	c.open = append(c.open, r)
	return r, nil
}

// outdated reports whether a statement that failed may mean something else when it is compiled as if it were new, and has it
// compiled so: it was kept from when the tenant had a table of a name which is a shared table's alone by now, and SQLite, which
// compiles it anew by itself, knows of none. One that SQLite still understands failed as it ran, and is not run a second time.
func (s *session) outdated(ctx context.Context, st *stmt, err error) bool {
	if code(err) != sqlite3.SQLITE_ERROR || s.c == nil {
		return false
	}
	s.c.mu.Lock()
	defer s.c.unlock()
	if !st.kept || !s.c.tenant || s.c.attached || s.c.raw == nil || s.c.understands(ctx, st.query) {
		return false
	}
	return s.c.stmts.Remove(st.query)
}

// enter is called ahead of a statement's execution. The caller holds c.mu.
func (s *session) enter(ctx context.Context, op string, st *stmt) error {
	if err := s.c.usable(op); err != nil {
		return err
	}
	if s.upkeep && s.tx == text && st.effects&ends != 0 && s.turn {
		if err := s.checkUpkeep(ctx); err != nil {
			return s.fail(op, err)
		}
	}
	if s.tx == none && !s.c.tenant && (st.effects&begins != 0 || st.driver == nil && !namesShared(st.query)) {
		if err := s.c.detachSelf(ctx); err != nil {
			return s.explain(op, err)
		}
	}
	if s.tx == none && st.effects&begins != 0 {
		if err := s.relax(ctx); err != nil {
			return s.explain(op, err)
		}
	}
	s.c.effects, s.c.denied = st.effects, notDenied
	if st.driver == nil {
		s.c.effects = 0
	}
	return nil
}

// settle draws the conclusions from what the connection did last: whether a transaction is open is asked, when that may
// have changed, and an error is explained. The caller holds c.mu.
func (s *session) settle(op string, err error) error {
	c := s.c
	did := c.effects
	c.effects = 0
	c.tainted = c.tainted || did&taints != 0
	s.defined = s.defined || did&defines != 0
	if did&setsKeys != 0 && err == nil {
		s.noteKeys()
	}
	s.ended = s.ended || did&ends != 0
	if err != nil {
		c.tainted = c.tainted || code(err)&0xff == sqlite3.SQLITE_READONLY // it may be the connection's fault alone
		err = s.explain(op, err)
		s.st.noteFault(err)
	}
	// SQLite rolls back by itself when a write is interrupted, when the disk is full, and ON CONFLICT ROLLBACK. What came
	// next would then be committed on its own.
	if did&(begins|ends) == 0 && (err == nil || s.tx == none) {
		return err
	}
	switch open := c.inTransaction(); {
	case open && s.tx == none:
		s.tx = text
	case !open && s.tx == text:
		s.tx = none
	case !open && s.tx == begun:
		s.tx = lost
	}
	if s.tx == none {
		s.restore()
	}
	return err
}

// noteKeys asks what came of PRAGMA foreign_keys (nothing, within a transaction). The caller holds c.mu.
func (s *session) noteKeys() {
	on, err := s.c.number(context.Background(), "PRAGMA foreign_keys")
	if err != nil {
		return // the connection is tainted and goes
	}
	s.c.lenient = on == 0
	if s.keys != nil {
		s.keys.disabled.Store(on == 0)
	}
}

// end is called after a statement, or when its rows are closed: the next one may write, unless a transaction goes on, and
// what was written must still be there. A file that is gone from its name took along what was written to it, whichever
// statement it was that ended the transaction.
func (s *session) end(op string, err error) error {
	look := s.ended || s.turn && s.tx == none
	s.ended = false
	s.endTurn()
	if err == nil && look {
		err = s.st.stillThere(op)
	}
	return err
}

// Release implements [driver.Session].
func (s *session) Release() {
	if s.tx == begun || s.tx == lost {
		_ = s.Rollback()
	}
	if c := s.c; c != nil {
		s.st.put(c, s.tx == text)
	}
	s.tx = none
	s.endTurn()
	s.endSlot()
	b, st := s.b, s.st
	*s = session{}
	sessions.Put(s)
	b.stores.release(st)
}
