package httpx

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/tenancy"
)

// registry is a directory in memory, in which each way to fail can be had at will.
type registry struct {
	tenants map[string]*tenancy.Tenant // by slug
	down    error                      // Resolve and ResolveSlug fail with it
	serve   error                      // Enter fails with it
	www     bool                       // www. is ignored
}

type tenantKey struct{}

// newRegistry knows thor and potter, each with its domain and an IDN, and one tenant in each other status.
func newRegistry() *registry {
	reg := &registry{tenants: map[string]*tenancy.Tenant{}}
	add := func(slug string, status tenancy.Status, hosts ...string) {
		t := &tenancy.Tenant{ID: tenancy.ID("id-" + slug), Slug: slug, Status: status, Store: backend.MustParseStore(slug)}
		for i, h := range hosts {
			t.Domains = append(t.Domains, tenancy.Domain{Host: h, Primary: i == 0})
		}
		reg.tenants[slug] = t
	}
	add("thor", tenancy.Active, "thor.polls.local", "xn--bcher-kva.example", "::1")
	add("potter", tenancy.Active, "potter.polls.local")
	add("bare", tenancy.Active)
	add("new", tenancy.Provisioning, "new.polls.local")
	add("failed", tenancy.Failed, "failed.polls.local")
	add("late", tenancy.Suspended, "late.polls.local")
	add("gone", tenancy.Deleted, "gone.polls.local")
	return reg
}

func (reg *registry) NormalizeHost(host string) (string, error) {
	name, err := tenancy.NormalizeHost(host)
	if rest, ok := strings.CutPrefix(name, "www."); ok && reg.www {
		return rest, err
	}
	return name, err
}

func (reg *registry) Resolve(_ context.Context, host string) (*tenancy.Tenant, error) {
	name, err := reg.NormalizeHost(host)
	switch {
	case err != nil:
		return nil, err
	case reg.down != nil:
		return nil, reg.down
	}
	for _, t := range reg.tenants {
		for _, d := range t.Domains {
			if d.Host == name {
				return t, nil
			}
		}
	}
	return nil, tenancy.ErrUnknownHost
}

func (reg *registry) ResolveSlug(_ context.Context, slug string) (*tenancy.Tenant, error) {
	if reg.down != nil {
		return nil, reg.down
	}
	if t := reg.tenants[slug]; t != nil {
		return t, nil
	}
	return nil, tenancy.ErrNotFound
}

func (reg *registry) Enter(ctx context.Context, who tenancy.Referrer, _ tenancy.Policy) (context.Context, *tenancy.Tenant, context.CancelFunc, error) {
	t := who.(*tenancy.Tenant)
	if reg.serve != nil {
		return nil, nil, nil, reg.serve
	}
	if t.Status != tenancy.Active {
		return nil, nil, nil, &tenancy.NotActiveError{Slug: t.Slug, Status: t.Status}
	}
	return context.WithValue(ctx, tenantKey{}, t), t, func() {}, nil
}

// changing is a registry that hears of a change between a look-up and the entry, and lets in whom it then knows by that ID.
type changing struct {
	*registry
	change func()
	left   int // how many were let in and left again
}

func (reg *changing) Enter(ctx context.Context, who tenancy.Referrer, p tenancy.Policy) (context.Context, *tenancy.Tenant, context.CancelFunc, error) {
	reg.change()
	for _, t := range reg.tenants {
		if t.ID == who.Ref().ID {
			who = t
		}
	}
	ctx, t, _, err := reg.registry.Enter(ctx, who, p)
	return ctx, t, func() { reg.left++ }, err
}

// What is heard of between the look-up and the entry may be that the address leads to another tenant by now.
func TestAddressMovesMeanwhile(t *testing.T) {
	t.Parallel()
	for name, move := range map[string]func(thor, potter *tenancy.Tenant){
		"host": func(thor, potter *tenancy.Tenant) { thor.Domains, potter.Domains = potter.Domains, thor.Domains },
		"slug": func(thor, potter *tenancy.Tenant) { thor.Slug, potter.Slug = potter.Slug, thor.Slug },
		"":     func(_, _ *tenancy.Tenant) {},
	} {
		strategy, want := ByHost(), tenancy.ID("id-potter")
		switch name {
		case "slug":
			strategy = BySubdomain("polls.local")
		case "":
			want = "id-thor"
		}
		reg := &changing{registry: newRegistry()}
		swap := func() {
			thor, potter := *reg.tenants["thor"], *reg.tenants["potter"]
			move(&thor, &potter)
			reg.tenants[thor.Slug], reg.tenants[potter.Slug] = &thor, &potter
		}
		reg.change = func() {
			reg.change = func() {}
			swap()
		}
		g, err := newGate(reg, WithStrategy(strategy))
		require.NoError(t, err)
		d := g.Check(request("thor.polls.local", "/"))
		require.Equal(t, Admitted, d.Outcome, name)
		assert.Equal(t, want, d.Tenant.ID, name)
		assert.Equal(t, 2, reg.left, "every entry is left: %s", name)

		reg.change = swap
		d = g.Check(request("thor.polls.local", "/"))
		assert.Equal(t, Unavailable, d.Outcome, name)
		assert.ErrorIs(t, d.Err, tenancy.ErrUnavailable, name)
		assert.Equal(t, 2+maxLookups, reg.left, name)
	}
}

