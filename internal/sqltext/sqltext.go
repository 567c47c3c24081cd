// Package sqltext splits SQL into tokens and statements, as the servers' own scanners do. It is the only place of this
// module that knows comments, quotes, dollar quotes and where a statement ends.
//
// Beside that it has the few pieces of SQL that several packages say alike.
//
// It knows no grammar. Whoever asks more of a text than its tokens errs on the safe side.
package sqltext

import (
	"strings"
	"unicode/utf8"
)

// Dialect says whose rules hold.
type Dialect uint8

// The dialects.
const (
	Postgres Dialect = iota
	SQLite
)

// Quote returns a name in quotes, as both dialects take it. Postgres can have no name with a NUL in it.
func Quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// Kind is what a token is.
type Kind uint8

// The kinds of tokens. End comes after the last one, with no text.
const (
	End       Kind = iota
	Space          // white space
	Comment        // -- to the end of the line, or /* */
	Word           // a keyword or a name without quotes
	Name           // a name in quotes: "a""b", and in SQLite [a b] and `a b`
	String         // '…', E'…', $tag$…$tag$
	Param          // $1, and in SQLite ?, ?1, :a, @a, $a
	Number         // 1, 1.5, 1e-3
	Separator      // the ';' that ends a statement
	Other          // any other character, such as one of an operator, or a ';' within a statement
)

// Token is a piece of a text.
type Token struct {
	Kind       Kind
	Start, End int  // its bytes: text[Start:End]
	Depth      int  // how many parentheses are open around it; a parenthesis is outside of itself
	Broken     bool // a comment or quote that does not end
	Unicode    bool // a Name written U&"…", which may contain escapes
}

// Scanner goes through a text. The tokens that Scan returns, one after the other, are the whole text. Copying a Scanner
// is a way to look ahead. It does not allocate.
type Scanner struct {
	dialect Dialect
	text    string
	pos     int
	depth   int
	escapes bool // the last token, but for space and comments, was an E string: a string that continues it is one too
	begun   body
	last    Token  // the last that was neither space nor comment
	words   int    // how many words the statement has had
	makes   string // "create", and then "body" when what it creates may contain statements
}

// body says where in a statement that contains others (a trigger, a routine in standard SQL) the scanner is.
type body uint8

const (
	noBody  body = iota
	inBody       // a ';' ends one of the statements within
	endBody      // END was read: the next ';' ends the whole
)

// New returns a Scanner at the beginning of text.
func New(d Dialect, text string) Scanner { return Scanner{dialect: d, text: text} }

// Text returns what the token stands for in the text.
func (s *Scanner) Text(t Token) string { return s.text[t.Start:t.End] }

// Is reports whether t is the given word, which is in lower case, without quotes.
func (s *Scanner) Is(t Token, word string) bool {
	return t.Kind == Word && foldedEqual(s.text[t.Start:t.End], word)
}

// Ident returns the name that a Word or a Name stands for: without quotes, and folded as the server folds. ok is false
// for other tokens, and for a name with Unicode escapes.
func (s *Scanner) Ident(t Token) (name string, ok bool) {
	text := s.text[t.Start:t.End]
	switch {
	case t.Kind == Word:
		return Fold(text), true
	case t.Kind != Name || t.Unicode || t.Broken:
		return "", false
	case text[0] == '[':
		return text[1 : len(text)-1], true
	}
	quote := text[:1]
	return strings.ReplaceAll(text[1:len(text)-1], quote+quote, quote), true
}

// Literal returns the value of a String that is written in single quotes and has no escapes. ok is false for others.
func (s *Scanner) Literal(t Token) (value string, ok bool) {
	text := s.text[t.Start:t.End]
	if t.Kind != String || t.Broken || text[0] != '\'' {
		return "", false
	}
	return strings.ReplaceAll(text[1:len(text)-1], "''", "'"), true
}

// Next returns the next token that is neither space nor comment. A broken comment is returned.
func (s *Scanner) Next() Token {
	for {
		t := s.Scan()
		if t.Kind != Space && t.Kind != Comment || t.Broken {
			return t
		}
	}
}

// Open reports whether the statement at hand cannot end here: a parenthesis is open, or the body of a trigger or routine.
func (s *Scanner) Open() bool { return s.depth > 0 || s.begun == inBody }

// Scan returns the next token.
func (s *Scanner) Scan() Token {
	t := Token{Start: s.pos, Depth: s.depth}
	if s.pos < len(s.text) {
		s.read(&t)
	}
	t.End = s.pos
	if t.Kind != Space && t.Kind != Comment {
		s.follow(&t)
		s.last = t
	}
	return t
}

