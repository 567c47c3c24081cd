package transfer

import (
	"context"
	"fmt"
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
	OnTable func(Progress) // is told of each table that was compared, with the rows of the first side; may be nil
}

// Verify compares two tenants, or a tenant with a file, table by table: the number of rows, and a hash of them that does not
// depend on their order. Values are compared by what they mean: by the type in Postgres, where one of the two is there, so
// that '2024-01-02T00:00:00Z' in SQLite is the same timestamptz as that instant. Each side is read as of one moment. What
// differs is in the result, not an error; see [Comparison.Err].
func Verify(ctx context.Context, a, b Side, opt VerifyOptions) (*Comparison, error) {
	c := &Comparison{}
	err := a.read(ctx, opt, func(x reader, xf Files) error {
		return b.read(ctx, opt, func(y reader, yf Files) error {
			c.Files = [2]Files{xf, yf}
			return c.compare(ctx, x, y, opt)
		})
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// read opens the side.
func (s Side) read(ctx context.Context, opt VerifyOptions, fn func(r reader, files Files) error) error {
	if s.app == nil {
		f, err := Open(ctx, s.path)
		if err != nil {
			return err
		}
		defer f.Close()
		files := f.Manifest.Files
		if opt.NoFiles {
			files = Files{}
		}
		return f.fault(fn(f.reader(), files))
	}
	t, err := s.app.ByID(ctx, s.id)
	if err != nil {
		return err
	}
	var files Files
	if !opt.NoFiles {
		if files, err = sumFiles(ctx, s.app, t); err != nil {
			return err
		}
	}
	return withSnapshot(ctx, s.app, t, opt.Without, func(snap *snapshot) error { return fn(snap, files) })
}

func (c *Comparison) compare(ctx context.Context, x, y reader, opt VerifyOptions) error {
	out := leave(nil, opt.Without)
	matched := map[string]bool{}
	for _, t := range x.tables() {
		if out[t.Name] {
			continue
		}
		other, ok := tableNamed(y.tables(), t.Name)
		if !ok {
			c.Tables = append(c.Tables, TableComparison{Table: t.Name, Detail: "only the first has it"})
			continue
		}
		matched[other.Name] = true
		tc, err := compareTable(ctx, x, y, t, other)
		if err != nil {
			return fmt.Errorf("table %s: %w", t.Name, err)
		}
		c.Tables = append(c.Tables, tc)
		if opt.OnTable != nil {
			opt.OnTable(Progress{Table: t.Name, Rows: tc.Rows[0]})
		}
	}
	for _, t := range y.tables() {
		if !matched[t.Name] && !out[t.Name] {
			c.Tables = append(c.Tables, TableComparison{Table: t.Name, Detail: "only the second has it"})
		}
	}
	return nil
}

// compareTable sums both up, by the same types and in the same order of columns.
func compareTable(ctx context.Context, x, y reader, t, other Table) (TableComparison, error) {
	tc := TableComparison{Table: t.Name}
	own, theirs := t.moved(), other.moved()
	var as []Type
	var at [2][]int
	for i, c := range own {
		k := indexOf(theirs, c.Name)
		if k < 0 {
			if d, ok := other.column(c.Name); ok && d.Generated {
				continue
			}
			tc.Detail = "only the first has the column " + c.Name
			return tc, nil
		}
		as = append(as, common(c.Type, theirs[k].Type))
		at[0], at[1] = append(at[0], i), append(at[1], k)
	}
	for _, c := range theirs {
		if _, ok := t.column(c.Name); !ok {
			tc.Detail = "only the second has the column " + c.Name
			return tc, nil
		}
	}
	for i, side := range []struct {
		r reader
		t Table
	}{{x, t}, {y, other}} {
		sum, err := sumRows(ctx, side.r, side.t, as, at[i])
		if err != nil {
			return tc, err
		}
		tc.Rows[i], tc.Hash[i] = sum.rows, sum.String()
	}
	return tc, nil
}

func indexOf(columns []Column, name string) int {
	c, ok := find(columns, name, func(c Column) string { return c.Name })
	if ok {
		for i := range columns {
			if columns[i].Name == c.Name {
				return i
			}
		}
	}
	return -1
}

// sumRows sums up the rows of a table: those of its columns that at lists, as the types as.
func sumRows(ctx context.Context, r reader, t Table, as []Type, at []int) (*tableHash, error) {
	sum := &tableHash{}
	all := types(t.moved())
	from, part := make([]Type, len(at)), make([]any, len(at))
	for i, k := range at {
		from[i] = all[k]
	}
	err := r.rows(ctx, t, func(row []any) error {
		for i, k := range at {
			part[i] = row[k]
		}
		sum.add(as, from, part)
		return nil
	})
	return sum, err
}

// Check reads all of the file, and returns a [*FileError] that wraps ErrDamaged when that is not what was written.
func (f *File) Check(ctx context.Context) error { return f.fault(f.check(ctx)) }

func (f *File) check(ctx context.Context) error {
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
