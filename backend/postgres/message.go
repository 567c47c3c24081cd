package postgres

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/tenement-go/tenement/backend/driver"
)

// plan decides how each query is sent, and has described what is not known yet: in one round trip for all of them.
func (c *conn) plan(ctx context.Context, j *job, alone bool) error {
	var unknown []*query
	for i := range j.queries {
		q := &j.queries[i]
		q.plan = c.choose(ctx, j, q, alone)
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
		if q.plan.parse && q.plan.name != "" && len(j.queries) > 1 {
			if parsed[q.plan.name] {
				q.plan.parse, q.plan.keep, q.plan.infer = false, false, false
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
			return j.fault(i, err)
		}
	}
	return nil
}

func (c *conn) choose(ctx context.Context, j *job, q *query, alone bool) plan {
	s := situation{mode: j.mode, store: c.unit.rt.Store, st: q.st, alone: alone, pooled: c.be.pooled.Load()}
	s.stale = s.pooled && c.be.stalePlans.has(q.sql, s.store)
	if q.st != nil && q.st.store != s.store {
		if s.variant = c.statements.variant(q.st, s.store); s.variant == nil {
			s.admits = c.statements.admits()
			s.plain = q.formats == nil && plainArgs(q.args)
		}
	}
	p := choose(s)
	if !p.binary && !p.describe && s.mode != pgx.QueryExecModeExec && !c.readsText() && !driver.IsOwn(ctx) {
		p = plan{describe: true}
	}
	c.see(q.sql, !p.describe && !p.parse && p.st.store == s.store)
	return p
}

// readsText reports whether values that come as text are what they are, and in a form that pgx reads. Where somebody has
// set it otherwise a statement is described once more, since pgx alone, which knows the columns, would not have noticed.
// (Exec and simple_protocol are modes in which pgx has all of them come as text, too; and the library's own statements set
// what they read by.)
func (c *conn) readsText() bool {
	dates, intervals := c.pc.ParameterStatus("DateStyle"), c.pc.ParameterStatus("IntervalStyle") // poolers may not pass them on
	return !c.be.otherText && (dates == "" || strings.HasPrefix(dates, "ISO")) && (intervals == "" || intervals == "postgres")
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
	w.job = j
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
	c.queueCheckBehind(j.queries)
	c.fe.SendSync(&syncAll)
	return w.flush()
}

// queueAhead queues what the message has to begin with: BEGIN, and the prefix unless what follows must come before it.
func (c *conn) queueAhead(queries []query) {
	w := &c.wire
	prefix := c.prefixed() && !c.putsOff(queries)
	if prefix && c.tidies() {
		c.queueTidy()
	} else {
		c.queueClean()
	}
	if c.tx.begin != "" {
		c.queueOwn(c.tx.begin)
		w.queue(stepBegin)
	}
	switch {
	case !c.prefixed():
		c.queueCheckAhead()
	case prefix:
		c.queuePrefix(c.named())
		w.queue(stepPrefix)
	}
}

// putsOff reports whether what follows must come before the prefix.
func (c *conn) putsOff(queries []query) bool {
	return c.tx.open() && len(queries) == 1 && queries[0].traits&first != 0
}

// queueQuery queues the messages of one statement.
func (c *conn) queueQuery(j *job, q *query) {
	p := &q.plan
	if p.parse {
		parse := pgproto3.Parse{Name: p.name, Query: c.pooledText(p.name, q.sql)}
		if p.st != nil {
			parse.ParameterOIDs = p.st.sd.ParamOIDs
			p.st.unparsed = p.st.unparsed && p.name != p.st.sd.Name
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
	if c.unit.checked() && len(j.queries) == 1 {
		w.hold()
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
		switch w.receive() {
		case eventRow:
			if w.at() == stepPrefix {
				c.prefixDone(c.named() && !w.text, w.values)
			}
		case eventDone:
			c.ahead(w.steps[w.done-1]) // not what was awaited: a cleaning ends without an event
		case eventReady:
			return cmp.Or(w.err, errNoAnswer)
		}
	}
	return nil
}

// ahead notes that a step ahead of the queries was answered.
func (c *conn) ahead(s step) {
	switch s {
	case stepBegin:
		c.ownDone(c.tx.begin)
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
			return cmp.Or(w.err, errNoAnswer)
		}
	}
	sd := &pgconn.StatementDescription{Name: q.plan.name, SQL: q.sql, ParamOIDs: w.params, Fields: w.fields}
	if asked, _ := c.formats(j, q); asked != nil {
		w.fields = withFormats(w.fields, asked)
	}
	if sameTypes(sd, q.st.sd) {
		q.st.same.add(c.unit.rt.Store)
	}
	if q.plan.keep {
		c.statements.putVariant(q.st, c.newStatement(sd, q.traits))
	}
	return nil
}
