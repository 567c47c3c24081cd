package httpx

import (
	"errors"
	"net/http"
	"net/netip"
	"strings"
)

// ForwardedHeader is a header in which a proxy tells the host that it was asked for. See [WithForwarded].
type ForwardedHeader uint8

const (
	// XForwardedHost is X-Forwarded-Host, with X-Forwarded-Proto for the scheme.
	XForwardedHost ForwardedHeader = iota + 1
	// Forwarded is the header of RFC 7239, with its parameters host and proto.
	Forwarded
)

// hostIn is the name of the header that has the host.
func (h ForwardedHeader) hostIn() string {
	if h == Forwarded {
		return "Forwarded"
	}
	return "X-Forwarded-Host"
}

var (
	errForwardedHosts = errors.New("a forwarded header that names more than one host, or none; have the outermost proxy replace it")
	errForwardedForm  = errors.New("a forwarded header that is not of the form of RFC 7239")
)

// proxies are the ones whose forwarded headers are believed; nil believes none.
type proxies struct {
	header ForwardedHeader
	from   []netip.Prefix
}

// origin returns the host, with its port if any, that the client asked for, and whether it did so over TLS.
func (p *proxies) origin(r *http.Request) (host string, secure bool, err error) {
	host, secure = r.Host, r.TLS != nil
	if p == nil || !p.trusts(r.RemoteAddr) {
		return host, secure, nil
	}
	var name, proto string
	values := r.Header[p.header.hostIn()]
	if p.header == Forwarded {
		name, proto, err = parseForwarded(values)
	} else {
		name, err = single(values)
		if v := r.Header["X-Forwarded-Proto"]; len(v) == 1 {
			proto = v[0]
		}
	}
	if err != nil {
		return "", false, err
	}
	if name != "" {
		host = name
	}
	// Some proxies name the protocol inside (ws, wss). What is not known leaves the scheme as it was: it only goes
	// into links.
	switch {
	case strings.EqualFold(proto, "https"), strings.EqualFold(proto, "wss"):
		secure = true
	case strings.EqualFold(proto, "http"), strings.EqualFold(proto, "ws"):
		secure = false
	}
	return host, secure, nil
}

func (p *proxies) trusts(remote string) bool {
	peer, err := netip.ParseAddrPort(remote)
	if err != nil {
		return false
	}
	addr := peer.Addr().Unmap().WithZone("")
	for _, prefix := range p.from {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}

// single returns the header's one value, or "" when the header is absent.
func single(values []string) (string, error) {
	switch {
	case len(values) == 0:
		return "", nil
	case len(values) > 1, strings.IndexByte(values[0], ',') >= 0:
		return "", errForwardedHosts
	}
	v := strings.Trim(values[0], " \t")
	if v == "" {
		return "", errForwardedHosts
	}
	return v, nil
}

// parseForwarded reads a Forwarded header of one element. A comma begins another, also within quotes: no host has one.
func parseForwarded(values []string) (host, proto string, err error) {
	rest, err := single(values)
	if err != nil {
		return "", "", err
	}
	for rest != "" {
		var pair string
		pair, rest, _ = strings.Cut(rest, ";")
		name, value, ok := strings.Cut(strings.Trim(pair, " \t"), "=")
		if !ok {
			return "", "", errForwardedForm
		}
		if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
			value = value[1 : len(value)-1]
		}
		if value == "" || strings.ContainsAny(value, "\"\\ \t") {
			return "", "", errForwardedForm
		}
		switch {
		case strings.EqualFold(name, "host"):
			if host != "" {
				return "", "", errForwardedHosts
			}
			host = value
		case strings.EqualFold(name, "proto"):
			proto = value
		}
	}
	return host, proto, nil
}
