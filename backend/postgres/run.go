package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

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
	formats any // of the result, as pgx's users ask for them
	traits  traits
	st      *statement // what was remembered of it before
	plan    plan
	eqb     *pgx.ExtendedQueryBuilder
}

// do runs a job, again where it failed in a way that repeating mends and nothing of it was executed. When it returns nil
// the wire is at the first query's result, at its first row if more is true.
func (s *session) do(ctx context.Context, j *job) (more bool, err error) {
	if ctx.Done() == nil {
		ctx = context.Background() // which nobody needs to watch
	}
	st := standing{maxExchanges: int(s.c.be.pool.Config().MaxConns) + 1}
	for {
		c := s.c
		if err := s.usable(j.op); err != nil {
			return false, err
		}
		begin := c.tx
		st.alone, st.inTx, st.used, st.settled = c.idle(), s.inTx, s.used, c.settled
		if more, err = c.attempt(ctx, j, st.alone); err == nil {
			s.used = true
			return more, nil
		}
		f := c.failed(err, ctx.Err() != nil)
		s.used = s.used || !f.closed
		q := j.failing(&c.wire)
		st.byOID, st.role, st.lost = c.unit.kind == prefixOID, c.unit.role != roleNone, c.roleLost
		st.known = q.known(c.unit.rt.Store)
		r := mend(f, st)
		if stale(f.code, st.known) {
			c.forgetStatement(q)
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
	case c.wire.open:
		return &backend.Error{Op: op, Store: c.unit.rt.Store, Err: errBusy}
	case s.used && c.pc.IsClosed(), c.res == nil:
		return &backend.Error{Op: op, Store: c.unit.rt.Store, Err: c.gone()}
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
	case forget:
		st.forgotten++
	case settle:
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
	for text := range c.begins {
		c.begins[text] = doubtful
	}
	c.statements.clear()
}

// failing returns the query that the wire is at, or nil.
func (j *job) failing(w *wire) *query {
	i := w.done - (len(w.steps) - len(j.queries))
	if i < 0 || i >= len(j.queries) {
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

// forgetStatement drops what is remembered of a text in this store.
func (c *conn) forgetStatement(q *query) {
	if q == nil || q.st == nil {
		return
	}
	store := c.unit.rt.Store
	if v := q.st.variants[store]; v != nil {
		c.statements.variants.Remove(v)
	}
	delete(q.st.same, store)
	if q.st.store == store {
		c.statements.remove(c.key(q.sql))
	}
}

// attempt sends a job once. alone says that it is all of its unit of work.
func (c *conn) attempt(ctx context.Context, j *job, alone bool) (more bool, err error) {
	c.wire.steps, c.wire.done = c.wire.steps[:0], 0 // for an error before anything is sent
	if err := c.admit(ctx, j); err != nil {
		return false, err
	}
	if !j.text {
		if err := c.plan(ctx, j, alone); err != nil {
			return false, err
		}
	}
	if err := c.send(ctx, j); err != nil {
		return false, err
	}
	return c.answer(j)
}

// admit is the policy about text: it decides which statements are run where, and notes what they leave behind.
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
		if q.traits == 0 {
			continue
		}
		if err := c.admitQuery(ctx, j, q, i == len(j.queries)-1); err != nil {
			if len(j.queries) > 1 {
				err = fmt.Errorf("query %d of the batch: %w", i+1, err)
			}
			return err
		}
	}
	return nil
}

func (c *conn) admitQuery(ctx context.Context, j *job, q *query, last bool) error {
	t := q.traits
	inTx := !c.idle() || c.tx.begin != ""
	switch {
	case t&chains != 0 && !c.settled:
		return errChain
	case t&ownTx != 0 && (inTx || len(j.queries) > 1), t&ends != 0 && !last:
		return errOwnTx
	case t&holds != 0 && !inTx && c.by.momentary():
		return errLocks
	}
	if t&dooms != 0 {
		c.doomed = true
	}
	if t&taints != 0 {
		c.tainted = true
	}
	if t&defines != 0 {
		c.by.made = append(c.by.made, q.sql)
	}
	if !inTx && c.prefixed() && (t&calls != 0 && !j.text || t&ownTx != 0 && j.text) {
		// Code that may commit: in a message of several that have no transaction around them it could, and what it does
		// next would no longer be bound to the store.
		if err := c.settle(ctx); err != nil {
			if errors.Is(err, errPooled) {
				return fmt.Errorf("CALL, DO and COMMIT may end transactions; behind a pooler run them within one (BeginTx): %w", err)
			}
			return err
		}
	}
	return nil
}

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

// plan decides how each query is sent, and has described what is not known yet: in one round trip for all of them.
func (c *conn) plan(ctx context.Context, j *job, alone bool) error {
	var unknown []*query
	for i := range j.queries {
		q := &j.queries[i]
		q.plan = c.choose(j, q, alone)
		if q.plan.describe {
			unknown = append(unknown, q)
		}
	}
	if len(unknown) > 0 {
		if err := c.describe(ctx, unknown); err != nil {
			return err
		}
	}
	var parsed map[string]bool // under a name of its own, earlier in this message
	for i := range j.queries {
		q := &j.queries[i]
		if q.plan.keep && len(j.queries) > 1 {
			if parsed[q.plan.name] {
				q.plan = plan{name: q.plan.name}
			}
			if parsed == nil {
				parsed = make(map[string]bool)
			}
			parsed[q.plan.name] = true
		}
		if q.eqb = &c.eqb; len(j.queries) > 1 {
			q.eqb = new(pgx.ExtendedQueryBuilder) // all are built before any is sent
		}
		if err := c.encode(q); err != nil {
			if len(j.queries) > 1 {
				err = fmt.Errorf("query %d of the batch: %w", i+1, err)
			}
			return err
		}
	}
	return nil
}

func (c *conn) choose(j *job, q *query, alone bool) plan {
	s := situation{mode: j.mode, store: c.unit.rt.Store, st: q.st, alone: alone}
	if q.st != nil && q.st.store != s.store {
		if s.variant = c.statements.variant(q.st, s.store); s.variant == nil {
			s.admits = c.statements.admits()
			s.plain = q.formats == nil && plainArgs(q.args)
		}
	}
	return choose(s)
}

// encode writes down the values of a query's parameters.
func (c *conn) encode(q *query) error {
	if q.plan.st == nil {
		return q.eqb.Build(c.types, nil, q.args)
	}
	sd := q.plan.st.sd
	if len(sd.ParamOIDs) != len(q.args) {
		return fmt.Errorf("expected %d arguments, got %d", len(sd.ParamOIDs), len(q.args))
	}
	return q.eqb.Build(c.types, sd, q.args)
}

// send sends a job: what binds it to its store, and its queries.
func (c *conn) send(ctx context.Context, j *job) error {
	w := &c.wire
	if err := w.start(ctx); err != nil {
		return err
	}
	if j.text {
		return c.sendText(j.queries)
	}
	for i := range j.queries {
		if q := &j.queries[i]; q.plan.parse {
			c.closeDropped(q.plan.name)
		}
	}
	c.queueAhead(j.queries)
	for i := range j.queries {
		c.queueQuery(j, &j.queries[i])
	}
	c.fe.SendSync(&syncAll)
	return w.flush()
}

// queueAhead queues what the message has to begin with: BEGIN, and the prefix unless what follows must come before it.
func (c *conn) queueAhead(queries []query) {
	w := &c.wire
	c.queueClean()
	if c.tx.begin != "" {
		c.queueBegin(c.tx.begin)
		w.queue(stepBegin)
	}
	if c.prefixed() && !(c.tx.open() && len(queries) == 1 && queries[0].traits&first != 0) {
		c.queuePrefix(c.named())
		w.queue(stepPrefix)
	}
}

// queueQuery queues the messages of one statement.
func (c *conn) queueQuery(j *job, q *query) {
	p := &q.plan
	if p.parse {
		parse := pgproto3.Parse{Name: p.name, Query: q.sql}
		if p.st != nil {
			parse.ParameterOIDs = p.st.sd.ParamOIDs
		}
		c.fe.SendParse(&parse)
	}
	if p.infer {
		c.fe.SendDescribe(&pgproto3.Describe{ObjectType: 'S', Name: p.name})
		c.wire.queue(stepPrepare)
	}
	formats, fields := c.formats(j, q)
	c.statementBind = pgproto3.Bind{
		PreparedStatement: p.name, ParameterFormatCodes: q.eqb.ParamFormats, Parameters: q.eqb.ParamValues, ResultFormatCodes: formats,
	}
	c.fe.SendBind(&c.statementBind)
	// No fields may mean that they were not known then, as with FETCH.
	if !p.infer && (p.parse || len(fields) == 0) {
		c.fe.SendDescribe(&describePortal)
	}
	c.fe.SendExecute(&executeAll)
	c.wire.queue(stepQuery)
	c.wire.size += len(q.sql) + 64
	for _, v := range q.eqb.ParamValues {
		c.wire.size += len(v)
	}
}

// formats returns in which formats the result is asked for, none meaning text, and its columns as far as they are known.
func (c *conn) formats(j *job, q *query) ([]int16, []pgconn.FieldDescription) {
	st := q.plan.st
	switch f := q.formats.(type) {
	case pgx.QueryResultFormats:
		if st != nil && q.plan.binary {
			return f, withFormats(st.sd.Fields, f)
		}
		return f, nil
	case pgx.QueryResultFormatsByOID:
		if st != nil && q.plan.binary {
			formats := make([]int16, len(st.sd.Fields))
			for i := range formats {
				formats[i] = f[st.sd.Fields[i].DataTypeOID]
			}
			return formats, withFormats(st.sd.Fields, formats)
		}
	}
	switch {
	case st == nil || !q.plan.binary:
		return nil, nil
	case j.native:
		return st.nativeFormats, st.nativeFields
	}
	return st.formats, st.fields
}

var (
	executeAll     = pgproto3.Execute{}
	syncAll        = pgproto3.Sync{}
	describePortal = pgproto3.Describe{ObjectType: 'P'}
	emptyBind      = pgproto3.Bind{}
)

// answer reads the answers to what is ours, up to the first query's first row, its end, or its error.
func (c *conn) answer(j *job) (more bool, err error) {
	w := &c.wire
	if err := c.answerAhead(); err != nil {
		c.discard(j)
		return false, err
	}
	if len(j.queries) == 0 {
		w.drain()
		return false, w.err
	}
	if err := c.await(j, 0); err != nil {
		c.discard(j)
		return false, err
	}
	more = w.Next()
	if !more && w.err != nil {
		c.discard(j)
		return false, w.err
	}
	return more, nil
}

// await makes the result of a query the one at hand.
func (c *conn) await(j *job, i int) error {
	w := &c.wire
	w.ended, w.tagLen, w.fields = !w.open, 0, nil
	q := &j.queries[i]
	switch {
	case j.text:
	case q.plan.infer:
		return c.inferred(j, q)
	default:
		_, w.fields = c.formats(j, q)
	}
	return nil
}

// discard sees to it that what an attempt that failed may have left prepared is closed.
func (c *conn) discard(j *job) {
	c.wire.drain()
	for i := range j.queries {
		if p := &j.queries[i].plan; p.keep {
			if q := &j.queries[i]; q.st == nil || q.st.variants[c.unit.rt.Store] == nil {
				c.statements.drop(p.name)
			}
		}
	}
}

// answerAhead reads the answers to what comes ahead of descriptions and queries.
func (c *conn) answerAhead() error {
	w := &c.wire
	for w.at() < stepPrepare && w.done < len(w.steps) {
		at := w.at()
		switch w.receive() {
		case eventRow:
			if at == stepPrefix {
				c.prefixDone(c.named() && !w.text, w.values)
			}
		case eventDone:
			c.ahead(at)
		case eventReady:
			return errorOr(w.err, errNoAnswer)
		}
	}
	return nil
}

// ahead notes that a step ahead of the queries was answered.
func (c *conn) ahead(s step) {
	switch s {
	case stepBegin:
		if !c.wire.text {
			c.begins[c.tx.begin] = isPrepared
		}
		c.tx = txState{unbound: true}
	case stepPrefix:
		c.tx.unbound = false
	}
}

// inferred reads what a statement that was parsed along means in this store.
func (c *conn) inferred(j *job, q *query) error {
	w := &c.wire
	for w.at() == stepPrepare {
		if w.receive() == eventReady {
			return errorOr(w.err, errNoAnswer)
		}
	}
	sd := &pgconn.StatementDescription{Name: q.plan.name, SQL: q.sql, ParamOIDs: w.params, Fields: w.fields}
	if asked, _ := c.formats(j, q); asked != nil {
		w.fields = withFormats(w.fields, asked)
	}
	if sameTypes(sd, q.st.sd) {
		q.st.noteSame(c.unit.rt.Store)
	}
	if q.plan.keep {
		c.statements.putVariant(q.st, c.newStatement(sd, q.traits))
	}
	return nil
}
