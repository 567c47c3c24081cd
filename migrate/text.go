package migrate

import (
	"regexp"
	"slices"
	"strings"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/sqltext"
)

// reading is what can be said about one of goose's statements from its text. Where the text leaves a doubt, the
// statement is left to goose.
//
// goose ends a statement at each line that ends in a semicolon, unless StatementBegin says otherwise; a function or a
// trigger without it falls into pieces that fail one by one but would make sense again when joined.
type reading struct {
	asText  bool     // it is whole in itself, and leaves the transaction and the session alone
	calm    string   // the same without CONCURRENTLY, where that alone keeps it from being sent as text
	indexes []string // those that it makes CONCURRENTLY
	restore []string // the settings that it changes for its transaction
	random  bool     // it names something random: a key or a salt, which two tenants must not share

	extension  bool // it makes an extension
	searchPath bool // it changes where the names that come after it are looked for
	role       bool // it changes whose rights hold
	at         int  // where

	controls []control // what it does to the transaction
	cut      bool      // it is a piece of a statement, or has a quote that does not end
}

// refusal says why a file with such a statement must not be run at all, or nothing.
func (r reading) refusal(kind Set) string {
	switch {
	case r.searchPath:
		return "this changes the search_path, without which goose does not find its version table and tables end up elsewhere " +
			"(pg_dump writes such a line); take it out"
	case r.extension && kind == SetTenant:
		return "an extension is the whole database's: the first tenant's store would get it, and the second fail; put it into the shared set"
	case r.role && kind == SetTenant:
		return changesRole
	}
	return ""
}

func textDialect(d backend.Dialect) sqltext.Dialect {
	if d == backend.SQLite {
		return sqltext.SQLite
	}
	return sqltext.Postgres
}

// readings returns one reading for each statement of the way up.
func (m *migration) readings(d backend.Dialect) []reading {
	list := make([]reading, len(m.up))
	for i, statement := range m.up {
		list[i] = read(textDialect(d), statement)
	}
	return list
}

// take notes what follows from the readings.
func (m *migration) take(d dialect, list []reading) {
	m.asText = m.tx && !m.envsub
	m.varies = m.envsub || !m.tx
	fresh := make([]string, 0, len(list))
	for i, r := range list {
		m.asText = m.asText && r.asText
		m.varies = m.varies || r.random
		m.indexes = append(m.indexes, r.indexes...)
		m.restore = append(m.restore, r.restore...)
		switch {
		case r.asText:
			fresh = append(fresh, m.up[i])
		case r.calm != "":
			fresh = append(fresh, r.calm)
		}
	}
	if len(fresh) == len(m.up) && !m.envsub {
		m.fresh = fresh
	}
	slices.Sort(m.restore)
	m.restore = slices.Compact(m.restore)
}

// substitutes reports whether goose puts the environment into a file. It finds an annotation as goose does (extractAnnotation
// in its internal/sqlparser): what is left of a line that begins with "--" without any "--" and the first "+goose".
func substitutes(text []byte) bool {
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(strings.TrimSpace(line), "--") || !strings.Contains(line, "+goose") {
			continue
		}
		annotation := strings.Replace(strings.ReplaceAll(line, "--", ""), "+goose", "", 1)
		if strings.EqualFold(strings.TrimSpace(annotation), "ENVSUB ON") {
			return true
		}
	}
	return false
}

// read reads a statement of goose's, which may be several of the server's.
func read(d sqltext.Dialect, text string) reading {
	r := reading{random: strings.Contains(strings.ToLower(text), "random")}
	s := sqltext.New(d, text)
	plain := true
	var cuts []sqltext.Token // CONCURRENTLY, where it may be left out
	for more := true; more; {
		p := phrase{dialect: d, s: &s, r: &r}
		more = p.collect()
		plain = p.judge() && plain && !p.broken
		r.cut = r.cut || p.broken
		if p.concurrently > 0 {
			cuts = append(cuts, p.tokens[p.concurrently])
		}
	}
	r.cut = r.cut || s.Open()
	plain = plain && !r.cut
	r.asText = plain && len(cuts) == 0
	if plain && len(cuts) > 0 {
		from := 0
		for _, c := range cuts {
			r.calm += text[from:c.Start]
			from = c.End
		}
		r.calm += text[from:]
	}
	return r
}

// phrase is one statement of the server's within a statement of goose's.
type phrase struct {
	dialect      sqltext.Dialect
	s            *sqltext.Scanner
	r            *reading
	tokens       []sqltext.Token
	broken       bool
	concurrently int // the token, where it may be left out in a store that nobody sees yet
}

// collect reads the statement's tokens. It returns false when it was the last.
func (p *phrase) collect() bool {
	for {
		t := p.s.Next()
		p.broken = p.broken || t.Broken
		switch t.Kind {
		case sqltext.End:
			return false
		case sqltext.Separator:
			return true
		}
		p.tokens = append(p.tokens, t)
	}
}

