package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
)

// stage says how far a unit of work got before it failed.
type stage uint8

const (
	stagePrefix    stage = iota // the prefix had not been answered: nothing after it ran
	stageStatement              // the statement itself, before its first row
)

// query is run for what returns rows, which end its trace.
func (s *session) query(ctx context.Context, query string, args []any, native bool) (cur cursor, more bool, err error) {
	if s.c.be.tracer == nil {
		return s.run(ctx, query, args, native)
	}
	ctx = s.trace(ctx, query, args)
	if cur, more, err = s.run(ctx, query, args, native); err != nil {
		s.endTrace(pgconn.CommandTag{}, err)
	}
	return cur, more, err
}

// run runs a statement and reads ahead to its first row. The cursor is open when err is nil.
func (s *session) run(ctx context.Context, query string, args []any, native bool) (cur cursor, more bool, err error) {
	mode, formats, query, args, err := s.options(ctx, query, args)
	if err != nil {
		return nil, false, err
	}
	cur, err = s.retrying(ctx, query, func(c *conn) (cursor, stage, error) {
		var (
			cur cursor
			st  stage
			err error
		)
		if mode == pgx.QueryExecModeSimpleProtocol {
			cur, more, st, err = c.simple(ctx, query, args)
		} else {
			cur, more, st, err = c.extended(ctx, mode, query, args, formats, native)
		}
		return cur, st, err
	})
	return cur, more, err
}

// options takes off the leading arguments that are directions to pgx rather than values.
func (s *session) options(ctx context.Context, query string, args []any) (mode pgx.QueryExecMode, formats any, _ string, _ []any, err error) {
	mode = s.c.be.mode
	for len(args) > 0 {
		switch o := args[0].(type) {
		case pgx.QueryExecMode:
			mode, args = o, args[1:]
			if mode == pgx.QueryExecModeSimpleProtocol && s.c.be.mode != mode {
				// Quoting values into the text is pgx's business, and only reachable where it is the connection's mode.
				// This one differs in nothing else that a statement with arguments could tell.
				mode = pgx.QueryExecModeExec
			}
		case pgx.QueryResultFormats, pgx.QueryResultFormatsByOID:
			formats, args = o, args[1:]
		case pgx.QueryRewriter:
			query, args, err = o.RewriteQuery(ctx, s.c.pg, query, args[1:])
			if err != nil {
				return 0, nil, "", nil, fmt.Errorf("rewrite query failed: %w", err)
			}
			return mode, formats, query, args, nil
		default:
			return mode, formats, query, args, nil
		}
	}
	return mode, formats, query, args, nil
}

// maxSwaps bounds how many broken connections one statement gets to see.
const maxSwaps = 4

// retrying runs attempt, again where it failed in a way that repeating it mends and nothing of it was executed. In a
// transaction nothing is repeated.
func (s *session) retrying(ctx context.Context, query string, attempt func(*conn) (cursor, stage, error)) (cursor, error) {
	if s.c.settled && s.c.idle() {
		// It was for one statement, which may have been a DISCARD ALL, and a RESET would undo it.
		s.c.settled = false
	}
	var swaps int
	var prefixAgain, identityAgain bool
	var statementAgain int
	for {
		c := s.c
		if c.wire.open {
			return nil, s.busyError("query")
		}
		if err := ctx.Err(); err != nil {
			return nil, s.fault("query", err)
		}
		alone := c.idle()
		if alone && c.be.closed.Load() {
			return nil, &backend.Error{Op: "query", Store: c.unit.rt.Store, Err: backend.ErrClosed}
		}
		cur, at, err := attempt(c)
		if err == nil {
			return cur, nil
		}
		if !alone {
			return nil, s.fault("query", err)
		}
		var pe *pgconn.PgError
		errors.As(err, &pe)
		switch {
		case ctx.Err() != nil:
		case c.pc.IsClosed() && swaps < maxSwaps && !c.settled && neverRan(at, err, pe):
			swaps++
			if swapErr := s.swap(ctx); swapErr != nil {
				return nil, errors.Join(s.fault("query", err), swapErr)
			}
			continue
		case pe == nil:
		case at == stagePrefix && (pe.Code == "26000" || pe.Code == "42P05") && !prefixAgain:
			// Someone else who uses the connection (DISCARD ALL) took the prepared prefix away, or left one.
			prefixAgain = true
			c.distrust()
			continue
		case at == stagePrefix && c.unit.kind == prefixOID && refusedByPrefix(err) && !identityAgain:
			// Not the schema that it was: moved by a rename or a restore, or gone. The stamp decides.
			identityAgain = true
			c.be.forget(c.unit.rt)
			c.identify()
			continue
		case at == stagePrefix && refusedByPrefix(err):
			return nil, s.missing()
		case at == stagePrefix && lostRole(pe) && !c.roleLost:
			c.loseRole()
			continue
		case at == stagePrefix && c.roleFault(pe) != nil:
			return nil, c.roleFault(pe)
		case at != stagePrefix && !c.settled && (pe.Code == "25001" || pe.Code == "2D000"):
			// CREATE INDEX CONCURRENTLY, VACUUM, a procedure that commits.
			if err := c.settle(ctx); err != nil {
				return nil, s.settleFault(err, pe)
			}
			continue
		case at != stagePrefix && statementAgain < 2 && c.restate(query, pe.Code):
			statementAgain++
			continue
		}
		return nil, s.fault("query", err)
	}
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
	for sql := range c.statements.m {
		c.statements.remove(sql)
	}
}

