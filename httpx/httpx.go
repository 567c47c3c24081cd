package httpx

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/tenancy"
)

// DefaultRetryAfter is what Retry-After says unless [WithRetryAfter] says otherwise.
const DefaultRetryAfter = 5 * time.Second

// Middleware returns the standard kind of middleware: it refuses the requests that are for no tenant in service, and
// runs the handler inside the tenant for the others. It panics when an option is wrong, as http.ServeMux does for a
// wrong pattern; [New] returns the error instead.
func Middleware(app *tenancy.App, opts ...Option) func(http.Handler) http.Handler {
	g, err := New(app, opts...)
	if err != nil {
		panic(err)
	}
	return g.Wrap
}

// Gate decides which tenant a request is for, and whether it may pass. It is safe for concurrent use and holds nothing
// that would have to be closed.
type Gate struct {
	dir directory
	config
}

// directory is what a Gate asks of the *tenancy.App; the policy is tested against a small one of its own.
type directory interface {
	Resolve(ctx context.Context, host string) (*tenancy.Tenant, error)
	ResolveSlug(ctx context.Context, slug string) (*tenancy.Tenant, error)
	Enter(ctx context.Context, who tenancy.Referrer, p tenancy.Policy) (context.Context, *tenancy.Tenant, context.CancelFunc, error)
}

var _ directory = (*tenancy.App)(nil)

// New returns a gate to app's tenants. The error names the option that is wrong. The app stays the caller's.
func New(app *tenancy.App, opts ...Option) (*Gate, error) {
	if app == nil {
		return nil, errors.New("httpx: the app is nil; pass the one that tenancy.Open returned")
	}
	return newGate(app, opts...)
}

func newGate(dir directory, opts ...Option) (*Gate, error) {
	g := &Gate{dir: dir, config: config{
		strategy:      ByHost(),
		retryAfter:    DefaultRetryAfter,
		suspendedCode: http.StatusForbidden,
	}}
	for _, opt := range opts {
		if err := opt(&g.config); err != nil {
			return nil, fmt.Errorf("httpx: %w", err)
		}
	}
	if err := g.validate(); err != nil {
		return nil, fmt.Errorf("httpx: %w", err)
	}
	return g, nil
}

// config is what the options fill in. Nothing changes it once the gate is made.
type config struct {
	strategy      Strategy
	public        map[string]bool // normalised hosts
	publicHandler http.Handler    // nil: the wrapped handler
	hasPublic     bool
	proxies       *proxies
	byHost        bool // ByHost is among the strategies
	retryAfter    time.Duration
	suspendedCode int
	refusals      [outcomes]http.Handler
	logger        *slog.Logger
}

// validate checks what only shows when all options are known.
func (c *config) validate() error {
	if err := c.strategy.validate(); err != nil {
		return err
	}
	reads := c.strategy.reads()
	c.byHost = reads&domains != 0
	if c.hasPublic && len(c.public) == 0 && reads != 0 {
		return errors.New("WithPublic: name the public hosts; with ByHost or BySubdomain every other host is a tenant's or unknown")
	}
	return nil
}

// Option changes what a [Gate] does.
type Option func(*config) error

// WithStrategy sets how a request names its tenant. Defaults to [ByHost].
func WithStrategy(s Strategy) Option {
	return func(c *config) error {
		if s == nil {
			return errors.New("WithStrategy: the strategy is nil")
		}
		c.strategy = s
		return nil
	}
}

// WithPublic sends requests for no tenant to h, with a context that has none. They are the requests for which the
// strategy has no answer and whose host is one of hosts; ByHost and BySubdomain have no answer for these hosts. Without
// hosts, which those two do not allow, it is every request for which the strategy has no answer. A nil h stands for the
// wrapped handler itself: on app.DB() it gets backend.ErrNoTenant until it enters a tenant of its own accord.
func WithPublic(h http.Handler, hosts ...string) Option {
	return func(c *config) error {
		public := make(map[string]bool, len(hosts))
		for _, host := range hosts {
			name, err := tenancy.NormalizeHost(host)
			if err != nil {
				return fmt.Errorf("WithPublic: host %q: %w", host, err)
			}
			public[name] = true
		}
		maps.Copy(public, c.public)
		c.public, c.publicHandler, c.hasPublic = public, h, true
		return nil
	}
}