func gate(t *testing.T, opts ...Option) *Gate {
	t.Helper()
	g, err := newGate(newRegistry(), opts...)
	require.NoError(t, err)
	return g
}

func request(host, target string, header ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, target, nil)
	r.Host = host
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return r
}

// S40
func TestHostSpellings(t *testing.T) {
	t.Parallel()
	g := gate(t)
	for host, slug := range map[string]string{
		"thor.polls.local":           "thor",
		"THOR.Polls.local":           "thor",
		"thor.polls.local.":          "thor",
		"thor.polls.local:8000":      "thor",
		"Thor.Polls.Local.:8000":     "thor",
		"potter.polls.local":         "potter",
		"bücher.example":             "thor",
		"xn--bcher-kva.example":      "thor",
		"XN--BCHER-KVA.example:8000": "thor",
		"[::1]:8000":                 "thor",
		"[::1]":                      "thor",
	} {
		d := g.Check(request(host, "/"))
		if assert.Equal(t, Admitted, d.Outcome, "%s: %v", host, d.Err) {
			assert.Equal(t, slug, d.Tenant.Slug, host)
		}
	}
	assert.Equal(t, Unknown, g.Check(request("[::2]:8000", "/")).Outcome)
	assert.Equal(t, Unknown, g.Check(request("www.thor.polls.local", "/")).Outcome, "www. is a host of its own")
}

// S41: where the host has a say, one that cannot be one is refused.
func TestMalformedHosts(t *testing.T) {
	t.Parallel()
	gates := map[string]*Gate{
		"host":      gate(t),
		"subdomain": gate(t, WithStrategy(BySubdomain("polls.local"))),
		"first":     gate(t, WithStrategy(First(ByHeader("X-Other"), ByHost()))),
		"public":    gate(t, WithStrategy(ByHeader("X-Other")), WithPublic(http.NotFoundHandler(), "polls.local")),
	}
	long := make([]byte, 64)
	for i := range long {
		long[i] = 'a'
	}
	for _, host := range []string{
		"", " ", ".", "..", "thor polls.local", " thor.polls.local", "thor.polls.local ", "thor..polls.local",
		".thor.polls.local", "user@thor.polls.local", "thor.polls.local\x00", "thor\x00.polls.local", "thor.polls.local\n",
		"thor.polls.local/", "thor.polls.local:port", "thor.polls.local:99999", "thor.polls.local:80:80", "[::1", "::1]",
		"[thor.polls.local]", string(long) + ".polls.local", "-thor.polls.local", "thor,potter", "thor.polls.local\\", "\xff",
	} {
		for name, g := range gates {
			d := g.Check(request(host, "/", "X-Tenant", "thor"))
			assert.Equal(t, Malformed, d.Outcome, "%s: %q", name, host)
			assert.Equal(t, http.StatusBadRequest, d.Code)
			require.Error(t, d.Err)
			assert.Nil(t, d.Tenant)
		}
	}
}

// S87: a host that the strategy does not go by does not matter, however it is spelled: a gateway sends its own name for
// the server behind it.
func TestHostsThatDoNotMatter(t *testing.T) {
	t.Parallel()
	header := ByHeader("X-Tenant")
	for name, c := range map[string]struct {
		opts []Option
		want Outcome // without the header
	}{
		"header":                      {[]Option{WithStrategy(header)}, Unknown},
		"header, everything public":   {[]Option{WithStrategy(header), WithPublic(nil)}, Public},
		"header, a public host":       {[]Option{WithStrategy(header), WithPublic(nil, "polls.local")}, Malformed},
		"header before host":          {[]Option{WithStrategy(First(header, ByHost()))}, Malformed},
		"path":                        {[]Option{WithStrategy(First(ByPathPrefix("/t/"), header))}, Unknown},
		"behind proxies":              {[]Option{WithStrategy(header), WithForwarded(XForwardedHost, netip.MustParsePrefix("192.0.2.0/24"))}, Unknown},
		"function, everything public": {[]Option{WithStrategy(First(header, ByFunc(func(*http.Request) (string, bool) { return "", false }))), WithPublic(nil)}, Public},
	} {
		for _, host := range []string{"polls_web_1:8080", "", "polls local", "a..b"} {
			g := gate(t, c.opts...)
			d := g.Check(request(host, "/", "X-Tenant", "thor", "X-Forwarded-Host", "a, b"))
			if assert.Equal(t, Admitted, d.Outcome, "%s: %q: %v", name, host, d.Err) {
				assert.Equal(t, "thor", d.Tenant.Slug)
			}
			assert.Equal(t, c.want, g.Check(request(host, "/")).Outcome, "%s: %q, no header", name, host)
		}
	}
	g := gate(t, WithStrategy(ByPathPrefix("/t/")))
	assert.Equal(t, Admitted, g.Check(request("polls_web_1:8080", "/t/thor/")).Outcome)
}

