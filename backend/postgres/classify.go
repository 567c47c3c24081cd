package postgres

import (
	"slices"
	"strings"
)

// traits is what the text of a statement tells about how it has to be run.
type traits uint8

const (
	// sticky: it changes the server's session beyond the transaction (SET, LISTEN, temporary tables, session-level
	// advisory locks). The connection is not pooled again after it.
	sticky traits = 1 << iota
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
)

// classify looks at a text's statements. It only needs to err on the safe side: at worst a connection is closed
// without need.
func classify(text string) traits {
	var (
		t          traits
		statements int
		s          = scanner{text: text}
	)
	for {
		word, ok := s.first()
		if !ok {
			break
		}
		statements++
		s.create = word == "create"
		switch word {
		case "set":
			if next, _ := s.word(); next != "local" && next != "transaction" && next != "constraints" {
				t |= sticky
			}
		case "reset", "discard", "listen", "unlisten", "prepare", "deallocate", "load", "declare":
			t |= sticky
			if word == "prepare" { // … TRANSACTION
				t |= control
				if next, _ := s.word(); next == "transaction" {
					t |= ends
				}
			}
		case "create":
			for range 4 { // CREATE [OR REPLACE] [LOCAL | GLOBAL] TEMP
				w, _ := s.word()
				if w == "temp" || w == "temporary" {
					t |= sticky
				}
			}
		case "begin", "start":
			t |= control
		case "commit", "rollback", "end", "abort":
			t |= control | s.ending()
		case "call":
			t |= control | calls
		case "do":
			t |= calls
		}
		s.rest()
	}
	if statements > 1 && t&control != 0 {
		t |= ownTx
	}
	if s.star {
		t |= star
	}
	if s.advisory || s.temp {
		t |= sticky
	}
	return t
}

// words returns everything in a text that could be the name of a table, keywords and all, as the server would fold it.
func words(text string) []string {
	s := scanner{text: text, collect: true}
	for {
		word, ok := s.first()
		if !ok {
			break
		}
		s.words = append(s.words, word)
		s.rest()
	}
	slices.Sort(s.words)
	return slices.Compact(s.words)
}

// scanner walks over SQL, knowing comments, quotes and dollar quotes.
type scanner struct {
	text     string
	pos      int
	star     bool // a '*' that is a column list, not count(*) or a product
	advisory bool // a session-level advisory lock is mentioned
	temp     bool // SELECT … INTO TEMP
	collect  bool // keep the words and quoted identifiers
	words    []string
	last     string // the last word, while looking for BEGIN ATOMIC
	create   bool   // the statement is a CREATE, where alone BEGIN ATOMIC means something
	atomic   bool   // in the body of a routine in standard SQL: its ';' do not end the statement
	cases    int    // CASE … END open in it
}

// first returns the first word of the next statement, in lower case; ok is false at the end of the text.
func (s *scanner) first() (word string, ok bool) {
	for s.skip(); s.pos < len(s.text) && (s.text[s.pos] == ';' || s.text[s.pos] == '('); s.skip() {
		s.pos++
	}
	if s.pos >= len(s.text) {
		return "", false
	}
	word, _ = s.word()
	return word, true
}

// word returns the next word of this statement, in lower case, or "" when something else comes next.
func (s *scanner) word() (string, bool) {
	s.skip()
	start := s.pos
	for s.pos < len(s.text) && isWord(s.text[s.pos]) {
		s.pos++
	}
	if start == s.pos {
		return "", false
	}
	return strings.ToLower(s.text[start:s.pos]), true
}

// ending reads on in a COMMIT, ROLLBACK, END or ABORT.
func (s *scanner) ending() traits {
	next, _ := s.word()
	if next == "work" || next == "transaction" {
		next, _ = s.word()
	}
	switch next {
	case "to", "prepared": // a savepoint's, or another transaction's
		return 0
	case "and":
		if next, _ = s.word(); next == "chain" {
			return ends | chains
		}
	}
	return ends
}

