package migrate

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
)

// applied is a version that a store has, with the checksum of the file that was applied.
type applied struct {
	Version int64
	Sum     string
}

// MarshalJSON keeps states short: there is one for each fingerprint, and each is read by every run.
func (a applied) MarshalJSON() ([]byte, error) { return json.Marshal([]any{a.Version, a.Sum}) }

// UnmarshalJSON is the reverse of MarshalJSON.
func (a *applied) UnmarshalJSON(text []byte) error {
	return json.Unmarshal(text, &[]any{&a.Version, &a.Sum})
}

// state is all that is applied in a store, by source, versions ascending. A source that is there with no versions has
// its version table; one that is absent has none yet. A nil state is one that is not known.
type state map[string][]applied

// encode returns the canonical text of a state.
func (s state) encode() string {
	text, err := json.Marshal(s) // sorts by source
	if err != nil {
		panic(err) // strings and numbers only
	}
	return string(text)
}

func (s state) fingerprint() string {
	if s == nil {
		return ""
	}
	sum := sha256.Sum256([]byte(s.encode()))
	return hex.EncodeToString(sum[:12])
}

func (s state) has(source string, version int64) bool {
	_, ok := s.find(source, version)
	return ok
}

func (s state) find(source string, version int64) (applied, bool) {
	i, ok := slices.BinarySearchFunc(s[source], version, func(a applied, v int64) int { return cmp.Compare(a.Version, v) })
	if !ok {
		return applied{}, false
	}
	return s[source][i], true
}

// with returns a copy of s in which the migrations are applied too.
func (s state) with(migrations []*migration) state {
	next := make(state, len(s)+1)
	for name, list := range s {
		next[name] = slices.Clone(list)
	}
	for _, m := range migrations {
		list := next[m.source.name]
		i, there := slices.BinarySearchFunc(list, m.version, func(a applied, v int64) int { return cmp.Compare(a.Version, v) })
		if there {
			list[i] = m.applied()
		} else {
			list = slices.Insert(list, i, m.applied())
		}
		next[m.source.name] = list
	}
	return next
}

// less returns a copy of s without some migrations; nil of nil, which is not known.
func (s state) less(migrations []*migration) state {
	if s == nil {
		return nil
	}
	next := s.with(nil)
	for _, m := range migrations {
		next[m.source.name] = slices.DeleteFunc(next[m.source.name], func(a applied) bool { return a.Version == m.version })
	}
	return next
}

// keep takes over what known says of sources that a set does not have: another binary's, which nobody here can ask for.
func (s state) keep(known state, set *set) {
	for name, list := range known {
		if set.find(name) == nil {
			s[name] = list
		}
	}
}

// without reports whether s has a version that other, which is known, has not.
func (s state) without(other state) bool {
	if other == nil {
		return false
	}
	for name, list := range s {
		for _, a := range list {
			if !other.has(name, a.Version) {
				return true
			}
		}
	}
	return false
}