// Where www. is ignored, it is for the public site as well.
func TestPublicHostWithWWW(t *testing.T) {
	t.Parallel()
	for _, public := range []string{"polls.local", "www.polls.local"} {
		for _, strategy := range []Strategy{ByHost(), BySubdomain("polls.local")} {
			for _, ignored := range []bool{false, true} {
				reg := newRegistry()
				reg.www = ignored
				g, err := newGate(reg, WithStrategy(strategy), WithPublic(nil, public))
				require.NoError(t, err)
				for _, host := range []string{"polls.local", "www.polls.local:8000"} {
					want := Unknown
					if ignored || strings.TrimSuffix(host, ":8000") == public {
						want = Public
					}
					assert.Equal(t, want, g.Check(request(host, "/")).Outcome, "%s, public %s, ignored %v", host, public, ignored)
				}
			}
		}
	}
}

// S42
func TestPublicHosts(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		opts    []Option
		request *http.Request
		want    Outcome
	}{
		"a public host":                        {[]Option{WithPublic(nil, "Polls.local")}, request("polls.local:8000", "/"), Public},
		"the second public host":               {[]Option{WithPublic(nil, "a.local"), WithPublic(nil, "polls.local")}, request("polls.local", "/"), Public},
		"a tenant's":                           {[]Option{WithPublic(nil, "polls.local")}, request("thor.polls.local", "/"), Admitted},
		"another":                              {[]Option{WithPublic(nil, "polls.local")}, request("other.local", "/"), Unknown},
		"none configured":                      {nil, request("polls.local", "/"), Unknown},
		"subdomain: the base":                  {[]Option{WithStrategy(BySubdomain("polls.local")), WithPublic(nil, "polls.local")}, request("polls.local", "/"), Public},
		"subdomain: the base, no public":       {[]Option{WithStrategy(BySubdomain("polls.local"))}, request("polls.local", "/"), Unknown},
		"subdomain: a public label":            {[]Option{WithStrategy(BySubdomain("polls.local")), WithPublic(nil, "thor.polls.local")}, request("thor.polls.local", "/"), Public},
		"path: no prefix":                      {[]Option{WithStrategy(ByPathPrefix("/t/")), WithPublic(nil)}, request("any.local", "/pricing"), Public},
		"path: no prefix, other host":          {[]Option{WithStrategy(ByPathPrefix("/t/")), WithPublic(nil, "polls.local")}, request("any.local", "/pricing"), Unknown},
		"path: a tenant on the public host":    {[]Option{WithStrategy(ByPathPrefix("/t/")), WithPublic(nil, "polls.local")}, request("polls.local", "/t/thor/"), Admitted},
		"path: an unknown tenant":              {[]Option{WithStrategy(ByPathPrefix("/t/")), WithPublic(nil)}, request("polls.local", "/t/odin/"), Unknown},
		"host, then path on the public host":   {[]Option{WithStrategy(First(ByHost(), ByPathPrefix("/t/"))), WithPublic(nil, "polls.local")}, request("polls.local", "/t/thor/"), Admitted},
		"header: none":                         {[]Option{WithStrategy(ByHeader("X-Tenant")), WithPublic(nil)}, request("any.local", "/"), Public},
		"header: one that is unknown":          {[]Option{WithStrategy(ByHeader("X-Tenant")), WithPublic(nil)}, request("any.local", "/", "X-Tenant", "odin"), Unknown},
		"header: one that cannot be a slug":    {[]Option{WithStrategy(ByHeader("X-Tenant")), WithPublic(nil)}, request("any.local", "/", "X-Tenant", "../thor"), Malformed},
		"header: none, and none is configured": {[]Option{WithStrategy(ByHeader("X-Tenant"))}, request("any.local", "/"), Unknown},
	} {
		d := gate(t, c.opts...).Check(c.request)
		assert.Equal(t, c.want, d.Outcome, "%s: %v", name, d.Err)
		assert.Equal(t, c.want == Admitted, d.Tenant != nil, name)
	}
}

