package transfer

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const no = "refused"

// What a value of SQLite becomes in a column of Postgres.
func TestToPostgres(t *testing.T) {
	t.Parallel()
	price := Type{Kind: Numeric, Precision: 6, Scale: 2}
	mood := Type{Kind: Enum, Labels: []string{"sad", "happy"}}
	ints := Type{Kind: Array, Elem: &Type{Kind: Int, Bits: 32}}
	stamp, stampTZ := Type{Kind: Timestamp}, Type{Kind: TimestampTZ}
	for _, c := range []struct {
		to   Type
		v    any
		want any
		may  Loss
	}{
		{to: Type{Kind: Bool}, v: int64(1), want: int64(1)},
		{to: Type{Kind: Bool}, v: "TRUE", want: int64(1)},
		{to: Type{Kind: Bool}, v: "f", want: int64(0)},
		{to: Type{Kind: Bool}, v: int64(2), want: no},
		{to: Type{Kind: Bool}, v: "yes", want: no},
		{to: Type{Kind: Int, Bits: 16}, v: int64(-32768), want: int64(-32768)},
		{to: Type{Kind: Int, Bits: 16}, v: int64(32768), want: no},
		{to: Type{Kind: Int, Bits: 64}, v: 3.0, want: int64(3)},
		{to: Type{Kind: Int, Bits: 64}, v: 3.5, want: no},
		{to: Type{Kind: Int, Bits: 64}, v: 1e300, want: no},
		{to: Type{Kind: Int, Bits: 64}, v: "12", want: int64(12)},
		{to: Type{Kind: Int, Bits: 64}, v: "012", want: no},
		{to: Type{Kind: Float, Bits: 64}, v: int64(1) << 53, want: float64(1 << 53)},
		{to: Type{Kind: Float, Bits: 64}, v: int64(1)<<53 + 1, want: no},
		{to: Type{Kind: Float, Bits: 64}, v: int64(math.MaxInt64), want: no},
		{to: Type{Kind: Float, Bits: 64}, v: "NaN", want: "NaN"},
		{to: Type{Kind: Float, Bits: 64}, v: math.Inf(-1), want: math.Inf(-1)},
		{to: Type{Kind: Float, Bits: 64}, v: "0.1", want: 0.1},
		{to: Type{Kind: Float, Bits: 64}, v: "0.10000000000000000001", want: no},
		{to: Type{Kind: Float, Bits: 32}, v: 0.5, want: 0.5},
		{to: Type{Kind: Float, Bits: 32}, v: 0.1, want: no},
		{to: Type{Kind: Float, Bits: 32}, v: 0.1, want: float64(float32(0.1)), may: LossInexact},
		{to: Type{Kind: Numeric}, v: "1.50", want: "1.50"},
		{to: Type{Kind: Numeric}, v: 0.1, want: "0.1"},
		{to: Type{Kind: Numeric}, v: 1e21, want: "1000000000000000000000"},
		{to: Type{Kind: Numeric}, v: "1e400000", want: no},
		{to: Type{Kind: Numeric}, v: "0x10", want: no},
		{to: Type{Kind: Numeric}, v: math.Inf(1), want: "Infinity"},
		{to: price, v: 1.5, want: "1.50"},
		{to: price, v: int64(0), want: "0.00"},
		{to: price, v: -0.05, want: "-0.05"},
		{to: price, v: "1.50", want: "1.50"},
		{to: price, v: "1.5", want: no},
		{to: price, v: "1.5", want: "1.50", may: LossScale},
		{to: price, v: 1.005, want: no},
		{to: price, v: "-1.005", want: "-1.01", may: LossInexact},
		{to: price, v: 9999.99, want: "9999.99"},
		{to: price, v: int64(10000), want: no},
		{to: price, v: math.Inf(1), want: no},
		{to: Type{Kind: Text}, v: "a\x00b", want: no},
		{to: Type{Kind: Text}, v: "\xff", want: no},
		{to: Type{Kind: Text}, v: int64(5), want: no},
		{to: Type{Kind: Text}, v: []byte("x"), want: no},
		{to: Type{Kind: Text, Len: 2}, v: "漢字", want: "漢字"},
		{to: Type{Kind: Text, Len: 2}, v: "abc", want: no},
		{to: Type{Kind: Text, Len: 3, Fixed: true}, v: "ab ", want: "ab "},
		{to: Type{Kind: Text, Len: 3, Fixed: true}, v: "ab", want: no},
		{to: Type{Kind: Text, Len: 3, Fixed: true}, v: "ab", want: "ab ", may: LossPadding},
		{to: Type{Kind: Bytes}, v: []byte{0}, want: []byte{0}},
		{to: Type{Kind: Bytes}, v: "x", want: no},
		{to: Type{Kind: UUID}, v: "A0EEBC999C0B4EF8BB6D6BB9BD380A11", want: "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"},
		{to: Type{Kind: UUID}, v: make([]byte, 16), want: "00000000-0000-0000-0000-000000000000"},
		{to: Type{Kind: UUID}, v: "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}", want: no},
		{to: Type{Kind: Date}, v: "2024-02-29", want: "2024-02-29"},
		{to: Type{Kind: Date}, v: "2024-02-29 00:00:00.000000", want: "2024-02-29"},
		{to: Type{Kind: Date}, v: "2024-02-29 00:00:01", want: no},
		{to: Type{Kind: Date}, v: "2023-02-29", want: no},
		{to: Type{Kind: Date}, v: "0000-01-01", want: no},
		{to: Type{Kind: Date}, v: "29.2.2024", want: no},
		{to: Type{Kind: Time}, v: "10:11", want: "10:11:00.000000"},
		{to: Type{Kind: Time}, v: "24:00:00", want: "24:00:00.000000"},
		{to: Type{Kind: Time}, v: "24:00:01", want: no},
		{to: Type{Kind: Time, Digits: 1}, v: "10:11:12.5", want: no},
		{to: Type{Kind: Time, Digits: 1}, v: "10:11:12.5", want: "10:11:12.000000", may: LossDigits},
		{to: stamp, v: "2024-02-29T10:11:12Z", want: "2024-02-29 10:11:12.000000"},
		{to: stamp, v: "2024-02-29T10:11:12+01:00", want: no},
		{to: stamp, v: "2024-02-29T10:11:12.1234560000", want: "2024-02-29 10:11:12.123456"},
		{to: stamp, v: "2024-02-29T10:11:12.1234567", want: no},
		{to: stamp, v: "2024-02-29T10:11:12.1234567", want: "2024-02-29 10:11:12.123456", may: LossDigits},
		{to: stamp, v: int64(1709201472), want: "2024-02-29 10:11:12.000000"},
		{to: stamp, v: int64(1709201472000), want: no},
		{to: stamp, v: int64(2460370), want: no},
		{to: stamp, v: 2460369.5, want: "2024-02-29 00:00:00.000000"},
		{to: stamp, v: 2460369.500000001, want: no},
		{to: stamp, v: 1709201472.25, want: "2024-02-29 10:11:12.250000"},
		{to: stampTZ, v: "2024-02-29 10:11:12.5+05:45", want: "2024-02-29 04:26:12.500000"},
		{to: stampTZ, v: "2024-03-01 00:11:12 -0930", want: "2024-03-01 09:41:12.000000"},
		{to: stampTZ, v: "0001-01-01 00:00:00+01", want: "0001-12-31 23:00:00.000000 BC"},
		{to: stampTZ, v: "infinity", want: "infinity"},
		{to: stampTZ, v: "now", want: no},
		{to: Type{Kind: Interval}, v: "P1Y2M3DT4H5M6.7S", want: "P14M3DT14706.7S"},
		{to: Type{Kind: Interval}, v: "PT-0.5S", want: "PT-0.5S"},
		{to: Type{Kind: Interval}, v: "PT0S", want: "PT0S"},
		{to: Type{Kind: Interval}, v: "1 day", want: no},
		{to: Type{Kind: Interval}, v: "P0.5D", want: no},
		{to: Type{Kind: JSON}, v: `{"a": {"a": 1}, "b": [{"a": 1}, {"a": 2}]}`, want: `{"a": {"a": 1}, "b": [{"a": 1}, {"a": 2}]}`},
		{to: Type{Kind: JSON}, v: `[{"a": 1, "b": {}, "a": 2}]`, want: no},
		{to: Type{Kind: JSON}, v: `{"a": 1, "\u0061": 2}`, want: no},
		{to: Type{Kind: JSON}, v: []byte(`[1]`), want: `[1]`},
		{to: Type{Kind: JSON}, v: int64(3), want: `3`},
		{to: Type{Kind: JSON}, v: `[1] [2]`, want: no},
		{to: Type{Kind: JSON, Binary: true}, v: `["\u0000"]`, want: no},
		{to: Type{Kind: JSON, Binary: true}, v: `["\\u0000"]`, want: `["\\u0000"]`},
		{to: ints, v: `[1]]`, want: no},
		{to: ints, v: `[1]}`, want: no},
		{to: mood, v: "sad", want: "sad"},
		{to: mood, v: "Sad", want: no},
		{to: ints, v: `[1, null, [2]]`, want: no},
		{to: ints, v: `[[1, null], [2, 3]]`, want: `[[1,null],[2,3]]`},
		{to: ints, v: `[]`, want: `[]`},
		{to: ints, v: `[3000000000]`, want: no},
		{to: ints, v: `{1,2}`, want: no},
	} {
		got, err := toPostgres(c.to, c.v, c.may)
		if c.want == no {
			assert.Error(t, err, "%s from %s", c.to, show(c.v))
			continue
		}
		if assert.NoError(t, err, "%s from %s", c.to, show(c.v)) {
			assert.Equal(t, c.want, got, "%s from %s", c.to, show(c.v))
		}
	}
}

