package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/semaphore"

	"github.com/tenement-go/tenement/backend"
)

// ErrBusy: the wait for the store's writer, or for a free reader, lasted longer than Options.BusyTimeout on a call whose
// context has no deadline. Usually one goroutine holds a transaction and waits for a call outside of it.
var ErrBusy = fmt.Errorf("%w", backend.ErrBusy)

// session is one unit of work, or a series of them. It takes its connection at its first statement, when it is known
// whether to queue for the writer's turn first: those who wait for that hold no connection meanwhile.
type session struct {
	b  *Backend
	st *store
	c  *conn

	slot     bool // counted as a reader
	turn     bool // is the store's writer
	inTx     bool
	readOnly bool
	lost     bool // SQLite rolled the transaction back by itself
	textTx   bool // a transaction was begun by text
}

var sessions = sync.Pool{New: func() any { return new(session) }}

// Ping implements [driver.Session].
func (s *session) Ping(ctx context.Context) error { return s.b.Ping(ctx) }

// fail wraps an error of ours.
func (s *session) fail(op string, err error) error {
	return &backend.Error{Op: op, Store: s.st.name, Err: err}
}

// wait acquires one unit of sem in order of arrival, for as long as ctx allows, or BusyTimeout if it has no deadline.
func (s *session) wait(ctx context.Context, sem *semaphore.Weighted, op, what string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if sem.TryAcquire(1) {
		return nil
	}
	if _, bounded := ctx.Deadline(); bounded {
		if err := sem.Acquire(ctx, 1); err != nil {
			return s.fail(op, fmt.Errorf("waiting for %s: %w", what, err))
		}
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, s.b.opts.BusyTimeout)
	defer cancel()
	if err := sem.Acquire(limited, 1); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return s.fail(op, fmt.Errorf("%w: no %s within %v; end transactions and close rows before working outside of "+
			"them, or give the call a context with a later deadline", ErrBusy, what, s.b.opts.BusyTimeout))
	}
	return nil
}

// takeTurn makes the session the store's writer.
func (s *session) takeTurn(ctx context.Context, op string) error {
	if s.turn {
		return nil
	}
	if err := s.wait(ctx, s.st.turn, op, "turn to write"); err != nil {
		return err
	}
	s.turn = true
	return nil
}

// endTurn lets the next one write, unless a transaction goes on.
func (s *session) endTurn() {
	if s.turn && !s.inTx && !s.textTx {
		s.turn = false
		s.st.turn.Release(1)
	}
}

// bind gets the session its connection. The writer has one in any case, the others share a bounded number.
func (s *session) bind(ctx context.Context, op string, write bool) error {
	if s.c != nil {
		return nil
	}
	if write {
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
		return s.explain(op, err)
	}
	s.c = c
	return nil
}

func (s *session) endSlot() {
	if s.slot {
		s.slot = false
		s.st.slots.Release(1)
	}
}

// usable reports why the connection cannot be used any more. The caller holds c.mu.
func (c *conn) usable(op string) error {
	if err := c.st.fate(); err != nil {
		_ = c.close()
		return &backend.Error{Op: op, Store: c.st.name, Err: err}
	}
	if c.raw == nil {
		return &backend.Error{Op: op, Store: c.st.name, Err: errors.New("the connection was closed")}
	}
	return nil
}

// noteEffects draws the conclusions from what the connection did last. The caller holds c.mu.
func (s *session) noteEffects() {
	e := s.c.effects
	s.c.effects = 0
	if e&begins != 0 && !s.inTx {
		s.textTx = true
		e |= taints
	}
	if e&ends != 0 {
		s.textTx = false
	}
	if e&taints != 0 {
		s.c.tainted = true
	}
}