// S46
func TestStrategies(t *testing.T) {
	t.Parallel()
	tenantFromQuery := ByFunc(func(r *http.Request) (string, bool) {
		q := r.URL.Query()
		return q.Get("tenant"), q.Has("tenant")
	})
	all := First(ByHeader("X-Tenant"), ByCookie("tenant"), ByPathPrefix("/t/"), BySubdomain("polls.local"), ByHost())
	const any = "any.local"
	for name, c := range map[string]struct {
		strategy Strategy
		request  *http.Request
		want     Outcome
		slug     string
	}{
		"subdomain":                   {BySubdomain("Polls.local"), request("bare.polls.local:8000", "/"), Admitted, "bare"},
		"subdomain: case":             {BySubdomain("polls.local"), request("BARE.POLLS.LOCAL", "/"), Admitted, "bare"},
		"subdomain: unknown":          {BySubdomain("polls.local"), request("odin.polls.local", "/"), Unknown, ""},
		"subdomain: two labels":       {BySubdomain("polls.local"), request("a.bare.polls.local", "/"), Unknown, ""},
		"subdomain: another base":     {BySubdomain("polls.local"), request("bare.evilpolls.local", "/"), Unknown, ""},
		"subdomain: base in front":    {BySubdomain("polls.local"), request("polls.local.evil.com", "/"), Unknown, ""},
		"subdomain: reserved":         {BySubdomain("polls.local"), request("public.polls.local", "/"), Malformed, ""},
		"header":                      {ByHeader("x-tenant"), request(any, "/", "X-Tenant", "thor"), Admitted, "thor"},
		"header: twice":               {ByHeader("X-Tenant"), request(any, "/", "X-Tenant", "thor", "X-Tenant", "thor"), Malformed, ""},
		"header: empty":               {ByHeader("X-Tenant"), request(any, "/", "X-Tenant", ""), Malformed, ""},
		"header: case":                {ByHeader("X-Tenant"), request(any, "/", "X-Tenant", "Thor"), Malformed, ""},
		"header: a list":              {ByHeader("X-Tenant"), request(any, "/", "X-Tenant", "thor, potter"), Malformed, ""},
		"header: a path":              {ByHeader("X-Tenant"), request(any, "/", "X-Tenant", "../thor"), Malformed, ""},
		"header: NUL":                 {ByHeader("X-Tenant"), request(any, "/", "X-Tenant", "thor\x00"), Malformed, ""},
		"cookie":                      {ByCookie("tenant"), request(any, "/", "Cookie", "a=b; tenant=potter; c=d"), Admitted, "potter"},
		"cookie: second line":         {ByCookie("tenant"), request(any, "/", "Cookie", "a=b", "Cookie", "tenant=potter"), Admitted, "potter"},
		"cookie: none":                {ByCookie("tenant"), request(any, "/", "Cookie", "xtenant=potter; tenant2=thor"), Unknown, ""},
		"cookie: planted second":      {ByCookie("tenant"), request(any, "/", "Cookie", "tenant=potter; tenant=thor"), Malformed, ""},
		"cookie: empty":               {ByCookie("tenant"), request(any, "/", "Cookie", "tenant="), Malformed, ""},
		"cookie: no value":            {ByCookie("tenant"), request(any, "/", "Cookie", "tenant"), Malformed, ""},
		"cookie: quoted":              {ByCookie("tenant"), request(any, "/", "Cookie", `tenant="thor"`), Malformed, ""},
		"function":                    {tenantFromQuery, request(any, "/?tenant=thor"), Admitted, "thor"},
		"function: no answer":         {tenantFromQuery, request(any, "/"), Unknown, ""},
		"function: empty":             {tenantFromQuery, request(any, "/?tenant="), Malformed, ""},
		"function: malformed":         {tenantFromQuery, request(any, "/?tenant=th%00or"), Malformed, ""},
		"first: header":               {all, request("late.polls.local", "/t/potter/", "X-Tenant", "thor", "Cookie", "tenant=bare"), Admitted, "thor"},
		"first: cookie":               {all, request("late.polls.local", "/t/potter/", "Cookie", "tenant=bare"), Admitted, "bare"},
		"first: path":                 {all, request("late.polls.local", "/t/potter/"), Admitted, "potter"},
		"first: subdomain":            {all, request("bare.polls.local", "/"), Admitted, "bare"},
		"first: host":                 {all, request("bücher.example", "/"), Admitted, "thor"},
		"first: malformed is final":   {all, request("thor.polls.local", "/", "X-Tenant", "@"), Malformed, ""},
		"first: unknown is final too": {all, request("thor.polls.local", "/", "X-Tenant", "odin"), Unknown, ""},
	} {
		d := gate(t, WithStrategy(c.strategy)).Check(c.request)
		assert.Equal(t, c.want, d.Outcome, "%s: %v", name, d.Err)
		if c.want == Admitted && assert.NotNil(t, d.Tenant, name) {
			assert.Equal(t, c.slug, d.Tenant.Slug, name)
		}
	}
}

