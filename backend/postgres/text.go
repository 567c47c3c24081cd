package postgres

import (
	"slices"
	"strings"

	"github.com/tenement-go/tenement/internal/sqltext"
)

// traits is what the text of a statement tells about how it has to be run. It is looked at only for what the server
// cannot be asked, by position rather than by words alone, and errs on the safe side.
type traits uint16

const (
	// taints: it changes the server's session beyond the transaction. What it leaves is taken away before the connection
	// is used again; see leftover.go.
	taints traits = 1 << iota
	// dooms: it does so in a way that cannot be taken away. The connection is closed.
	dooms
	// control: BEGIN, COMMIT and the like are among its statements.
	control
	// ownTx: text of several statements that ends transactions on its own. What follows would no longer be covered by
	// a search_path set for one transaction.
	ownTx
	// star: the columns of its result may differ from tenant to tenant while a migration is rolling.
	star
	// ends: it ends the transaction that it runs in, and with that what the prefix set.
	ends
	// chains: it begins another in the same breath (AND CHAIN), which the prefix does not reach.
	chains
	// calls: it runs code that may end transactions on its own (CALL, DO) where it is not kept in one.
	calls
	// first: SET TRANSACTION, which has to come before any query of its transaction, the prefix's too.
	first
	// holds: it takes an advisory lock for the session.
	holds
	// defines: it may make something in the store that takes the place of something shared; see renewed.go.
	defines
	// commits: it is to end the transaction with success (COMMIT, END, PREPARE TRANSACTION), and does nothing else.
	commits
)

// classify looks at a text's statements.
func classify(text string) traits {
	var (
		t          traits
		statements int
		r          = reader{Scanner: sqltext.New(sqltext.Postgres, text)}
	)
	for {
		tok := r.Next()
		for tok.Kind == sqltext.Separator || r.is(tok, "(") {
			tok = r.Next()
		}
		if tok.Kind == sqltext.End {
			break
		}
		statements++
		t |= r.statement(tok)
	}
	if statements > 1 && t&control != 0 {
		t |= ownTx
	}
	if statements > 1 {
		// No text of several commits a transaction that had failed: it is refused there (ownTx).
		t &^= first | commits
	}
	return t
}

// reader reads a text statement by statement.
type reader struct {
	sqltext.Scanner
}

func (r *reader) is(t sqltext.Token, other string) bool {
	return t.Kind == sqltext.Other && r.Text(t) == other
}

// word returns the word that t is, folded, or "".
func (r *reader) word(t sqltext.Token) string {
	if t.Kind != sqltext.Word {
		return ""
	}
	return sqltext.Fold(r.Text(t))
}

// peek returns the next words of the statement, without reading on.
func (r *reader) peek(n int) []string {
	ahead := *r
	words := make([]string, 0, 4)
	for range n {
		words = append(words, ahead.word(ahead.Next()))
	}
	return words
}

// statement reads one statement, whose first token is tok, to its end.
func (r *reader) statement(tok sqltext.Token) traits {
	t := r.opening(r.word(tok))
	for prev := tok; ; {
		tok = r.Next()
		if tok.Kind == sqltext.Separator || tok.Kind == sqltext.End {
			return t
		}
		t |= r.within(tok, prev)
		prev = tok
	}
}

// opening tells what a statement is from the words that it begins with.
func (r *reader) opening(word string) traits {
	switch word {
	case "set":
		return setting(r.peek(3))
	case "reset":
		return setting(r.peek(2))
	case "discard", "listen", "unlisten":
		return taints
	case "deallocate", "load":
		return dooms
	case "declare":
		return r.cursor()
	case "prepare":
		if r.peek(1)[0] == "transaction" {
			return control | ends | commits
		}
		return dooms
	case "create", "alter":
		return defines | temporary(r.peek(4))
	case "begin", "start":
		return control
	case "commit", "end":
		if t := ending(r.peek(3)); t != 0 {
			return control | commits | t
		}
		return control
	case "rollback", "abort":
		return control | ending(r.peek(3))
	case "call":
		return control | calls | defines
	case "do":
		return calls | defines | taints // its body is text of the statement's, and may be put together when it runs
	}
	return 0
}

// setting tells what a SET or RESET does, from the words after it.
func setting(words []string) traits {
	if words[0] == "session" && len(words) > 1 && words[1] != "characteristics" && words[1] != "authorization" {
		words = words[1:]
	}
	switch words[0] {
	case "local", "constraints":
		return 0
	case "transaction":
		return first
	case "role", "session": // … AUTHORIZATION, … CHARACTERISTICS
		return dooms
	}
	return taints
}

// temporary tells whether a CREATE makes something temporary: CREATE [OR REPLACE] [LOCAL | GLOBAL] TEMP …
func temporary(words []string) traits {
	for _, w := range words {
		switch w {
		case "or", "replace", "local", "global", "unlogged":
		case "temp", "temporary":
			return taints
		default:
			return 0
		}
	}
	return 0
}

