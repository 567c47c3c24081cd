package migrate

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pressly/goose/v3/database"

	"github.com/tenement-go/tenement/backend"
)

// script is what a plan does to a store, as text that runs in one transaction. Only its head differs between the stores
// of a group.
//
// The head is the guard. It records the first version of each source that has something pending, under the condition
// that the store has the versions that the plan was made for; otherwise the value is NULL, which goose's table refuses
// (SQLSTATE 23502), and nothing of the script is kept. On Postgres it also locks and moves on the store's row in the
// ledger, under the same condition: whoever comes second waits for the first, and is then refused.
type script struct {
	head func(store backend.Store) string
	body string
}

// notNullViolation is what the guard fails with on Postgres. A migration may fail with it too: whoever sees it looks again.
const notNullViolation = "23502"

// compose makes the script of a plan from one state to another. ok is false when the migrations cannot be sent as text.
func (m *Migrator) compose(from, to state, todo []*migration) (sc script, ok bool) {
	for _, mig := range todo {
		if !mig.text {
			return script{}, false
		}
	}
	var guards []guard
	var body strings.Builder
	for i, mig := range todo {
		first := i == 0 || todo[i-1].source != mig.source
		if first {
			list, there := from[mig.source.name]
			g := guard{table: mig.source.table, version: mig.version, rows: len(list) + 1}
			if len(list) > 0 {
				g.newest = list[len(list)-1].Version
			}
			if !there {
				g.create = mig.source.createTable(m.dialect)
			}
			guards = append(guards, g)
		}
		for _, statement := range mig.up {
			body.WriteString(statement)
			if strings.HasSuffix(statement, ";") {
				body.WriteByte('\n')
			} else {
				body.WriteString("\n;\n") // it may end in a comment
			}
		}
		if !first {
			fmt.Fprintf(&body, "INSERT INTO %s (version_id, is_applied) VALUES (%d, %s);\n", mig.source.table, mig.version, m.dialect.yes())
		}
	}
	oldPrint, newPrint := from.fingerprint(), to.fingerprint()
	head := func(store backend.Store) string {
		var b strings.Builder
		for i, g := range guards {
			with := ""
			if i == 0 && m.dialect.name == backend.Postgres {
				with = `WITH l AS (UPDATE public.tenement_ledger SET fingerprint = '` + newPrint + `', updated_at = ` +
					strconv.FormatInt(time.Now().UnixMilli(), 10) + `, failed_source = '', failed_version = 0, failed_state = '', failed_error = ''
WHERE store = '` + store.String() + `' AND fingerprint = '` + oldPrint + `' RETURNING 1) `
			}
			g.write(&b, m.dialect, store, with)
		}
		return b.String()
	}
	return script{head: head, body: body.String()}, true
}

// guard is the condition on one version table, and the row by which it is checked.
type guard struct {
	table   string
	version int64  // the row to write
	rows    int    // how many there must be: the versions and goose's zero
	newest  int64  // and the highest of them
	create  string // makes the table when the store has none
}

// write appends the guard. with is a WITH clause whose l must have a row.
func (g guard) write(b *strings.Builder, d dialect, store backend.Store, with string) {
	locked := ""
	if with != "" {
		locked = "EXISTS (SELECT 1 FROM l) AND "
	}
	if g.create != "" {
		// That there is no such table is checked by making it.
		b.WriteString(g.create)
		fmt.Fprintf(b, "INSERT INTO %s (version_id, is_applied) VALUES (0, %s);\n", g.table, d.yes())
		if with == "" {
			fmt.Fprintf(b, "INSERT INTO %s (version_id, is_applied) VALUES (%d, %s);\n", g.table, g.version, d.yes())
			return
		}
		fmt.Fprintf(b, "%sINSERT INTO %s (version_id, is_applied) SELECT CASE WHEN EXISTS (SELECT 1 FROM l) THEN %d END, %s;\n",
			with, g.table, g.version, d.yes())
		return
	}
	// Qualified: the shared store, which unqualified names also reach, has a table of that name.
	table := d.in(store) + g.table
	fmt.Fprintf(b, "%sINSERT INTO %s (version_id, is_applied) SELECT CASE WHEN %s(SELECT count(*) = %d AND max(version_id) = %d FROM %s) THEN %d END, %s;\n",
		with, table, locked, g.rows, g.newest, table, g.version, d.yes())
}