// S46: what a handler sees of a path, and what URL makes of it again.
func TestPathPrefix(t *testing.T) {
	t.Parallel()
	g := gate(t, WithStrategy(ByPathPrefix("/t/")))
	for target, want := range map[string]struct{ path, raw, back string }{
		"/t/thor/polls/1":           {"/polls/1", "", "/t/thor/polls/1"},
		"/t/thor/polls/1?page=2":    {"/polls/1", "", "/t/thor/polls/1?page=2"},
		"/t/thor/":                  {"/", "", "/t/thor/"},
		"/t/thor":                   {"/", "", "/t/thor/"},
		"/t/thor/a%2Fb":             {"/a/b", "/a%2Fb", "/t/thor/a%2Fb"},
		"/t/thor/%2Fb":              {"//b", "/%2Fb", "/t/thor/%2Fb"},
		"/t/thor/%C3%BC":            {"/ü", "", "/t/thor/%C3%BC"},
		"/t/thor/../potter/":        {"/../potter/", "", "/t/thor/../potter/"},
		"/t/thor/t/potter/polls/":   {"/t/potter/polls/", "", "/t/thor/t/potter/polls/"},
		"/t/thor//evil.example/foo": {"//evil.example/foo", "", ""},
	} {
		called := false
		h := g.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			called = true
			assert.Equal(t, want.path, r.URL.Path, target)
			assert.Equal(t, want.raw, r.URL.RawPath, target)
			tenant, _ := r.Context().Value(tenantKey{}).(*tenancy.Tenant)
			if assert.NotNil(t, tenant, target) {
				assert.Equal(t, "thor", tenant.Slug)
			}
			d, ok := DecisionFrom(r.Context())
			assert.True(t, ok)
			assert.Equal(t, "/t/thor", d.Prefix, target)
			if want.back != "" {
				assert.Equal(t, want.back, URL(r.Context(), r.URL.RequestURI()), target)
			}
			assert.Equal(t, target, r.RequestURI, "what the client sent stays")
		}))
		r := request("any.local", target)
		before := *r.URL
		h.ServeHTTP(httptest.NewRecorder(), r)
		assert.True(t, called, target)
		assert.Equal(t, before, *r.URL, "the caller's request is not changed")
	}
	for target, want := range map[string]Outcome{
		"/":                   Unknown,
		"/t":                  Unknown,
		"/t/":                 Unknown,
		"/t//thor/":           Unknown,
		"/x/t/thor/":          Unknown,
		"/t/odin/":            Unknown,
		"/t/th%6Fr/a":         Malformed,
		"/t/th%6Fr/a%2Fb":     Malformed,
		"/t/thor%2Fa/b":       Malformed,
		"/t/thor%2F":          Malformed,
		"/%74/thor/a%2Fb":     Malformed,
		"/t%2Fthor/a":         Malformed,
		"/t/../thor/":         Malformed,
		"/t/Thor/":            Malformed,
		"/t/thor%00/":         Malformed,
		"/t/thor%20/":         Malformed,
		"/t/thor.polls.local": Malformed,
	} {
		d := g.Check(request("any.local", target))
		assert.Equal(t, want, d.Outcome, "%s: %v", target, d.Err)
	}
	for _, prefix := range []string{"", "t", "/t", "t/", "//", "/t//", "/ü/", "/t t/", "/%74/", "/{tenant}/"} {
		_, err := newGate(newRegistry(), WithStrategy(ByPathPrefix(prefix)))
		require.ErrorContains(t, err, "ByPathPrefix", prefix)
	}
	root := gate(t, WithStrategy(ByPathPrefix("/")), WithPublic(nil))
	assert.Equal(t, Admitted, root.Check(request("any.local", "/thor/polls")).Outcome)
	assert.Equal(t, Public, root.Check(request("any.local", "/")).Outcome)
}

