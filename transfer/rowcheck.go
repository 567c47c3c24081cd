package transfer

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// rowCheck sums up rows on their way, so that they can be compared with what has arrived: those columns that the target
// keeps, by what their values mean, and by what becomes of them where a mapping lets them lose something.
type rowCheck struct {
	at    []int // in the source
	lossy []bool
	as    []Type
	part  []any
	sum   *tableHash
}

// checked has a plan sum its rows up.
func (p *tablePlan) checked(mappings []Mapping) {
	c := &rowCheck{part: make([]any, len(p.columns))}
	var sent []Type
	for _, own := range p.columns {
		from := p.source[own.at]
		lossy := slices.ContainsFunc(mappings, func(m Mapping) bool {
			return strings.EqualFold(m.Table, p.from.Name) && strings.EqualFold(m.Column, from.Name)
		})
		c.at, c.lossy = append(c.at, own.at), append(c.lossy, lossy)
		if lossy {
			c.as, sent = append(c.as, common(own.to.Type, own.to.Type)), append(sent, own.to.Type)
		} else {
			c.as, sent = append(c.as, common(from.Type, own.to.Type)), append(sent, from.Type)
		}
	}
	c.sum = newTableHash(c.as, sent)
	p.check = c
}

func (c *rowCheck) add(row, dest []any) {
	for i, at := range c.at {
		if c.part[i] = row[at]; c.lossy[i] {
			c.part[i] = dest[i]
		}
	}
	c.sum.add(c.part)
}

// arrived compares what was sent with what r, the target, has.
func (p *tablePlan) arrived(ctx context.Context, r reader) error {
	t, ok := tableNamed(r.tables(), p.to.Name)
	if !ok {
		return fmt.Errorf("%w: table %s is gone", ErrDiffer, p.to.Name)
	}
	moved := t.moved()
	at := make([]int, len(p.columns))
	for i, own := range p.columns {
		at[i] = slices.IndexFunc(moved, func(c Column) bool { return c.Name == own.to.Name })
		if at[i] < 0 {
			return fmt.Errorf("%w: table %s has no column %s any more", ErrDiffer, t.Name, own.to.Name)
		}
	}
	sum, err := sumRows(ctx, r, t, p.check.as, at)
	if err != nil {
		return fmt.Errorf("table %s: %w", t.Name, err)
	}
	return differ(t.Name, p.check.sum.rows, sum.rows, p.check.sum.String() == sum.String())
}

// differ is the error of a table that is not there what it is here.
func differ(table string, here, there int64, same bool) error {
	switch {
	case here != there:
		return fmt.Errorf("tenement: transfer: %w: table %s: %d rows, and %d in the target", ErrDiffer, table, here, there)
	case !same:
		return fmt.Errorf("tenement: transfer: %w: table %s: of %d rows some are others in the target", ErrDiffer, table, here)
	}
	return nil
}