// read reads one token at s.pos, of which there is at least one byte.
func (s *Scanner) read(t *Token) {
	rest := s.text[s.pos:]
	switch c := rest[0]; {
	case isSpace(c):
		t.Kind = Space
		for s.pos++; s.pos < len(s.text) && isSpace(s.text[s.pos]); s.pos++ {
		}
	case strings.HasPrefix(rest, "--"):
		t.Kind = Comment
		s.line(rest)
	case strings.HasPrefix(rest, "/*"):
		t.Kind = Comment
		t.Broken = !s.block()
	case c == '\'':
		t.Kind = String
		s.escapes = s.escapes && s.last.Kind == String
		t.Broken = !s.quoted('\'', s.escapes)
	case c == '"', s.dialect == SQLite && c == '`':
		t.Kind = Name
		t.Broken = !s.quoted(c, false)
	case s.dialect == SQLite && c == '[':
		t.Kind = Name
		t.Broken = !s.until("]")
	case isDigit(c), c == '.' && len(rest) > 1 && isDigit(rest[1]):
		t.Kind = Number
		s.number()
	case isWordStart(c):
		s.word(t)
	case s.param(t):
	default:
		t.Kind = Other
		s.pos++
	}
}

// follow keeps track of where the statement stands after t.
func (s *Scanner) follow(t *Token) {
	switch t.Kind {
	case Word:
		s.openBody(*t)
		return
	case Other:
	default:
		return
	}
	switch s.text[t.Start] {
	case '(':
		s.depth++
	case ')':
		s.depth = max(s.depth-1, 0)
		t.Depth = s.depth
	case ';':
		if s.depth == 0 && s.begun != inBody {
			t.Kind = Separator
			s.begun, s.words, s.makes = noBody, 0, ""
		}
	}
}

// openBody notices where the body of a trigger (SQLite: BEGIN … END) or of a routine (Postgres: BEGIN ATOMIC … END)
// begins and ends. Each statement in it has its own ';', so the END that ends it comes after one, or after the beginning;
// any other END is a CASE's or a name.
func (s *Scanner) openBody(t Token) {
	s.words++
	switch {
	case s.words == 1 && s.Is(t, "create"):
		s.makes = "create"
	case s.makes == "create":
		s.makes = s.makesWhat(t)
	case s.makes != "body" || s.depth > 0:
	case s.begun == inBody:
		if s.Is(t, "end") && (s.last.Kind == Other && s.text[s.last.Start] == ';' || s.Is(s.last, "atomic")) {
			s.begun = endBody
		}
	case s.begun == endBody:
	case s.dialect == SQLite && s.Is(t, "begin"), s.dialect == Postgres && s.Is(t, "atomic") && s.Is(s.last, "begin"):
		s.begun = inBody
	}
}

// makesWhat reads on in a CREATE [OR REPLACE] [TEMP] …
func (s *Scanner) makesWhat(t Token) string {
	switch word := Fold(s.Text(t)); {
	case s.dialect == SQLite && word == "trigger", s.dialect == Postgres && (word == "function" || word == "procedure"):
		return "body"
	case word == "or", word == "replace", word == "temp", word == "temporary":
		return "create"
	}
	return ""
}

// word reads a word, or what its beginning turns out to be: E'…' is a string, U&"…" a name.
func (s *Scanner) word(t *Token) {
	start := s.pos
	for s.pos < len(s.text) && (isWordStart(s.text[s.pos]) || isDigit(s.text[s.pos]) || s.text[s.pos] == '$') {
		s.pos++
	}
	t.Kind = Word
	if s.dialect != Postgres || s.pos-start != 1 || s.pos == len(s.text) {
		return
	}
	switch c := s.text[start] | 0x20; {
	case c == 'e' && s.text[s.pos] == '\'':
		t.Kind = String
		s.escapes = true
		t.Broken = !s.quoted('\'', true)
	case c == 'u' && strings.HasPrefix(s.text[s.pos:], `&"`):
		t.Kind, t.Unicode = Name, true
		s.pos++
		t.Broken = !s.quoted('"', false)
	}
}

// param reads a parameter, or a dollar quote.
func (s *Scanner) param(t *Token) bool {
	rest := s.text[s.pos:]
	if s.dialect == SQLite {
		n := sqliteParam(rest)
		t.Kind = Param
		s.pos += n
		return n > 0
	}
	if rest[0] != '$' {
		return false
	}
	end := 1
	for end < len(rest) && (isWordStart(rest[end]) || isDigit(rest[end])) {
		end++
	}
	switch {
	case end > 1 && isDigit(rest[1]):
		t.Kind = Param
		for s.pos++; s.pos < len(s.text) && isDigit(s.text[s.pos]); s.pos++ {
		}
		return true
	case end < len(rest) && rest[end] == '$':
		t.Kind = String
		tag := rest[:end+1]
		if s.pos += len(tag); !s.until(tag) {
			t.Broken = true
		}
		return true
	}
	return false
}