// S43
func TestForwarded(t *testing.T) {
	t.Parallel()
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}
	const thor, potter = "thor.polls.local", "potter.polls.local"
	for name, c := range map[string]struct {
		header ForwardedHeader // 0: the default
		remote string
		fields []string
		want   Outcome
		slug   string
	}{
		"by default":                     {0, "10.1.2.3:99", []string{"X-Forwarded-Host", potter, "Forwarded", "host=" + potter}, Admitted, "thor"},
		"from a proxy":                   {XForwardedHost, "10.1.2.3:99", []string{"X-Forwarded-Host", potter}, Admitted, "potter"},
		"from a proxy, over IPv6":        {XForwardedHost, "[2001:db8::7]:99", []string{"X-Forwarded-Host", potter}, Admitted, "potter"},
		"from a proxy, IPv4 in IPv6":     {XForwardedHost, "[::ffff:10.1.2.3]:99", []string{"X-Forwarded-Host", potter}, Admitted, "potter"},
		"with a port and spaces":         {XForwardedHost, "10.1.2.3:99", []string{"X-Forwarded-Host", " Potter.Polls.local:8443 "}, Admitted, "potter"},
		"from anyone else":               {XForwardedHost, "11.1.2.3:99", []string{"X-Forwarded-Host", potter}, Admitted, "thor"},
		"from a Unix socket":             {XForwardedHost, "@", []string{"X-Forwarded-Host", potter}, Admitted, "thor"},
		"from nowhere":                   {XForwardedHost, "", []string{"X-Forwarded-Host", potter}, Admitted, "thor"},
		"an address without port":        {XForwardedHost, "10.1.2.3", []string{"X-Forwarded-Host", potter}, Admitted, "thor"},
		"no header":                      {XForwardedHost, "10.1.2.3:99", nil, Admitted, "thor"},
		"the other header":               {XForwardedHost, "10.1.2.3:99", []string{"Forwarded", "host=" + potter}, Admitted, "thor"},
		"the other header, reversed":     {Forwarded, "10.1.2.3:99", []string{"X-Forwarded-Host", potter}, Admitted, "thor"},
		"two values":                     {XForwardedHost, "10.1.2.3:99", []string{"X-Forwarded-Host", thor + ", " + potter}, Malformed, ""},
		"two headers":                    {XForwardedHost, "10.1.2.3:99", []string{"X-Forwarded-Host", potter, "X-Forwarded-Host", potter}, Malformed, ""},
		"empty":                          {XForwardedHost, "10.1.2.3:99", []string{"X-Forwarded-Host", " "}, Malformed, ""},
		"malformed":                      {XForwardedHost, "10.1.2.3:99", []string{"X-Forwarded-Host", "potter polls"}, Malformed, ""},
		"malformed, from anyone else":    {XForwardedHost, "11.1.2.3:99", []string{"X-Forwarded-Host", "potter polls"}, Admitted, "thor"},
		"unknown":                        {XForwardedHost, "10.1.2.3:99", []string{"X-Forwarded-Host", "odin.polls.local"}, Unknown, ""},
		"Forwarded":                      {Forwarded, "10.1.2.3:99", []string{"Forwarded", "for=192.0.2.60;proto=https;by=10.1.2.3;host=" + potter}, Admitted, "potter"},
		"Forwarded: quoted, case, space": {Forwarded, "10.1.2.3:99", []string{"Forwarded", `for="[2001:db8::1]:4711"; Host="Potter.polls.local:8443"`}, Admitted, "potter"},
		"Forwarded: no host":             {Forwarded, "10.1.2.3:99", []string{"Forwarded", "for=192.0.2.60"}, Admitted, "thor"},
		"Forwarded: two elements":        {Forwarded, "10.1.2.3:99", []string{"Forwarded", "host=" + potter + ", for=192.0.2.60"}, Malformed, ""},
		"Forwarded: two headers":         {Forwarded, "10.1.2.3:99", []string{"Forwarded", "host=" + potter, "Forwarded", "for=192.0.2.60"}, Malformed, ""},
		"Forwarded: two hosts":           {Forwarded, "10.1.2.3:99", []string{"Forwarded", "host=" + potter + ";host=" + thor}, Malformed, ""},
		"Forwarded: empty host":          {Forwarded, "10.1.2.3:99", []string{"Forwarded", "host="}, Malformed, ""},
		"Forwarded: open quote":          {Forwarded, "10.1.2.3:99", []string{"Forwarded", `host="` + potter}, Malformed, ""},
		"Forwarded: escape":              {Forwarded, "10.1.2.3:99", []string{"Forwarded", `host="pot\ter.polls.local"`}, Malformed, ""},
		"Forwarded: no pair":             {Forwarded, "10.1.2.3:99", []string{"Forwarded", potter}, Malformed, ""},
		"Forwarded: space in a value":    {Forwarded, "10.1.2.3:99", []string{"Forwarded", "host=potter polls.local"}, Malformed, ""},
	} {
		var opts []Option
		if c.header != 0 {
			opts = append(opts, WithForwarded(c.header, proxies...))
		}
		r := request(thor, "/", c.fields...)
		r.RemoteAddr = c.remote
		d := gate(t, opts...).Check(r)
		assert.Equal(t, c.want, d.Outcome, "%s: %v", name, d.Err)
		if c.want == Admitted && assert.NotNil(t, d.Tenant, name) {
			assert.Equal(t, c.slug, d.Tenant.Slug, name)
		}
	}
}

