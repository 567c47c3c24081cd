package sqltext_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/internal/sqltext"
)

// tokens returns a text's tokens but for space and comments, each with a letter for its kind.
func tokens(d sqltext.Dialect, text string) []string {
	var out []string
	s := sqltext.New(d, text)
	for {
		t := s.Next()
		if t.Kind == sqltext.End {
			return out
		}
		kind := string("e_cwnsp#;o"[t.Kind])
		if t.Broken {
			kind += "!"
		}
		out = append(out, kind+":"+s.Text(t))
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		dialect sqltext.Dialect
		text    string
		want    []string
	}{
		{sqltext.Postgres, "", nil},
		{sqltext.Postgres, "SELECT a.b, 'x''y' FROM t -- z\rWHERE \"a\"\"b\"=$1;", []string{
			"w:SELECT", "w:a", "o:.", "w:b", "o:,", "s:'x''y'", "w:FROM", "w:t", "w:WHERE", `n:"a""b"`, "o:=", "p:$1", ";:;",
		}},
		{sqltext.SQLite, "-- a\rb\nc", []string{"w:c"}},
		{sqltext.Postgres, "/* a /* b */ c */ d", []string{"w:d"}},
		{sqltext.SQLite, "/* a /* b */ c", []string{"w:c"}},
		{sqltext.Postgres, `E'a\'b' 'a\'b`, []string{`s:E'a\'b'`, `s!:'a\'b`}},
		{sqltext.Postgres, "E'a'\n'b\\'' c", []string{"s:E'a'", `s:'b\''`, "w:c"}},
		{sqltext.Postgres, `'a\' b`, []string{`s:'a\'`, "w:b"}},
		{sqltext.Postgres, `name'a\'; c`, []string{"w:name", `s:'a\'`, ";:;", "w:c"}},
		{sqltext.SQLite, `e'a\' b`, []string{"w:e", `s:'a\'`, "w:b"}},
		{sqltext.Postgres, "$$a;$b$$c $x$ $y$ $x$ a$b$ $1", []string{"s:$$a;$b$$", "w:c", "s:$x$ $y$ $x$", "w:a$b$", "p:$1"}},
		{sqltext.Postgres, "$é$;$é$ U&\"a\" u&'b'", []string{"s:$é$;$é$", `n:U&"a"`, "w:u", "o:&", "s:'b'"}},
		{sqltext.Postgres, "1.5e-3 1e x 0e'\\'' .5", []string{"#:1.5e-3", "#:1", "w:e", "w:x", "#:0", `s:e'\''`, "#:.5"}},
		{sqltext.Postgres, "[a] ?", []string{"o:[", "w:a", "o:]", "o:?"}},
		{sqltext.SQLite, "[a;b] `c``d` ?1 :x @y $z(a;b) $w::v ?", []string{
			"n:[a;b]", "n:`c``d`", "p:?1", "p::x", "p:@y", "p:$z(a;b)", "p:$w::v", "p:?",
		}},
		{sqltext.Postgres, "(a; b); c", []string{"o:(", "w:a", "o:;", "w:b", "o:)", ";:;", "w:c"}},
		{sqltext.Postgres, "'a", []string{"s!:'a"}},
		{sqltext.Postgres, "$a$ b", []string{"s!:$a$ b"}},
		{sqltext.Postgres, "/* b", []string{"c!:/* b"}},
	} {
		assert.Equal(t, c.want, tokens(c.dialect, c.text), c.text)
	}
}

