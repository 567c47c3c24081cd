package httpx

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/tenement-go/tenement/tenancy"
)

// Strategy tells from a request which tenant it is for. It has three kinds of answer: a tenant, by slug or host; none,
// which leaves the request to the next strategy of a [First] or to [WithPublic]; and that what the request says is
// malformed, which ends in a refusal. A tenant that turns out to be unknown is an answer too: no other strategy is asked.
//
// Strategies are safe for concurrent use. Those of this package are all there are; [ByFunc] is the way to another.
type Strategy interface {
	// read does not look anything up.
	read(q query) claim
	// validate names what is wrong in how the strategy was made.
	validate() error
	// reads tells what of a request may name the tenant.
	reads() inputs
}

// inputs are what of a request may name the tenant: of its host, and which other headers. Its path is always there, and
// needs no one's care.
type inputs struct {
	host    hostParts
	headers []string
}

// hostParts are a set.
type hostParts uint8

const (
	domains    hostParts = 1 << iota // the whole, a tenant's domain
	subdomains                       // the first label
)

// query is a request, and its host as it was made out, where that has a say.
type query struct {
	r      *http.Request
	raw    string // the host as it came, with its port
	host   string // normalised
	public bool   // the host is a public one
	err    error  // why there is no host: for whoever would go by it
}

// claim is what a strategy read.
type claim struct {
	kind   claimKind
	value  string // the slug
	err    error  // what is malformed
	prefix int    // bytes of the path that named the tenant
}

func refuse(err error) claim { return claim{kind: malformed, err: err} }

var (
	errEscaped    = errors.New("the tenant's part of the path is escaped")
	errTwoHeaders = errors.New("the tenant's header is there more than once")
	errTwoCookies = errors.New("the tenant's cookie is there more than once")
)

type claimKind uint8

const (
	none claimKind = iota
	bySlug
	byHost
	malformed
)

// ByHost goes by the whole host: the tenant is the one that it was registered for as a domain. It answers for every host
// but the public ones, so nothing after it in a [First] is asked for a tenant's host.
func ByHost() Strategy { return hostStrategy{} }

type hostStrategy struct{}

func (hostStrategy) validate() error { return nil }
func (hostStrategy) reads() inputs   { return inputs{host: domains} }

func (hostStrategy) read(q query) claim {
	switch {
	case q.err != nil:
		return refuse(q.err)
	case q.public:
		return claim{}
	}
	return claim{kind: byHost}
}

// BySubdomain takes the one label in front of base for the tenant's slug: thor.polls.example with base "polls.example".
// It has no answer for base itself, for what is not under base, for more than one label, and for public hosts.
func BySubdomain(base string) Strategy {
	name, err := tenancy.NormalizeHost(base)
	return subdomainStrategy{base: base, suffix: "." + name, err: err}
}

type subdomainStrategy struct {
	base, suffix string
	err          error
}

func (s subdomainStrategy) reads() inputs { return inputs{host: subdomains} }

func (s subdomainStrategy) validate() error {
	if s.err != nil {
		return fmt.Errorf("BySubdomain: base domain %q: %w", s.base, s.err)
	}
	return nil
}

func (s subdomainStrategy) read(q query) claim {
	if q.err != nil {
		return refuse(q.err)
	}
	label, ok := strings.CutSuffix(q.host, s.suffix)
	if !ok || q.public || strings.IndexByte(label, '.') >= 0 {
		return claim{}
	}
	return claim{kind: bySlug, value: label}
}

// ByPathPrefix takes the path's segment after prefix for the tenant's slug, and takes both off the path that the handler
// sees: with prefix "/t/", /t/thor/polls/1 is /polls/1 of the tenant thor, and /t/thor is its "/". [URL] puts them back.
// It has no answer for other paths. A slug written with escapes (/t/th%6Fr/) is malformed.
//
// A router's own redirects (http.ServeMux from /polls to /polls/) do not know of the prefix; register both forms. All
// tenants share one origin, so cookies need [URL](ctx, "/") as their path and scripts of one tenant can reach another's
// pages: not for tenants that bring their own HTML.
func ByPathPrefix(prefix string) Strategy { return pathStrategy{prefix} }

type pathStrategy struct{ prefix string }

func (s pathStrategy) reads() inputs { return inputs{} }

func (s pathStrategy) validate() error {
	if !strings.HasPrefix(s.prefix, "/") || !strings.HasSuffix(s.prefix, "/") || strings.Contains(s.prefix, "//") {
		return fmt.Errorf(`ByPathPrefix: prefix %q must begin and end with one slash, as "/t/" does`, s.prefix)
	}
	for i := range len(s.prefix) {
		switch c := s.prefix[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("/-_.~", c) >= 0:
		default:
			return fmt.Errorf("ByPathPrefix: prefix %q: byte %d would have to be escaped in a URL; use letters, digits, -, _, . and ~", s.prefix, i+1)
		}
	}
	return nil
}

