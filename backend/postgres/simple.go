package postgres

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/sqltext"
)

// sendText sends queries as one text of the simple protocol, what binds them to their store ahead of them.
func (c *conn) sendText(queries []query) error {
	w := &c.wire
	w.text = true
	c.queueClean()
	var ahead string
	if c.tx.begin != "" {
		ahead = c.tx.begin + ";"
		w.queue(stepBegin)
	}
	if c.prefixed() && !(c.tx.open() && len(queries) == 1 && queries[0].traits&first != 0) {
		ahead += c.prefixText("true")
		w.queue(stepPrefix)
	}
	var message string
	w.starts = w.starts[:0]
	if ahead == "" && len(queries) == 1 {
		message = queries[0].sql
		w.starts = append(w.starts, 0)
	} else {
		var b strings.Builder
		b.WriteString(ahead)
		for i := range queries {
			if i > 0 {
				b.WriteString("\n;") // the newline ends a comment
			}
			w.starts = append(w.starts, b.Len())
			b.WriteString(queries[i].sql)
		}
		message = b.String()
	}
	for range queries {
		w.queue(stepQuery)
	}
	w.message = message
	c.fe.SendQuery(&pgproto3.Query{String: message})
	return w.flush()
}

// moved puts the position that an error gives, in characters of the whole message, back to where it is in the text of the
// application's that it belongs to.
func (w *wire) moved(pe *pgconn.PgError) {
	if pe.Position <= 0 || len(w.starts) == 0 {
		return
	}
	offset := sqltext.Offset(w.message, int(pe.Position)-1)
	start := -1
	for _, s := range w.starts {
		if s <= offset {
			start = s
		}
	}
	if start < 0 { // in what is ours
		pe.Position = 0
		return
	}
	pe.Position -= int32(sqltext.Characters(w.message, start))
}

// texts runs statements of our own by the simple protocol, and shows their rows.
func (c *conn) texts(ctx context.Context, text string, row func(result int, values [][]byte)) error {
	if ctx.Done() == nil {
		ctx = context.Background()
	}
	w := &c.wire
	if err := w.start(ctx); err != nil {
		return err
	}
	w.text, w.starts = true, w.starts[:0]
	c.queueClean()
	w.queue(stepOurs)
	c.fe.SendQuery(&pgproto3.Query{String: text})
	if err := w.flush(); err != nil {
		return err
	}
	for result := 0; w.open; {
		switch w.receive() {
		case eventRow:
			if row != nil {
				row(result, w.values)
			}
		case eventDone:
			result++
		}
	}
	return w.err
}

// commands is texts for statements whose rows nobody wants: done is called when one is complete. It returns how many were.
func (c *conn) commands(ctx context.Context, text string, done func()) (results int, err error) {
	w := &c.wire
	if err := w.start(ctx); err != nil {
		return 0, err
	}
	w.text, w.starts = true, w.starts[:0]
	c.queueClean()
	c.fe.SendQuery(&pgproto3.Query{String: text})
	if err := w.flush(); err != nil {
		return 0, err
	}
	for w.open {
		if w.receive() == eventDone {
			results++
			done()
		}
	}
	return results, w.err
}

// quoteArgs writes the arguments of a query into its text, for servers and poolers that only take the simple protocol.
func (c *conn) quoteArgs(sql string, args []any) (string, error) {
	if len(args) == 0 {
		return sql, nil
	}
	if c.pc.ParameterStatus("standard_conforming_strings") != "on" || c.pc.ParameterStatus("client_encoding") != "UTF8" {
		return "", errors.New("the simple protocol needs standard_conforming_strings=on and client_encoding=UTF8")
	}
	if err := c.eqb.Build(c.types, nil, args); err != nil {
		return "", err
	}
	var (
		b    strings.Builder
		used = make([]bool, len(args))
		s    = sqltext.New(sqltext.Postgres, sql)
	)
	for {
		t := s.Scan()
		switch t.Kind {
		case sqltext.End:
			for i := range used {
				if !used[i] {
					return "", fmt.Errorf("unused argument: %d", i)
				}
			}
			return b.String(), nil
		case sqltext.Param:
			n := 0
			if _, err := fmt.Sscanf(s.Text(t), "$%d", &n); err != nil || n < 1 || n > len(args) {
				return "", fmt.Errorf("insufficient arguments: there is none for %s", s.Text(t))
			}
			used[n-1] = true
			if err := writeValue(&b, args[n-1], c.eqb.ParamValues[n-1]); err != nil {
				return "", err
			}
		default:
			b.WriteString(s.Text(t))
		}
	}
}

