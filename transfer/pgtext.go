package transfer

import (
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// What Postgres reads and writes as text, under the settings of textSettings, and the text format of COPY:
// https://www.postgresql.org/docs/current/sql-copy.html.

// textSettings make the text of a value the same everywhere, and have row-level security fail rather than leave out rows.
const textSettings = `SET LOCAL datestyle = 'ISO, YMD'; SET LOCAL intervalstyle = 'iso_8601'; SET LOCAL timezone = 'UTC';
	SET LOCAL extra_float_digits = 1; SET LOCAL bytea_output = 'hex'; SET LOCAL xmlbinary = 'base64'; SET LOCAL row_security = off;
	SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0`

// decodeText returns the canonical value of what Postgres wrote.
func decodeText(t *Type, text string) (any, error) {
	switch t.Kind {
	case Bool:
		if text == "t" {
			return int64(1), nil
		}
		return int64(0), nil
	case Int:
		return strconv.ParseInt(text, 10, 64)
	case Float:
		return decodeFloat(t.Bits, text)
	case Bytes:
		b := make([]byte, max(0, hex.DecodedLen(len(text)-2)))
		_, err := hex.Decode(b, []byte(text[min(2, len(text)):])) // \x
		return b, err
	case Timestamp, TimestampTZ, Date, Time, Interval:
		return toPostgres(Type{Kind: t.Kind}, text, 0)
	case Array:
		return parseLiteral(*t, text)
	}
	return text, nil
}

func decodeFloat(bits int, text string) (any, error) {
	if text == "NaN" {
		return text, nil
	}
	// The nearest float of 32 bits, whose shortest text this is, and not that of 64.
	if bits != 32 {
		bits = 64
	}
	return strconv.ParseFloat(text, bits)
}

// encodeText returns what Postgres reads as a canonical value; v is not nil.
func encodeText(t Type, v any) (string, error) {
	switch v := v.(type) {
	case int64:
		if t.Kind == Bool {
			return strconv.FormatBool(v != 0), nil
		}
		return strconv.FormatInt(v, 10), nil
	case float64:
		switch {
		case math.IsInf(v, 1):
			return "Infinity", nil
		case math.IsInf(v, -1):
			return "-Infinity", nil
		}
		return shortest(v), nil
	case []byte:
		return `\x` + hex.EncodeToString(v), nil
	case string:
		if t.Kind == Array {
			return writeLiteral(t, v)
		}
		return v, nil
	}
	return "", fmt.Errorf("%T is no value", v)
}

// appendCopy appends a row in the text format of COPY.
func appendCopy(line []byte, types []Type, row []any) ([]byte, error) {
	for i, v := range row {
		if i > 0 {
			line = append(line, '\t')
		}
		if v == nil {
			line = append(line, '\\', 'N')
			continue
		}
		if n, ok := v.(int64); ok && types[i].Kind != Bool {
			line = strconv.AppendInt(line, n, 10)
			continue
		}
		text, ok := v.(string)
		if !ok || types[i].Kind == Array {
			var err error
			if text, err = encodeText(types[i], v); err != nil {
				return nil, err
			}
		}
		line = appendEscaped(line, text)
	}
	return append(line, '\n'), nil
}

func appendEscaped(line []byte, text string) []byte {
	done := 0
	for i := range len(text) {
		c := text[i]
		switch c {
		case '\\', '\t':
		case '\n':
			c = 'n'
		case '\r':
			c = 'r'
		default:
			continue
		}
		line = append(append(line, text[done:i]...), '\\', c)
		done = i + 1
	}
	return append(line, text[done:]...)
}

// copyEscapes are what the letters behind a backslash stand for.
var copyEscapes = map[byte]byte{'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t', 'v': '\v'}

// parseCopy reads a row in the text format of COPY, without its line end, into row. The line's memory is used again: the
// values share one copy of it.
func parseCopy(sent []byte, types []Type, row []any) error {
	line := string(sent)
	for i := range row {
		field := line
		if tab := strings.IndexByte(line, '\t'); tab >= 0 && i < len(row)-1 {
			field, line = line[:tab], line[tab+1:]
		} else if i < len(row)-1 {
			return fmt.Errorf("a line of COPY has %d of %d columns", i+1, len(row))
		}
		if field == `\N` {
			row[i] = nil
			continue
		}
		v, err := decodeText(&types[i], unescape(field))
		if err != nil {
			return &columnError{i, err}
		}
		row[i] = v
	}
	return nil
}

func unescape(field string) string {
	if strings.IndexByte(field, '\\') < 0 {
		return field
	}
	text := make([]byte, 0, len(field))
	for i := 0; i < len(field); i++ {
		c := field[i]
		if c == '\\' && i+1 < len(field) {
			i++
			c = field[i]
			if e, ok := copyEscapes[c]; ok {
				c = e
			}
		}
		text = append(text, c)
	}
	return string(text)
}

// columnError says in which column of a row something is wrong.
type columnError struct {
	column int
	err    error
}

func (e *columnError) Error() string { return e.err.Error() }
func (e *columnError) Unwrap() error { return e.err }
