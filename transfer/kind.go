package transfer

import (
	"fmt"
	"strconv"
	"strings"
)

// Kind is what the values of a column are, whatever a database calls it.
type Kind string

// The kinds. See the package's documentation for how each is kept in a file.
const (
	Any         Kind = "any" // SQLite without a type that says anything: as it is
	Bool        Kind = "bool"
	Int         Kind = "int"
	Float       Kind = "float"
	Numeric     Kind = "numeric"
	Text        Kind = "text"
	Bytes       Kind = "bytes"
	UUID        Kind = "uuid"
	Date        Kind = "date"
	Time        Kind = "time"
	Timestamp   Kind = "timestamp"
	TimestampTZ Kind = "timestamptz"
	Interval    Kind = "interval"
	JSON        Kind = "json"
	Enum        Kind = "enum"
	Array       Kind = "array"
	Other       Kind = "other" // a type of Postgres that is none of these: as its own text
)

// Type is a column's type.
type Type struct {
	Kind Kind `json:"kind"`
	// Bits: 16, 32 or 64 of an Int, 32 or 64 of a Float.
	Bits int `json:"bits,omitempty"`
	// Precision and Scale are those of a Numeric that has them; Precision 0 means that it holds any number.
	Precision int `json:"precision,omitempty"`
	Scale     int `json:"scale,omitempty"`
	// Len is the greatest number of characters of a Text; 0 means any.
	Len int `json:"len,omitempty"`
	// Fixed: a Text is padded with blanks to Len.
	Fixed bool `json:"fixed,omitempty"`
	// Digits is how many digits of a second are kept, where that is fewer than 6; it is one more than that number, so
	// that 0 means all.
	Digits int `json:"digits,omitempty"`
	// Binary: it is jsonb rather than json, which knows no duplicate keys and no U+0000.
	Binary bool `json:"binary,omitempty"`
	// Labels are those of an Enum.
	Labels []string `json:"labels,omitempty"`
	// Elem is that of an Array.
	Elem *Type `json:"elem,omitempty"`
	// Affinity is how a column of SQLite treats what is put into it; empty in Postgres.
	Affinity Affinity `json:"affinity,omitempty"`
}

// Affinity is SQLite's word for what a column does with a value: https://www.sqlite.org/datatype3.html.
type Affinity string

// The affinities.
const (
	AffinityText    Affinity = "text"
	AffinityNumeric Affinity = "numeric" // INTEGER is the same as far as what is stored is concerned
	AffinityReal    Affinity = "real"
	AffinityNone    Affinity = "none"
)

func (t Type) sqlite() bool { return t.Affinity != "" }

// decimals is how many digits of a second the type keeps.
func (t Type) decimals() int {
	if t.Digits > 0 {
		return t.Digits - 1
	}
	return 6
}

// same reports whether values of the two types are kept alike, so that nothing need be converted.
func (t Type) same(o Type) bool {
	if (t.Elem == nil) != (o.Elem == nil) || t.Elem != nil && !t.Elem.same(*o.Elem) {
		return false
	}
	if len(t.Labels) != len(o.Labels) {
		return false
	}
	for i, l := range t.Labels {
		if o.Labels[i] != l {
			return false
		}
	}
	a, b := t, o
	a.Elem, b.Elem, a.Labels, b.Labels = nil, nil, nil, nil
	return a.plain() == b.plain()
}

type plainType struct {
	kind                               Kind
	bits, precision, scale, len, digit int
	fixed, binary                      bool
	affinity                           Affinity
}

func (t Type) plain() plainType {
	return plainType{t.Kind, t.Bits, t.Precision, t.Scale, t.Len, t.Digits, t.Fixed, t.Binary, t.Affinity}
}

// String names the type for people.
func (t Type) String() string {
	switch {
	case t.Kind == Numeric && t.Precision > 0:
		return fmt.Sprintf("numeric(%d,%d)", t.Precision, t.Scale)
	case t.Kind == Text && t.Fixed:
		return fmt.Sprintf("char(%d)", t.Len)
	case t.Kind == Text && t.Len > 0:
		return fmt.Sprintf("varchar(%d)", t.Len)
	case t.Kind == Array && t.Elem != nil:
		return t.Elem.String() + "[]"
	case t.Kind == JSON && t.Binary:
		return "jsonb"
	case (t.Kind == Int || t.Kind == Float) && t.Bits > 0 && t.Bits < 64:
		return string(t.Kind) + strconv.Itoa(t.Bits)
	}
	return string(t.Kind)
}

// declaredType reads what a column of SQLite was declared as. strict is the table's.
func declaredType(declared string, strict bool) Type {
	name := strings.ToUpper(strings.TrimSpace(declared))
	t := Type{Kind: declaredKind(name), Affinity: affinityOf(name)}
	if strict && name == "ANY" {
		return Type{Kind: Any, Affinity: AffinityNone}
	}
	if t.Kind == Array {
		elem := declaredType(strings.TrimSuffix(name, "[]"), false)
		t.Elem = &elem
	}
	return t
}

// declaredWords are looked for in this order.
var declaredWords = []struct {
	word string
	kind Kind
}{
	{"BOOL", Bool},
	{"UUID", UUID},
	{"JSON", JSON},
	{"TIMESTAMPTZ", TimestampTZ},
	{"WITH TIME ZONE", TimestampTZ},
	{"TIMESTAMP", Timestamp},
	{"DATETIME", Timestamp},
	{"INTERVAL", Interval},
	{"DATE", Date},
	{"INT", Int},
	{"TIME", Time},
	{"CHAR", Text},
	{"CLOB", Text},
	{"TEXT", Text},
	{"BLOB", Bytes},
	{"REAL", Float},
	{"FLOA", Float},
	{"DOUB", Float}, //nolint:misspell // as SQLite has it
	{"NUMERIC", Numeric},
	{"DECIMAL", Numeric},
}

func declaredKind(name string) Kind {
	if strings.HasSuffix(name, "[]") {
		return Array
	}
	for _, w := range declaredWords {
		if strings.Contains(name, w.word) {
			return w.kind
		}
	}
	return Any
}

// affinityOf is SQLite's own rule, in its order.
func affinityOf(name string) Affinity {
	has := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(name, w) {
				return true
			}
		}
		return false
	}
	switch {
	case has("INT"):
		return AffinityNumeric
	case has("CHAR", "CLOB", "TEXT"):
		return AffinityText
	case has("BLOB"), name == "":
		return AffinityNone
	case has("REAL", "FLOA", "DOUB"): //nolint:misspell // the same
		return AffinityReal
	}
	return AffinityNumeric
}