// What a value of Postgres becomes in a column of SQLite.
func TestToSQLite(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		from     Type
		declared string
		v, want  any
		may      Loss
	}{
		{from: Type{Kind: Numeric}, declared: "TEXT", v: "1.50", want: "1.50"},
		{from: Type{Kind: Numeric}, declared: "DECIMAL", v: "1.50", want: no},
		{from: Type{Kind: Numeric}, declared: "DECIMAL", v: "1.50", want: 1.5, may: LossScale},
		{from: Type{Kind: Numeric}, declared: "DECIMAL", v: "1.00", want: int64(1), may: LossScale},
		{from: Type{Kind: Numeric}, declared: "DECIMAL", v: "123456789012345678901.5", want: no, may: LossScale},
		{from: Type{Kind: Numeric, Precision: 9}, declared: "INTEGER", v: "12", want: int64(12)},
		{from: Type{Kind: Text}, declared: "STRING", v: "007", want: no},
		{from: Type{Kind: Text}, declared: "STRING", v: "x7", want: "x7"},
		{from: Type{Kind: Text}, declared: "TEXT", v: "007", want: "007"},
		{from: Type{Kind: JSON}, declared: "JSON", v: "1.0", want: "1.0"},
		{from: Type{Kind: JSON}, declared: "JSON", v: "1e999", want: no},
		{from: Type{Kind: Float, Bits: 64}, declared: "REAL", v: "NaN", want: "NaN"},
		{from: Type{Kind: Float, Bits: 64}, declared: "REAL", v: math.Inf(1), want: math.Inf(1)},
		{from: Type{Kind: Float, Bits: 64}, declared: "NUMERIC", v: 3.0, want: 3.0},
		{from: Type{Kind: Int, Bits: 64}, declared: "TEXT", v: int64(5), want: int64(5)},
		{from: Type{Kind: Int, Bits: 64}, declared: "REAL", v: int64(math.MaxInt64), want: no},
		{from: Type{Kind: TimestampTZ}, declared: "INTEGER", v: "2024-02-29 10:11:12.000000", want: int64(1709201472)},
		{from: Type{Kind: TimestampTZ}, declared: "INTEGER", v: "2024-02-29 10:11:12.500000", want: no},
		{from: Type{Kind: TimestampTZ}, declared: "DATETIME", v: "2024-02-29 10:11:12.500000", want: "2024-02-29 10:11:12.500000"},
		{from: Type{Kind: Interval}, declared: "INTERVAL", v: "P1M", want: "P1M"},
	} {
		got, err := toSQLite(c.from, declaredType(c.declared, false), c.v, c.may)
		if c.want == no {
			assert.Error(t, err, "%s of %s", c.declared, show(c.v))
			continue
		}
		if assert.NoError(t, err, "%s of %s", c.declared, show(c.v)) {
			assert.Equal(t, c.want, got, "%s of %s", c.declared, show(c.v))
		}
	}
}