// neverRan reports whether a connection that broke did so before the server executed anything of the unit of work.
func neverRan(at stage, err error, pe *pgconn.PgError) bool {
	if pgconn.SafeToRetry(err) {
		return true
	}
	if at == stageStatement || pe == nil {
		return false
	}
	// The server said good-bye (57P01: shut down, 57P02: crash, 57P03: cannot serve now) instead of answering the prefix.
	// Its answers are sent in order, so the prefix had not been executed.
	return len(pe.Code) == 5 && pe.Code[:3] == "57P" && (pe.SeverityUnlocalized == "FATAL" || pe.Severity == "FATAL")
}

// swap exchanges a broken connection for another.
func (s *session) swap(ctx context.Context) error {
	old := s.c
	rt, access := old.unit.rt, old.unit.access
	// The session stays where it is, in the broken connection's memory, which nobody else will use.
	old.be.lastBreak.Store(time.Now().UnixNano())
	fresh, err := old.be.take(ctx, rt, access)
	if err != nil {
		return err
	}
	old.res.Release()
	s.c = fresh
	return nil
}

// restate decides whether a statement that failed would do better when it is parsed again: because the shape of its
// result (0A000) or the types of its parameters are not, in this store, what they were where it was prepared.
func (c *conn) restate(query, code string) bool {
	set := &c.statements
	st := set.get(query)
	if st == nil {
		set = &c.described
		st = set.get(query)
	}
	if st == nil {
		return false
	}
	mine := st.store == c.unit.rt.Store
	if v := st.variants[c.unit.rt.Store]; v != nil {
		switch {
		case code == "0A000", code == "26000", code == "08P01", code[:2] == "42" && code != "42501":
			c.statements.removeVariant(v)
			return code[:2] != "42"
		}
		return false
	}
	switch {
	case code == "0A000" && !mine && !st.varied:
		st.varied = true
		return true
	case code == "26000", code == "08P01", code == "0A000", code[:2] == "42" && code != "42501":
		// As pgx does, do not trust what is remembered of a statement that failed.
		again := !mine || code[:2] != "42"
		set.remove(query)
		return again
	}
	return false
}

