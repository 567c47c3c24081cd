package postgres

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

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
	switch {
	case !c.prefixed():
		ahead += c.checkTextAhead()
	case !c.putsOff(queries):
		ahead += c.prefixText("true")
		w.queue(stepPrefix)
	}
	var message string
	w.starts = w.starts[:0]
	if ahead == "" && len(queries) == 1 && !c.be.replica {
		message = queries[0].text
		w.starts = append(w.starts, 0)
		c.queueStatements(queries)
	} else {
		var b strings.Builder
		b.WriteString(ahead)
		for i := range queries {
			if i > 0 {
				b.WriteString("\n;") // the newline ends a comment
			}
			w.starts = append(w.starts, b.Len())
			b.WriteString(queries[i].text)
		}
		c.queueStatements(queries)
		b.WriteString(c.checkTextBehind(queries))
		message = b.String()
	}
	w.message = message
	c.queueText(message)
	return w.flush()
}

// queueStatements queues the answers that a text will have.
func (c *conn) queueStatements(queries []query) {
	for i := range queries {
		n := 1
		if c.be.replica { // where what comes behind them has to be known from them
			n = len(sqltext.Statements(sqltext.Postgres, queries[i].text))
		}
		for range n {
			c.wire.queue(stepQuery)
		}
	}
}

// moved puts the position that an error gives, in characters of the whole message, back to where it is in the text of the
// application's that it belongs to.
func (w *wire) moved(pe *pgconn.PgError) {
	if len(w.apart) > 0 && pe.Position > 0 {
		pe.Position += int32(sqltext.Characters(w.message, w.apart[0].Start))
	}
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
	_, err := c.commands(ctx, stepOurs, text, row, nil)
	return err
}

// commands is texts that calls done when a statement is complete. It returns how many were. The first of them is what the
// step says.
func (c *conn) commands(ctx context.Context, first step, text string, row func(result int, values [][]byte), done func()) (results int, err error) {
	if ctx.Done() == nil {
		ctx = context.Background()
	}
	w := &c.wire
	if err := w.start(ctx); err != nil {
		return 0, err
	}
	w.text, w.starts = true, w.starts[:0]
	c.queueClean()
	w.queue(first)
	c.queueText(text)
	if err := w.flush(); err != nil {
		return 0, err
	}
	for w.open {
		switch w.receive() {
		case eventRow:
			if row != nil {
				row(results, w.values)
			}
		case eventDone:
			if results++; done != nil {
				done()
			}
		}
	}
	return results, w.err
}

// quote writes the arguments of a job's queries into their texts, for servers and poolers that only take the simple
// protocol. That is only safe where the server reads them as they are meant, on the connection that they are sent on.
func (c *conn) quote(ctx context.Context, j *job) error {
	for i := range j.queries {
		q := &j.queries[i]
		if q.text = q.sql; len(q.args) == 0 {
			continue
		}
		err := c.quotable(ctx)
		if err == nil {
			q.text, err = c.quoteArgs(q.sql, q.args)
		}
		if err != nil {
			return j.fault(i, &notSent{err})
		}
	}
	return nil
}

// errUnquotable: a quote may not end what it seems to end.
var errUnquotable = errors.New("the simple protocol needs standard_conforming_strings=on and client_encoding=UTF8")

// quotable sees to it that the server reads a text as it is meant. Where that was set otherwise by an earlier user of the
// connection it is cleaned at once; what the session itself has set stays.
func (c *conn) quotable(ctx context.Context) error {
	if c.readsQuotes() {
		return nil
	}
	if !c.by.used && !c.settled {
		c.dirty = c.dirty || c.cleanable()
		if err := c.cleanNow(ctx); err != nil {
			return err
		}
	}
	if !c.readsQuotes() {
		return errUnquotable
	}
	return nil
}

func (c *conn) readsQuotes() bool {
	return c.pc.ParameterStatus("standard_conforming_strings") == "on" && c.pc.ParameterStatus("client_encoding") == "UTF8"
}

// quoteArgs writes the arguments of one query.
func (c *conn) quoteArgs(sql string, args []any) (string, error) {
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
