package migrate

import (
	"bytes"
	"strings"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/sqltext"
)

// control is a statement that begins or ends a transaction, or a savepoint. Those alone are known by their first word; a
// BEGIN in a function, a trigger or a CASE's END is not one.
type control struct {
	verb verb
	name string // the savepoint's
	at   int
}

type verb uint8

const (
	noVerb   verb = iota
	begins        // BEGIN, START TRANSACTION
	ends          // COMMIT, END, ROLLBACK, ABORT, PREPARE TRANSACTION
	chains        // one of them with AND CHAIN: the next transaction is begun
	saves         // SAVEPOINT, which in SQLite begins a transaction when there is none
	releases      // RELEASE
	goesBack      // ROLLBACK TO, after which the savepoint is still there
)

// control returns what the statement does to the transaction.
func (p *phrase) control() control {
	c := control{at: p.tokens[0].Start}
	switch {
	case p.is(0, "begin"), p.is(0, "start") && p.is(1, "transaction"):
		c.verb = begins
	case p.is(0, "savepoint"):
		c.verb, c.name = saves, p.lastName()
	case p.is(0, "release"):
		c.verb, c.name = releases, p.lastName()
	case p.is(0, "rollback") && (p.is(1, "to") || p.is(1, "work", "transaction") && p.is(2, "to")):
		c.verb = goesBack
	case p.is(0, "commit", "rollback") && p.is(1, "prepared"): // another session's
	case p.is(0, "commit", "end", "rollback", "abort"), p.is(0, "prepare") && p.is(1, "transaction"):
		c.verb = ends
		if n := len(p.tokens); p.is(n-1, "chain") && p.is(n-2, "and") {
			c.verb = chains
		}
	}
	return c
}

// lastName returns the name at the end of the statement. SQLite takes one in quotes of any kind, and asks for no case.
func (p *phrase) lastName() string {
	last := p.tokens[len(p.tokens)-1]
	name, ok := p.s.Ident(last)
	if !ok {
		name, _ = p.s.Literal(last)
	}
	return sqltext.Fold(name)
}

// openTransaction is what a file without a transaction of goose's has begun so far.
type openTransaction struct {
	dialect backend.Dialect
	begun   bool // by BEGIN
	saved   []string
	since   int // the line
}

// follow takes note of a statement.
func (o *openTransaction) follow(c control, line int) {
	was := o.open()
	switch c.verb {
	case begins:
		o.begun = true
	case chains:
		o.saved = nil
	case ends:
		o.begun, o.saved = false, nil
	case saves:
		if was || o.dialect == backend.SQLite { // Postgres refuses one outside of a transaction
			o.saved = append(o.saved, c.name)
		}
	case releases:
		for i := len(o.saved) - 1; i >= 0; i-- {
			if o.saved[i] == c.name {
				o.saved = o.saved[:i]
				break
			}
		}
	}
	if !was {
		o.since = line
	}
}

// open reports whether a transaction would be open at the end. In Postgres savepoints end with theirs.
func (o *openTransaction) open() bool { return o.begun || len(o.saved) > 0 }

const (
	controlsTransaction = "this begins or ends a transaction, and goose has one open: what comes before would stay when the rest fails, " +
		"and what comes after would run outside of the tenant's rights; take it out, or make the file one of '-- +goose NO TRANSACTION'"
	leavesOpen = "the transaction that begins here is still open where the file ends, so that all of it would be undone, " +
		"and the version with it; end it with COMMIT (a savepoint with RELEASE)"
	changesRole = "this changes the role that the tenant set runs as, which keeps it to the tenant's own store; take it out, " +
		"and put what needs other rights into the shared set"
)

// rules are what a file is held to.
type rules struct {
	of    backend.Dialect
	used  backend.Dialect // the one at hand
	kind  Set
	fault func(line int, why string)
}