// S69 and its neighbours: why a tenant is not served decides the answer.
func TestRefusals(t *testing.T) {
	t.Parallel()
	boom := errors.New("connection refused to 10.0.0.7, store thor")
	for name, c := range map[string]struct {
		host  string
		down  error
		serve error
		opts  []Option
		want  Outcome
		code  int
		retry time.Duration
	}{
		"provisioning":           {"new.polls.local", nil, nil, nil, Inactive, 503, DefaultRetryAfter},
		"failed":                 {"failed.polls.local", nil, nil, nil, Inactive, 503, DefaultRetryAfter},
		"suspended":              {"late.polls.local", nil, nil, nil, Inactive, 403, 0},
		"suspended, configured":  {"late.polls.local", nil, nil, []Option{WithSuspendedCode(503)}, Inactive, 503, 0},
		"deleted":                {"gone.polls.local", nil, nil, nil, Unknown, 404, 0},
		"behind":                 {"thor.polls.local", nil, tenancy.ErrBehind, []Option{WithRetryAfter(90 * time.Second)}, Behind, 503, 90 * time.Second},
		"registry down":          {"thor.polls.local", tenancy.ErrUnavailable, nil, nil, Unavailable, 503, DefaultRetryAfter},
		"registry down, unknown": {"odin.polls.local", tenancy.ErrUnavailable, nil, nil, Unavailable, 503, DefaultRetryAfter},
		"registry: any error":    {"thor.polls.local", boom, nil, nil, Unavailable, 503, DefaultRetryAfter},
		"serve: any error":       {"thor.polls.local", nil, boom, nil, Unavailable, 503, DefaultRetryAfter},
		"store missing":          {"thor.polls.local", nil, backend.ErrStoreMissing, nil, Unavailable, 503, DefaultRetryAfter},
		"in another tenant":      {"thor.polls.local", nil, backend.ErrTenantMismatch, nil, Malformed, 400, 0},
		"suspended just now":     {"thor.polls.local", nil, &tenancy.NotActiveError{Status: tenancy.Suspended}, nil, Inactive, 403, 0},
		"deleted just now":       {"thor.polls.local", nil, &tenancy.NotActiveError{Status: tenancy.Deleted}, nil, Unknown, 404, 0},
		"malformed while down":   {"thor polls", boom, nil, nil, Malformed, 400, 0},
		"unknown":                {"odin.polls.local", nil, nil, nil, Unknown, 404, 0},
	} {
		reg := newRegistry()
		reg.down, reg.serve = c.down, c.serve
		g, err := newGate(reg, append(c.opts, quiet)...)
		require.NoError(t, err, name)
		d := g.Check(request(c.host, "/"))
		assert.Equal(t, c.want, d.Outcome, name)
		assert.Equal(t, c.code, d.Code, name)
		assert.Equal(t, c.retry, d.RetryAfter, name)
		require.Error(t, d.Err, name)

		w := httptest.NewRecorder()
		g.Wrap(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			t.Errorf("%s: the handler was reached", name)
		})).ServeHTTP(w, request(c.host, "/"))
		assert.Equal(t, c.code, w.Code, name)
		assert.Equal(t, c.retry > 0, w.Header().Get("Retry-After") != "", name)
		assert.Equal(t, "no-store", w.Header().Get("Cache-Control"), name)
		for _, internal := range []string{"10.0.0.7", "thor", "polls", "store", "registry", "migration"} {
			assert.NotContains(t, w.Body.String(), internal, name)
		}
	}
}

func TestAbsoluteURLs(t *testing.T) {
	t.Parallel()
	proxy := WithForwarded(XForwardedHost, netip.MustParsePrefix("192.0.2.1/32")) // httptest's own address
	secure := request("xn--bcher-kva.example", "/")
	secure.TLS = &tls.ConnectionState{}
	for name, c := range map[string]struct {
		opts    []Option
		request *http.Request
		want    string
	}{
		"primary domain, with the port": {nil, request("bücher.example:8000", "/"), "http://thor.polls.local:8000/p/1?a=b"},
		"over TLS":                      {nil, secure, "https://thor.polls.local/p/1?a=b"},
		"the scheme's own port":         {nil, request("bücher.example:80", "/"), "http://thor.polls.local/p/1?a=b"},
		"by path":                       {[]Option{WithStrategy(ByPathPrefix("/t/"))}, request("Polls.local:8000", "/t/thor/x"), "http://polls.local:8000/t/thor/p/1?a=b"},
		"by path, IPv6":                 {[]Option{WithStrategy(ByPathPrefix("/t/"))}, request("[::0001]:8000", "/t/thor/x"), "http://[::1]:8000/t/thor/p/1?a=b"},
		"by subdomain":                  {[]Option{WithStrategy(BySubdomain("polls.local"))}, request("bare.polls.local", "/"), "http://bare.polls.local/p/1?a=b"},
		"path or host":                  {[]Option{WithStrategy(First(ByPathPrefix("/t/"), ByHost()))}, request("any.local", "/t/thor/x"), "http://thor.polls.local/p/1?a=b"},
		"no domain":                     {[]Option{WithStrategy(First(ByPathPrefix("/t/"), ByHost()))}, request("any.local", "/t/bare/x"), "http://any.local/t/bare/p/1?a=b"},
		"public":                        {[]Option{WithPublic(nil, "polls.local")}, request("polls.local:8000", "/"), "http://polls.local:8000/p/1?a=b"},
		"behind a proxy":                {[]Option{proxy}, request("inner:8080", "/", "X-Forwarded-Host", "thor.polls.local", "X-Forwarded-Proto", "https"), "https://thor.polls.local/p/1?a=b"},
		"behind a proxy, WebSocket":     {[]Option{proxy}, request("inner:8080", "/", "X-Forwarded-Host", "thor.polls.local", "X-Forwarded-Proto", "wss"), "https://thor.polls.local/p/1?a=b"},
		"a proto that is not one":       {[]Option{proxy}, request("inner:8080", "/", "X-Forwarded-Host", "thor.polls.local", "X-Forwarded-Proto", "javascript"), "http://thor.polls.local/p/1?a=b"},
		"a proto nobody vouches for":    {nil, request("thor.polls.local", "/", "X-Forwarded-Proto", "https"), "http://thor.polls.local/p/1?a=b"},
	} {
		called := false
		gate(t, c.opts...).Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			called = true
			got, err := AbsoluteURL(r.Context(), "/p/1?a=b")
			assert.NoError(t, err, name)
			assert.Equal(t, c.want, got, name)
			for _, path := range []string{"", "p", "//evil.example/", `/\evil.example/`, "https://evil.example/"} {
				_, err = AbsoluteURL(r.Context(), path)
				assert.Error(t, err, path)
				assert.Equal(t, path, URL(r.Context(), path))
			}
		})).ServeHTTP(httptest.NewRecorder(), c.request)
		assert.True(t, called, name)
	}

	_, err := AbsoluteURL(t.Context(), "/")
	require.ErrorIs(t, err, ErrNoAddress)
	assert.Equal(t, "/x", URL(t.Context(), "/x"))

	reg := newRegistry()
	got, err := TenantURL(reg.tenants["thor"], "http:8000", "/x")
	require.NoError(t, err)
	assert.Equal(t, "http://thor.polls.local:8000/x", got)
	got, err = TenantURL(reg.tenants["thor"], "https", "/x")
	require.NoError(t, err)
	assert.Equal(t, "https://thor.polls.local/x", got)
	_, err = TenantURL(reg.tenants["bare"], "https", "/x")
	require.ErrorIs(t, err, ErrNoAddress)
	for _, origin := range []string{"", "ftp", "https://", "http:", "http:port", "javascript"} {
		_, err = TenantURL(reg.tenants["thor"], origin, "/x")
		require.ErrorContains(t, err, "origin", origin)
	}
}