// ending reads on in a COMMIT, ROLLBACK, END or ABORT.
func ending(words []string) traits {
	if words[0] == "work" || words[0] == "transaction" {
		words = words[1:]
	}
	switch {
	case words[0] == "to", words[0] == "prepared": // a savepoint's, or another transaction's
		return 0
	case words[0] == "and" && words[1] == "chain":
		return ends | chains
	}
	return ends
}

// cursor tells whether a DECLARE defines a cursor that outlives its transaction.
func (r *reader) cursor() traits {
	ahead := *r
	for prev := ""; ; {
		t := ahead.Next()
		w := ahead.word(t)
		switch {
		case t.Kind == sqltext.End, t.Kind == sqltext.Separator, w == "for":
			return 0
		case w == "hold" && prev == "with":
			return taints
		}
		prev = w
	}
}

// within tells what a token in the middle of a statement means. prev is the one before it.
func (r *reader) within(t, prev sqltext.Token) traits {
	switch t.Kind {
	case sqltext.Other:
		// count(*) has the parenthesis before it; a product has an operand. What remains is a column list.
		if r.is(t, "*") && (r.is(prev, ".") || r.is(prev, ",") || listsColumns(r.word(prev))) {
			return star
		}
		return 0
	case sqltext.Word, sqltext.Name:
	default:
		return 0
	}
	name, ok := r.Ident(t)
	switch {
	case !ok:
		return taints // U&"…", which may be anything
	case name == "pg_temp" && !r.is(prev, "."):
		if ahead := *r; ahead.is(ahead.Next(), ".") {
			return taints
		}
	case r.Is(t, "into") && t.Depth == 0 && !r.Is(prev, "insert") && !r.Is(prev, "merge"):
		return defines // SELECT … INTO
	case (name == "temp" || name == "temporary") && r.Is(prev, "into"):
		return taints // SELECT … INTO TEMP, where a table may be called temp: then the connection is merely cleaned
	case name == "set_config":
		return r.setConfig()
	case name == "pg_settings": // UPDATE is SET; to read it costs a cleaning
		return taints
	case strings.HasPrefix(name, "query_to_xml"), name == "ts_stat", name == "ts_rewrite": // they run a text
		return taints
	case strings.HasPrefix(name, "pg_advisory_lock"), strings.HasPrefix(name, "pg_try_advisory_lock"):
		return taints | holds
	}
	return 0
}

// setConfig reads the arguments of set_config: the third says whether the setting ends with the transaction.
func (r *reader) setConfig() traits {
	ahead := *r
	open := ahead.Next()
	if !ahead.is(open, "(") {
		return 0
	}
	commas, last, tokens := 0, sqltext.Token{}, 0
	for {
		t := ahead.Next()
		switch {
		case t.Kind == sqltext.End, t.Kind == sqltext.Separator:
			return taints
		case ahead.is(t, ",") && t.Depth == open.Depth+1:
			commas++
			tokens = 0
		case ahead.is(t, ")") && t.Depth == open.Depth:
			if commas == 2 && tokens == 1 && ahead.Is(last, "true") {
				return 0
			}
			return taints
		default:
			last = t
			tokens++
		}
	}
}

// listsColumns reports whether a '*' that follows word stands for columns rather than for a product.
func listsColumns(word string) bool {
	switch word {
	case "all", "select", "distinct", "returning":
		return true
	}
	return false
}

// words returns all names in a text that could be a table's, a function's or a type's, keywords and all, as the server
// would fold them. whole is false when some cannot be told.
func words(text string) (names []string, whole bool) {
	whole = true
	s := sqltext.New(sqltext.Postgres, text)
	for {
		t := s.Next()
		switch t.Kind {
		case sqltext.End:
			slices.Sort(names)
			return slices.Compact(names), whole
		case sqltext.String:
			// nextval('s'), 'mood'::regtype.
			if value, ok := s.Literal(t); ok && len(value) < 64 {
				inner, _ := identifiers(value)
				names = append(names, inner...)
			}
		case sqltext.Word, sqltext.Name:
			name, ok := s.Ident(t)
			if !ok {
				whole = false
				continue
			}
			names = append(names, name)
		}
	}
}

// identifiers returns the names in text that is one, perhaps qualified.
func identifiers(text string) (names []string, ok bool) {
	s := sqltext.New(sqltext.Postgres, text)
	for {
		t := s.Next()
		if t.Kind == sqltext.End {
			return names, true
		}
		name, ok := s.Ident(t)
		if !ok && (t.Kind != sqltext.Other || s.Text(t) != ".") {
			return nil, false
		}
		if ok {
			names = append(names, name)
		}
	}
}
