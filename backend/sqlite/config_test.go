package sqlite

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

func TestDirectoryThatCannotBeMade(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := Open(t.Context(), filepath.Join(file, "data"), Config{})
	require.ErrorContains(t, err, file)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "shared.db"), []byte("not a database, not at all"), 0o600))
	_, err = Open(t.Context(), dir, Config{})
	require.ErrorContains(t, err, "shared.db")
}

func TestPathsAreEscaped(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a?b", "a#b", "a%3Fb", "a'b", `a"b`, "a b", "ü☃", "a&mode=memory", "file:x"} {
		dir := filepath.Join(t.TempDir(), name)
		b := openIn(t, dir)
		ctx, _ := withTable(t, b, "a")
		mustExec(t, t.Context(), b.Shared(), "CREATE TABLE plans (id INTEGER)")
		require.Equal(t, 0, count(t, ctx, b.DB(), "SELECT count(*) FROM public.plans"))
		require.FileExists(t, filepath.Join(dir, "tenants", "a.db"))
	}
}

func FuzzParseURL(f *testing.F) {
	for _, s := range []string{"sqlite:data", "sqlite:data?max_open=3&busy_timeout=1s", "sqlite:///x%3F?synchronous=off", "sqlite:?", "sqlite:%zz", "sqlite:a?b=c&b=d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		dir, cfg, err := parseURL(s, Config{})
		if err != nil {
			require.ErrorIs(t, err, backend.ErrInvalidURL)
			return
		}
		require.NotEmpty(t, dir)
		_, err = cfg.withDefaults()
		require.NoError(t, err)
	})
}

func TestParseURL(t *testing.T) {
	t.Parallel()
	dir, cfg, err := parseURL("sqlite:///var/a%3Fb?max_open=3&max_readers=4&busy_timeout=70ms&synchronous=off&cache_size=9&statements=5", Config{MaxOpenStores: 7})
	require.NoError(t, err)
	require.Equal(t, "/var/a?b", dir)
	require.Equal(t, Config{MaxOpenStores: 3, MaxReaders: 4, BusyTimeout: 70 * time.Millisecond, Synchronous: Off, CacheSize: 9, Statements: 5}, cfg, "a parameter wins over a field")
	for url, names := range map[string]string{
		"sqlite:": "directory", "sqlite:?max_open=1": "directory", "sqlite:d?max_opn=1": "max_opn", "sqlite:d?max_open=0": "max_open",
		"sqlite:d?max_open=1&max_open=2": "max_open", "sqlite:d?synchronous=maybe": "synchronous", "sqlite:d?busy_timeout=5": "busy_timeout",
		"sqlite://host/d": "host", "sqlite:%zz": "escape", "sqlite:a%00": "NUL", "postgres:x": "sqlite:",
	} {
		_, _, err := parseURL(url, Config{})
		require.ErrorIs(t, err, backend.ErrInvalidURL, url)
		require.ErrorContains(t, err, names, url)
		_, err = backend.Open(t.Context(), url)
		require.Error(t, err, url)
	}
	_, err = Open(t.Context(), t.TempDir(), Config{MaxOpenStores: -1})
	require.ErrorIs(t, err, backend.ErrInvalidURL)
}