func TestStatements(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		dialect sqltext.Dialect
		text    string
		want    []string
	}{
		{sqltext.Postgres, " ; a b ;; /* x */ c; -- d", []string{"a b", "c"}},
		{
			sqltext.Postgres,
			"CREATE OR REPLACE FUNCTION f(begin atomic) RETURNS int BEGIN ATOMIC SELECT 1 case; SELECT CASE WHEN true THEN 1 END; END; COMMIT",
			[]string{
				"CREATE OR REPLACE FUNCTION f(begin atomic) RETURNS int BEGIN ATOMIC SELECT 1 case; SELECT CASE WHEN true THEN 1 END; END",
				"COMMIT",
			},
		},
		{sqltext.Postgres, "CREATE FUNCTION f(begin atomic) AS 'x'; COMMIT", []string{"CREATE FUNCTION f(begin atomic) AS 'x'", "COMMIT"}},
		{sqltext.Postgres, "SELECT x.begin atomic; COMMIT", []string{"SELECT x.begin atomic", "COMMIT"}},
		{sqltext.Postgres, "CREATE PROCEDURE p() BEGIN ATOMIC END; COMMIT", []string{"CREATE PROCEDURE p() BEGIN ATOMIC END", "COMMIT"}},
		{sqltext.Postgres, "CREATE RULE r AS ON INSERT TO t DO (a; b); c", []string{"CREATE RULE r AS ON INSERT TO t DO (a; b)", "c"}},
		{
			sqltext.SQLite, "CREATE TEMP TRIGGER t AFTER INSERT ON u BEGIN UPDATE v SET a = CASE 1 WHEN 1 THEN 2 END; END; SELECT 1",
			[]string{"CREATE TEMP TRIGGER t AFTER INSERT ON u BEGIN UPDATE v SET a = CASE 1 WHEN 1 THEN 2 END; END", "SELECT 1"},
		},
		{sqltext.SQLite, "BEGIN; a; END; b", []string{"BEGIN", "a", "END", "b"}},
	} {
		var got []string
		for _, s := range sqltext.Statements(c.dialect, c.text) {
			got = append(got, c.text[s.Start:s.End])
		}
		assert.Equal(t, c.want, got, c.text)
	}
}

func TestIdent(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`Abc`: "abc", `ÄB`: "Äb", `"A""b"`: `A"b`, `""`: "", `"é"`: "é",
	} {
		s := sqltext.New(sqltext.Postgres, text)
		got, ok := s.Ident(s.Next())
		assert.True(t, ok, text)
		assert.Equal(t, want, got)
	}
	for text, want := range map[string]string{"[A b]": "A b", "`a``b`": "a`b"} {
		s := sqltext.New(sqltext.SQLite, text)
		got, ok := s.Ident(s.Next())
		assert.True(t, ok, text)
		assert.Equal(t, want, got)
	}
	s := sqltext.New(sqltext.Postgres, `U&"d\0061t"`)
	_, ok := s.Ident(s.Next())
	assert.False(t, ok)
}

func TestCharacters(t *testing.T) {
	t.Parallel()
	const text = "aé日b"
	assert.Equal(t, 3, sqltext.Characters(text, len("aé日")))
	assert.Equal(t, len("aé日"), sqltext.Offset(text, 3))
	assert.Equal(t, len(text), sqltext.Offset(text, 99))
}

// FuzzScan: the tokens are the whole text, the statements lie in it in order, and every name can be read.
func FuzzScan(f *testing.F) {
	for _, text := range []string{
		"SELECT $a$ ; /* -- */ 'x' \"y\" E'\\'", "CREATE FUNCTION f() BEGIN ATOMIC SELECT 1; END; x", "[a] `b` :c ?1 @d $e(f)",
		"CREATE TRIGGER t BEGIN x; END; y", "U&\"a\" U&'b' 1e 0e'\\'' .5 $1$2 a$b$", "\xff\x00'\xc3", "(((;)))", "/* /*", "\"", "[", "`",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, d := range []sqltext.Dialect{sqltext.Postgres, sqltext.SQLite} {
			s := sqltext.New(d, text)
			var whole strings.Builder
			for at := 0; ; {
				tok := s.Scan()
				require.Equal(t, at, tok.Start)
				at = tok.End
				whole.WriteString(s.Text(tok))
				s.Ident(tok)
				s.Literal(tok)
				if tok.Kind == sqltext.End {
					require.Empty(t, s.Text(tok))
					break
				}
				require.Greater(t, tok.End, tok.Start)
			}
			require.Equal(t, text, whole.String())
			at := 0
			for _, span := range sqltext.Statements(d, text) {
				require.GreaterOrEqual(t, span.Start, at)
				require.Greater(t, span.End, span.Start)
				at = span.End
			}
			require.LessOrEqual(t, at, len(text))
			if utf8.ValidString(text) {
				for i := range text {
					require.Equal(t, i, sqltext.Offset(text, sqltext.Characters(text, i)))
				}
			}
		}
	})
}