func (s pathStrategy) read(q query) claim {
	u := q.r.URL
	rest, ok := strings.CutPrefix(u.Path, s.prefix)
	if !ok {
		return claim{}
	}
	slug, _, _ := strings.Cut(rest, "/")
	if slug == "" {
		return claim{}
	}
	n := len(s.prefix) + len(slug)
	// RawPath is there when something in the path is escaped. What names the tenant must not be, or the two paths that
	// the handler sees would part company: in /t/thor%2Fx/ the slug is not "thor".
	if raw := u.RawPath; raw != "" && (len(raw) < n || raw[:n] != u.Path[:n] || len(raw) > n && raw[n] != '/') {
		return refuse(errEscaped)
	}
	return claim{kind: bySlug, value: slug, prefix: n}
}

// ByHeader takes the value of a header for the tenant's slug. It has no answer when the header is absent; empty or sent
// more than once it is malformed.
//
// It trusts the client: whoever can send a request can name any tenant. Use it where the header is set by a gateway
// that removes the client's own, or where the application checks in each tenant what the caller may do there. The
// answers' Vary has the header: see the package's part about caches.
func ByHeader(name string) Strategy {
	return headerStrategy{http.CanonicalHeaderKey(name)}
}

type headerStrategy struct{ name string }

func (s headerStrategy) reads() inputs { return inputs{headers: []string{s.name}} }

func (s headerStrategy) validate() error {
	switch {
	case !httpguts.ValidHeaderFieldName(s.name):
		return fmt.Errorf("ByHeader: %q is not a header's name", s.name)
	case s.name == "Host":
		return errors.New("ByHeader: net/http keeps the Host header elsewhere; use ByHost")
	}
	return nil
}

func (s headerStrategy) read(q query) claim {
	switch values := q.r.Header[s.name]; {
	case len(values) == 0:
		return claim{}
	case len(values) > 1:
		return refuse(errTwoHeaders)
	default:
		return claim{kind: bySlug, value: values[0]}
	}
}

// ByCookie takes the value of a cookie for the tenant's slug. It has no answer when there is no such cookie; one sent
// twice (a sibling domain can plant a second) is malformed.
//
// It trusts the client, as [ByHeader] does; and a cookie travels with requests that another site makes the browser
// send, so protect what changes state (http.CrossOriginProtection). The answers' Vary has Cookie, and so a shared
// cache is of little use: what is the same for all tenants is better served outside of the gate.
func ByCookie(name string) Strategy { return cookieStrategy{name} }

type cookieStrategy struct{ name string }

func (s cookieStrategy) reads() inputs { return inputs{headers: []string{"Cookie"}} }

func (s cookieStrategy) validate() error {
	if !httpguts.ValidHeaderFieldName(s.name) { // both are tokens
		return fmt.Errorf("ByCookie: %q is not a cookie's name", s.name)
	}
	return nil
}

// read scans the header itself: Request.CookiesNamed makes a Cookie of each one there is.
func (s cookieStrategy) read(q query) claim {
	var c claim
	for _, line := range q.r.Header["Cookie"] {
		for line != "" {
			var part string
			part, line, _ = strings.Cut(line, ";")
			name, value, _ := strings.Cut(part, "=")
			if strings.TrimSpace(name) != s.name {
				continue
			}
			if c.kind != none {
				return refuse(errTwoCookies)
			}
			c = claim{kind: bySlug, value: strings.TrimSpace(value)}
		}
	}
	return c
}

// ByFunc takes what f returns for the tenant's slug; ok is false when f has no answer. It is called once per request, at
// the same time from several goroutines. A slug that cannot be one is refused, never trusted. Where f goes by a header,
// the handler adds that one to the answer's Vary; by something that is no header (a client's certificate, its address),
// it sets Cache-Control to private or no-store.
func ByFunc(f func(r *http.Request) (slug string, ok bool)) Strategy { return funcStrategy(f) }

type funcStrategy func(r *http.Request) (slug string, ok bool)

// reads does not know what the function goes by.
func (s funcStrategy) reads() inputs { return inputs{} }

func (s funcStrategy) validate() error {
	if s == nil {
		return errors.New("ByFunc: the function is nil")
	}
	return nil
}

func (s funcStrategy) read(q query) claim {
	if slug, ok := s(q.r); ok {
		return claim{kind: bySlug, value: slug}
	}
	return claim{}
}

// First asks one strategy after the other; the first that has an answer decides, right or wrong. Put [ByHost], which
// nearly always has one, last.
func First(strategies ...Strategy) Strategy { return firstStrategy(slices.Clone(strategies)) }

type firstStrategy []Strategy

func (s firstStrategy) validate() error {
	if len(s) == 0 {
		return errors.New("First: no strategies")
	}
	for i, each := range s {
		if each == nil {
			return fmt.Errorf("First: strategy %d is nil", i+1)
		}
		if err := each.validate(); err != nil {
			return err
		}
	}
	return nil
}

func (s firstStrategy) reads() inputs {
	var all inputs
	for _, each := range s {
		in := each.reads()
		all.host |= in.host
		all.headers = append(all.headers, in.headers...)
	}
	return all
}

func (s firstStrategy) read(q query) claim {
	for _, each := range s {
		if c := each.read(q); c.kind != none {
			return c
		}
	}
	return claim{}
}
