package transfer

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/tenement-go/tenement/internal/sqltext"
)

// sqliteReader reads a store of SQLite in one read transaction, or a file.
type sqliteReader struct {
	q      querier
	schema string // in front of a table's name
	list   []Table
	series []Sequence
	stored bool // the names are those of a file
	masks  map[string]map[string]string
}

var _ reader = (*sqliteReader)(nil)

func (r *sqliteReader) tables() []Table       { return r.list }
func (r *sqliteReader) sequences() []Sequence { return r.series }

func (r *sqliteReader) mask(masks map[string]map[string]string) { r.masks = masks }

// unrewritten implements [reader]: a read transaction covers all that there is.
func (r *sqliteReader) unrewritten(context.Context) error { return nil }

func (r *sqliteReader) rows(ctx context.Context, t Table, fn func(row []any) error) error {
	columns := t.moved()
	if len(columns) == 0 {
		return nil
	}
	name := t.Name
	if r.stored {
		name, columns = t.stored()
	}
	// An expression has no declared type, by which the driver would make a bool or a time of what is there: a + changes
	// no value in SQLite.
	list := selected(columns, r.masks[t.Name], func(c Column, expr string) string {
		if expr != "" {
			return expr
		}
		return "+" + sqltext.Quote(c.Name)
	})
	rows, err := r.q.QueryContext(ctx, "SELECT "+list+" FROM "+r.schema+sqltext.Quote(name))
	if err != nil {
		return &readError{err}
	}
	defer rows.Close()
	row, dest := make([]any, len(columns)), make([]any, len(columns))
	for i := range row {
		dest[i] = &row[i]
	}
	for n := int64(1); rows.Next(); n++ {
		if r.stored && n > t.Rows {
			return fmt.Errorf("%w: table %s has more rows than were written", ErrDamaged, t.Name)
		}
		if err := rows.Scan(dest...); err != nil {
			return &readError{err}
		}
		for i, v := range row {
			if b, ok := v.([]byte); ok && b == nil {
				row[i] = []byte{} // an empty blob, which as a nil one would be written as NULL
			}
		}
		if err := fn(row); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return &readError{err}
	}
	return nil
}

// openSQLite reads the schema of a store in a transaction.
func openSQLite(ctx context.Context, tx *sql.Tx, leave map[string]bool) (*sqliteReader, error) {
	list, err := sqliteSchema(ctx, tx, leave)
	if err != nil {
		return nil, err
	}
	series, err := sqliteSequences(ctx, tx)
	return &sqliteReader{q: tx, schema: "main.", list: list, series: series}, err
}