// sqliteParam returns the length of the parameter that text begins with, or 0. A $a may have (…) and :: in it, since it
// may be a Tcl variable.
func sqliteParam(text string) int {
	switch text[0] {
	case '?':
		n := 1
		for n < len(text) && isDigit(text[n]) {
			n++
		}
		return n
	case '$', '@', ':', '#':
	default:
		return 0
	}
	n, letters := 1, 0
	for ; n < len(text); n++ {
		switch c := text[n]; {
		case isWordStart(c), isDigit(c), c == '$':
			letters++
		case c == '(' && letters > 0:
			for n++; n < len(text) && !isSpace(text[n]) && text[n] != ')'; n++ {
			}
			if n < len(text) && text[n] == ')' {
				return n + 1
			}
			return n
		case c == ':' && n+1 < len(text) && text[n+1] == ':':
			n++
		default:
			if letters == 0 {
				return 0
			}
			return n
		}
	}
	if letters == 0 {
		return 0
	}
	return n
}

func (s *Scanner) number() {
	digits := func() {
		for s.pos < len(s.text) && isDigit(s.text[s.pos]) {
			s.pos++
		}
	}
	digits()
	if s.pos < len(s.text) && s.text[s.pos] == '.' {
		s.pos++
		digits()
	}
	if s.pos < len(s.text) && s.text[s.pos]|0x20 == 'e' {
		sign := s.pos + 1
		if sign < len(s.text) && (s.text[sign] == '+' || s.text[sign] == '-') {
			sign++
		}
		if sign < len(s.text) && isDigit(s.text[sign]) { // else the e is a word: 1e'…' was a number and a string once
			s.pos = sign
			digits()
		}
	}
}

// line reads to the end of a line, which for Postgres may be a carriage return.
func (s *Scanner) line(rest string) {
	end := "\n"
	if s.dialect == Postgres {
		end = "\r\n"
	}
	if i := strings.IndexAny(rest, end); i >= 0 {
		s.pos += i + 1
	} else {
		s.pos = len(s.text)
	}
}

// block reads a block comment. Postgres nests them.
func (s *Scanner) block() bool {
	depth := 1
	for s.pos += 2; s.pos < len(s.text); {
		switch rest := s.text[s.pos:]; {
		case s.dialect == Postgres && strings.HasPrefix(rest, "/*"):
			depth++
			s.pos += 2
		case strings.HasPrefix(rest, "*/"):
			s.pos += 2
			if depth--; depth == 0 {
				return true
			}
		default:
			s.pos++
		}
	}
	return false
}

// quoted reads what begins with a quote at s.pos. The quote stands for itself when doubled and, in an E string, after a
// backslash.
func (s *Scanner) quoted(quote byte, escapes bool) bool {
	for s.pos++; s.pos < len(s.text); s.pos++ {
		switch c := s.text[s.pos]; {
		case c == '\\' && escapes && s.pos+1 < len(s.text):
			s.pos++
		case c == quote && s.pos+1 < len(s.text) && s.text[s.pos+1] == quote:
			s.pos++
		case c == quote:
			s.pos++
			return true
		}
	}
	return false
}

func (s *Scanner) until(end string) bool {
	i := strings.Index(s.text[s.pos:], end)
	if i < 0 {
		s.pos = len(s.text)
		return false
	}
	s.pos += i + len(end)
	return true
}

// Fold folds a name as Postgres does, and as SQLite compares: A to Z only. A Go strings.ToLower would fold more letters,
// and make one name of two.
func Fold(name string) string {
	for i := range len(name) {
		if c := name[i]; c >= 'A' && c <= 'Z' {
			b := []byte(name)
			for ; i < len(b); i++ {
				if c := b[i]; c >= 'A' && c <= 'Z' {
					b[i] = c | 0x20
				}
			}
			return string(b)
		}
	}
	return name
}

// foldedEqual reports whether word is lower, folded.
func foldedEqual(word, lower string) bool {
	if len(word) != len(lower) {
		return false
	}
	for i := range len(word) {
		c := word[i]
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// Span is a statement of a text, text[Start:End], without the ';' after it and without space and comments around it.
type Span struct{ Start, End int }

// Statements returns the statements of a text. Empty ones are left out.
func Statements(d Dialect, text string) []Span {
	var (
		spans []Span
		s     = New(d, text)
		start = -1
		end   int
	)
	for {
		t := s.Next()
		switch t.Kind {
		case Separator, End:
			if start >= 0 {
				spans = append(spans, Span{start, end})
			}
			if start = -1; t.Kind == End {
				return spans
			}
		case Comment: // a broken one
		default:
			if start < 0 {
				start = t.Start
			}
			end = t.End
		}
	}
}

// Characters returns how many characters come before an offset in bytes. Postgres gives positions in characters, from 1.
func Characters(text string, offset int) int {
	return utf8.RuneCountInString(text[:min(max(offset, 0), len(text))])
}

// Offset returns the offset in bytes after so many characters.
func Offset(text string, characters int) int {
	offset := 0
	for ; characters > 0 && offset < len(text); characters-- {
		_, n := utf8.DecodeRuneInString(text[offset:])
		offset += n
	}
	return offset
}

func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isWordStart(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c >= 0x80
}
