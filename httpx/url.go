package httpx

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/tenement-go/tenement/tenancy"
)

// ErrNoAddress is returned for a URL that cannot be built: the context is not that of a request, or the tenant has no
// domain.
var ErrNoAddress = errors.New("no address to build the URL from")

// URL puts back what [ByPathPrefix] took off: with "/t/" and inside the tenant thor, URL(ctx, "/polls/?page=2") is
// "/t/thor/polls/?page=2". It is for links, redirects and the paths of cookies (URL(ctx, "/")). With the other strategies,
// outside a request and for a path that does not begin with one slash ("//host/" is another host, "polls/" is relative)
// it returns path as it is.
func URL(ctx context.Context, path string) string {
	c := from(ctx)
	if c == nil || c.prefix == "" || !absolute(path) {
		return path
	}
	return c.prefix + path
}

// AbsoluteURL returns path, which begins with one slash, as a URL that leads to it from anywhere: in a mail, say. The host
// is the tenant's primary domain, with the port that the request came to, where the gate goes by hosts ([ByHost]) and the
// tenant has one; else it is the one that the request came to, and the path prefix is put back. The scheme is the
// request's own, or what a trusted proxy said that it was.
//
// It returns ErrNoAddress for a context that did not come through a [Gate], and for a request without a proper host.
func AbsoluteURL(ctx context.Context, path string) (string, error) {
	c := from(ctx)
	if c == nil {
		return "", fmt.Errorf("httpx: %w: the context is not that of a request behind the middleware; use TenantURL", ErrNoAddress)
	}
	if !absolute(path) {
		return "", pathError(path)
	}
	raw, secure, err := c.gate.proxies.origin(c.came)
	if err != nil {
		return "", fmt.Errorf("httpx: %w: %w", ErrNoAddress, err)
	}
	host, port, err := splitHost(raw)
	if err != nil {
		return "", fmt.Errorf("httpx: %w: %w", ErrNoAddress, err)
	}
	scheme := "http"
	if secure {
		scheme = "https"
	}
	if c.tenant != nil && c.refused == nil && c.gate.byHost {
		if primary := c.tenant.PrimaryDomain(); primary != "" {
			return join(scheme, primary, port, path), nil
		}
	}
	return join(scheme, host, port, c.prefix+path), nil
}

// TenantURL returns path, which begins with one slash, as a URL on t's primary domain, for where there is no request (jobs,
// commands). The origin gives the scheme and, where it is not the scheme's own, the port: "https", "http:8000". It returns
// ErrNoAddress when t has no domain.
func TenantURL(t *tenancy.Tenant, origin, path string) (string, error) {
	scheme, digits, found := strings.Cut(origin, ":")
	port := parsePort(digits)
	if scheme != "http" && scheme != "https" || found && port == 0 {
		return "", fmt.Errorf(`httpx: origin %q is not of the form "https" or "http:8000"`, origin)
	}
	if !absolute(path) {
		return "", pathError(path)
	}
	primary := t.PrimaryDomain()
	if primary == "" {
		return "", fmt.Errorf("httpx: %w: tenant %s has no domain; add one", ErrNoAddress, t.Slug)
	}
	return join(scheme, primary, port, path), nil
}

func join(scheme, host string, port uint16, path string) string {
	if strings.IndexByte(host, ':') >= 0 {
		host = "[" + host + "]"
	}
	own := uint16(80)
	if scheme == "https" {
		own = 443
	}
	if port != 0 && port != own {
		host += ":" + strconv.Itoa(int(port))
	}
	return scheme + "://" + host + path
}

// absolute reports whether path is one within a site. A browser takes "//" and "/\" for the beginning of a host.
func absolute(path string) bool {
	return strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "//") && !strings.HasPrefix(path, `/\`)
}

func pathError(path string) error {
	return fmt.Errorf("httpx: path %q does not begin with one slash", path)
}

// splitHost takes a host as a request gives it apart into its normalised name (an IPv6 address without brackets) and its
// port, 0 when there is none.
func splitHost(raw string) (host string, port uint16, err error) {
	host, err = tenancy.NormalizeHost(raw)
	if err != nil {
		return "", 0, err
	}
	if i := strings.LastIndexByte(raw, ':'); i > strings.LastIndexByte(raw, ']') {
		port = parsePort(raw[i+1:])
	}
	return host, port, nil
}

// parsePort returns 0 for what is no port.
func parsePort(s string) uint16 {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0
	}
	return uint16(n)
}