// explain turns an error of the driver into one that says what the store, or the caller, has to do with it.
func (s *session) explain(op string, err error) error {
	var own *backend.Error
	if err == nil || errors.As(err, &own) {
		return err
	}
	if c := s.c; c != nil {
		why := c.denied
		c.denied = notDenied
		switch why {
		case deniedForGood:
			if c.tenant {
				return s.fail(op, fmt.Errorf("%w, and what could get around that is refused: %w", backend.ErrReadOnlyShared, err))
			}
			return s.fail(op, fmt.Errorf("on the shared handle name the tables to be written unqualified; ATTACH, DETACH and "+
				"settings that reach other stores or the process are refused: %w", err))
		case deniedInReadOnlyTx:
			return s.fail(op, fmt.Errorf("the transaction is read-only; begin it without sql.TxOptions.ReadOnly: %w", err))
		case deniedInScript:
			return s.fail(op, fmt.Errorf("a script runs in a transaction already; take its BEGIN, COMMIT or ROLLBACK out: %w", err))
		}
	}
	if s.st.fault(err) {
		return s.fail(op, err)
	}
	return err
}

// statement brings the session to where query can run: bound, prepared, and the writer if need be. It returns with
// c.mu held when err is nil. st is nil for a text with several statements.
func (s *session) statement(ctx context.Context, op, query string) (st *stmt, err error) {
	if err := s.bind(ctx, op, likelyWrite(query)); err != nil {
		return nil, err
	}
	c := s.c
	for {
		c.mu.Lock()
		if err := c.usable(op); err != nil {
			c.mu.Unlock()
			return nil, err
		}
		if s.lost {
			c.mu.Unlock()
			return nil, s.fail(op, errors.New("SQLite rolled the transaction back after an earlier error; begin it again"))
		}
		single := c.stmts[query] != nil || alone(query)
		need := writes
		if !single && !c.attached {
			if err := c.attach(ctx); err != nil {
				err = s.failed(op, err)
				c.mu.Unlock()
				return nil, err
			}
		}
		if single {
			if st, err = c.prepare(ctx, query); err != nil {
				err = s.failed(op, err)
				c.mu.Unlock()
				return nil, err
			}
			need = st.effects
			if need&taints != 0 {
				c.tainted = true // some pragmas take effect when they are compiled
			}
		}
		switch {
		case need&sharedRead != 0 && s.inTx && !s.readOnly && !c.tenant:
			// The shared store, attached to itself for the sake of its name, is another snapshot: it would not
			// show what the transaction wrote.
			err = s.fail(op, errors.New("within a transaction on the shared handle, name tables without public"))
		case need&writes == 0 || s.turn:
			c.effects, c.denied = need&^writes, notDenied
			return st, nil
		case s.readOnly && single:
			err = s.fail(op, errors.New("the transaction is read-only; begin it without sql.TxOptions.ReadOnly"))
		case s.readOnly:
			c.effects, c.denied = need&^writes, notDenied
			return nil, nil // the authorizer looks at each statement as it comes
		}
		if st != nil {
			_ = st.done()
			st = nil
		}
		c.mu.Unlock()
		if err != nil {
			return nil, err
		}
		if err := s.takeTurn(ctx, op); err != nil {
			return nil, err
		}
	}
}

// failed deals with an error of a statement: it may have cost the transaction. The caller holds c.mu.
func (s *session) failed(op string, err error) error {
	c := s.c
	explained := s.explain(op, err)
	if s.inTx && c.raw != nil {
		// SQLite rolls back by itself when a write is interrupted, when the disk is full, and ON CONFLICT ROLLBACK.
		// What came next would then be committed on its own. BEGIN tells: it fails within a transaction.
		if c.run(context.Background(), "BEGIN") == nil {
			_ = c.run(context.Background(), "ROLLBACK")
			s.lost = true
		}
		c.denied = notDenied
	}
	s.st.noteFault(err)
	return explained
}

