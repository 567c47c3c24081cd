package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenement-go/tenement/backend"
)

// job is what one message does for the application: one statement, the queries of a batch, a text of the simple protocol,
// or nothing but to open a transaction.
type job struct {
	op      string // for errors
	mode    pgx.QueryExecMode
	text    bool // the queries are sent as they are, by the simple protocol
	native  bool // for pgx rather than for database/sql
	queries []query
}

// query is one of a job's statements.
type query struct {
	sql     string
	args    []any
	text    string // as it is sent by the simple protocol
	formats any    // of the result, as pgx's users ask for them
	traits  traits
	st      *statement // what was remembered of it before
	varied  bool       // it is known to name something shared
	plan    plan
	eqb     *pgx.ExtendedQueryBuilder
}

// do runs a job, again where it failed in a way that repeating mends and nothing of it was executed. When it returns nil
// the wire is at the first query's result, at its first row if more is true.
func (s *session) do(ctx context.Context, j *job) (more bool, err error) {
	if ctx.Done() == nil {
		ctx = context.Background() // which nobody needs to watch
	}
	if s.used && !s.held {
		s.hold() // a [sql.Conn], of which nothing says so before its second unit of work
	}
	st := standing{maxExchanges: s.c.be.maxConns + 1, replica: s.c.be.replica}
	for {
		c := s.c
		if err := s.usable(j.op); err != nil {
			return false, err
		}
		if c.idle() && st.settles == 0 {
			// It was for one unit of work, which may have been a DISCARD ALL, a RESET or a SET: what comes next is bound anew.
			c.settled = false
		}
		begin, made := c.tx, len(s.made)
		st.alone, st.inTx, st.used = c.idle(), s.inTx, s.used
		if more, err = c.attempt(ctx, j, st.alone); err == nil {
			s.used = true
			return more, nil
		}
		st.settled = c.settled
		f := c.failed(err, ctx.Err() != nil)
		f.unsent = f.unsent || len(j.queries) == 0 // nothing of the application's
		s.used = s.used || !f.closed && !f.unsent
		if !f.closed && c.idle() && !s.inTx && !c.settled {
			s.made = s.made[:made] // undone
		}
		q := j.failing(&c.wire)
		st.byOID, st.role, st.lost = c.unit.kind == prefixOID, c.unit.role != roleNone, c.roleLost
		st.tidying = c.tidying
		st.known = q.known(c.unit.rt.Store)
		r := mend(f, st)
		if stale(f.code, st.known) {
			c.forgetStatement(q, f.code)
		}
		if r == giveUp || r == missing || r == norole {
			return false, s.refusal(r, j.op, err)
		}
		if err := s.apply(ctx, r, j, &st, begin, err); err != nil {
			return false, err
		}
	}
}

// usable refuses what the session cannot do any more.
func (s *session) usable(op string) error {
	c := s.c
	switch {
	case c.wire.busy():
		return &backend.Error{Op: op, Store: c.unit.rt.Store, Err: errBusy}
	case s.used && c.pc.IsClosed(), !c.lent:
		return &backend.Error{Op: op, Store: c.unit.rt.Store, Err: c.gone()}
	case s.over() && op != "ping":
		s.late = true
		return &backend.Error{Op: op, Store: c.unit.rt.Store, Err: errOver}
	case c.idle() && c.be.closed.Load():
		return &backend.Error{Op: op, Store: c.unit.rt.Store, Err: backend.ErrClosed}
	}
	return nil
}

// gone is the error of a connection that was lost.
func (c *conn) gone() error {
	err := fmt.Errorf("the session on the server is gone: %w", pgconn.ErrConnClosed)
	if c.wire.err != nil {
		err = fmt.Errorf("%w; it ended with: %w", err, c.wire.err)
	}
	return err
}

// refusal is the error of what cannot be mended.
func (s *session) refusal(r remedy, op string, err error) error {
	rt := s.c.unit.rt
	switch r {
	case missing:
		s.c.be.forget(rt)
		return &backend.Error{Op: "use", Store: rt.Store, Err: backend.ErrStoreMissing}
	case norole:
		var pe *pgconn.PgError
		if errors.As(err, &pe) {
			if fault := s.c.roleFault(pe); fault != nil {
				return fault
			}
		}
	}
	return s.fault(op, err)
}

// apply does what mend decided on, so that the job can be tried again. begin is the transaction as it was before.
func (s *session) apply(ctx context.Context, r remedy, j *job, st *standing, begin txState, cause error) error {
	c := s.c
	if r == exchange {
		st.exchanged++
		return s.exchange(ctx, begin, cause)
	}
	if !c.idle() { // it failed in the transaction that it began
		if err := c.rollback(ctx); err != nil {
			return s.fault(j.op, cause)
		}
	}
	c.tx = begin
	switch r {
	case distrust:
		st.distrusted++
		c.distrust()
	case reidentify:
		st.reidentified++
		c.be.forget(c.unit.rt)
		c.identify()
	case loserole:
		c.loseRole()
	case cleanfirst:
		c.untidy = true
	case forget:
		st.forgotten++
	case settle:
		st.settles++
		if err := c.settle(ctx); err != nil {
			return s.settleFault(err, cause)
		}
	}
	return nil
}

// distrust forgets what is prepared on the server: it is closed and prepared again where it is needed.
func (c *conn) distrust() {
	for r := range c.prefixes {
		for k := range c.prefixes[r] {
			if c.prefixes[r][k] == isPrepared {
				c.prefixes[r][k] = doubtful
			}
		}
	}
	c.distrustChecks()
	for _, o := range c.own {
		o.state = doubtful
	}
	c.statements.clear()
}

// failing returns the query that the wire is at, or nil.
func (j *job) failing(w *wire) *query {
	if at := w.at(); at != stepPrepare && at != stepQuery {
		return nil
	}
	i := 0
	for _, s := range w.steps[:min(w.done, len(w.steps))] {
		if s == stepQuery {
			i++
		}
	}
	if i >= len(j.queries) {
		return nil
	}
	return &j.queries[i]
}

// known tells by what a query was run.
func (q *query) known(store backend.Store) knowledge {
	switch {
	case q == nil, q.st == nil, q.plan.st == nil:
		return knownNot
	case q.plan.st.store == store:
		return knownHere
	}
	return knownElsewhere
}

// forgetStatement drops what is remembered of a text in this store, after it failed.
func (c *conn) forgetStatement(q *query, code string) {
	if q == nil || q.st == nil {
		return
	}
	store := c.unit.rt.Store
	if code == codeStalePlan && c.be.pooled.Load() {
		c.be.stalePlans.add(q.sql, store)
	}
	if v := q.st.variants[store]; v != nil {
		c.statements.variants.Remove(v)
	}
	q.st.same.remove(store)
	if q.st.store == store {
		c.statements.remove(c.key(q.sql))
	}
}

// attempt sends a job once. alone says that it is all of its unit of work.
func (c *conn) attempt(ctx context.Context, j *job, alone bool) (more bool, err error) {
	c.wire.steps, c.wire.done = c.wire.steps[:0], 0 // for an error before anything is sent
	if j.text {
		if err := c.quote(ctx, j); err != nil {
			return false, err
		}
	}
	if err := c.admit(ctx, j); err != nil {
		return false, err
	}
	if j.text {
		c.see("", false) // such texts often have their values in them, and are another each time
	} else if err := c.plan(ctx, j, alone); err != nil {
		return false, err
	}
	if err := c.send(ctx, j); err != nil {
		return false, err
	}
	return c.answer(j)
}