// rest reads to the end of the statement.
func (s *scanner) rest() {
	var (
		prev    byte // last byte that was neither space nor comment
		escapes bool // the last string was an E'…'
		letterE = -1 // where a word ended that was but an E
	)
	for {
		s.skip()
		if s.pos >= len(s.text) {
			return
		}
		switch c := s.text[s.pos]; {
		case c == ';':
			s.pos++
			if !s.atomic {
				return
			}
		case c == '\'':
			// A string that goes on, after a doubled quote or on the next line, does so by the rules that it began with.
			escapes = prev == '\'' && escapes || letterE == s.pos
			s.quoted('\'', escapes)
		case c == '"':
			start := s.pos
			s.quoted('"', false)
			if s.collect && s.pos-start > 2 {
				s.words = append(s.words, s.text[start+1:s.pos-1])
			}
		case c == '$':
			s.dollar()
		case c == '*':
			// "count(*)" has the parenthesis before it; a product has an operand. What remains is a column list.
			s.star = s.star || (prev != '(' && (prev == '.' || prev == ',' || prev == 0 || prev == ' '))
			s.pos++
		case isWord(c):
			start := s.pos
			for s.pos < len(s.text) && (isWord(s.text[s.pos]) || s.text[s.pos] == '$') {
				s.pos++ // a '$' within a name begins no string
			}
			if strings.EqualFold(s.text[start:s.pos], "e") {
				letterE = s.pos
			}
			s.note(s.text[start:s.pos])
			if s.collect {
				s.words = append(s.words, strings.ToLower(s.text[start:s.pos]))
			}
			prev = s.text[s.pos-1]
			if isKeywordBeforeStar(s.text[start:s.pos]) {
				prev = ' '
			}
			continue
		default:
			s.pos++
		}
		prev = s.text[s.pos-1]
	}
}

func (s *scanner) note(word string) {
	switch {
	case s.create && strings.EqualFold(word, "atomic") && strings.EqualFold(s.last, "begin"):
		s.atomic, s.cases = true, 0
	case s.atomic && strings.EqualFold(word, "case"):
		s.cases++
	case s.atomic && strings.EqualFold(word, "end"):
		if s.cases--; s.cases < 0 {
			s.atomic = false
		}
	}
	s.last = word
	switch {
	case len(word) < 4:
	case strings.EqualFold(word, "temp"), strings.EqualFold(word, "temporary"):
		s.temp = true
	case len(word) >= len("pg_advisory_lock") && strings.EqualFold(word[:3], "pg_"):
		w := strings.ToLower(word)
		s.advisory = s.advisory || (strings.Contains(w, "advisory_lock") && !strings.Contains(w, "_xact_"))
	}
}

// isKeywordBeforeStar reports whether a '*' that follows word stands for columns rather than for a product.
func isKeywordBeforeStar(word string) bool {
	switch len(word) {
	case 3:
		return strings.EqualFold(word, "all")
	case 6:
		return strings.EqualFold(word, "select")
	case 8:
		return strings.EqualFold(word, "distinct")
	case 9:
		return strings.EqualFold(word, "returning")
	}
	return false
}

// skip skips white space and comments.
func (s *scanner) skip() {
	for s.pos < len(s.text) {
		switch c := s.text[s.pos]; {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v':
			s.pos++
		case c == '-' && strings.HasPrefix(s.text[s.pos:], "--"):
			if i := strings.IndexAny(s.text[s.pos:], "\r\n"); i >= 0 {
				s.pos += i + 1
			} else {
				s.pos = len(s.text)
			}
		case c == '/' && strings.HasPrefix(s.text[s.pos:], "/*"):
			depth := 0
			for s.pos < len(s.text) {
				switch {
				case strings.HasPrefix(s.text[s.pos:], "/*"):
					depth++
					s.pos += 2
				case strings.HasPrefix(s.text[s.pos:], "*/"):
					depth--
					s.pos += 2
				default:
					s.pos++
				}
				if depth == 0 {
					break
				}
			}
		default:
			return
		}
	}
}

// quoted skips a quoted string or identifier. A doubled quote reads as two strings, which comes to the same.
func (s *scanner) quoted(quote byte, escapes bool) {
	for s.pos++; s.pos < len(s.text); s.pos++ {
		switch c := s.text[s.pos]; {
		case c == '\\' && escapes:
			s.pos++
		case c == quote:
			s.pos++
			return
		}
	}
	s.pos = min(s.pos, len(s.text))
}

// dollar skips a dollar-quoted string, or the '$' of a parameter.
func (s *scanner) dollar() {
	end := s.pos + 1
	for end < len(s.text) && isWord(s.text[end]) && s.text[end] != '$' {
		end++
	}
	if end >= len(s.text) || s.text[end] != '$' || (end > s.pos+1 && s.text[s.pos+1] >= '0' && s.text[s.pos+1] <= '9') {
		s.pos++ // $1
		return
	}
	tag := s.text[s.pos : end+1]
	if i := strings.Index(s.text[end+1:], tag); i >= 0 {
		s.pos = end + 1 + i + len(tag)
	} else {
		s.pos = len(s.text)
	}
}

func isWord(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c >= 0x80
}