// WithForwarded believes the host (and the scheme, for [AbsoluteURL]) that header gives, when the request comes
// straight from one of proxies. Defaults to never.
//
// One header is believed and the other ignored, because a proxy sets the one and hands on whatever the client wrote in
// the other. The header must hold one host: the leftmost of several can be the client's own invention and the rightmost
// an inner hop's, so several are refused as malformed. Configure the outermost proxy to replace the header, the inner
// ones to pass it on. A trusted proxy's request without the header goes by its Host.
//
// The proxy is recognised by Request.RemoteAddr; behind a Unix socket there is none, and nothing is believed.
func WithForwarded(header ForwardedHeader, from ...netip.Prefix) Option {
	return func(c *config) error {
		if header != XForwardedHost && header != Forwarded {
			return fmt.Errorf("WithForwarded: unknown header %d; use XForwardedHost or Forwarded", header)
		}
		if len(from) == 0 {
			return errors.New("WithForwarded: no proxies; give the addresses that the header is believed from")
		}
		for _, p := range from {
			if !p.IsValid() {
				return errors.New("WithForwarded: a prefix is the zero value; use netip.ParsePrefix and check its error")
			}
		}
		c.proxies = &proxies{header: header, from: slices.Clone(from)}
		return nil
	}
}

// WithRefusal has h answer the requests that end in outcome o. The headers Cache-Control and, where it makes sense,
// Retry-After are set beforehand; h writes the status, [DecisionFrom] tells it which. [Refuse] is the default.
func WithRefusal(o Outcome, h http.Handler) Option {
	return func(c *config) error {
		if o <= Public || o >= outcomes {
			return fmt.Errorf("WithRefusal: outcome %v is not a refusal", o)
		}
		if h == nil {
			return fmt.Errorf("WithRefusal: the handler for %v is nil", o)
		}
		c.refusals[o] = h
		return nil
	}
}

// WithSuspendedCode sets the status for suspended tenants, 400 to 599. Defaults to 403: being suspended is a decision
// about the tenant, not a fault that retrying or an operator's alarm would help with. Choose 503 to have search engines
// keep the pages.
func WithSuspendedCode(code int) Option {
	return func(c *config) error {
		if code < 400 || code > 599 {
			return fmt.Errorf("WithSuspendedCode: %d is not a status from 400 to 599", code)
		}
		c.suspendedCode = code
		return nil
	}
}

// WithRetryAfter sets what Retry-After says while a tenant is being provisioned, is behind the version the program
// needs, or cannot be looked up. Whole seconds, at least one. Defaults to [DefaultRetryAfter].
func WithRetryAfter(d time.Duration) Option {
	return func(c *config) error {
		if d < time.Second {
			return fmt.Errorf("WithRetryAfter: %v is less than a second", d)
		}
		c.retryAfter = d
		return nil
	}
}

// WithLogger sets where it is told why tenants could not be served: those unavailable or behind. Defaults to
// slog.Default() at the time of the request.
func WithLogger(l *slog.Logger) Option {
	return func(c *config) error {
		c.logger = l
		return nil
	}
}

// Wrap returns a handler that runs next inside the tenant of each request, and refuses the requests without one.
//
// The tenant stays for as long as next runs, and the request's context is cancelled when the tenant goes out of service
// meanwhile: a handler that serves a WebSocket or a stream does so within next and watches its context. As always with
// net/http, the context ends when next returns.
func (g *Gate) Wrap(next http.Handler) http.Handler {
	public := g.publicHandler
	if public == nil {
		public = next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := g.admit(r)
		if s.leave != nil {
			defer s.leave()
		}
		switch s.decision.Outcome {
		case Tenant:
			next.ServeHTTP(w, g.request(r, &s))
		case Public:
			public.ServeHTTP(w, g.request(r, &s))
		default:
			g.refuse(w, r, s)
		}
	})
}

// Check tells what would become of r, without serving it.
func (g *Gate) Check(r *http.Request) Decision {
	s := g.admit(r)
	if s.leave != nil {
		s.leave()
	}
	return s.decision
}

