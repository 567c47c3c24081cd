package transfer_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/tenancy"
	"github.com/tenement-go/tenement/transfer"
)

// sort is a kind of column, with values as an application on SQLite keeps them.
type sort struct {
	sqlite, postgres string
	value            func(r *rand.Rand) any
	may              transfer.Loss // on the way to SQLite
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

func runes(r *rand.Rand, n int) string {
	var b strings.Builder
	for range n {
		b.WriteRune(pick(r, 'a', 'Z', '0', ' ', '\t', '\n', '\r', '\\', '"', '\'', '{', '}', ',', 'é', '漢', '😀', '\u007f', '\x01'))
	}
	return b.String()
}

func day(r *rand.Rand) string {
	return fmt.Sprintf("%04d-%02d-%02d", 1+r.IntN(9998), 1+r.IntN(12), 1+r.IntN(28))
}

func clockText(r *rand.Rand) string {
	text := fmt.Sprintf("%02d:%02d", r.IntN(24), r.IntN(60))
	if r.IntN(4) > 0 {
		text += fmt.Sprintf(":%02d", r.IntN(60))
		if n := r.IntN(7); n > 0 {
			text += "." + fmt.Sprintf("%06d", r.IntN(1000000))[:n] + pick(r, "", "000")
		}
	}
	return text
}

func jsonText(r *rand.Rand, depth int) string {
	blank := pick(r, "", " ", "\n")
	switch n := r.IntN(8); {
	case n < 2 && depth > 0:
		var parts []string
		for i := range r.IntN(4) {
			parts = append(parts, fmt.Sprintf("%s\"k%d\"%s:%s", blank, r.IntN(2)*10+i, blank, jsonText(r, depth-1)))
		}
		return "{" + strings.Join(parts, ",") + "}"
	case n < 4 && depth > 0:
		var parts []string
		for range r.IntN(4) {
			parts = append(parts, jsonText(r, depth-1))
		}
		return "[" + strings.Join(parts, blank+",") + "]"
	case n == 4:
		return pick(r, "true", "false", "null")
	case n == 5:
		return pick(r, "0", "-17", "3.25", "1e3", "123456789012", "12.50")
	}
	text, _ := json.Marshal(runes(r, r.IntN(5)))
	return string(text)
}

func array(r *rand.Rand, elem func() string) string {
	var parts []string
	for range r.IntN(4) {
		parts = append(parts, pick(r, "null", elem(), elem()))
	}
	return "[" + strings.Join(parts, pick(r, ",", " , ")) + "]"
}

var sorts = []sort{
	{sqlite: "BOOLEAN", postgres: "boolean", value: func(r *rand.Rand) any { return pick[any](r, 0, 1, "t", "FALSE") }},
	{sqlite: "INTEGER", postgres: "bigint", value: func(r *rand.Rand) any { return pick(r, math.MaxInt64, math.MinInt64, 0, r.Int64()) }},
	{sqlite: "INT", postgres: "integer", value: func(r *rand.Rand) any { return pick(r, math.MaxInt32, math.MinInt32, r.Int32()) }},
	{sqlite: "SMALLINT", postgres: "smallint", value: func(r *rand.Rand) any { return r.IntN(65536) - 32768 }},
	{sqlite: "REAL", postgres: "double precision", value: func(r *rand.Rand) any {
		return pick[any](r, math.Inf(1), math.Inf(-1), "NaN", math.Copysign(0, -1), math.MaxFloat64, math.SmallestNonzeroFloat64, r.NormFloat64(), 3.0)
	}},
	{sqlite: "REAL", postgres: "real", value: func(r *rand.Rand) any { return pick(r, 0.5, float64(r.Float32()), -3) }},
	{sqlite: "TEXT", postgres: "numeric", value: func(r *rand.Rand) any {
		return pick(r, "1.50", "0", "-0.001", "123456789012345678901234567890.12", "NaN", "-Infinity", fmt.Sprint(r.IntN(1e9)))
	}},
	{sqlite: "NUMERIC(12,3)", postgres: "numeric(12,3)", may: transfer.LossScale, value: func(r *rand.Rand) any { return pick[any](r, 1.5, 7, -0.125, 1e6) }},
	{sqlite: "TEXT", postgres: "text", value: func(r *rand.Rand) any { return pick(r, "", `\N`, `\.`, runes(r, r.IntN(20))) }},
	{sqlite: "VARCHAR(20)", postgres: "varchar(20)", value: func(r *rand.Rand) any { return runes(r, r.IntN(21)) }},
	{sqlite: "CHAR(5)", postgres: "char(5)", value: func(r *rand.Rand) any { return pick(r, "ab   ", "     ", "abcde", "é😀 x ") }},
	{sqlite: "BLOB", postgres: "bytea", value: func(r *rand.Rand) any { return []byte(pick(r, "", "\x00\xff\\", runes(r, 9))) }},
	{sqlite: "UUID", postgres: "uuid", value: func(r *rand.Rand) any {
		return pick(r, "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", fmt.Sprintf("%08x-0000-4000-8000-%012x", r.Uint32(), r.Uint32()))
	}},
	{sqlite: "DATE", postgres: "date", value: func(r *rand.Rand) any { return pick(r, day(r), day(r)+" 00:00:00.000000", "infinity") }},
	{sqlite: "TIME", postgres: "time", value: func(r *rand.Rand) any { return clockText(r) }},
	{sqlite: "TIMESTAMP", postgres: "timestamp", value: func(r *rand.Rand) any {
		return pick[any](r, day(r)+pick(r, " ", "T")+clockText(r)+pick(r, "", "Z"), day(r), int64(1e9)+r.Int64N(1e9), 2460000.5, "-infinity", "0044-03-15 12:00:00.000000 BC")
	}},
	{sqlite: "TIMESTAMPTZ", postgres: "timestamptz", value: func(r *rand.Rand) any {
		return day(r) + " " + clockText(r) + pick(r, "", "Z", "+05:45", "-11:30", "+00")
	}},
	{sqlite: "INTERVAL", postgres: "interval", value: func(r *rand.Rand) any {
		return pick(r, "P1Y2M-3DT4H5M6.789S", "PT0S", "P1W", "PT-0.000001S", fmt.Sprintf("P%dM%dDT%dS", r.IntN(99)-50, r.IntN(99), r.IntN(1e6)))
	}},
	{sqlite: "JSON", postgres: "jsonb", value: func(r *rand.Rand) any { return jsonText(r, 3) }},
	{sqlite: "JSON", postgres: "json", value: func(r *rand.Rand) any { return jsonText(r, 2) }},
	{sqlite: "TEXT[]", postgres: "text[]", value: func(r *rand.Rand) any {
		return array(r, func() string { text, _ := json.Marshal(pick(r, "", "NULL", runes(r, 4))); return string(text) })
	}},
	{sqlite: "INTEGER[]", postgres: "bigint[]", value: func(r *rand.Rand) any {
		return pick(r, array(r, func() string { return fmt.Sprint(r.Int64() - r.Int64()) }), "[[1,2],[3,null]]", "[]")
	}},
	{sqlite: "BOOLEAN[]", postgres: "boolean[]", value: func(r *rand.Rand) any { return array(r, func() string { return pick(r, "true", "false") }) }},
	{sqlite: "TEXT", postgres: "mood", value: func(r *rand.Rand) any { return pick(r, "sad", "so, so", "happy") }},
	{sqlite: "TEXT", postgres: "inet", value: func(r *rand.Rand) any { return fmt.Sprintf("10.%d.%d.1", r.IntN(256), r.IntN(256)) }},
	{sqlite: "TEXT", postgres: "domained", value: func(r *rand.Rand) any { return pick(r, "x", "yy") }},
}

// randomSchema makes tables with random columns, and rows as an application on SQLite would have put them there.
func randomSchema(r *rand.Rand) (source fs.FS, mappings []transfer.Mapping, fill func(insert func(query string, args ...any))) {
	type table struct {
		name    string
		columns []sort
	}
	var tables []table
	lite, pg := "", "CREATE TYPE mood AS ENUM ('sad', 'so, so', 'happy');\nCREATE DOMAIN domained AS varchar(3) CHECK (VALUE <> 'no');\n"
	left := append(append([]sort{}, sorts...), sorts...)
	r.Shuffle(len(left), func(i, j int) { left[i], left[j] = left[j], left[i] })
	for n := 1; len(left) > 0; n++ {
		t := table{name: pick(r, fmt.Sprintf("t%d", n), fmt.Sprintf(`"Odd ""%d"`, n), fmt.Sprintf("tenement_%d", n))}
		take := min(len(left), 1+r.IntN(12))
		t.columns, left = left[:take], left[take:]
		lite += "CREATE TABLE " + t.name + " (id INTEGER PRIMARY KEY"
		pg += "CREATE TABLE " + t.name + " (id bigint PRIMARY KEY"
		for i, c := range t.columns {
			lite += fmt.Sprintf(", c%d %s", i, c.sqlite)
			pg += fmt.Sprintf(", c%d %s", i, c.postgres)
			if c.may != 0 {
				mappings = append(mappings, transfer.Mapping{Table: strings.ReplaceAll(strings.Trim(t.name, `"`), `""`, `"`), Column: fmt.Sprintf("c%d", i), May: c.may})
			}
		}
		lite += ");\n"
		pg += ");\n"
		tables = append(tables, t)
	}
	return files("00001_x.sqlite.sql", lite, "00001_x.postgres.sql", pg), mappings, func(insert func(string, ...any)) {
		for _, t := range tables {
			for id := range r.IntN(150) {
				args, marks := []any{id}, "$1"
				for i, c := range t.columns {
					v := c.value(r)
					if r.IntN(8) == 0 {
						v = nil
					}
					args = append(args, v)
					marks += fmt.Sprintf(", $%d", i+2)
				}
				insert("INSERT INTO "+t.name+" VALUES ("+marks+")", args...)
			}
		}
	}
}

func requireSame(t *testing.T, a, b transfer.Side) {
	t.Helper()
	c, err := transfer.Verify(t.Context(), a, b, transfer.VerifyOptions{})
	require.NoError(t, err)
	require.NoError(t, c.Err())
}

func hashes(m *transfer.Manifest) map[string]string {
	all := map[string]string{}
	for _, t := range m.Tables {
		all[t.Name] = fmt.Sprint(t.Rows, " ", t.Hash)
	}
	return all
}

// SQLite → file → Postgres → file → SQLite, and from there to Postgres once more.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for range 6 {
		seed := rand.Uint64()
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel()
			source, mappings, fill := randomSchema(rand.New(rand.NewPCG(seed, 1)))
			a, b, c := newPlace(t, backend.SQLite, source), newPlace(t, backend.Postgres, source), newPlace(t, backend.SQLite, source)
			thor := a.create(t, "thor")
			fill(func(query string, args ...any) {
				_, err := a.DB().ExecContext(backend.WithRouter(t.Context(), &thor), query, args...)
				require.NoError(t, err, "%s %v", query, args)
			})
			first, m1 := a.export(t, thor)
			inPostgres := b.bring(t, first)
			requireSame(t, transfer.InStore(a.App, thor.ID), transfer.InStore(b.App, inPostgres.ID))
			second, _ := b.export(t, inPostgres)
			requireSame(t, transfer.InFile(first), transfer.InFile(second))
			back := c.bring(t, second, transfer.ImportOptions{Mappings: mappings})
			requireSame(t, transfer.InStore(a.App, thor.ID), transfer.InStore(c.App, back.ID))
			third, m3 := c.export(t, back)
			assert.Equal(t, hashes(m1), hashes(m3))
			again := b.bring(t, third, transfer.ImportOptions{Spec: tenancy.Spec{Slug: "again"}, NoDomains: true})
			requireSame(t, transfer.InStore(b.App, inPostgres.ID), transfer.InStore(b.App, again.ID))
			f, err := transfer.Open(t.Context(), third)
			require.NoError(t, err)
			assert.NoError(t, f.Check(t.Context()))
			require.NoError(t, f.Close())
			assert.Equal(t, ".db", filepath.Ext(third))
		})
	}
}