// extended runs a statement by the extended protocol.
func (c *conn) extended(ctx context.Context, mode pgx.QueryExecMode, query string, args []any, formats any, native bool) (cur cursor, more bool, at stage, err error) {
	var (
		prefixed = c.prefixed()
		st       *statement
	)
	ctx = watched(ctx)
	capacity := 0
	set := &c.described
	switch mode {
	case pgx.QueryExecModeCacheStatement:
		set, capacity = &c.statements, c.be.statementCapacity
	case pgx.QueryExecModeCacheDescribe:
		capacity = c.be.descriptionCapacity
	case pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec:
	default:
		return nil, false, stageStatement, fmt.Errorf("unknown query exec mode %d", mode)
	}
	var t traits
	if mode != pgx.QueryExecModeExec {
		if capacity > 0 {
			st = set.get(query)
		}
		if !prefixed && c.foreign(st) {
			// Outside a transaction a failure for this reason is mended by restate; here it would end the transaction.
			set.remove(query)
			st = nil
		}
		if st == nil {
			st, at, err = c.prepare(ctx, query, mode == pgx.QueryExecModeCacheStatement && capacity > 0, prefixed)
			if err != nil {
				return nil, false, at, err
			}
			if capacity > 0 {
				set.put(query, st, capacity)
			}
		}
		if len(st.sd.ParamOIDs) != len(args) {
			return nil, false, stageStatement, fmt.Errorf("expected %d arguments, got %d", len(st.sd.ParamOIDs), len(args))
		}
		t = st.traits
		err = c.eqb.Build(c.types, st.sd, args)
	} else {
		t = classify(query)
		err = c.eqb.Build(c.types, nil, args)
	}
	if err != nil {
		return nil, false, stageStatement, err
	}
	if t&sticky != 0 {
		c.doomed = true
	}
	if t&chains != 0 && !c.settled {
		return nil, false, stageStatement, errChain
	}
	if t&calls != 0 && prefixed {
		if at, err := c.settleCall(ctx); err != nil {
			return nil, false, at, err
		}
		prefixed = false
	}

	if err := c.ready(ctx); err != nil {
		return nil, false, stagePrefix, &notSent{err}
	}
	inTx := !c.idle()
	named := false
	if len(c.statements.drop) > 0 {
		c.closeDropped()
	}
	if prefixed {
		named = c.named()
		c.queuePrefix(named)
	}
	w := &c.wire
	var (
		fields []pgconn.FieldDescription
		making string // the name of a variant that is being made
	)
	c.ran = nil
	elsewhere := false // it was prepared for another store
	if st != nil && st.sd.Name != "" && st.store != c.unit.rt.Store && !st.varied {
		if v := c.statements.variant(st, c.unit.rt.Store); v != nil {
			st = v
		} else if c.be.cfg.TenantStatements > 0 && (st.traits&star == 0 || !inTx) {
			making = variantName(query, c.unit.rt.Store)
			c.queueShared(query)
		} else {
			elsewhere = true
		}
	}
	switch {
	case st == nil:
		c.sendStatement(query, nil, true, "", c.eqb.ResultFormats)
	case elsewhere, st.varied, st.traits&star != 0 && inTx:
		// Parsed anew. In a transaction a failure could not be mended, so there it is not even risked.
		c.sendStatement(query, st, true, "", nil)
	case making != "":
		c.sendStatement(query, st, true, making, nil)
	case formats != nil:
		asked := c.asked(st, formats)
		c.sendStatement(query, st, false, "", asked)
		fields = withFormats(st.sd.Fields, asked)
	case native:
		c.sendStatement(query, st, false, "", st.nativeFormats)
		fields = st.nativeFields
		c.ran = st
	default:
		c.sendStatement(query, st, false, "", st.formats)
		fields = st.fields
	}
	if err := w.flush(ctx); err != nil {
		return nil, false, stagePrefix, err
	}
	shared := false
	if making != "" {
		defer func() { c.made(st, making, shared, err) }()
	}
	if prefixed {
		if err := c.answerPrefix(named); err != nil {
			return nil, false, stagePrefix, err
		}
	}
	if making != "" {
		if shared, err = c.answerShared(); err != nil {
			return nil, false, stageStatement, err
		}
	}
	if fields != nil {
		w.fields = fields
	}
	more = w.Next()
	if !more && w.err != nil {
		return nil, false, stageStatement, w.err
	}
	return w, more, 0, nil
}

// made keeps a variant of st that was parsed along with its first execution, or sees to it that it is closed.
func (c *conn) made(st *statement, name string, shared bool, err error) {
	if shared && c.unit.access != driver.AccessShared {
		st.varied = true
	}
	if err != nil || st.varied {
		c.statements.drop = append(c.statements.drop, name)
		return
	}
	sd := *st.sd
	sd.Name, sd.Fields = name, c.wire.fields
	c.statements.putVariant(st, c.newStatement(&sd, st.traits), c.be.cfg.TenantStatements)
}

// asked returns the result formats that the caller asked for.
func (c *conn) asked(st *statement, formats any) []int16 {
	switch f := formats.(type) {
	case pgx.QueryResultFormats:
		return f
	case pgx.QueryResultFormatsByOID:
		formats := make([]int16, len(st.sd.Fields))
		for i := range formats {
			formats[i] = f[st.sd.Fields[i].DataTypeOID]
		}
		return formats
	}
	return nil
}