// admit is the policy: what becomes of r.
func (g *Gate) admit(r *http.Request) stay {
	ctx := r.Context()
	s := stay{ctx: ctx}
	host, _, err := g.proxies.origin(r)
	if err == nil {
		host, err = tenancy.NormalizeHost(host)
	}
	if err != nil {
		s.decision = Decision{Outcome: Malformed, Code: http.StatusBadRequest, Err: err}
		return s
	}

	q := query{r: r, host: host, public: len(g.public) > 0 && g.public[host]}
	c := g.strategy.read(q)
	var t *tenancy.Tenant
	switch c.kind {
	case bySlug:
		t, err = g.resolveSlug(ctx, c.value)
	case byHost:
		t, err = g.dir.Resolve(ctx, q.host)
	case malformed:
		s.decision = Decision{Outcome: Malformed, Code: http.StatusBadRequest, Err: errors.New(c.value)}
		return s
	default:
		if !g.hasPublic || len(g.public) > 0 && !q.public {
			s.decision = Decision{Outcome: Unknown, Code: http.StatusNotFound, Err: errNoAnswer}
			return s
		}
		if _, ok := tenancy.From(ctx); ok {
			s.ctx = tenancy.Leave(ctx)
		}
		s.decision.Outcome = Public
		return s
	}

	found := t
	if err == nil {
		s.ctx, t, s.leave, err = g.dir.Enter(ctx, found, tenancy.Policy{})
	}
	if err != nil {
		s.ctx, s.leave = ctx, nil
		s.decision = g.refusal(found, err)
		return s
	}
	s.decision = Decision{Outcome: Tenant, Tenant: t, Prefix: r.URL.Path[:c.prefix]}
	return s
}

// resolveSlug does not trouble the registry with what no tenant can be called, and tells it from what none is called.
func (g *Gate) resolveSlug(ctx context.Context, slug string) (*tenancy.Tenant, error) {
	if !maybeSlug(slug) {
		return nil, cmp.Or(tenancy.ValidateSlug(slug), error(tenancy.ErrInvalid))
	}
	t, err := g.dir.ResolveSlug(ctx, slug)
	if errors.Is(err, tenancy.ErrNotFound) {
		return nil, cmp.Or(tenancy.ValidateSlug(slug), err)
	}
	return t, err
}

// maybeSlug is the part of tenancy.ValidateSlug that is cheap enough for every request.
func maybeSlug(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-':
		default:
			return false
		}
	}
	return len(s) >= 1 && len(s) <= backend.MaxNameLen
}

// stay is what admit found out about one request, and what its handler needs.
type stay struct {
	decision Decision
	ctx      context.Context
	leave    context.CancelFunc
}

// request returns r as the handler is to see it. The request, its context and its URL, where that changes, are one
// allocation.
func (g *Gate) request(r *http.Request, s *stay) *http.Request {
	n := len(s.decision.Prefix)
	if n == 0 {
		in := new(inside)
		in.fill(g, r, s)
		return &in.req
	}
	in := new(insidePath)
	in.fill(g, r, s)
	in.url = *r.URL
	in.url.Path = strip(r.URL.Path, n)
	if r.URL.RawPath != "" {
		in.url.RawPath = strip(r.URL.RawPath, n)
	}
	in.req.URL = &in.url
	return &in.req
}

type inside struct {
	req http.Request
	ctx reqContext
}

type insidePath struct {
	inside
	url url.URL
}

func (in *inside) fill(g *Gate, r *http.Request, s *stay) {
	in.ctx = reqContext{Context: s.ctx, gate: g, came: r, tenant: s.decision.Tenant, prefix: s.decision.Prefix}
	if s.decision.Code != 0 {
		d := s.decision
		in.ctx.refused = &d
	}
	in.req = *r.WithContext(&in.ctx) // inlined, the copy in between stays on the stack
}

// strip takes n bytes off an absolute path and leaves an absolute path.
func strip(path string, n int) string {
	if len(path) == n {
		return "/"
	}
	return path[n:]
}

// reqContext is the context of a request that came through a gate. It is part of every request's one allocation, so
// what few handlers ask for is worked out when they do.
type reqContext struct {
	context.Context
	gate    *Gate
	came    *http.Request // as it came to the gate
	tenant  *tenancy.Tenant
	refused *Decision // nil unless it was
	prefix  string
}

func (c *reqContext) decision() Decision {
	switch {
	case c.refused != nil:
		return *c.refused
	case c.tenant != nil:
		return Decision{Outcome: Tenant, Tenant: c.tenant, Prefix: c.prefix}
	default:
		return Decision{Outcome: Public}
	}
}

type reqKey struct{}

func (c *reqContext) Value(key any) any {
	if key == (reqKey{}) {
		return c
	}
	return c.Context.Value(key)
}

func from(ctx context.Context) *reqContext {
	c, _ := ctx.Value(reqKey{}).(*reqContext)
	return c
}
