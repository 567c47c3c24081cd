package sqlite

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tenement-go/tenement/backend"
)

// Config holds the terms on which [Open] opens a directory of stores. The zero value of each field means its default; a
// URL's parameter of the same meaning wins.
type Config struct {
	// MaxOpenStores bounds how many stores are open at once. Past it the one that was unused for longest is closed; one
	// in use never is, so with all of them in use the next one waits. An open store takes about 150 KB and three to five
	// file descriptors, and two to four more for each further connection that is in use. Defaults to what the process's
	// limit on descriptors (RLIMIT_NOFILE) has room for, with a third of it left to the application, but 2048 at most
	// (some 300 MB with all of them open); a greater number than the limit has room for counts as that. URL: max_open.
	MaxOpenStores int
	// MaxReaders bounds how many connections of one store read at once; the next one waits its turn. The store's
	// writer is not counted. Defaults to 64. URL: max_readers.
	MaxReaders int
	// BusyTimeout bounds each wait for a lock that another process holds, and each wait for the store's writer or a
	// free reader when the call's context has no deadline; but for one of SQLite's own, for somebody who is writing the
	// index of the log, which lasts ten seconds at most. Defaults to 5 seconds. URL: busy_timeout, such as 500ms.
	BusyTimeout time.Duration
	// Synchronous is SQLite's setting of that name: Full keeps every commit through a power failure, Normal may lose
	// the last ones (but never half of one), Off may lose the file. Defaults to Full. URL: synchronous.
	Synchronous Synchronous
	// CacheSize is the greatest page cache of one connection, in KiB. Defaults to 1024. URL: cache_size.
	CacheSize int
	// Statements is how many prepared statements one connection keeps. Defaults to 64. URL: statements.
	Statements int
}

// Synchronous says when a commit is on disk; see [Config].
type Synchronous string

// The values of SQLite's PRAGMA synchronous.
const (
	Off    Synchronous = "OFF"
	Normal Synchronous = "NORMAL"
	Full   Synchronous = "FULL"
	Extra  Synchronous = "EXTRA"
)

// scheme is the URL scheme of this backend.
const scheme = "sqlite"

// withDefaults returns cfg filled in, or an error that names the field at fault.
func (cfg Config) withDefaults() (Config, error) {
	for _, n := range []struct {
		name     string
		field    *int
		standard int
	}{
		{"MaxOpenStores", &cfg.MaxOpenStores, maxOpenStores},
		{"MaxReaders", &cfg.MaxReaders, 64},
		{"CacheSize", &cfg.CacheSize, 1024},
		{"Statements", &cfg.Statements, 64},
	} {
		switch {
		case *n.field == 0:
			*n.field = n.standard
		case *n.field < 0 || *n.field > 1<<30:
			return cfg, optionError(n.name, strconv.Itoa(*n.field), "use a number from 1 to 1073741824")
		}
	}
	switch {
	case cfg.BusyTimeout == 0:
		cfg.BusyTimeout = 5 * time.Second
	case cfg.BusyTimeout < time.Millisecond || cfg.BusyTimeout > 24*time.Hour:
		return cfg, optionError("BusyTimeout", cfg.BusyTimeout.String(), "use a duration from 1ms to 24h")
	}
	switch cfg.Synchronous {
	case "":
		cfg.Synchronous = Full
	case Off, Normal, Full, Extra:
	default:
		return cfg, optionError("Synchronous", string(cfg.Synchronous), "use OFF, NORMAL, FULL or EXTRA")
	}
	return cfg, nil
}

func optionError(name, value, remedy string) error {
	return fmt.Errorf("tenement: open sqlite: %w: option %s=%q: %s", backend.ErrInvalidURL, name, value, remedy)
}

// parameters are the query parameters that a URL may have, and how each sets its option.
var parameters = []struct {
	name, remedy string
	set          func(cfg *Config, value string) bool
}{
	{"max_open", "use a number of stores from 1, such as 256", func(cfg *Config, v string) bool { return positive(v, &cfg.MaxOpenStores) }},
	{"max_readers", "use a number of connections from 1, such as 64", func(cfg *Config, v string) bool { return positive(v, &cfg.MaxReaders) }},
	{"cache_size", "use a number of KiB from 1, such as 1024", func(cfg *Config, v string) bool { return positive(v, &cfg.CacheSize) }},
	{"statements", "use a number of statements from 1, such as 64", func(cfg *Config, v string) bool { return positive(v, &cfg.Statements) }},
	{"busy_timeout", "use a duration from 1ms to 24h, such as 5s", func(cfg *Config, v string) bool {
		d, err := time.ParseDuration(v)
		cfg.BusyTimeout = d
		return err == nil && d >= time.Millisecond && d <= 24*time.Hour
	}},
	{"synchronous", "use off, normal, full or extra", func(cfg *Config, v string) bool {
		cfg.Synchronous = Synchronous(strings.ToUpper(v))
		switch cfg.Synchronous {
		case Off, Normal, Full, Extra:
			return true
		}
		return false
	}},
}

func positive(text string, n *int) bool {
	v, err := strconv.ParseInt(text, 10, 32)
	*n = int(v)
	return err == nil && v >= 1 && v <= 1<<30
}

// parseURL returns the directory that a URL such as "sqlite:data?max_open=64" names, and cfg with what its parameters say.
func parseURL(text string, cfg Config) (dir string, _ Config, err error) {
	rest, ok := strings.CutPrefix(text, scheme+":")
	if !ok {
		return "", cfg, urlError("it does not begin with %q; use sqlite:DIR", scheme+":")
	}
	path, query, _ := strings.Cut(rest, "?")
	if after, found := strings.CutPrefix(path, "//"); found {
		if !strings.HasPrefix(after, "/") {
			return "", cfg, urlError("a host makes no sense for files; use sqlite:DIR or sqlite:///DIR")
		}
		path = after
	}
	if dir, err = url.PathUnescape(path); err != nil {
		return "", cfg, urlError("the directory has a broken escape (%v); write a per cent sign as %%25", err)
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return "", cfg, urlError("the parameters cannot be read (%v); use name=value&name=value", err)
	}
	known := make([]string, 0, len(parameters))
	for _, p := range parameters {
		known = append(known, p.name)
		given, ok := values[p.name]
		if !ok {
			continue
		}
		delete(values, p.name)
		if len(given) != 1 {
			return "", cfg, urlError("parameter %s is given %d times; give it once", p.name, len(given))
		}
		if !p.set(&cfg, given[0]) {
			return "", cfg, urlError("parameter %s=%q: %s", p.name, given[0], p.remedy)
		}
	}
	for name := range values {
		return "", cfg, urlError("unknown parameter %q; known are %s", name, strings.Join(known, ", "))
	}
	return dir, cfg, checkDir(dir)
}

// checkDir says what is wrong with a directory's name.
func checkDir(dir string) error {
	switch {
	case dir == "":
		return urlError("it names no directory; use sqlite:DIR, such as sqlite:data")
	case strings.ContainsRune(dir, 0):
		return urlError("the directory contains NUL; choose another name")
	}
	return nil
}

func urlError(format string, args ...any) error {
	return fmt.Errorf("tenement: open sqlite: %w: %s", backend.ErrInvalidURL, fmt.Sprintf(format, args...))
}
