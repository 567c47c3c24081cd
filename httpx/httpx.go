package httpx

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/tenancy"
)

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
	public   map[string]bool // as dir spells hosts
	byHost   bool            // ByHost is among the strategies
	usesHost bool            // the host has a say: in the strategy, or in what is public
	vary     string          // the headers that have a say, as Vary lists them
}

// directory is what a Gate asks of the *tenancy.App; the policy is tested against a small one of its own.
type directory interface {
	NormalizeHost(host string) (string, error)
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
	if err := g.complete(); err != nil {
		return nil, fmt.Errorf("httpx: %w", err)
	}
	return g, nil
}

// complete works out what only shows when all options are known.
func (g *Gate) complete() error {
	if err := g.strategy.validate(); err != nil {
		return err
	}
	g.public = make(map[string]bool, len(g.publicHosts))
	for _, host := range g.publicHosts {
		name, err := g.dir.NormalizeHost(host)
		if err != nil {
			return fmt.Errorf("WithPublic: host %q: %w", host, err)
		}
		g.public[name] = true
	}
	reads := g.strategy.reads()
	if g.hasPublic && len(g.public) == 0 && reads.host != 0 {
		return errors.New("WithPublic: name the public hosts; with ByHost or BySubdomain every other host is a tenant's or unknown")
	}
	g.byHost = reads.host&domains != 0
	g.usesHost = reads.host != 0 || len(g.public) > 0
	headers := reads.headers
	if g.usesHost && g.proxies != nil {
		headers = append(headers, g.proxies.header.hostIn())
	}
	slices.Sort(headers)
	g.vary = strings.Join(slices.Compact(headers), ", ")
	return nil
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
		if g.vary != "" {
			w.Header().Add("Vary", g.vary) // of every answer: who brings no header is to get no other's page
		}
		in := g.request(r, &s)
		defer returnForm(in, r)
		switch s.decision.Outcome {
		case Admitted:
			next.ServeHTTP(w, in)
		case Public:
			public.ServeHTTP(w, in)
		default:
			g.refuse(w, in, s.decision)
		}
	})
}

// returnForm gives r the multipart form that a handler had in's body read into: the server removes the files of the
// request that it made, and knows of no other.
func returnForm(in, r *http.Request) {
	if r.MultipartForm == nil && in.MultipartForm != nil { // without a form r is only read: its caller may share it
		r.MultipartForm = in.MultipartForm
	}
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
	q := g.query(r)
	c := g.strategy.read(q)
	switch c.kind {
	case bySlug, byHost:
	case malformed:
		s.decision = Decision{Outcome: Malformed, Code: http.StatusBadRequest, Err: c.err}
		return s
	default:
		s.decision = g.unclaimed(q)
		if _, ok := tenancy.From(ctx); ok && s.decision.Outcome == Public {
			s.ctx = tenancy.Leave(ctx)
		}
		return s
	}

	for range maxLookups {
		found, err := g.find(ctx, c, q)
		if err != nil {
			s.decision = g.refusal(found, err)
			return s
		}
		inside, t, leave, err := g.dir.Enter(ctx, found, tenancy.Policy{})
		if err != nil {
			s.decision = g.refusal(found, err)
			return s
		}
		if t == found {
			s.ctx, s.leave = inside, leave
			s.decision = Decision{Outcome: Admitted, Tenant: t, Prefix: r.URL.Path[:c.prefix]}
			return s
		}
		// A change of it was heard of since: what led to it may lead to another by now.
		leave()
	}
	s.decision = g.refusal(nil, errRestless)
	return s
}

// maxLookups is how often one request is looked up at most.
const maxLookups = 4

var errRestless = fmt.Errorf("httpx: the tenant changed whenever it was looked up: %w", tenancy.ErrUnavailable)

// find returns the tenant that a claim leads to.
func (g *Gate) find(ctx context.Context, c claim, q query) (*tenancy.Tenant, error) {
	if c.kind == bySlug {
		return g.resolveSlug(ctx, c.value)
	}
	return g.dir.Resolve(ctx, q.raw)
}

// query makes the host out, when it has a say. One that cannot be made out is the fault of the request only for those
// who ask for it: a gateway's own name for this server ("polls_web_1:8080") is no host name, and matters to nobody
// where a header tells the tenant.
func (g *Gate) query(r *http.Request) query {
	q := query{r: r}
	if !g.usesHost {
		return q
	}
	q.raw, _, q.err = g.proxies.origin(r)
	if q.err == nil {
		q.host, q.err = g.dir.NormalizeHost(q.raw)
	}
	q.public = q.err == nil && g.public[q.host]
	return q
}

// unclaimed decides about a request for which the strategy has no answer.
func (g *Gate) unclaimed(q query) Decision {
	switch {
	case !g.hasPublic:
		return Decision{Outcome: Unknown, Code: http.StatusNotFound, Err: errNoAnswer}
	case len(g.public) == 0 || q.public:
		return Decision{Outcome: Public}
	case q.err != nil:
		return Decision{Outcome: Malformed, Code: http.StatusBadRequest, Err: q.err}
	}
	return Decision{Outcome: Unknown, Code: http.StatusNotFound, Err: errNoAnswer}
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
		return Decision{Outcome: Admitted, Tenant: c.tenant, Prefix: c.prefix}
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
