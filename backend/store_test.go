package backend_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

// S12
func TestParseStore(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"thor", "a", "0", "1st", "select", "table", "user", "order", "a-b", "a_b", "a-", "com10", "pgx", "sqlite", "public1",
		strings.Repeat("a", backend.MaxNameLen),
	} {
		s, err := backend.ParseStore(name)
		require.NoError(t, err, name)
		assert.Equal(t, name, s.String())
		assert.False(t, s.IsZero())
		assert.Equal(t, s, backend.MustParseStore(name))
	}
	for name, reason := range map[string]string{
		"":                       "empty",
		strings.Repeat("a", 64):  "64 bytes",
		"Thor":                   "upper-case",
		"-a":                     "begin",
		"_a":                     "begin",
		"a b":                    "byte 2",
		" a":                     "byte 1",
		"a.b":                    "byte 2",
		"a/b":                    "byte 2",
		"..":                     "byte 1",
		`a\b`:                    "byte 2",
		`a"b`:                    "byte 2",
		"a'b":                    "byte 2",
		"a;b":                    "byte 2",
		"a\x00b":                 "byte 2",
		"a\n":                    "byte 2",
		"é":                      "byte 1",
		"аbc":                    "byte 1", // Cyrillic а
		"public":                 "reserved",
		"shared":                 "reserved",
		"information_schema":     "reserved",
		"main":                   "reserved",
		"temp":                   "reserved",
		"pg_toast":               "reserved",
		"pg_":                    "reserved",
		"sqlite_master":          "reserved",
		"con":                    "reserved",
		"nul":                    "reserved",
		"aux":                    "reserved",
		"prn":                    "reserved",
		"com1":                   "reserved",
		"lpt0":                   "reserved",
		strings.Repeat("A", 500): "500 bytes",
	} {
		s, err := backend.ParseStore(name)
		require.ErrorIs(t, err, backend.ErrInvalidName, "%q", name)
		assert.True(t, s.IsZero())
		var fault *backend.NameError
		require.ErrorAs(t, err, &fault)
		assert.Equal(t, name, fault.Name)
		assert.Contains(t, fault.Reason, reason, "%q", name)
		assert.Less(t, len(err.Error()), 400, "a long name is cut in the message")
		assert.Panics(t, func() { backend.MustParseStore(name) })
	}
}

// S12: every name is either refused or round-trips exactly, and what is accepted is safe in SQL, paths and URLs.
func FuzzParseStore(f *testing.F) {
	for _, name := range []string{
		"thor", "", "select", "a-b", "Thor", "public", "pg_x", "a.b", "../x", "a\x00", "a'b", `a"b`, "con", "com1", "é",
		strings.Repeat("a", 63), strings.Repeat("a", 64), " a", "a ", "0", "-", "_", "sqlite_x",
	} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		s, err := backend.ParseStore(name)
		if err != nil {
			require.ErrorIs(t, err, backend.ErrInvalidName)
			require.True(t, s.IsZero())
			require.Empty(t, s.String())
			return
		}
		require.Equal(t, name, s.String())
		require.NotEmpty(t, name)
		require.LessOrEqual(t, len(name), 63)
		require.Empty(t, strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_"))
		require.NotContains(t, "-_", name[:1])
		require.False(t, strings.HasPrefix(name, "pg_") || strings.HasPrefix(name, "sqlite_"))
		again, err := backend.ParseStore(s.String())
		require.NoError(t, err)
		require.Equal(t, s, again)
	})
}

func TestError(t *testing.T) {
	t.Parallel()
	cause := errors.New("disk full")
	assert.EqualError(t, &backend.Error{Op: "create", Store: backend.MustParseStore("thor"), Err: cause}, "tenement: create store thor: disk full")
	assert.EqualError(t, &backend.Error{Op: "list", Err: cause}, "tenement: list: disk full")
	assert.ErrorIs(t, &backend.Error{Op: "list", Err: cause}, cause)
}
