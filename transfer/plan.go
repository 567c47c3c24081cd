package transfer

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Mapping says what may become of a column's values where they cannot be moved as they are.
type Mapping struct {
	Table, Column string
	May           Loss // what may be lost
}

// tablePlan says how the rows of a table become those of another.
type tablePlan struct {
	from, to Table
	source   []Column // those of from that are read
	columns  []columnPlan
	as       []Type // by which the rows are summed up; nil: not at all
	expect   string // the sum that is expected; empty: any
	check    *rowCheck
	lineNo   int64
}

// columnPlan is a column of the target, and where its values come from.
type columnPlan struct {
	at      int // in source
	to      Column
	convert func(v any) (any, error) // nil: as it is
}

// plan finds for each table, and each column, the one that takes its values. It returns a *SchemaError for what cannot
// be moved: nothing has been read or written by then.
func plan(from, to []Table, mappings []Mapping) (plans []*tablePlan, err error) {
	may, err := losses(from, mappings)
	if err != nil {
		return nil, err
	}
	taken := map[string]string{}
	for _, t := range from {
		target, ok := tableNamed(to, t.Name)
		if !ok {
			return nil, &SchemaError{Table: t.Name, Reason: "the target has no such table"}
		}
		if other, twice := taken[target.Name]; twice {
			return nil, &SchemaError{Table: t.Name, Reason: "the target has one table for it and for " + other}
		}
		taken[target.Name] = t.Name
		p := &tablePlan{from: t, to: target, source: t.moved()}
		for i, c := range p.source {
			own, ok := target.column(c.Name)
			switch {
			case !ok:
				return nil, &SchemaError{Table: t.Name, Column: c.Name, Reason: "the target has no such column"}
			case own.Generated:
				continue
			}
			if err := fits(t.Name, c, own, may[t.Name+"."+c.Name]); err != nil {
				return nil, err
			}
			p.columns = append(p.columns, columnPlan{i, own, converter(c.Type, own.Type, may[t.Name+"."+c.Name])})
		}
		if len(p.columns) > 0 {
			plans = append(plans, p)
		}
	}
	return plans, nil
}

func losses(tables []Table, mappings []Mapping) (map[string]Loss, error) {
	may := map[string]Loss{}
	for _, m := range mappings {
		t, ok := tableNamed(tables, m.Table)
		if !ok {
			return nil, &SchemaError{Table: m.Table, Column: m.Column, Reason: "there is no such table, and a mapping is for it"}
		}
		c, ok := t.column(m.Column)
		if !ok {
			return nil, &SchemaError{Table: m.Table, Column: m.Column, Reason: "there is no such column, and a mapping is for it"}
		}
		may[t.Name+"."+c.Name] |= m.May
	}
	return may, nil
}

// fitting are the kinds of columns of SQLite, besides the same, Any and Text, in which values of a kind of Postgres
// are at home.
var fitting = map[Kind][]Kind{
	Bool:        {Int},
	Int:         {Bool, Numeric, Float},
	Float:       {Numeric},
	Numeric:     {Int, Float},
	Date:        {Timestamp, TimestampTZ},
	Timestamp:   {TimestampTZ, Int},
	TimestampTZ: {Timestamp, Int},
	Array:       {JSON},
	JSON:        {Array},
}

// fits refuses a column whose values could not be moved, whatever they are.
func fits(table string, from, to Column, may Loss) error {
	refuse := func(format string, args ...any) error {
		return &SchemaError{Table: table, Column: from.Name, Reason: fmt.Sprintf(format, args...)}
	}
	f, t := from.Type, to.Type
	if f.sqlite() || !t.sqlite() {
		return nil // it depends on the values
	}
	known := t.Kind == f.Kind || t.Kind == Any || t.Kind == Text && f.Kind != Bytes
	for _, k := range fitting[f.Kind] {
		known = known || k == t.Kind
	}
	switch {
	case !known:
		return refuse("values of type %s have no place in a column that is declared %q", from.Declared, to.Declared)
	case f.Kind == Numeric && (f.Precision == 0 || f.Scale > 0) && may&LossScale == 0 && (t.Affinity == AffinityNumeric || t.Affinity == AffinityReal):
		return refuse("a column that is declared %q does not keep the zeros at the end of a %s: declare it TEXT, or allow it with a mapping (LossScale)",
			to.Declared, from.Declared)
	}
	return nil
}

