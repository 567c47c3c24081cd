package backend

import (
	"fmt"
	"strings"
)

// MaxNameLen is the greatest length of a store name in bytes: Postgres cuts longer identifiers off, silently.
const MaxNameLen = 63

// Store names one tenant's store. It can only hold a valid name, since only [ParseStore] makes one, so whoever has a
// Store need not check it again. The zero Store names nothing. Stores are comparable and safe for concurrent use.
type Store struct{ name string }

// ParseStore returns the store that name stands for, exactly as written: nothing is trimmed, folded or cut, because two
// names that become one would be two tenants in one store.
//
// A name has 1 to [MaxNameLen] characters of a–z, 0–9, hyphen and underscore, the first of them a letter or a digit.
// Refused with an error that wraps [ErrInvalidName] and says which rule was broken: everything else, and the names that
// mean something to a database or a file system ("public", "information_schema", "pg_…", "shared", "con", "nul", …).
func ParseStore(name string) (Store, error) {
	if reason := nameFault(name); reason != "" {
		return Store{}, &NameError{Name: name, Reason: reason}
	}
	return Store{name}, nil
}

// MustParseStore is like [ParseStore] for names known at compile time; it panics when the name is invalid.
func MustParseStore(name string) Store {
	s, err := ParseStore(name)
	if err != nil {
		panic(err)
	}
	return s
}

// String returns the name as it was parsed, or "" for the zero Store.
func (s Store) String() string { return s.name }

// IsZero reports whether s names nothing.
func (s Store) IsZero() bool { return s.name == "" }

// NameError is the refusal of a store name. errors.Is(err, [ErrInvalidName]) holds for it.
type NameError struct {
	Name   string // as given
	Reason string // the rule that it breaks
}

// Error quotes the name and states the rule.
func (e *NameError) Error() string {
	name := e.Name
	if len(name) > MaxNameLen {
		name = name[:MaxNameLen] + "…"
	}
	return fmt.Sprintf("invalid store name %q: %s", name, e.Reason)
}

// Is reports whether target is ErrInvalidName.
func (e *NameError) Is(target error) bool { return target == ErrInvalidName }

// nameFault returns the rule that name breaks, or "".
func nameFault(name string) string {
	switch {
	case name == "":
		return "it is empty; use 1 to 63 of a-z, 0-9, '-' and '_'"
	case len(name) > MaxNameLen:
		return fmt.Sprintf("it has %d bytes; at most %d are allowed", len(name), MaxNameLen)
	}
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		case (c == '-' || c == '_') && i > 0:
		case c == '-' || c == '_':
			return "it must begin with a letter or a digit"
		case c >= 'A' && c <= 'Z':
			return "upper-case letters are not allowed; spell it in lower case"
		default:
			return fmt.Sprintf("byte %d is not one of a-z, 0-9, '-' and '_'", i+1)
		}
	}
	if reserved(name) {
		return "it is reserved; choose another name"
	}
	return ""
}

// reserved reports whether name, already known to be in lower case, means something else to Postgres, to SQLite's
// attached databases or to Windows (where con.db is the console).
func reserved(name string) bool {
	switch name {
	case "public", "information_schema", "shared", "main", "temp",
		"con", "prn", "aux", "nul":
		return true
	}
	if strings.HasPrefix(name, "pg_") || strings.HasPrefix(name, "sqlite_") {
		return true
	}
	if len(name) == 4 && (strings.HasPrefix(name, "com") || strings.HasPrefix(name, "lpt")) {
		return name[3] >= '0' && name[3] <= '9'
	}
	return false
}