// yes is goose's value for is_applied.
func (d dialect) yes() string {
	if d.name == backend.Postgres {
		return "true"
	}
	return "1"
}

// in returns the qualifier of a store's own tables.
func (d dialect) in(store backend.Store) string {
	if d.name == backend.Postgres {
		return `"` + store.String() + `".` // a store's name has no quotes in it
	}
	return "main."
}

// createTable returns the statement by which goose makes the source's version table.
func (s *series) createTable(d dialect) string {
	rec := &recorder{}
	db := rec.open()
	defer func() { _ = db.Close() }()
	store, err := database.NewStore(d.goose, s.table)
	if err == nil {
		err = store.CreateVersionTable(context.Background(), db)
	}
	if err != nil || len(rec.statements) != 1 {
		panic(fmt.Sprintf("migrate: goose makes its version table in %d statements: %v", len(rec.statements), err))
	}
	return strings.TrimSpace(rec.statements[0]) + ";\n"
}

// provisionText returns the text that brings a new, empty store to a state, and enters it into the ledger (Postgres).
func (m *Migrator) provisionText(rt backend.Route, to state, todo []*migration) string {
	var b strings.Builder
	// The row of an earlier store of that name, if one was left, is nobody's any more.
	fmt.Fprintf(&b, `INSERT INTO public.tenement_ledger (store, owner, fingerprint, updated_at) VALUES ('%s', '%s', '%s', %d)
ON CONFLICT (store) DO UPDATE SET owner = excluded.owner, fingerprint = excluded.fingerprint, updated_at = excluded.updated_at,
failed_source = '', failed_version = 0, failed_state = '', failed_error = '';
`, rt.Store, strings.ReplaceAll(rt.Owner, "'", "''"), to.fingerprint(), time.Now().UnixMilli())
	for i, mig := range todo {
		if i == 0 || todo[i-1].source != mig.source {
			b.WriteString(mig.source.createTable(m.dialect))
			fmt.Fprintf(&b, "INSERT INTO %s (version_id, is_applied) VALUES (0, %s);\n", mig.source.table, m.dialect.yes())
		}
		for _, statement := range mig.up {
			b.WriteString(statement)
			b.WriteString("\n;\n")
		}
		fmt.Fprintf(&b, "INSERT INTO %s (version_id, is_applied) VALUES (%d, %s);\n", mig.source.table, mig.version, m.dialect.yes())
	}
	return b.String()
}

// traits tells whether a migration may be sent as text, and whether its outcome may differ between stores.
//
// Text is sent when it is certain to do what goose would do with the statements one by one; goose takes the rest.
func (m *migration) traits(d dialect, text []byte) (asText, varies bool) {
	envsub := false
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "--") && strings.Contains(line, "+goose") && strings.Contains(strings.ToUpper(line), "ENVSUB ON") {
			envsub = true
		}
	}
	varies = envsub
	asText = m.tx && !envsub
	for _, statement := range m.up {
		if strings.Contains(strings.ToLower(statement), "random") {
			varies = true // a key or a salt, which two tenants must not share
		}
		if asText && !plain(d.name, statement) {
			asText = false
		}
	}
	return asText, varies || !m.tx
}

// plain reports whether a statement of goose's is whole in itself, and leaves the transaction and the session alone.
// When in doubt it says no.
//
// goose ends a statement at each line that ends in a semicolon, unless StatementBegin says otherwise; a function or a
// trigger without it falls into pieces that fail one by one but would make sense again when joined.
func plain(d backend.Dialect, statement string) bool {
	l := lexer{dialect: d, rest: statement}
	begin, depth := true, 0 // at the beginning of a statement; within parentheses
	body, last := false, "" // between BEGIN and END of a trigger or function; the last word
	creates := false
	for {
		token, kind := l.next()
		switch kind {
		case tokenBroken:
			return false
		case tokenEnd:
			return depth == 0 && (!body || last == "end")
		case tokenWord:
			word := strings.ToLower(token)
			if begin {
				begin = false
				creates = word == "create"
				if !harmless[word] {
					return false
				}
			}
			switch word {
			case "set_config", "search_path":
				if !creates {
					return false
				}
			case "pg_temp", "concurrently":
				return false
			case "temp", "temporary":
				switch last {
				case "create", "replace", "into", "local", "global":
					return false // it would outlive the transaction, on a connection that goes on to other stores
				}
			case "begin":
				if creates && depth == 0 {
					body = true
				}
			}
			last = word
		case tokenOther:
			switch token {
			case "(":
				depth++
			case ")":
				depth--
			case ";":
				if depth != 0 || body && last != "end" {
					continue // between two statements of a rule, a trigger or a function
				}
				begin, body, creates = true, false, false
				continue
			}
			if begin {
				return false // a statement that begins with no word
			}
			last = token
		case tokenQuoted:
			if begin {
				return false
			}
			last = ""
		}
	}
}