// check reports what one direction of the migration does to its own harm, by line. The direction begins somewhere behind
// from in the file; check returns where it ends.
func (o rules) check(m *migration, text []byte, statements []string, from int) (end int) {
	open := openTransaction{dialect: o.of}
	for _, statement := range statements {
		line := 0
		if at := find(text, statement, from); at >= 0 {
			from = at + len(statement)
			line = 1 + bytes.Count(text[:at], []byte("\n"))
		} else {
			line = lineOf(text, statement)
		}
		lineAt := func(at int) int {
			if line == 0 {
				return 0
			}
			return line + strings.Count(statement[:at], "\n")
		}
		if o.of != o.used && statementsIn(o.of, statement) != statementsIn(o.used, statement) {
			// The body of a function or a trigger, or a string that only the other one takes for one: what is in it are no
			// statements.
			continue
		}
		r := read(textDialect(o.of), statement)
		if why := r.refusal(o.kind); why != "" {
			o.fault(lineAt(r.at), why)
		}
		for _, c := range r.controls {
			switch {
			case !m.tx:
				open.follow(c, lineAt(c.at))
			case c.verb == begins || c.verb == ends || c.verb == chains:
				o.fault(lineAt(c.at), controlsTransaction)
			}
		}
		if r.cut {
			return from // the server will refuse it, and what comes after is in pieces
		}
	}
	if open.open() {
		o.fault(open.since, leavesOpen)
	}
	return from
}

// statementsIn counts the statements that a dialect sees in one of goose's.
func statementsIn(d backend.Dialect, text string) (n int) {
	s := sqltext.New(textDialect(d), text)
	for within := false; ; {
		switch s.Next().Kind {
		case sqltext.End:
			return n
		case sqltext.Separator:
			within = false
		default:
			if !within {
				n++
			}
			within = true
		}
	}
}

// find returns where a statement begins in a file, at the beginning of a line at or behind from, or -1.
func find(text []byte, statement string, from int) int {
	for from < len(text) && statement != "" {
		i := bytes.Index(text[from:], []byte(statement))
		if i < 0 {
			break
		}
		from += i
		if len(bytes.TrimSpace(text[bytes.LastIndexByte(text[:from], '\n')+1:from])) == 0 { // else it is in a comment
			return from
		}
		from++
	}
	return -1
}

// judgeRole notes a statement by which a role is taken or given up: SET and RESET of ROLE and SESSION AUTHORIZATION, in
// any way to write them, DISCARD ALL, set_config of either or of a name that the text does not tell, and an UPDATE of
// pg_settings, which is set_config of whatever its condition finds.
func (p *phrase) judgeRole() {
	if p.dialect != sqltext.Postgres {
		return
	}
	found := func(at int) { p.r.role, p.r.at = true, p.tokens[at].Start }
	switch {
	case p.is(0, "set", "reset"):
		i := 1
		if p.is(1, "local", "session") && !p.is(2, "authorization") {
			i++
		}
		if p.ident(i) == "role" || p.ident(i) == "session_authorization" || p.is(i, "session") && p.is(i+1, "authorization") {
			found(0)
		}
	case p.is(0, "discard") && p.is(1, "all"):
		found(0)
	}
	for i := range p.tokens {
		if p.ident(i) == "pg_settings" && p.updated(i) {
			found(i)
		}
		if p.ident(i) != "set_config" || i+2 >= len(p.tokens) || p.s.Text(p.tokens[i+1]) != "(" {
			continue
		}
		name, ok := p.literal(i + 2)
		name = sqltext.Fold(name)
		if !ok || i+3 < len(p.tokens) && p.s.Text(p.tokens[i+3]) != "," || name == "role" || name == "session_authorization" {
			found(i)
		}
	}
}

// updated reports whether the name at i is that of the table that an UPDATE changes.
func (p *phrase) updated(i int) bool {
	if i > 1 && p.s.Text(p.tokens[i-1]) == "." {
		i -= 2
	}
	if p.is(i-1, "only") {
		i--
	}
	return p.is(i-1, "update") && !p.is(i-2, "for") // SELECT … FOR UPDATE ends there, or goes on with OF
}

// judgeReset notes a RESET of the search_path, by name or with everything else.
func (p *phrase) judgeReset() {
	if p.dialect == sqltext.Postgres && p.is(0, "reset") && (p.ident(1) == "search_path" || p.is(1, "all")) {
		p.r.searchPath, p.r.at = true, p.tokens[0].Start
	}
}

// ident returns the name at i, or nothing.
func (p *phrase) ident(i int) string {
	if i >= len(p.tokens) {
		return ""
	}
	name, _ := p.s.Ident(p.tokens[i])
	return name
}
