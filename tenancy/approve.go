package tenancy

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// PendingDomain is a host that a tenant asked for and that [Hooks.ApproveDomain] has not approved. It leads nowhere and
// keeps nobody else from asking for it: who proves first that it is theirs gets it.
type PendingDomain struct {
	Host    string    `json:"host"`  // as NormalizeHost spells it
	Token   string    `json:"token"` // what proves ownership where it is published; another one for each tenant and host
	Reason  string    `json:"reason,omitempty"`
	Created time.Time `json:"created"` // UTC
}

// Record returns the DNS record that proves to [DNSChallenge] that the domain is its tenant's.
func (d PendingDomain) Record() (name, kind, value string) {
	return "_tenement." + d.Host, "TXT", "tenement=" + d.Token
}

// DomainPendingError says that a domain was not approved. errors.Is(err, [ErrDomainPending]) holds for it, and for the
// error of the hook.
type DomainPendingError struct {
	Domain PendingDomain
	Err    error // what the hook said
}

// Error names the domain and says why it was not approved.
func (e *DomainPendingError) Error() string {
	return fmt.Sprintf("tenement: domain %s: %v: %v", e.Domain.Host, ErrDomainPending, e.Err)
}

// Is reports whether target is ErrDomainPending.
func (e *DomainPendingError) Is(target error) bool { return target == ErrDomainPending }

// Unwrap returns the hook's error.
func (e *DomainPendingError) Unwrap() error { return e.Err }

// TXTResolver looks TXT records up; it is what [DNSChallenge] needs of a [*net.Resolver].
type TXTResolver interface {
	LookupTXT(ctx context.Context, name string) ([]string, error)
}

var _ TXTResolver = (*net.Resolver)(nil)

// DNSChallenge returns a hook for [Hooks.ApproveDomain] that approves a host for which DNS has the TXT record of
// [PendingDomain.Record], and the names below the application's own domains (of "polls.example": "thor.polls.example",
// not "polls.example" itself), which need no proof. resolver may be nil, which means [net.DefaultResolver].
func DNSChallenge(resolver TXTResolver, own ...string) func(ctx context.Context, t Tenant, d PendingDomain) error {
	if resolver == nil {
		resolver = net.DefaultResolver
	}
	return func(ctx context.Context, _ Tenant, d PendingDomain) error {
		for _, base := range own {
			if strings.HasSuffix(d.Host, "."+base) {
				return nil
			}
		}
		name, _, want := d.Record()
		records, err := resolver.LookupTXT(ctx, name+".")
		if err == nil && slices.Contains(records, want) {
			return nil
		}
		fault := fmt.Errorf("DNS has no TXT record %s with the value %q", name, want)
		if err != nil {
			fault = fmt.Errorf("%w: %w", fault, err)
		}
		return fault
	}
}

// PendingDomains lists the hosts that a tenant asked for and that were not approved, in order of host.
func (a *App) PendingDomains(ctx context.Context, id ID) ([]PendingDomain, error) { return nil, nil }

// ApproveDomain makes host lead to a tenant without asking [Hooks.ApproveDomain]: an operator's decision. Otherwise it is
// [App.AddDomain].
func (a *App) ApproveDomain(ctx context.Context, id ID, host string) (Tenant, error) {
	return a.AddDomain(ctx, id, host)
}

// HostPolicy returns nil when a certificate may be got for host: it leads to a tenant that is not deleted and whose
// creation has not failed. It fits [golang.org/x/crypto/acme/autocert.Manager.HostPolicy]; package httpx has a handler for
// servers that ask over HTTP. It answers from the cache.
func (a *App) HostPolicy(ctx context.Context, host string) error {
	t, err := a.Resolve(ctx, host)
	switch {
	case err != nil:
		return err
	case t.Status == Deleted || t.Status == Failed:
		return &NotActiveError{Slug: t.Slug, Status: t.Status, Reason: t.Reason}
	}
	return nil
}
