// Package client tells where a request comes from and how, behind proxies as well.
package client

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
)

// Proxies are the networks of the proxies in front, whose X-Forwarded headers are believed. Without any, nobody's are:
// everyone can send such headers. It is a [flag.Value].
type Proxies []netip.Prefix

// Set adds networks or addresses, divided by commas: "10.0.0.0/8,::1".
func (p *Proxies) Set(text string) error {
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		prefix, err := netip.ParsePrefix(part)
		if addr, errAddr := netip.ParseAddr(part); errAddr == nil {
			prefix, err = addr.Prefix(addr.BitLen())
		}
		if err != nil {
			return fmt.Errorf("%q is neither a network (10.0.0.0/8) nor an address", part)
		}
		*p = append(*p, prefix.Masked())
	}
	return nil
}

// String is what Set understands.
func (p *Proxies) String() string {
	var all []string
	for _, prefix := range *p {
		all = append(all, prefix.String())
	}
	return strings.Join(all, ",")
}

// Addr returns the address that the request comes from, the zero Addr when it has none (a Unix socket). It reads
// X-Forwarded-For from its end, where the nearest proxy has written, and stops at the first address that is not a
// proxy's: what stands before it, the client can have invented.
func (p Proxies) Addr(r *http.Request) netip.Addr {
	addr := parse(r.RemoteAddr)
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && p.trusts(addr); i-- {
		hop := parse(strings.TrimSpace(hops[i]))
		if !hop.IsValid() {
			break
		}
		addr = hop
	}
	return addr
}

// Network returns the network to count the request for: an IPv4 address, or the 64 bits of an IPv6 address that name a
// network. Whoever has one IPv6 address has 2^64 of them.
func (p Proxies) Network(r *http.Request) string {
	addr := p.Addr(r)
	switch {
	case !addr.IsValid():
		return "local"
	case addr.Is4():
		return addr.String()
	}
	prefix, err := addr.Prefix(64)
	if err != nil {
		return addr.String() // not reached: an IPv6 address has 128 bits
	}
	return prefix.String()
}

// Secure tells whether the client speaks TLS, to this server or to the proxy in front.
func (p Proxies) Secure(r *http.Request) bool {
	if proto := r.Header.Values("X-Forwarded-Proto"); len(proto) == 1 && p.trusts(parse(r.RemoteAddr)) {
		return strings.EqualFold(proto[0], "https")
	}
	return r.TLS != nil
}

func (p Proxies) trusts(addr netip.Addr) bool {
	for _, prefix := range p {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}

// parse reads an address, with a port or without.
func parse(text string) netip.Addr {
	addr, err := netip.ParseAddr(strings.Trim(text, "[]"))
	if err != nil {
		with, err := netip.ParseAddrPort(text)
		if err != nil {
			return netip.Addr{}
		}
		addr = with.Addr()
	}
	return addr.Unmap().WithZone("")
}
