package sqlite

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tenement-go/tenement/backend"
)

// Options are the terms on which [Open] opens a directory of stores. The zero value of each field means its default.
type Options struct {
	// Dir is the directory that holds everything. It is made when it is missing. Required.
	Dir string
	// MaxOpenStores bounds how many stores are open at once. Past it the one that was unused for longest is closed; one
	// in use never is, so with all of them in use the next one waits. A store takes about five file descriptors, and
	// five more for each further connection that is in use. Defaults to 256. URL: max_open.
	MaxOpenStores int
	// MaxReaders bounds how many connections of one store read at once; the next one waits its turn. The store's
	// writer is not counted. Defaults to 64. URL: max_readers.
	MaxReaders int
	// BusyTimeout bounds each wait for a lock that another process holds, and each wait for the store's writer or a
	// free reader when the call's context has no deadline. Defaults to 5 seconds. URL: busy_timeout, such as 500ms.
	BusyTimeout time.Duration
	// Synchronous is SQLite's setting of that name: Full keeps every commit through a power failure, Normal may lose
	// the last ones (but never half of one), Off may lose the file. Defaults to Full. URL: synchronous.
	Synchronous Synchronous
	// CacheSize is the greatest page cache of one connection, in KiB. Defaults to 1024. URL: cache_size.
	CacheSize int
	// Statements is how many prepared statements one connection keeps. Defaults to 64. URL: statements.
	Statements int
}

// Synchronous says when a commit is on disk; see [Options].
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

// withDefaults returns o filled in, or an error that names the field at fault.
func (o Options) withDefaults() (Options, error) {
	if o.Dir == "" {
		return o, optionError("Dir", "", "it is empty; name the directory that holds the stores")
	}
	if strings.ContainsRune(o.Dir, 0) {
		return o, optionError("Dir", o.Dir, "a path cannot contain NUL")
	}
	for _, n := range []struct {
		name     string
		field    *int
		standard int
	}{
		{"MaxOpenStores", &o.MaxOpenStores, 256},
		{"MaxReaders", &o.MaxReaders, 64},
		{"CacheSize", &o.CacheSize, 1024},
		{"Statements", &o.Statements, 64},
	} {
		switch {
		case *n.field == 0:
			*n.field = n.standard
		case *n.field < 0 || *n.field > 1<<30:
			return o, optionError(n.name, strconv.Itoa(*n.field), "use a number from 1 to 1073741824")
		}
	}
	switch {
	case o.BusyTimeout == 0:
		o.BusyTimeout = 5 * time.Second
	case o.BusyTimeout < time.Millisecond || o.BusyTimeout > 24*time.Hour:
		return o, optionError("BusyTimeout", o.BusyTimeout.String(), "use a duration from 1ms to 24h")
	}
	switch o.Synchronous {
	case "":
		o.Synchronous = Full
	case Off, Normal, Full, Extra:
	default:
		return o, optionError("Synchronous", string(o.Synchronous), "use OFF, NORMAL, FULL or EXTRA")
	}
	return o, nil
}

func optionError(name, value, remedy string) error {
	return fmt.Errorf("tenement: open sqlite: %w: option %s=%q: %s", backend.ErrInvalidURL, name, value, remedy)
}

// parameters are the query parameters that a URL may have, and how each sets its option.
var parameters = []struct {
	name, remedy string
	set          func(o *Options, value string) bool
}{
	{"max_open", "use a number of stores from 1, such as 256", func(o *Options, v string) bool { return positive(v, &o.MaxOpenStores) }},
	{"max_readers", "use a number of connections from 1, such as 64", func(o *Options, v string) bool { return positive(v, &o.MaxReaders) }},
	{"cache_size", "use a number of KiB from 1, such as 1024", func(o *Options, v string) bool { return positive(v, &o.CacheSize) }},
	{"statements", "use a number of statements from 1, such as 64", func(o *Options, v string) bool { return positive(v, &o.Statements) }},
	{"busy_timeout", "use a duration from 1ms to 24h, such as 5s", func(o *Options, v string) bool {
		d, err := time.ParseDuration(v)
		o.BusyTimeout = d
		return err == nil && d >= time.Millisecond && d <= 24*time.Hour
	}},
	{"synchronous", "use off, normal, full or extra", func(o *Options, v string) bool {
		o.Synchronous = Synchronous(strings.ToUpper(v))
		switch o.Synchronous {
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

// ParseURL returns the options that a URL such as "sqlite:data?max_open=64" stands for, with the defaults left out. The
// directory is what stands between the colon and the first question mark, percent-escapes resolved (%3F for a question
// mark, %25 for a per cent sign); "sqlite:///var/data" is "/var/data". It returns an error that wraps
// [backend.ErrInvalidURL] and names what is wrong and the remedy.
func ParseURL(text string) (Options, error) {
	rest, ok := strings.CutPrefix(text, scheme+":")
	if !ok {
		return Options{}, urlError("it does not begin with %q; use sqlite:DIR", scheme+":")
	}
	path, query, _ := strings.Cut(rest, "?")
	if after, found := strings.CutPrefix(path, "//"); found {
		if !strings.HasPrefix(after, "/") {
			return Options{}, urlError("a host makes no sense for files; use sqlite:DIR or sqlite:///DIR")
		}
		path = after
	}
	dir, err := url.PathUnescape(path)
	if err != nil {
		return Options{}, urlError("the directory has a broken escape (%v); write a per cent sign as %%25", err)
	}
	switch {
	case dir == "":
		return Options{}, urlError("it names no directory; use sqlite:DIR, such as sqlite:data")
	case strings.ContainsRune(dir, 0):
		return Options{}, urlError("the directory contains NUL; choose another name")
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return Options{}, urlError("the parameters cannot be read (%v); use name=value&name=value", err)
	}
	o := Options{Dir: dir}
	known := make([]string, 0, len(parameters))
	for _, p := range parameters {
		known = append(known, p.name)
		given, ok := values[p.name]
		if !ok {
			continue
		}
		delete(values, p.name)
		if len(given) != 1 {
			return Options{}, urlError("parameter %s is given %d times; give it once", p.name, len(given))
		}
		if !p.set(&o, given[0]) {
			return Options{}, urlError("parameter %s=%q: %s", p.name, given[0], p.remedy)
		}
	}
	for name := range values {
		return Options{}, urlError("unknown parameter %q; known are %s", name, strings.Join(known, ", "))
	}
	return o, nil
}

func urlError(format string, args ...any) error {
	return fmt.Errorf("tenement: open sqlite: %w: %s", backend.ErrInvalidURL, fmt.Sprintf(format, args...))
}