// simple runs a statement by the simple protocol, its arguments quoted into the text by pgx.
func (c *conn) simple(ctx context.Context, query string, args []any) (cur cursor, more bool, at stage, err error) {
	t := classify(query)
	if t&sticky != 0 {
		c.doomed = true
	}
	if t&ownTx != 0 && !c.settled {
		return nil, false, stageStatement, errOwnTx
	}
	if t&chains != 0 && !c.settled {
		return nil, false, stageStatement, errChain
	}
	if !c.prefixed() {
		rows, err := c.pg.Query(ctx, query, args...)
		if err != nil {
			return nil, false, stageStatement, err
		}
		more = rows.Next()
		if err := rows.Err(); !more && err != nil {
			return nil, false, stageStatement, err
		}
		return rows, more, 0, nil
	}
	u := &c.unit
	var b pgx.Batch
	values := make([]any, 0, 4)
	for _, p := range c.params() {
		values = append(values, string(p))
	}
	b.Queue(prefixSQL[u.role][u.kind], values...)
	b.Queue(query, args...)
	br := c.pg.SendBatch(ctx, &b)
	prefix, err := br.Query()
	if err == nil && prefix.Next() {
		c.prefixDone(false, prefix.RawValues())
	}
	prefix.Close()
	if err = errors.Join(err, prefix.Err()); err != nil {
		_ = br.Close()
		return nil, false, stagePrefix, err
	}
	rows, err := br.Query()
	if err != nil {
		_ = br.Close()
		return nil, false, stageStatement, err
	}
	more = rows.Next()
	if !more {
		if err := errors.Join(rows.Err(), br.Close()); err != nil {
			return nil, false, stageStatement, err
		}
	}
	return &batchRows{Rows: rows, br: br}, more, 0, nil
}

// batchRows is the one result of a batch that anyone wants.
type batchRows struct {
	pgx.Rows
	br  pgx.BatchResults
	err error
}

