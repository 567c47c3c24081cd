package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
)

// txState is whether a session has a transaction open. It changes by what SQLite says (see [session.settle]), not by what
// a statement's text looks like.
//
//	none ──► begun ──► none   by BeginTx, until Commit or Rollback
//	          └──► lost ──► none   ended before that: by SQLite, after an error, or by a statement's text
//	none ──► text ──► none    by BEGIN or SAVEPOINT in a statement's text, until whatever ends it
type txState uint8

const (
	none txState = iota
	begun
	text
	lost
)

var errLostTx = errors.New("the transaction is over: SQLite rolled it back after an error, or a statement ended it; begin it again")

// BeginTx begins a transaction; one that may write is the store's writer from here on.
func (s *session) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	if s.tx != none {
		return nil, s.fail("begin", errors.New("a transaction that was begun by a statement's text is still open on this connection"))
	}
	opts.ReadOnly = opts.ReadOnly || s.frozen
	if err := s.bind(ctx, "begin", !opts.ReadOnly); err != nil {
		s.endTurn()
		return nil, err
	}
	begin := "BEGIN"
	if !opts.ReadOnly {
		begin = "BEGIN IMMEDIATE"
		if err := s.takeTurn(ctx, "begin"); err != nil {
			return nil, err
		}
	}
	if err := s.begin(ctx, begin); err != nil {
		s.endTurn()
		return nil, err
	}
	s.tx, s.readOnly, s.defined = begun, opts.ReadOnly, false
	return s, nil
}

func (s *session) begin(ctx context.Context, begin string) error {
	c := s.c
	c.mu.Lock()
	defer c.unlock()
	if err := c.usable("begin"); err != nil {
		return err
	}
	err := c.detachSelf(ctx)
	if err == nil {
		err = s.relax(ctx)
	}
	if err != nil {
		return s.explain("begin", err)
	}
	c.readOnly = false // for BEGIN itself, which counts as a write
	err = c.control(ctx, begin)
	c.readOnly = s.frozen || err == nil && begin == "BEGIN"
	if err != nil {
		defer s.restore()
		if c.inTransaction() { // it began when ctx ended
			_ = c.control(context.Background(), "ROLLBACK")
		}
		err = s.explain("begin", err)
		s.st.noteFault(err)
		return err
	}
	return nil
}

// Commit ends the transaction. It is not cut short by a context: what was asked for is then known to have happened.
func (s *session) Commit() error {
	wrote := s.turn
	err := s.endTx("commit", "COMMIT")
	s.tx, s.readOnly = none, false
	s.endTurn()
	if err == nil && wrote {
		err = s.st.stillThere("commit")
	}
	return err
}

// Rollback undoes the transaction.
func (s *session) Rollback() error {
	err := s.endTx("rollback", "ROLLBACK")
	s.tx, s.readOnly = none, false
	s.endTurn()
	return err
}

func (s *session) endTx(op, how string) error {
	c := s.c
	c.mu.Lock()
	defer c.unlock()
	defer s.restore()
	c.readOnly = s.frozen
	err := c.usable(op)
	switch {
	case op == "rollback" && (err != nil || s.tx == lost):
		return nil // it went with the connection, or before
	case err != nil:
		return err
	case s.tx == lost:
		return s.fail(op, errLostTx)
	}
	if op == "commit" && s.upkeep && s.turn {
		err = s.checkUpkeep(context.Background())
	}
	if err == nil {
		err = c.control(context.Background(), how)
	}
	if err != nil {
		err = s.explain(op, err)
		s.st.noteFault(err)
		if c.inTransaction() && c.control(context.Background(), "ROLLBACK") != nil {
			c.tainted = true
		}
		c.denied = notDenied
	}
	return err
}
