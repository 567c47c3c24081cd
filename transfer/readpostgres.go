package transfer

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/tenement-go/tenement/backend/driver"
	"github.com/tenement-go/tenement/internal/sqltext"
)

// postgresReader reads a store of Postgres in one transaction, by COPY.
type postgresReader struct {
	conn   *sql.Conn
	tx     *sql.Tx
	list   []Table
	series []Sequence
	masks  map[string]map[string]string
	seen   []string // the tables that were read
}

var _ reader = (*postgresReader)(nil)

func (r *postgresReader) tables() []Table       { return r.list }
func (r *postgresReader) sequences() []Sequence { return r.series }

func (r *postgresReader) mask(masks map[string]map[string]string) { r.masks = masks }

func (r *postgresReader) unrewritten(ctx context.Context) error {
	return unrewritten(ctx, r.tx, nil, r.seen)
}

// openPostgres reads the schema of a store in the transaction that is open on conn.
func openPostgres(ctx context.Context, conn *sql.Conn, tx *sql.Tx, leave map[string]bool) (*postgresReader, error) {
	if _, err := tx.ExecContext(ctx, textSettings); err != nil {
		return nil, err
	}
	list, err := postgresSchema(ctx, tx, leave)
	if err != nil {
		return nil, err
	}
	series, err := postgresSequences(ctx, tx)
	return &postgresReader{conn: conn, tx: tx, list: list, series: series}, err
}

func (r *postgresReader) rows(ctx context.Context, t Table, fn func(row []any) error) error {
	columns := t.moved()
	if len(columns) == 0 {
		return nil
	}
	list := selected(columns, r.masks[t.Name], func(c Column, expr string) string {
		if expr != "" {
			return expr + "::" + c.Declared
		}
		return sqltext.Quote(c.Name)
	})
	from := r.from(t)
	lines := &copyLines{types: types(columns), row: make([]any, len(columns)), fn: fn}
	err := withCopier(r.conn, func(c driver.Copier) error {
		_, err := c.CopyOut(ctx, lines, "COPY (SELECT "+list+" FROM "+from+") TO STDOUT")
		return err
	})
	if lines.err != nil {
		err = lines.err
	}
	var column *columnError
	if errors.As(err, &column) {
		c := columns[column.column]
		return &ValueError{Table: t.Name, Column: c.Name, Row: rowNumber(lines.n), Type: c.Declared, Reason: column.err.Error()}
	}
	return err
}

// from is a table as what is read, which is noted. Its children by inheritance are kept out, which are tables of their own. A
// partitioned table has nothing but its partitions, which are not.
func (r *postgresReader) from(t Table) string {
	r.seen = append(r.seen, t.Name)
	if t.partitioned {
		return sqltext.Quote(t.Name)
	}
	return "ONLY " + sqltext.Quote(t.Name)
}

// withCopier lends the connection on which conn's transaction is.
func withCopier(conn *sql.Conn, fn func(c driver.Copier) error) error {
	return conn.Raw(func(driverConn any) error {
		c, ok := driverConn.(driver.Copier)
		if !ok {
			return fmt.Errorf("tenement: transfer: COPY: %w by the backend", errors.ErrUnsupported)
		}
		return fn(c)
	})
}

// copyLines takes what COPY sends apart.
type copyLines struct {
	types []Type
	row   []any
	fn    func(row []any) error
	rest  []byte // of a line whose end has not come
	n     int64
	err   error
}

// Write implements [io.Writer].
func (l *copyLines) Write(p []byte) (int, error) {
	all := len(p)
	for {
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			l.rest = append(l.rest, p...)
			return all, nil
		}
		line := p[:end]
		if len(l.rest) > 0 {
			line = append(l.rest, line...)
			l.rest = l.rest[:0]
		}
		p = p[end+1:]
		l.n++
		if l.err = parseCopy(line, l.types, l.row); l.err == nil {
			l.err = l.fn(l.row)
		}
		if l.err != nil {
			return 0, l.err
		}
	}
}
