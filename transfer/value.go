package transfer

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
)

// A value on its way is what SQLite can hold: nil, int64, float64, string or []byte. Each type of Postgres has one form
// among these, its canonical one (see the package's documentation); of a column of SQLite a value is whatever is there.

// Loss says what may be lost of a column's values.
type Loss uint8

// What may be lost.
const (
	LossScale   Loss = 1 << iota // a numeric's trailing zeros, or those that a scale adds
	LossDigits                   // digits of a second that the target does not keep
	LossPadding                  // blanks at the end of char(n), or those that it adds
	LossInexact                  // a float's or a numeric's last digits
)

// toPostgres returns the canonical value of a type of Postgres that v, found in a column of SQLite or in its canonical form
// already, stands for. It refuses what does not certainly stand for one, and what would not be the same value.
func toPostgres(t Type, v any, may Loss) (any, error) {
	if v == nil {
		return nil, nil
	}
	convert := toKind[t.Kind]
	if convert == nil {
		return refuse("nothing is known of the type")
	}
	return convert(t, v, may)
}

// toKind is the table of conversions, by the kind of the target's column.
var toKind map[Kind]func(t Type, v any, may Loss) (any, error)

func init() { // an array's elements are converted by the table that has the array's
	toKind = map[Kind]func(t Type, v any, may Loss) (any, error){
		Bool: toBool, Int: toInt, Float: toFloat, Numeric: toNumeric, Text: toText, Bytes: toBytes, UUID: toUUID,
		Date: toDate, Time: toTime, Timestamp: toTimestamp, TimestampTZ: toTimestamp, Interval: toInterval, JSON: toJSON,
		Enum: toEnum, Array: toArray, Other: toOther,
	}
}

func toBool(_ Type, v any, _ Loss) (any, error) {
	switch v := v.(type) {
	case int64:
		if v == 0 || v == 1 {
			return v, nil
		}
	case float64:
		if v == 0 || v == 1 {
			return int64(v), nil
		}
	case string:
		switch strings.ToLower(v) {
		case "t", "true", "1":
			return int64(1), nil
		case "f", "false", "0":
			return int64(0), nil
		}
	}
	return refuse("%s is neither true nor false", show(v))
}

func toInt(t Type, v any, _ Loss) (any, error) {
	n, is := v.(int64)
	switch own := v.(type) {
	case int64:
	case float64:
		if own != math.Trunc(own) || math.Abs(own) > 1<<53 {
			return refuse("%s is no whole number", show(v))
		}
		n = int64(own)
	case string:
		var err error
		if n, err = strconv.ParseInt(own, 10, 64); err != nil || strconv.FormatInt(n, 10) != own {
			return refuse("%s is no whole number", show(v))
		}
	default:
		return refuse("%s is no whole number", show(v))
	}
	if t.Bits > 0 && t.Bits < 64 && n != n<<(64-t.Bits)>>(64-t.Bits) {
		return refuse("%d does not fit into %d bits", n, t.Bits)
	}
	if is {
		return v, nil // without an allocation
	}
	return n, nil
}

func toFloat(t Type, v any, may Loss) (any, error) {
	var f float64
	switch v := v.(type) {
	case float64:
		f = v
	case int64:
		if f = float64(v); f >= 1<<63 || int64(f) != v {
			return refuse("%d has more digits than a float", v)
		}
	case string:
		switch v {
		case "NaN":
			return v, nil // SQLite has no NaN
		case "Infinity", "Inf", "+Inf":
			return math.Inf(1), nil
		case "-Infinity", "-Inf":
			return math.Inf(-1), nil
		}
		var err error
		if f, err = strconv.ParseFloat(v, 64); err != nil || strings.ContainsAny(v, "xX_pP") || !sameDecimal(v, shortest(f)) {
			return refuse("%s is no float", show(v))
		}
	default:
		return refuse("%s is no float", show(v))
	}
	if t.Bits == 32 && may&LossInexact == 0 && float64(float32(f)) != f {
		return refuse("%v has more digits than a float of 32 bits", f)
	}
	if t.Bits == 32 {
		f = float64(float32(f))
	}
	return f, nil
}

func toText(t Type, v any, may Loss) (any, error) {
	s, ok := v.(string)
	if !ok {
		return refuse("%s is no text", show(v))
	}
	if err := storable(s); err != nil {
		return nil, err
	}
	if t.Len == 0 {
		return v, nil // without an allocation
	}
	switch n := utf8.RuneCountInString(s); {
	case n > t.Len && t.Fixed && may&LossPadding != 0 && utf8.RuneCountInString(strings.TrimRight(s, " ")) <= t.Len:
		return pad(strings.TrimRight(s, " "), t.Len), nil
	case n > t.Len:
		return refuse("the text has %d characters, more than %d", n, t.Len)
	case n < t.Len && t.Fixed && may&LossPadding == 0:
		return refuse("the text has %d characters and would be padded to %d", n, t.Len)
	case t.Fixed:
		return pad(s, t.Len), nil
	}
	return s, nil
}

func pad(s string, n int) string { return s + strings.Repeat(" ", n-utf8.RuneCountInString(s)) }

// storable refuses what a text of Postgres cannot hold.
func storable(s string) error {
	switch {
	case strings.IndexByte(s, 0) >= 0:
		return refusal("the text has the character U+0000, which Postgres cannot hold")
	case !utf8.ValidString(s):
		return refusal("the text is not UTF-8")
	}
	return nil
}

func toBytes(_ Type, v any, _ Loss) (any, error) {
	if b, ok := v.([]byte); ok {
		return b, nil
	}
	return refuse("%s is no string of bytes", show(v))
}

func toUUID(_ Type, v any, _ Loss) (any, error) {
	switch v := v.(type) {
	case string:
		if len(v) == 36 || len(v) == 32 {
			if id, err := uuid.Parse(v); err == nil {
				return id.String(), nil
			}
		}
	case []byte:
		if id, err := uuid.FromBytes(v); err == nil {
			return id.String(), nil
		}
	}
	return refuse("%s is no UUID", show(v))
}

func toEnum(t Type, v any, _ Loss) (any, error) {
	s, ok := v.(string)
	if !ok || !slices.Contains(t.Labels, s) {
		return refuse("%s is none of %s", show(v), strings.Join(t.Labels, ", "))
	}
	return s, nil
}

// toOther leaves it to Postgres what the text means.
func toOther(_ Type, v any, _ Loss) (any, error) {
	s, ok := v.(string)
	if !ok {
		return refuse("%s is no text", show(v))
	}
	if err := storable(s); err != nil {
		return nil, err
	}
	return s, nil
}

// show is a value as an error has it: short, and with its class.
func show(v any) string {
	switch v := v.(type) {
	case string:
		if len(v) > 60 {
			return strconv.Quote(strings.ToValidUTF8(v[:60], "")) + "…"
		}
		return strconv.Quote(v)
	case []byte:
		return "a blob of " + strconv.Itoa(len(v)) + " bytes"
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		return shortest(v)
	}
	return "NULL"
}

func shortest(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }
