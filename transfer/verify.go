package transfer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tenement-go/tenement/tenancy"
)

// Side is one of the two that [Verify] compares: a tenant, or a file.
type Side struct {
	app  *tenancy.App
	id   tenancy.ID
	path string
}

// InStore is the tenant as it is in its store, in whatever state it is.
func InStore(app *tenancy.App, id tenancy.ID) Side { return Side{app: app, id: id} }

// InFile is the tenant as it is in a file.
func InFile(path string) Side { return Side{path: path} }

// Comparison is what [Verify] found.
type Comparison struct {
	Tables []TableComparison `json:"tables"`
	Files  [2]Files          `json:"files"`
}

// TableComparison compares a table. The first of each pair is that of the first side.
type TableComparison struct {
	Table string    `json:"table"`
	Rows  [2]int64  `json:"rows"`
	Hash  [2]string `json:"hash"` // "" where the side has no such table, or other columns
	// Detail says what cannot be compared: which side lacks what.
	Detail string `json:"detail,omitempty"`
}

// Equal reports whether the two have the same rows.
func (t TableComparison) Equal() bool {
	return t.Detail == "" && t.Rows[0] == t.Rows[1] && t.Hash[0] == t.Hash[1]
}

// String says in words how the two compare.
func (t TableComparison) String() string {
	switch {
	case t.Detail != "":
		return fmt.Sprintf("table %s: %s", t.Table, t.Detail)
	case t.Rows[0] != t.Rows[1]:
		return fmt.Sprintf("table %s: %d rows and %d rows", t.Table, t.Rows[0], t.Rows[1])
	case t.Hash[0] != t.Hash[1]:
		return fmt.Sprintf("table %s: %d rows each, of which some differ", t.Table, t.Rows[0])
	}
	return fmt.Sprintf("table %s: %d rows, the same", t.Table, t.Rows[0])
}

// Err returns an error that wraps ErrDiffer and lists the differences, or nil when there are none.
func (c *Comparison) Err() error {
	var found []string
	for _, t := range c.Tables {
		if !t.Equal() {
			found = append(found, t.String())
		}
	}
	if c.Files[0].Hash != c.Files[1].Hash {
		found = append(found, fmt.Sprintf("files: %d (%d bytes) and %d (%d bytes)", c.Files[0].Count, c.Files[0].Bytes, c.Files[1].Count, c.Files[1].Bytes))
	}
	if len(found) == 0 {
		return nil
	}
	return fmt.Errorf("tenement: transfer: %w: %s", ErrDiffer, strings.Join(found, "; "))
}

// VerifyOptions are the terms of [Verify].
type VerifyOptions struct {
	Without []string       // tables that are not compared
	NoFiles bool           // files are not compared
	OnTable func(Progress) // is told of each table that was compared, with the rows of the second side; may be nil
}

// Verify compares two tenants, or a tenant with a file, table by table: the number of rows, and a hash of them that does not
// depend on their order. Values are compared by what they mean: by the type in Postgres, where one of the two is there, so
// that '2024-01-02T00:00:00Z' in SQLite is the same timestamptz as that instant. Each side is read as of one moment. What
// differs is in the result, not an error; see [Comparison.Err]. A file that is not what was written is a [*FileError], and a tenant
// whose tables were rewritten while they were read is [ErrMigrated].
func Verify(ctx context.Context, a, b Side, opt VerifyOptions) (*Comparison, error) {
	var tables [2][]Table
	c := &Comparison{}
	// One side after the other: two tenants may be on one backend, whose pool may have one connection.
	for i, side := range []Side{a, b} {
		if err := side.sealed(ctx); err != nil {
			return nil, err
		}
		if err := side.read(ctx, opt, func(r reader) error { tables[i] = r.tables(); return nil }); err != nil {
			return nil, err
		}
	}
	pairs := c.match(tables[0], tables[1], leave(nil, opt.Without))
	for i, side := range []Side{a, b} {
		err := side.read(ctx, opt, func(r reader) error { return c.sum(ctx, r, pairs, i, opt.OnTable) })
		if err == nil && !opt.NoFiles {
			c.Files[i], err = side.files(ctx)
		}
		if err != nil {
			return nil, err
		}
	}
	return c, nil
}

