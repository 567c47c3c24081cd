package transfer

import (
	"slices"
	"strings"
)

// Mask says what becomes of a column in a clone. Of several that fit a column the first counts.
type Mask struct {
	Table  string // "*" is every table
	Column string // "*" is every column
	With   With
}

// With is what a column's values become. It is made by [Keep], [Null], [Const] and [Expr].
type With struct {
	expr string // an expression of SQL; "" keeps what is there
}

// Keep leaves the values as they are.
func Keep() With { return With{} }

// Null removes the values.
func Null() With { return With{"NULL"} }

// Const gives each row the same text, or what the column's type reads from it.
func Const(text string) With { return With{"'" + strings.ReplaceAll(text, "'", "''") + "'"} }

// Expr is an expression of the backend's SQL, worked out for each row, whose columns it may name: 'user' || id ||
// '@example.com'. It is the application's own text: nothing in it is escaped.
func Expr(sql string) With { return With{"(" + sql + ")"} }

func (m Mask) fits(table, column string) bool {
	return (m.Table == "*" || strings.EqualFold(m.Table, table)) && (m.Column == "*" || strings.EqualFold(m.Column, column))
}

// masked returns the expressions that stand for columns, by table and column. With masks, each column must be that of one:
// it returns an *UnmaskedError otherwise.
func masked(tables []Table, masks []Mask) (map[string]map[string]string, error) {
	if len(masks) == 0 {
		return nil, nil
	}
	all := map[string]map[string]string{}
	var missing []string
	for _, t := range tables {
		all[t.Name] = map[string]string{}
		for _, c := range t.moved() {
			i := slices.IndexFunc(masks, func(m Mask) bool { return m.fits(t.Name, c.Name) })
			if i < 0 {
				missing = append(missing, t.Name+"."+c.Name)
			} else if expr := masks[i].With.expr; expr != "" {
				all[t.Name][c.Name] = expr
			}
		}
	}
	if len(missing) > 0 {
		return nil, &UnmaskedError{missing}
	}
	return all, nil
}