// writeValue writes a value that is encoded as text: a Go number as a number, anything else as a string. Parentheses keep
// a sign from making a comment of what comes before it.
func writeValue(b *strings.Builder, arg any, text []byte) error {
	switch {
	case text == nil:
		b.WriteString(" null ")
		return nil
	case strings.IndexByte(string(text), 0) >= 0:
		return errors.New("a text of the simple protocol cannot contain a NUL")
	}
	switch v := reflect.ValueOf(arg); {
	case v.CanInt(), v.CanUint(), v.Kind() == reflect.Bool:
		if _, custom := arg.(fmt.Stringer); !custom && v.Type().PkgPath() == "" {
			b.WriteString(" (" + string(text) + ") ")
			return nil
		}
	case v.CanFloat() && v.Type().PkgPath() == "":
		b.WriteString(" ('" + string(text) + "'::float8) ")
		return nil
	}
	b.WriteByte(' ')
	writeLiteral(b, string(text))
	b.WriteByte(' ')
	return nil
}

// settle binds the whole server session to the store, for what cannot run in the transaction that the prefix needs.
// The connection is closed afterwards. Behind a pooler, which would run the next statement on whichever server
// connection is free, it changes nothing and returns errPooled.
func (c *conn) settle(ctx context.Context) error {
	u := &c.unit
	c.doomed = true
	// A pooler makes up its own process numbers.
	direct := fmt.Sprintf("(pg_catalog.pg_backend_pid() operator(pg_catalog.=) %d)", c.pc.PID())
	// The share of the store that the prefix takes ends with this message. The one that follows it lasts as long as the
	// connection.
	message := c.prefixText("(not "+direct+")") + "select " + direct + ";"
	if u.readOnly() {
		message = "set default_transaction_read_only=on;" + message
	}
	if u.kind != prefixShared {
		message += fmt.Sprintf("select case when %s then pg_catalog.pg_advisory_lock_shared(%s,%s) end", direct, storeSpace, u.key)
	}
	is := false
	err := c.texts(ctx, message, func(result int, values [][]byte) {
		switch result {
		case 0:
			c.prefixDone(false, values)
		case 1:
			is = string(values[0]) == "t"
		}
	})
	switch {
	case err != nil:
		return err
	case !is:
		return errPooled
	}
	c.settled = true
	return nil
}

var errPooled = errors.New("it cannot run in a transaction, and a pooler stands between us and the server; " +
	"run it over a direct connection to the database")

// settleFault explains why a statement that needs a session of its own did not get one.
func (s *session) settleFault(err, cause error) error {
	var pe *pgconn.PgError
	switch {
	case errors.Is(err, errPooled):
		return &backend.Error{Op: "exec", Store: s.c.unit.rt.Store, Err: fmt.Errorf("%w: %w", cause, err)}
	case errors.As(err, &pe) && refusesStore(pe.Code):
		return s.refusal(missing, "exec", err)
	}
	return s.fault("exec", err)
}

// options takes off the leading arguments that are directions to pgx rather than values.
func (c *conn) options(ctx context.Context, mode pgx.QueryExecMode, q *query) (pgx.QueryExecMode, error) {
	for len(q.args) > 0 {
		switch o := q.args[0].(type) {
		case pgx.QueryExecMode:
			// Caches are the connection's: another kind than it has is not kept for one call.
			q.args = q.args[1:]
			switch o {
			case c.be.mode, pgx.QueryExecModeExec:
				mode = o
			case pgx.QueryExecModeSimpleProtocol:
				mode = pgx.QueryExecModeExec // which differs in nothing else that a statement with arguments could tell
			default:
				mode = pgx.QueryExecModeDescribeExec
			}
		case pgx.QueryResultFormats, pgx.QueryResultFormatsByOID:
			q.formats, q.args = o, q.args[1:]
		case pgx.QueryRewriter:
			sql, args, err := o.RewriteQuery(ctx, c.pg, q.sql, q.args[1:])
			if err != nil {
				return 0, fmt.Errorf("rewrite query failed: %w", err)
			}
			q.sql, q.args = sql, args
			return mode, nil
		default:
			return mode, nil
		}
	}
	return mode, nil
}
