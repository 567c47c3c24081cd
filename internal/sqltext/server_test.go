package sqltext_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/internal/sqltext"
)

// pieces are what texts are put together from: random bytes seldom get past the server's grammar.
var pieces = []string{
	"SELECT ", "1", "'a'", ";", " ", "\n", "-- x", "/*", "*/", "'", `"`, `\`, "E'", "e'", "U&'", "B'", "N'", `U&"`, "$$", "$a$", "$1", "$b", "a", "é",
	"(", ")", "[", "]", ",", "||", "AS ", "CASE WHEN true THEN ", " END", " BEGIN ATOMIC ", "BEGIN", "CREATE FUNCTION f() RETURNS int ", "LANGUAGE sql ",
	"RETURN ", "CREATE RULE r AS ON INSERT TO t DO ALSO (", "::text", "1e", ".5", "0x", "+", "-", "*", "/", "@", "ATOMIC", "::", ":", "\r", "\t", "_",
}

// What is one statement for the scanner must be one for the server, and what is several several. The server is asked to
// parse only: a message with a text of more than one statement is refused before it is looked at any further.
func FuzzStatementsAsTheServer(f *testing.F) {
	for _, seed := range []string{"\x00\x01", "\x00\x02\x03\x00\x01", "\x00\x12\x03\x12\x03\x00\x01", "\x23\x21\x00\x01\x03\x20\x03\x00\x01"} {
		f.Add([]byte(seed))
	}
	cluster := pgtest.Shared(f)
	conn, err := pgx.Connect(f.Context(), cluster.Database(f))
	require.NoError(f, err)
	f.Cleanup(func() { _ = conn.Close(f.Context()) })
	f.Fuzz(func(t *testing.T, choice []byte) {
		var b strings.Builder
		for _, c := range choice[:min(len(choice), 60)] {
			b.WriteString(pieces[int(c)%len(pieces)])
		}
		text := b.String()
		n := len(sqltext.Statements(sqltext.Postgres, text))
		_, err := conn.PgConn().Prepare(t.Context(), "", text, nil)
		var refusal *pgconn.PgError
		switch {
		case err == nil:
			require.LessOrEqual(t, n, 1, "%q", text)
		case !errors.As(err, &refusal):
			require.NoError(t, err, "%q", text)
		case strings.Contains(refusal.Message, "cannot insert multiple commands"):
			require.GreaterOrEqual(t, n, 2, "%q", text)
		case refusal.Code == "42P01" || refusal.Code == "42703" || refusal.Code == "42883": // it was parsed, and then not understood
			require.LessOrEqual(t, n, 1, "%q", text)
		}
	})
}