// harmless are the words that a statement sent as text may begin with.
var harmless = map[string]bool{
	"create": true, "alter": true, "drop": true, "comment": true, "insert": true, "update": true, "delete": true, "select": true,
	"with": true, "grant": true, "revoke": true, "truncate": true, "do": true, "replace": true, "merge": true, "analyze": true,
	"refresh": true, "values": true,
}

type tokenKind uint8

const (
	tokenEnd tokenKind = iota
	tokenBroken
	tokenWord
	tokenQuoted
	tokenOther
)

// lexer splits SQL into words, quoted things and single characters, without comments.
type lexer struct {
	dialect backend.Dialect
	rest    string
}

func (l *lexer) next() (string, tokenKind) {
	for {
		l.rest = strings.TrimLeft(l.rest, " \t\r\n\f\v")
		switch {
		case l.rest == "":
			return "", tokenEnd
		case strings.HasPrefix(l.rest, "--"):
			_, l.rest, _ = strings.Cut(l.rest, "\n")
		case strings.HasPrefix(l.rest, "/*"):
			if !l.comment() {
				return "", tokenBroken
			}
		default:
			return l.token()
		}
	}
}

// comment skips a block comment. Postgres nests them, SQLite does not.
func (l *lexer) comment() bool {
	depth := 0
	for i := 0; i+1 < len(l.rest); i++ {
		switch {
		case l.rest[i] == '/' && l.rest[i+1] == '*' && (depth == 0 || l.dialect == backend.Postgres):
			depth++
			i++
		case l.rest[i] == '*' && l.rest[i+1] == '/':
			depth--
			i++
			if depth == 0 {
				l.rest = l.rest[i+1:]
				return true
			}
		}
	}
	return false
}

func (l *lexer) token() (string, tokenKind) {
	c := l.rest[0]
	switch {
	case c == '\'' || c == '"' || (l.dialect == backend.SQLite && c == '`'):
		return l.quoted(c, false)
	case l.dialect == backend.SQLite && c == '[':
		return l.until("]", 1)
	case l.dialect == backend.Postgres && c == '$':
		// $tag$ … $tag$, or a parameter.
		end := strings.IndexByte(l.rest[1:], '$')
		if end < 0 || strings.IndexFunc(l.rest[1:1+end], func(r rune) bool { return !wordRune(r) }) >= 0 {
			break
		}
		tag := l.rest[:end+2]
		return l.until(tag, len(tag))
	case wordRune(rune(c)) || c >= 0x80:
		end := strings.IndexFunc(l.rest, func(r rune) bool { return !wordRune(r) && r < 0x80 && r != '$' })
		if end < 0 {
			end = len(l.rest)
		}
		word := l.rest[:end]
		l.rest = l.rest[end:]
		if l.dialect == backend.Postgres && strings.EqualFold(word, "e") && strings.HasPrefix(l.rest, "'") {
			return l.quoted('\'', true)
		}
		return word, tokenWord
	}
	l.rest = l.rest[1:]
	return string(c), tokenOther
}

func wordRune(r rune) bool {
	return r == '_' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}

// quoted skips what is quoted by q, which stands for itself when doubled and, in an E string, after a backslash.
func (l *lexer) quoted(q byte, escapes bool) (string, tokenKind) {
	for i := 1; i < len(l.rest); i++ {
		switch {
		case escapes && l.rest[i] == '\\':
			i++
		case l.rest[i] == q && i+1 < len(l.rest) && l.rest[i+1] == q:
			i++
		case l.rest[i] == q:
			l.rest = l.rest[i+1:]
			return "", tokenQuoted
		}
	}
	return "", tokenBroken
}

func (l *lexer) until(end string, from int) (string, tokenKind) {
	i := strings.Index(l.rest[from:], end)
	if i < 0 {
		return "", tokenBroken
	}
	l.rest = l.rest[from+i+len(end):]
	return "", tokenQuoted
}