// sealed returns an error when the side is a file that is not what was written: of the tenant's files in it nothing but
// the manifest is read afterwards.
func (s Side) sealed(ctx context.Context) error {
	if s.app != nil {
		return nil
	}
	f, err := Open(ctx, s.path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.fault(f.sealed(ctx))
}

// read opens the side.
func (s Side) read(ctx context.Context, opt VerifyOptions, fn func(r reader) error) error {
	if s.app == nil {
		f, err := Open(ctx, s.path)
		if err != nil {
			return err
		}
		defer f.Close()
		return f.fault(fn(f.reader()))
	}
	t, err := s.app.ByID(ctx, s.id)
	if err != nil {
		return err
	}
	return withSnapshot(ctx, s.app, own(t), opt.Without, func(snap *snapshot) error { return fn(snap) })
}

// files sums up the files of the side.
func (s Side) files(ctx context.Context) (Files, error) {
	if s.app == nil {
		f, err := Open(ctx, s.path)
		if err != nil {
			return Files{}, err
		}
		return f.Manifest.Files, f.Close()
	}
	t, err := s.app.ByID(ctx, s.id)
	if err != nil {
		return Files{}, err
	}
	return sumFiles(ctx, s.app, t)
}

// pair is a table that both sides have, to be summed up by the same types and in the same order of columns.
type pair struct {
	table [2]string
	as    []Type
	names [2][]string
	at    int // in Comparison.Tables
}

// match finds what there is on both sides, and notes what is not.
func (c *Comparison) match(x, y []Table, out map[string]bool) (pairs []pair) {
	matched := map[string]bool{}
	for _, t := range x {
		if out[t.Name] {
			continue
		}
		tc := TableComparison{Table: t.Name}
		other, ok := tableNamed(y, t.Name)
		if !ok {
			tc.Detail = "only the first has it"
		} else {
			matched[other.Name] = true
			var p pair
			if p, tc.Detail = matchColumns(t, other); tc.Detail == "" {
				p.at = len(c.Tables)
				pairs = append(pairs, p)
			}
		}
		c.Tables = append(c.Tables, tc)
	}
	for _, t := range y {
		if !matched[t.Name] && !out[t.Name] {
			c.Tables = append(c.Tables, TableComparison{Table: t.Name, Detail: "only the second has it"})
		}
	}
	return pairs
}

func matchColumns(t, other Table) (p pair, detail string) {
	p.table = [2]string{t.Name, other.Name}
	for _, c := range t.moved() {
		o, ok := other.column(c.Name)
		switch {
		case !ok:
			return p, "only the first has the column " + c.Name
		case o.Generated:
			continue
		}
		p.as = append(p.as, common(c.Type, o.Type))
		p.names[0], p.names[1] = append(p.names[0], c.Name), append(p.names[1], o.Name)
	}
	for _, o := range other.moved() {
		if _, ok := t.column(o.Name); !ok {
			return p, "only the second has the column " + o.Name
		}
	}
	return p, ""
}

// errChanged: between two looks at a tenant its tables were changed.
var errChanged = errors.New("its columns were changed meanwhile; compare again")

// sum sums one side up.
func (c *Comparison) sum(ctx context.Context, r reader, pairs []pair, side int, told func(Progress)) error {
	for _, p := range pairs {
		t, ok := tableNamed(r.tables(), p.table[side])
		var at []int
		for _, name := range p.names[side] {
			k := slices.IndexFunc(t.moved(), func(c Column) bool { return c.Name == name })
			ok = ok && k >= 0
			at = append(at, k)
		}
		if !ok {
			return fmt.Errorf("table %s: %w", p.table[side], errChanged)
		}
		sum, err := sumRows(ctx, r, t, p.as, at)
		if err != nil {
			return fmt.Errorf("table %s: %w", t.Name, err)
		}
		c.Tables[p.at].Rows[side], c.Tables[p.at].Hash[side] = sum.rows, sum.String()
		if told != nil && side == 1 {
			told(Progress{Table: t.Name, Rows: sum.rows})
		}
	}
	return nil
}

// sumRows sums up the rows of a table: those of its columns that at lists, as the types as.
func sumRows(ctx context.Context, r reader, t Table, as []Type, at []int) (*tableHash, error) {
	all := types(t.moved())
	from, part := make([]Type, len(at)), make([]any, len(at))
	for i, k := range at {
		from[i] = all[k]
	}
	sum := newTableHash(as, from)
	err := r.rows(ctx, t, func(row []any) error {
		for i, k := range at {
			part[i] = row[k]
		}
		sum.add(part)
		return nil
	})
	return sum, err
}

// Check reads all of the file, and returns a [*FileError] that wraps ErrDamaged when that is not what was written.
func (f *File) Check(ctx context.Context) error { return f.fault(f.check(ctx)) }

func (f *File) check(ctx context.Context) error {
	if err := f.sealed(ctx); err != nil {
		return err
	}
	r := f.reader()
	for _, t := range f.Manifest.Tables {
		kinds := types(t.moved())
		if len(kinds) == 0 {
			continue
		}
		at := make([]int, len(kinds))
		for i := range at {
			at[i] = i
		}
		sum, err := sumRows(ctx, r, t, kinds, at)
		if err != nil {
			return err
		}
		if sum.String() != t.Hash || sum.rows != t.Rows {
			return fmt.Errorf("%w: table %s is not what was written", ErrDamaged, t.Name)
		}
	}
	return f.eachFile(ctx, func(e fileEntry) error {
		content := newContent()
		if err := f.pieces(ctx, e.id, content); err != nil {
			return err
		}
		return content.expect(e)
	})
}