func TestArrayLiterals(t *testing.T) {
	t.Parallel()
	texts := Type{Kind: Array, Elem: &Type{Kind: Text}}
	for literal, want := range map[string]string{
		`{}`:                        `[]`,
		`{a,NULL,"NULL","","a\\b"}`: `["a",null,"NULL","","a\\b"]`,
		`{{a,"b,c"},{"}","\"\\"}}`:  `[["a","b,c"],["}","\"\\"]]`,
	} {
		got, err := parseLiteral(texts, literal)
		require.NoError(t, err, literal)
		assert.Equal(t, want, got)
		text, err := writeLiteral(texts, want)
		require.NoError(t, err)
		again, err := parseLiteral(texts, text)
		require.NoError(t, err)
		assert.Equal(t, want, again)
	}
	_, err := parseLiteral(texts, `[0:1]={a,b}`)
	assert.Error(t, err, "its first element is not the first")
}

// A hash does not depend on the order of rows, and tells values apart that are written alike.
func TestHash(t *testing.T) {
	t.Parallel()
	sum := func(kind Kind, rows ...any) string {
		types := []Type{{Kind: kind, Affinity: AffinityNone}}
		h := newTableHash(types, types)
		for _, v := range rows {
			h.add([]any{v})
		}
		return h.String()
	}
	assert.Equal(t, sum(Text, "a", "b", nil), sum(Text, nil, "b", "a"))
	assert.NotEqual(t, sum(Text, "a", "a"), sum(Text, "a"))
	assert.NotEqual(t, sum(Any, int64(1)), sum(Any, "1"))
	assert.NotEqual(t, sum(Any, "1"), sum(Any, []byte("1")))
	assert.Equal(t, sum(JSON, `{"a":1.0,"b":[]}`), sum(JSON, `{ "b": [ ], "a": 1e0 }`))
	assert.NotEqual(t, sum(JSON, `{"a":"1"}`), sum(JSON, `{"a":1}`))
	assert.NotEqual(t, sum(JSON, `{"a":1} x`), sum(JSON, `{"a":1}`), "the one is no JSON")
	assert.NotEqual(t, sum(JSON, `{"a":2,"a":1}`), sum(JSON, `{"a":1}`), "the one has the key twice")
	assert.Equal(t, sum(Timestamp, "2024-02-29T00:00:00Z"), sum(Timestamp, int64(1709164800)))
	assert.Equal(t, sum(Float, 0.0), sum(Float, math.Copysign(0, -1)))
	assert.NotEqual(t, sum(Numeric, "1.5"), sum(Numeric, "1.50"))
}
