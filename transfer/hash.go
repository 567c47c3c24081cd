package transfer

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
)

// tableHash sums up the rows of a table so that their order does not count: the sum of the SHA-256 of each, as four numbers of
// 64 bits. It tells damage and difference from equality, not forgery.
type tableHash struct {
	columns []hashedColumn
	sum     [4]uint64
	rows    int64
	buf     []byte
}

// hashedColumn is what is worked out once of a column, rather than for each of its values.
type hashedColumn struct {
	kind    Kind
	meaning func(v any) any // nil: as it is
}

// newTableHash sums up rows of columns of the types from, by the types as which they are compared.
func newTableHash(as, from []Type) *tableHash {
	h := &tableHash{columns: make([]hashedColumn, len(as))}
	for i, t := range as {
		h.columns[i] = hashedColumn{t.Kind, meaning(t, from[i])}
	}
	return h
}

// add adds a row.
func (h *tableHash) add(row []any) {
	h.buf = h.buf[:0]
	for i := range h.columns {
		c, v := &h.columns[i], row[i]
		if c.meaning != nil && v != nil {
			v = c.meaning(v)
		}
		h.buf = appendValue(h.buf, c.kind, v)
	}
	sum := sha256.Sum256(h.buf)
	for i := range h.sum {
		h.sum[i] += binary.LittleEndian.Uint64(sum[8*i:])
	}
	h.rows++
}

// String is the sum in hexadecimal.
func (h *tableHash) String() string {
	var b [32]byte
	for i, n := range h.sum {
		binary.LittleEndian.PutUint64(b[8*i:], n)
	}
	return hex.EncodeToString(b[:])
}

// The marks of what follows in appendValue: nothing, a number, …
const (
	markNull = iota
	markInt
	markFloat
	markText
	markBytes
)

// appendValue appends what tells a value of a type from all others of that type, and from nothing else: equal values have
// equal bytes.
func appendValue(b []byte, kind Kind, v any) []byte {
	switch v := v.(type) {
	case int64:
		return binary.LittleEndian.AppendUint64(append(b, markInt), uint64(v))
	case float64:
		if v == 0 {
			v = 0 // SQLite has no -0 in a column of REAL affinity, and to both it is equal to 0
		}
		return binary.LittleEndian.AppendUint64(append(b, markFloat), math.Float64bits(v))
	case string:
		if kind == JSON {
			v = jsonValue(v)
		}
		b = binary.AppendUvarint(append(b, markText), uint64(len(v)))
		return append(b, v...)
	case []byte:
		b = binary.AppendUvarint(append(b, markBytes), uint64(len(v)))
		return append(b, v...)
	}
	return append(b, markNull)
}

// meaning says what a value of a column of type from is by the type that it is compared as: the canonical one, or what is
// there when it stands for none.
func meaning(as, from Type) func(v any) any {
	as = as.loose()
	convert := toKind[as.Kind]
	if !from.sqlite() || convert == nil {
		return nil // what comes from Postgres is canonical
	}
	// What may be lost in a conversion counts in a comparison: blanks, and zeros.
	return func(v any) any {
		if c, err := convert(as, v, 0); err == nil {
			return c
		}
		return v
	}
}

// loose is the type without the bounds that no value of it breaks. The scale stays: a number that has none gets it.
func (t Type) loose() Type {
	t.Len, t.Fixed, t.Bits, t.Digits = 0, false, 0, 0
	if t.Kind == Enum {
		t.Kind = Text
	}
	return t
}

// common is the type as which the values of two columns are compared: that of Postgres, if one of them is there.
func common(a, b Type) Type {
	switch {
	case !a.sqlite():
		return a
	case !b.sqlite():
		return b
	case a.Kind == b.Kind:
		return a
	}
	return Type{Kind: Any}
}
