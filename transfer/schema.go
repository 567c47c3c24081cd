package transfer

import (
	"context"
	"database/sql"
	"strings"

	"github.com/tenement-go/tenement/internal/sqltext"
)

// Table describes a table of a tenant.
type Table struct {
	Name    string   `json:"name"`
	Stored  string   `json:"stored,omitempty"` // its name in the file, where that is another
	Columns []Column `json:"columns"`
	Key     []string `json:"key,omitempty"` // the primary key's columns
	// Rows and Hash are those of a file.
	Rows int64  `json:"rows"`
	Hash string `json:"hash,omitempty"`

	partitioned bool // in Postgres
}

// Column describes a column.
type Column struct {
	Name     string `json:"name"`
	Stored   string `json:"stored,omitempty"` // its name in the file, where that is another
	Declared string `json:"declared"`         // the type as its database has it
	Type     Type   `json:"type"`
	// Generated: the database works it out from others. It is not moved.
	Generated bool `json:"generated,omitempty"`
}

// Sequence is where a series of numbers stands: the column goes on after the highest that was ever given out.
type Sequence struct {
	Name   string `json:"name,omitempty"`   // in Postgres
	Table  string `json:"table,omitempty"`  // whose numbers it gives; empty: nobody's in particular
	Column string `json:"column,omitempty"` // empty for SQLite's AUTOINCREMENT
	Last   int64  `json:"last"`
	// Called: Last was given out; if not, it is the next.
	Called bool `json:"called"`
}

// reader is where rows come from: a tenant as of one moment, or a file.
type reader interface {
	tables() []Table
	sequences() []Sequence
	// rows calls fn for each row of a table, with the values of its columns that are moved. The slice is used again.
	rows(ctx context.Context, t Table, fn func(row []any) error) error
	// mask has expressions stand for columns, by table and column.
	mask(masks map[string]map[string]string)
	// unrewritten returns ErrMigrated when the rows that were read cannot have been all that there were. It is called when
	// all have been read.
	unrewritten(ctx context.Context) error
}

// writer is where they go: the store of a tenant, or a file, in one transaction.
type writer interface {
	// fill puts rows into a table, which is empty; produce calls put for each of them, with the values of the columns, in
	// a slice that it uses again. An error of produce is returned.
	fill(ctx context.Context, table string, columns []Column, produce func(put func(row []any) error) error) error
	// sequence has a series of numbers go on after those that were given out.
	sequence(ctx context.Context, s Sequence) error
}

// moved are the columns of a table whose values are moved.
func (t Table) moved() []Column {
	var moved []Column
	for _, c := range t.Columns {
		if !c.Generated {
			moved = append(moved, c)
		}
	}
	return moved
}

func (t Table) column(name string) (Column, bool) {
	return find(t.Columns, name, func(c Column) string { return c.Name })
}

func tableNamed(tables []Table, name string) (Table, bool) {
	return find(tables, name, func(t Table) string { return t.Name })
}

// find returns what has the name, or the only thing that has it but for case: SQLite keeps names as they were written,
// Postgres in lower case.
func find[T any](list []T, name string, nameOf func(T) string) (found T, ok bool) {
	n := 0
	for _, e := range list {
		if nameOf(e) == name {
			return e, true
		}
		if strings.EqualFold(nameOf(e), name) {
			found = e
			n++
		}
	}
	if n != 1 {
		var none T
		return none, false
	}
	return found, true
}

func types(columns []Column) []Type {
	list := make([]Type, len(columns))
	for i, c := range columns {
		list[i] = c.Type
	}
	return list
}

// selected is a list of columns, as rows are asked for, with expressions in the place of some. render says how a column
// is asked for.
func selected(columns []Column, masks map[string]string, render func(c Column, expr string) string) string {
	list := make([]string, len(columns))
	for i, c := range columns {
		list[i] = render(c, masks[c.Name])
	}
	return strings.Join(list, ", ")
}

func quoted(columns []Column, prefix string) string {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = prefix + sqltext.Quote(c.Name)
	}
	return strings.Join(names, ", ")
}

// querier is a transaction or a connection.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// each calls fn for each row of a query, to scan it.
func each(ctx context.Context, q querier, query string, args []any, fn func(scan func(dest ...any) error) error) error {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := fn(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}