func (s *session) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	st, err := s.statement(ctx, "exec", query)
	if err != nil {
		s.endTurn()
		return nil, err
	}
	c := s.c
	var res driver.Result
	if st == nil {
		res, err = c.raw.ExecContext(ctx, query, args)
		if res == nil && err == nil {
			res = driver.ResultNoRows // a text without a statement
		}
	} else {
		c.vacuum = st.vacuum
		res, err = st.driver.ExecContext(ctx, args)
		c.vacuum = false
		if cerr := st.done(); err == nil {
			err = cerr
		}
	}
	if err != nil {
		err = s.failed("exec", err)
	}
	s.noteEffects()
	c.mu.Unlock()
	wrote := s.turn
	s.endTurn()
	if err == nil && wrote && !s.turn {
		err = s.st.stillThere("exec")
	}
	if err != nil {
		return nil, err
	}
	return res, nil
}

func (s *session) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	st, err := s.statement(ctx, "query", query)
	if err != nil {
		s.endTurn()
		return nil, err
	}
	c := s.c
	var r *rows
	if st == nil {
		r = new(rows)
		r.in, err = c.raw.QueryContext(ctx, query, args)
	} else {
		r = &st.rows
		c.vacuum = st.vacuum
		r.in, err = st.driver.QueryContext(ctx, args)
		c.vacuum = false
	}
	if err != nil {
		r.in = nil
		if st != nil {
			_ = st.done()
		}
		err = s.failed("query", err)
		s.noteEffects()
		c.mu.Unlock()
		s.endTurn()
		return nil, err
	}
	r.s, r.c, r.st = s, c, st
	s.noteEffects()
	r.turn = s.turn && !s.inTx && !s.textTx
	c.open = append(c.open, r)
	c.mu.Unlock()
	return r, nil
}

func (s *session) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	if s.textTx {
		return nil, s.fail("begin", errors.New("a transaction that was begun by text is still open on this connection"))
	}
	if err := s.bind(ctx, "begin", !opts.ReadOnly); err != nil {
		return nil, err
	}
	begin := "BEGIN"
	if !opts.ReadOnly {
		begin = "BEGIN IMMEDIATE"
		if err := s.takeTurn(ctx, "begin"); err != nil {
			return nil, err
		}
	}
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.usable("begin")
	if err == nil {
		if err = c.run(ctx, begin); err != nil {
			_ = c.run(context.Background(), "ROLLBACK") // it may have begun when ctx ended
			err = s.explain("begin", err)
			s.st.noteFault(err)
		}
	}
	if err != nil {
		s.endTurn()
		return nil, err
	}
	s.inTx, s.readOnly, s.lost = true, opts.ReadOnly, false
	c.readOnly = opts.ReadOnly
	return s, nil
}

// Commit ends the transaction. It is not cut short by a context: what was asked for is then known to have happened.
func (s *session) Commit() error {
	return s.endTx("commit", "COMMIT")
}

// Rollback undoes the transaction.
func (s *session) Rollback() error {
	return s.endTx("rollback", "ROLLBACK")
}

func (s *session) endTx(op, text string) error {
	c := s.c
	c.mu.Lock()
	c.readOnly = false
	err := c.usable(op)
	switch {
	case err != nil:
		if op == "rollback" {
			err = nil // it went with the connection
		}
	case s.lost:
		if op == "commit" {
			err = s.fail(op, errors.New("SQLite rolled the transaction back after an earlier error; nothing of it was kept"))
		}
	default:
		if err = c.run(context.Background(), text); err != nil {
			err = s.explain(op, err)
			s.st.noteFault(err)
			if c.run(context.Background(), "ROLLBACK") != nil {
				c.tainted = true
			}
			c.denied = notDenied
		}
	}
	c.mu.Unlock()
	wrote := s.turn && op == "commit"
	s.inTx, s.readOnly, s.lost = false, false, false
	s.endTurn()
	if err == nil && wrote {
		err = s.st.stillThere(op)
	}
	return err
}

func (s *session) Release() {
	if s.inTx {
		_ = s.Rollback()
	}
	if c := s.c; c != nil {
		s.st.put(c, s.textTx)
	}
	s.textTx = false
	s.endTurn()
	s.endSlot()
	b, st := s.b, s.st
	*s = session{}
	sessions.Put(s)
	b.release(st)
}
