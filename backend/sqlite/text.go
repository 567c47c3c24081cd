package sqlite

import "strings"

// What is read off a statement's text. Only what the database cannot be asked for beforehand is: what a text does is what
// the authorizer sees when it is compiled.

// alone reports whether query is one statement at most. A semicolon with something after it counts as a second one,
// wherever it stands; only literals and comments are skipped. When in doubt the answer is no.
func alone(query string) bool {
	for i := 0; i < len(query); i++ {
		switch c := query[i]; c {
		case '\'', '"', '`':
			end := strings.IndexByte(query[i+1:], c)
			if end < 0 {
				return false
			}
			i += 1 + end
		case '[':
			end := strings.IndexByte(query[i+1:], ']')
			if end < 0 {
				return false
			}
			i += 1 + end
		case '-', '/':
			if n := commentLen(query[i:]); n > 0 {
				i += n - 1
			}
		case '$', '@', ':', '#':
			// A parameter may be named $a(…), and what is within the parentheses is no literal, whatever it looks like.
			for i+1 < len(query) && (query[i+1] == ':' || query[i+1] == '$' || query[i+1] >= 0x80 || isNameByte(query[i+1])) {
				i++
			}
			if i+1 < len(query) && query[i+1] == '(' {
				return false
			}
		case ';':
			return skipBlank(query[i+1:]) == ""
		}
	}
	return true
}

func isNameByte(c byte) bool {
	return c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || c == '_'
}

// commentLen returns the length of the comment that s begins with, or 0.
func commentLen(s string) int {
	switch {
	case strings.HasPrefix(s, "--"):
		if end := strings.IndexByte(s, '\n'); end >= 0 {
			return end + 1
		}
		return len(s)
	case strings.HasPrefix(s, "/*"):
		if end := strings.Index(s[2:], "*/"); end >= 0 {
			return end + 4
		}
		return len(s)
	}
	return 0
}

// skipBlank returns s without the white space, comments and semicolons it begins with.
func skipBlank(s string) string {
	for s != "" {
		switch s[0] {
		case ' ', '\t', '\n', '\r', '\f', ';':
			s = s[1:]
		default:
			n := commentLen(s)
			if n == 0 {
				return s
			}
			s = s[n:]
		}
	}
	return s
}

// keyword reports whether s begins with word (in upper case) and no longer one.
func keyword(s, word string) bool {
	if len(s) < len(word) || !strings.EqualFold(s[:len(word)], word) {
		return false
	}
	if len(s) == len(word) {
		return true
	}
	c := s[len(word)] | 0x20
	return !(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') && s[len(word)] != '_'
}

// likelyWrite guesses from the first letter whether a statement writes. A wrong guess costs a detour, nothing else.
func likelyWrite(query string) bool {
	query = skipBlank(query)
	if query == "" {
		return false
	}
	switch query[0] | 0x20 {
	case 'i', 'u', 'd', 'r', 'c', 'a', 'b': // INSERT, UPDATE, DELETE, DROP, REPLACE, CREATE, ALTER, BEGIN, …
		return true
	}
	return false
}

// attachFirst reports whether a statement does something else, rather than fail, where a name is unknown: DROP … IF EXISTS,
// and ANALYZE.
func attachFirst(query string) bool {
	query = skipBlank(query)
	return keyword(query, "DROP") || keyword(query, "ANALYZE") || keyword(query, "EXPLAIN")
}

// namesShared reports whether a text may name the schema of the shared store.
func namesShared(query string) bool { return strings.Contains(strings.ToLower(query), sharedSchema) }

// everywhere are the pragmas that mean every attached database when they name none.
var everywhere = []string{"wal_checkpoint", "optimize", "integrity_check", "quick_check", "foreign_key_check"}

// mainOnly returns the statement that does to the tenant's store alone what query does, which is one statement that may
// mean every attached database: the shared store is among them, and neither the tenant's to write nor its business.
func mainOnly(query string) string {
	rest := skipBlank(query)
	switch {
	case keyword(rest, "ANALYZE") && skipBlank(rest[len("ANALYZE"):]) == "":
		return "ANALYZE main"
	case keyword(rest, "PRAGMA"):
		body := skipBlank(rest[len("PRAGMA"):])
		for _, name := range everywhere {
			if keyword(body, strings.ToUpper(name)) {
				return "PRAGMA main." + body
			}
		}
	}
	return query
}
