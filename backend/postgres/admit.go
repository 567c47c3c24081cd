package postgres

import (
	"context"
	"errors"
	"fmt"
)

var (
	// errOwnTx: what comes after the COMMIT or ROLLBACK would no longer be bound to the store.
	errOwnTx = errors.New("text of several statements cannot end the transaction that it runs in; " +
		"send what comes after COMMIT or ROLLBACK by itself")
	// errChain: the transaction that AND CHAIN begins would not be bound to the store.
	errChain = errors.New("AND CHAIN begins a transaction that belongs to no tenant; end this one and begin another")
	// errLocks: the lock would be gone when the call returns.
	errLocks = errors.New("an advisory lock of the session's would be gone when this call returns; " +
		"take it on a connection of your own (sql.Conn, PGX.AcquireFunc), or use pg_advisory_xact_lock in a transaction")
)

// place is where a statement is to run.
type place struct {
	inTx      bool // in a transaction of the application's
	settled   bool // on a session that is bound to the store as a whole
	momentary bool // on a session that ends with this call
	several   bool // with others in one message
	last      bool // and after them
}

// refused returns why a statement may not run in a place, or nil.
func refused(t traits, p place) error {
	switch {
	case t&chains != 0 && !p.settled:
		return errChain
	case t&ownTx != 0 && (p.inTx || p.several), t&ends != 0 && !p.last:
		return errOwnTx
	case t&holds != 0 && !p.inTx && p.momentary:
		return errLocks
	}
	return nil
}

// admit is the policy about text: which statements are run where, and what is noted of what they leave behind. It is the
// only place that decides by traits.
func (c *conn) admit(ctx context.Context, j *job) error {
	for i := range j.queries {
		q := &j.queries[i]
		if q.st = nil; !j.text && j.mode == c.be.mode {
			q.st = c.statements.get(c.key(q.sql))
		}
		if q.st != nil {
			q.traits = q.st.traits
		} else {
			q.traits = classify(q.sql)
		}
		if q.traits&^star == 0 {
			continue
		}
		if err := c.admitQuery(ctx, j, q, i == len(j.queries)-1); err != nil {
			return j.fault(i, err)
		}
	}
	return nil
}

func (c *conn) admitQuery(ctx context.Context, j *job, q *query, last bool) error {
	t := q.traits
	inTx := !c.idle() || c.tx.begin != ""
	p := place{inTx: inTx, settled: c.settled, several: len(j.queries) > 1, last: last}
	p.momentary = t&holds != 0 && c.by.momentary()
	if err := refused(t, p); err != nil {
		return err
	}
	c.doomed = c.doomed || t&dooms != 0
	c.tainted = c.tainted || t&taints != 0
	if t&defines != 0 {
		c.by.made = append(c.by.made, q.sql)
	}
	if inTx || !c.prefixed() || !(t&calls != 0 && !j.text || t&ownTx != 0 && j.text) {
		return nil
	}
	// Code that may commit: in a message of several that have no transaction around them it could, and what it does next
	// would no longer be bound to the store.
	err := c.settle(ctx)
	if errors.Is(err, errPooled) {
		return fmt.Errorf("CALL, DO and COMMIT may end transactions; behind a pooler run them within one (BeginTx): %w", err)
	}
	return err
}

// fault says of which of several queries an error is.
func (j *job) fault(i int, err error) error {
	if len(j.queries) > 1 {
		return fmt.Errorf("query %d of the batch: %w", i+1, err)
	}
	return err
}