func TestWrongOptions(t *testing.T) {
	t.Parallel()
	for want, opt := range map[string]Option{
		"WithStrategy: the strategy is nil":   WithStrategy(nil),
		"First: no strategies":                WithStrategy(First()),
		"First: strategy 2 is nil":            WithStrategy(First(ByHost(), nil)),
		"BySubdomain: base domain":            WithStrategy(First(ByHost(), BySubdomain("polls..local"))),
		"ByFunc: the function is nil":         WithStrategy(ByFunc(nil)),
		"ByHeader: \"\" is not":               WithStrategy(ByHeader("")),
		"ByHeader: \"X Tenant\" is not":       WithStrategy(ByHeader("X Tenant")),
		"use ByHost":                          WithStrategy(ByHeader("host")),
		"ByCookie: \"a=b\" is not":            WithStrategy(ByCookie("a=b")),
		"WithPublic: name the public hosts":   WithPublic(http.NotFoundHandler()),
		"WithPublic: host \"polls local\"":    WithPublic(http.NotFoundHandler(), "polls local"),
		"WithForwarded: unknown header 0":     WithForwarded(0, netip.MustParsePrefix("::1/128")),
		"WithForwarded: no proxies":           WithForwarded(Forwarded),
		"WithForwarded: a prefix is the zero": WithForwarded(Forwarded, netip.Prefix{}),
		"outcome admitted is not a refusal":   WithRefusal(Admitted, http.NotFoundHandler()),
		"outcome outcome 7 is not a refusal":  WithRefusal(outcomes, http.NotFoundHandler()),
		"the handler for behind is nil":       WithRefusal(Behind, nil),
		"WithSuspendedCode: 200":              WithSuspendedCode(200),
		"WithRetryAfter: 1ms":                 WithRetryAfter(time.Millisecond),
	} {
		_, err := newGate(newRegistry(), opt)
		require.ErrorContains(t, err, want)
	}
	_, err := New(nil)
	require.ErrorContains(t, err, "tenancy.Open")
	assert.PanicsWithError(t, "httpx: WithSuspendedCode: 200 is not a status from 400 to 599", func() {
		Middleware(new(tenancy.App), WithSuspendedCode(200))
	})
}

// BenchmarkPolicy is the gate's own share: the registry behind it is a map.
func BenchmarkPolicy(b *testing.B) {
	for name, c := range map[string]struct {
		opts    []Option
		request *http.Request
	}{
		"subdomain": {[]Option{WithStrategy(BySubdomain("polls.local"))}, request("thor.polls.local:8000", "/polls/")},
		"path":      {[]Option{WithStrategy(ByPathPrefix("/t/"))}, request("polls.local", "/t/thor/polls/")},
		"cookie":    {[]Option{WithStrategy(ByCookie("tenant"))}, request("polls.local", "/polls/", "Cookie", "session=abc; tenant=thor")},
	} {
		b.Run(name, func(b *testing.B) {
			g, err := newGate(newRegistry(), c.opts...)
			require.NoError(b, err)
			h := g.Wrap(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			w := httptest.NewRecorder()
			b.ReportAllocs()
			for b.Loop() {
				clear(w.Header())
				h.ServeHTTP(w, c.request)
			}
		})
	}
}
