package httpx

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"time"
)

// DefaultRetryAfter is what Retry-After says unless [WithRetryAfter] says otherwise.
const DefaultRetryAfter = 5 * time.Second

// config is what the options fill in. Nothing changes it once the gate is made.
type config struct {
	strategy      Strategy
	publicHosts   []string     // as they were given
	publicHandler http.Handler // nil: the wrapped handler
	hasPublic     bool
	proxies       *proxies
	retryAfter    time.Duration
	suspendedCode int
	refusals      [outcomes]http.Handler
	logger        *slog.Logger
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
// wrapped handler itself: on app.DB() it gets backend.ErrNoTenant until it enters a tenant of its own accord. Hosts are
// compared as the App compares a tenant's: where it ignores "www.", the public site has both names too.
func WithPublic(h http.Handler, hosts ...string) Option {
	return func(c *config) error {
		c.publicHosts, c.publicHandler, c.hasPublic = append(slices.Clone(c.publicHosts), hosts...), h, true
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
// The proxy is recognised by Request.RemoteAddr; behind a Unix socket there is none, and nothing is believed. Where the
// host may name the tenant, or what is public, the header is in the answers' Vary.
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