// converter returns what makes a value of one type one of another, or nil where nothing is to be done.
func converter(from, to Type, may Loss) func(v any) (any, error) {
	switch {
	case from.same(to):
		return nil
	case !to.sqlite() && from.sqlite():
		if convert := toKind[to.Kind]; convert != nil {
			return func(v any) (any, error) { return convert(to, v, may) }
		}
		return func(v any) (any, error) { return toPostgres(to, v, may) }
	case !to.sqlite():
		return func(v any) (any, error) { return between(from, to, v, may) }
	case !from.sqlite():
		return func(v any) (any, error) { return toSQLite(from, to, v, may) }
	}
	return func(v any) (any, error) {
		in := held(to.Affinity, v)
		if !equal(Type{Kind: Any}, v, in, 0) {
			return refuse("%s would become %s", show(v), show(in))
		}
		return v, nil
	}
}

// between converts from one type of Postgres to another; what comes back from there must be what it was.
func between(from, to Type, v any, may Loss) (any, error) {
	moved, err := toPostgres(to, v, may)
	if err != nil {
		return nil, err
	}
	if back, err := toPostgres(from, moved, may); err != nil || !equal(from, v, back, may) {
		return refuse("%s would become %s", show(v), show(moved))
	}
	return moved, nil
}

func rowNumber(n int64) string { return fmt.Sprintf("row %d", n) }

// rowName says which row it is: by the primary key, where there is one.
func (p *tablePlan) rowName(row []any) string {
	var parts []string
	for _, key := range p.from.Key {
		for i, c := range p.source {
			if c.Name == key {
				parts = append(parts, key+"="+show(row[i]))
			}
		}
	}
	if len(parts) == 0 {
		return rowNumber(p.lineNo)
	}
	return strings.Join(parts, ", ")
}

// row converts a row into dest.
func (p *tablePlan) row(row, dest []any) error {
	for i, c := range p.columns {
		dest[i] = row[c.at]
		if c.convert == nil || row[c.at] == nil {
			continue
		}
		v, err := c.convert(row[c.at])
		if err != nil {
			return &ValueError{Table: p.from.Name, Column: p.source[c.at].Name, Row: p.rowName(row), Type: c.to.Declared, Reason: err.Error()}
		}
		dest[i] = v
	}
	return nil
}

// run moves the rows. The returned hash is of those that were read.
func (p *tablePlan) run(ctx context.Context, from reader, to writer) (*tableHash, error) {
	sum := &tableHash{}
	if p.as != nil {
		sum = newTableHash(p.as, types(p.source))
	}
	dest := make([]any, len(p.columns))
	target := make([]Column, len(p.columns))
	for i, c := range p.columns {
		target[i] = c.to
	}
	p.lineNo = 0
	err := to.fill(ctx, p.to.Name, target, func(put func(row []any) error) error {
		return from.rows(ctx, p.from, func(row []any) error {
			p.lineNo++
			if p.as != nil {
				sum.add(row)
			} else {
				sum.rows++
			}
			if err := p.row(row, dest); err != nil {
				return err
			}
			if p.check != nil {
				p.check.add(row, dest)
			}
			return put(dest)
		})
	})
	if err != nil {
		return nil, p.located(err)
	}
	if p.expect != "" && (sum.String() != p.expect || sum.rows != p.from.Rows) {
		return nil, fmt.Errorf("%w: table %s is not what was written", ErrDamaged, p.from.Name)
	}
	return sum, nil
}

// located adds the table to an error that does not name it.
func (p *tablePlan) located(err error) error {
	var value *ValueError
	if errors.As(err, &value) {
		return err
	}
	return fmt.Errorf("table %s: %w", p.from.Name, err)
}