func (r *batchRows) Next() bool {
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

func (r *batchRows) Close() {
	r.Rows.Close()
	if err := r.br.Close(); r.err == nil {
		r.err = err
	}
}

func (r *batchRows) Err() error {
	if err := r.Rows.Err(); err != nil {
		return err
	}
	return r.err
}

// text runs one or more statements without arguments by the simple protocol. The cursor is at the last result.
func (c *conn) text(ctx context.Context, query string) (cursor, stage, error) {
	t := classify(query)
	if t&sticky != 0 {
		c.doomed = true
	}
	prefixed := c.prefixed()
	if t&ownTx != 0 && !c.idle() {
		return nil, stageStatement, errOwnTx
	}
	if prefixed && t&ownTx != 0 {
		if err := c.settle(ctx); err != nil {
			return nil, stagePrefix, err
		}
		prefixed = false
	}
	if t&chains != 0 && !c.settled {
		return nil, stageStatement, errChain
	}
	message := query
	var shift int
	if prefixed {
		prefix := c.prefixText("true")
		shift = len(prefix)
		message = prefix + query
	}
	results, err := c.sendText(watched(ctx), message, prefixed)
	if err != nil {
		at := stageStatement
		if prefixed && results == 0 {
			at = stagePrefix
		}
		return nil, at, moved(err, shift)
	}
	return &c.wire, 0, nil
}

// errOwnTx: what comes after the COMMIT or ROLLBACK would no longer be bound to the store.
var errOwnTx = errors.New("text of several statements cannot end the transaction that it runs in; " +
	"send what comes after COMMIT or ROLLBACK by itself")

// errChain: the transaction that AND CHAIN begins would not be bound to the store.
var errChain = errors.New("AND CHAIN begins a transaction that belongs to no tenant; end this one and begin another")

// settleCall is settle for code that may commit. In a message of several that have no transaction around them it could,
// and what it does next would no longer be bound to the store.
func (c *conn) settleCall(ctx context.Context) (stage, error) {
	err := c.settle(ctx)
	switch {
	case errors.Is(err, errPooled):
		return stageStatement, fmt.Errorf("CALL and DO may end transactions; behind a pooler run them within one (BeginTx): %w", err)
	case err != nil:
		return stagePrefix, err
	}
	return 0, nil
}

// moved puts the position that a database error gives back to where it is in the caller's text.
func moved(err error, shift int) error {
	var pe *pgconn.PgError
	if errors.As(err, &pe) && int(pe.Position) > shift {
		pe.Position -= int32(shift)
	}
	return err
}

// begin opens a transaction with the given text, bound to the store, in one round trip. BEGIN goes first: it could not
// set an isolation level after a query.
func (s *session) begin(ctx context.Context, text string) error {
	if !s.c.idle() {
		return &backend.Error{Op: "begin", Store: s.c.unit.rt.Store, Err: errors.New("a transaction is already open on this connection")}
	}
	_, err := s.retrying(ctx, text, func(c *conn) (cursor, stage, error) {
		err := c.begin(watched(ctx), text)
		if err != nil && !c.idle() && !c.pc.IsClosed() {
			// The prefix failed inside the transaction.
			if s.rollback(ctx) != nil {
				c.close()
			}
		}
		return nil, stagePrefix, err
	})
	if err == nil {
		s.inTx = true
	}
	return err
}

func (c *conn) begin(ctx context.Context, text string) error {
	if c.settled || c.be.mode == pgx.QueryExecModeSimpleProtocol {
		if !c.settled {
			text += ";" + c.prefixText("true")
		}
		if err := c.ready(ctx); err != nil {
			return &notSent{err}
		}
		c.fe.SendQuery(&pgproto3.Query{String: text})
	} else {
		if err := c.ready(ctx); err != nil {
			return &notSent{err}
		}
		// The prefix is unnamed where statements may have no names, so it comes last.
		c.fe.SendParse(&pgproto3.Parse{Query: text})
		c.fe.SendBind(&emptyBind)
		c.fe.SendExecute(&executeAll)
		c.queuePrefix(c.named())
		c.fe.SendSync(&syncAll)
	}
	w := &c.wire
	if err := w.flush(ctx); err != nil {
		return err
	}
	for w.open {
		if w.receive() == eventRow {
			c.prefixDone(c.named(), w.values)
		}
	}
	return w.err
}

var emptyBind pgproto3.Bind

// settle binds the whole server session to the store, for what cannot run in the transaction that the prefix needs.
// The connection is closed afterwards. Behind a pooler, which would run the next statement on whichever server
// connection is free, it changes nothing and returns errPooled.
func (c *conn) settle(ctx context.Context) error {
	u := &c.unit
	c.doomed = true
	// A pooler makes up its own process numbers.
	pooled := fmt.Sprintf("(pg_catalog.pg_backend_pid() operator(pg_catalog.<>) %d)", c.pc.PID())
	// The share of the store that the prefix takes ends with this message. The one that follows it lasts as long as the
	// connection.
	message := c.prefixText(pooled) + fmt.Sprintf("select pg_catalog.pg_backend_pid() operator(pg_catalog.=) %d;", c.pc.PID())
	if u.kind != prefixShared {
		message += fmt.Sprintf("select case when pg_catalog.pg_backend_pid() operator(pg_catalog.=) %d "+
			"then pg_catalog.pg_advisory_lock_shared(%s,%s) end", c.pc.PID(), storeSpace, u.key)
	}
	mrr := c.pc.Exec(watched(ctx), message)
	direct := false
	for i := 0; mrr.NextResult(); i++ {
		rr := mrr.ResultReader()
		if rr.NextRow() {
			switch i {
			case 0:
				if u.kind != prefixShared {
					c.prefixDone(false, rr.Values())
				}
			case 1:
				direct = string(rr.Values()[0]) == "t"
			}
		}
		_, _ = rr.Close()
	}
	if err := mrr.Close(); err != nil {
		return err
	}
	if !direct {
		return errPooled
	}
	c.settled = true
	return nil
}

var errPooled = errors.New("it cannot run in a transaction, and a pooler stands between us and the server; " +
	"run it over a direct connection to the database")

// settleFault explains why a statement that needs a session of its own did not get one.
func (s *session) settleFault(err error, cause *pgconn.PgError) error {
	switch {
	case errors.Is(err, errPooled):
		return &backend.Error{Op: "exec", Store: s.c.unit.rt.Store, Err: fmt.Errorf("%w: %w", cause, err)}
	case refusedByPrefix(err):
		return s.missing()
	}
	return s.fault("exec", err)
}