func (p *phrase) is(i int, words ...string) bool {
	return i >= 0 && i < len(p.tokens) && slices.ContainsFunc(words, func(w string) bool { return p.s.Is(p.tokens[i], w) })
}

// judge reports whether the statement may be part of a script, and notes what else there is to say about it.
func (p *phrase) judge() bool {
	if len(p.tokens) == 0 {
		return true
	}
	p.judgeRole()
	p.judgeReset()
	if c := p.control(); c.verb != noVerb {
		p.r.controls = append(p.r.controls, c)
	}
	if p.is(0, "set") {
		return p.judgeSet()
	}
	first := p.tokens[0]
	plain := first.Kind == sqltext.Word && harmless[sqltext.Fold(p.s.Text(first))]
	creates := p.is(0, "create")
	if creates && p.is(1, "extension") {
		p.r.extension, p.r.at = true, first.Start
	}
	for i, t := range p.tokens {
		switch {
		case t.Kind != sqltext.Word:
		case p.is(i, "set_config") && !creates:
			plain = false
			if name, ok := p.literal(i + 2); ok && strings.EqualFold(name, "search_path") {
				p.r.searchPath, p.r.at = true, t.Start
			}
		case p.is(i, "search_path") && !creates, p.is(i, "pg_temp"):
			plain = false
		case p.is(i, "temp", "temporary") && p.is(i-1, "create", "replace", "into", "local", "global"):
			plain = false // it would outlive the transaction, on a connection that goes on to other stores
		case p.is(i, "concurrently"):
			plain = plain && p.judgeConcurrently(i)
		}
	}
	return plain
}

// literal returns the value of a string token.
func (p *phrase) literal(i int) (string, bool) {
	if i >= len(p.tokens) {
		return "", false
	}
	return p.s.Literal(p.tokens[i])
}

// judgeConcurrently reports whether the word at i says how an index is made or dropped, and may be left out.
func (p *phrase) judgeConcurrently(i int) bool {
	if !p.is(i-1, "index") || !(i == 2 && p.is(0, "create", "drop") || i == 3 && p.is(0, "create") && p.is(1, "unique")) {
		return false
	}
	p.concurrently = i
	if p.is(0, "create") {
		name := i + 1
		if p.is(name, "if") {
			name += 3 // IF NOT EXISTS
		}
		if name < len(p.tokens) && !p.is(name, "on") {
			if ident, ok := p.s.Ident(p.tokens[name]); ok {
				p.r.indexes = append(p.r.indexes, ident)
			}
		}
	}
	return true
}

// judgeSet reports whether a SET is for its transaction alone, and of a setting that concerns nothing else: a script sets
// it back after the migration.
func (p *phrase) judgeSet() bool {
	name := 1
	local := p.is(1, "local")
	if local || p.is(1, "session") && !p.is(2, "authorization", "characteristics") {
		name++
	}
	if p.ident(name) == "search_path" || p.is(name, "schema") {
		p.r.searchPath, p.r.at = true, p.tokens[0].Start
		return false
	}
	// What is no plain NAME = value or NAME TO value has a grammar of its own, and is another kind of thing.
	var setting strings.Builder
	for ; name < len(p.tokens) && !p.is(name, "to") && p.s.Text(p.tokens[name]) != "="; name++ {
		text, ok := p.s.Ident(p.tokens[name])
		if !ok && p.s.Text(p.tokens[name]) != "." {
			return false
		}
		if !ok {
			text = "."
		}
		setting.WriteString(text)
	}
	if !local || p.dialect != sqltext.Postgres || name >= len(p.tokens)-1 || otherSettings[setting.String()] {
		return false
	}
	for _, part := range strings.Split(setting.String(), ".") {
		if !settingName.MatchString(part) {
			return false
		}
	}
	p.r.restore = append(p.r.restore, setting.String())
	return true
}

var settingName = regexp.MustCompile(`^[a-z_][a-z0-9_]*$`)

// otherSettings say who one is, or how the transaction is to be, and cannot be set back like others.
var otherSettings = map[string]bool{
	"role": true, "session_authorization": true, "transaction_isolation": true, "transaction_read_only": true,
	"transaction_deferrable": true, "session_replication_role": true, "search_path": true,
}

// harmless are the words that a statement sent as text may begin with, beside SET.
var harmless = map[string]bool{
	"create": true, "alter": true, "drop": true, "comment": true, "insert": true, "update": true, "delete": true, "select": true,
	"with": true, "grant": true, "revoke": true, "truncate": true, "do": true, "replace": true, "merge": true, "analyze": true,
	"refresh": true, "values": true,
}
