package placed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"

	"github.com/tenement-go/tenement/backend"
)

func init() {
	backend.Register("placed", func(ctx context.Context, url string) (backend.Backend, error) {
		cfg, err := parseURL(url)
		if err != nil {
			return nil, &backend.Error{Op: "open", Err: err}
		}
		be, err := Open(ctx, cfg)
		if err != nil {
			return nil, err // and no Backend that is a nil pointer
		}
		return be, nil
	})
}

// Config says which places there are. It is copied by [Open].
type Config struct {
	// Places are the places; the first is home. Names and their order may be changed only for places without stores.
	Places []Place
	// Logger gets what is not worth an error. Defaults to [slog.Default].
	Logger *slog.Logger
}

// Place is a backend under a name.
type Place struct {
	// Name is what tenants are sent to, and what the directory has: a name such as a store could have.
	Name string
	// URL is opened with [backend.Open], and closed with the backend.
	URL string
	// Backend is used instead of URL. It stays the caller's to close.
	Backend backend.Backend
}

// parseURL reads placed:?home=URL&NAME=URL…; the first place is home, whatever it is called.
func parseURL(text string) (Config, error) {
	var cfg Config
	rest, ok := strings.CutPrefix(text, "placed:?")
	if !ok {
		return cfg, fmt.Errorf("%w: it is not placed:?NAME=URL&NAME=URL", backend.ErrInvalidURL)
	}
	// The order counts, which url.Values forgets.
	for pair := range strings.SplitSeq(rest, "&") {
		name, value, _ := strings.Cut(pair, "=")
		if _, err := backend.ParseStore(name); err != nil {
			// It may be a URL without a name, and hold a password.
			return cfg, fmt.Errorf("%w: place %d has a name that no store could have; it is placed:?NAME=URL&NAME=URL, each URL escaped", backend.ErrInvalidURL, len(cfg.Places)+1)
		}
		u, err := url.QueryUnescape(value)
		if err != nil {
			// The error would hold what may be a password.
			return cfg, fmt.Errorf("%w: the URL of place %q is not escaped as a query parameter is", backend.ErrInvalidURL, name)
		}
		cfg.Places = append(cfg.Places, Place{Name: name, URL: u})
	}
	return cfg, nil
}

func (cfg *Config) check() error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("%w: "+format, append([]any{backend.ErrInvalidURL}, args...)...))
	}
	if len(cfg.Places) == 0 {
		fault("there is no place")
	}
	seen := map[string]bool{}
	for _, p := range cfg.Places {
		if _, err := backend.ParseStore(p.Name); err != nil {
			fault("place %q: its name is none that a store could have", p.Name)
		}
		if seen[p.Name] {
			fault("place %q is there twice", p.Name)
		}
		seen[p.Name] = true
		if p.URL == "" && p.Backend == nil {
			fault("place %q has no URL", p.Name)
		}
	}
	return errors.Join(faults...)
}
