package transfer

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
)

// Format is the format of the files that this package writes, and the latest that it reads.
const Format = 1

// Manifest says what is in a file.
type Manifest struct {
	Format    int                     `json:"format"`
	Made      time.Time               `json:"made"` // UTC, by the clock of the program that wrote the file
	Tenant    Tenant                  `json:"tenant"`
	Dialect   backend.Dialect         `json:"dialect"` // of the store that it was
	Sources   []migrate.AppliedSource `json:"sources"`
	Tables    []Table                 `json:"tables"`
	Sequences []Sequence              `json:"sequences,omitempty"`
	Without   []string                `json:"without,omitempty"` // tables that were left out on demand
	Files     Files                   `json:"files"`
}

// Tenant is what a file says of the tenant that was exported.
type Tenant struct {
	ID      tenancy.ID       `json:"id"`
	Slug    string           `json:"slug"`
	Name    string           `json:"name"`
	Status  tenancy.Status   `json:"status"`
	Domains []tenancy.Domain `json:"domains,omitempty"`
	Meta    tenancy.Meta     `json:"meta,omitempty"`
	Created time.Time        `json:"created"`
}

// Files sums up the files of the tenant.
type Files struct {
	Count int64  `json:"count"`
	Bytes int64  `json:"bytes"`
	Hash  string `json:"hash,omitempty"`
}

func tenantOf(t tenancy.Tenant) Tenant {
	return Tenant{ID: t.ID, Slug: t.Slug, Name: t.Name, Status: t.Status, Domains: t.Domains, Meta: t.Meta, Created: t.Created}
}

// name gives tables and columns the names that they have in a file: their own, unless SQLite would take two of them for
// one, or they mean something there.
func (m *Manifest) name() {
	used := map[string]bool{}
	for i := range m.Tables {
		t := &m.Tables[i]
		t.Stored = free(used, t.Name, reservedName(t.Name))
		columns := map[string]bool{}
		for k := range t.Columns {
			c := &t.Columns[k]
			c.Stored = free(columns, c.Name, false)
		}
	}
}

func reservedName(name string) bool {
	name = strings.ToLower(name)
	return strings.HasPrefix(name, "sqlite_") || strings.HasPrefix(name, "tenement_")
}

// free returns "" when the name is free, or another one that is.
func free(used map[string]bool, name string, reserved bool) string {
	if key := strings.ToLower(name); !reserved && !used[key] {
		used[key] = true
		return ""
	}
	for n := 2; ; n++ {
		other := fmt.Sprintf("x%d_%s", n, name)
		if key := strings.ToLower(other); !used[key] {
			used[key] = true
			return other
		}
	}
}

// stored are the names of the table and of its columns that are moved, in a file.
func (t Table) stored() (name string, columns []Column) {
	for _, c := range t.moved() {
		c.Name = cmp.Or(c.Stored, c.Name)
		columns = append(columns, c)
	}
	return cmp.Or(t.Stored, t.Name), columns
}

// check refuses a manifest that no file of this format has.
func (m *Manifest) check() error {
	switch {
	case m.Format != Format:
		return fmt.Errorf("it says that its format is %d", m.Format)
	case m.Dialect != backend.SQLite && m.Dialect != backend.Postgres:
		return fmt.Errorf("its dialect is %q", m.Dialect)
	}
	for _, t := range m.Tables {
		for _, c := range t.Columns {
			if err := c.Type.check(); err != nil {
				return fmt.Errorf("table %s, column %s: %w", t.Name, c.Name, err)
			}
		}
	}
	return nil
}

func (t Type) check() error {
	if _, known := toKind[t.Kind]; !known && t.Kind != Any {
		return fmt.Errorf("its kind is %q", t.Kind)
	}
	if t.Kind == Array {
		if t.Elem == nil {
			return fmt.Errorf("it is an array of nothing")
		}
		return t.Elem.check()
	}
	if t.Scale < 0 || t.Scale > t.Precision || t.Precision > maxPrecision || t.Len < 0 || t.Len > maxLen || t.Digits < 0 || t.Digits > 6 {
		return fmt.Errorf("it is %s, to %d digits of a second", t, t.decimals())
	}
	return nil
}

// No type of Postgres goes beyond these.
const (
	maxPrecision = 1000     // digits of a numeric that has a precision
	maxLen       = 10485760 // characters of a text that has a length
)

func (m *Manifest) encode() ([]byte, error) { return json.Marshal(m) }
