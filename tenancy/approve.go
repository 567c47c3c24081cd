package tenancy

import (
	"context"
	"crypto/rand"
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
func (a *App) PendingDomains(ctx context.Context, id ID) ([]PendingDomain, error) {
	pending, err := pendingDomains(Leave(ctx), a.reg.db, id)
	return pending, opError("read pending domains of", string(id), err)
}

func pendingDomains(ctx context.Context, q querier, id ID) ([]PendingDomain, error) {
	rows, err := q.QueryContext(ctx, `SELECT host, token, reason, created_at FROM tenement_pending_domains WHERE tenant_id = $1 ORDER BY host`, string(id))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var pending []PendingDomain
	for rows.Next() {
		var d PendingDomain
		var created string
		if err := rows.Scan(&d.Host, &d.Token, &d.Reason, &created); err != nil {
			return nil, err
		}
		if d.Created, err = time.Parse(timeFormat, created); err != nil {
			return nil, err
		}
		pending = append(pending, d)
	}
	return pending, rows.Err()
}

// insertPending notes that a tenant asked for a host. The token of one that is there already stays.
func (tx *registryTx) insertPending(ctx context.Context, id ID, host, reason string) (d PendingDomain, err error) {
	var created string
	d = PendingDomain{Host: host, Reason: reason}
	err = tx.QueryRowContext(ctx, `INSERT INTO tenement_pending_domains (host, tenant_id, token, reason, created_at)
		VALUES ($1, $2, $3, $4, `+tx.reg.now()+`) ON CONFLICT (tenant_id, host) DO UPDATE SET reason = $4 RETURNING token, created_at`,
		host, string(id), rand.Text(), reason).Scan(&d.Token, &created)
	if err == nil {
		d.Created, err = time.Parse(timeFormat, created)
	}
	return d, err
}

func (tx *registryTx) deletePending(ctx context.Context, id ID, host string) (bool, error) {
	res, err := tx.ExecContext(ctx, `DELETE FROM tenement_pending_domains WHERE tenant_id = $1 AND host = $2`, string(id), host)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n > 0, err
}

// withdraw deletes what is pending under the first of the hosts that is.
func (tx *registryTx) withdraw(ctx context.Context, id ID, hosts []string) (withdrawn bool, err error) {
	for _, host := range hosts {
		if withdrawn, err = tx.deletePending(ctx, id, host); withdrawn || err != nil {
			break
		}
	}
	return withdrawn, err
}

// askFor has the hook decide about a host that is not the tenant's. It returns a *DomainPendingError when it refuses.
func (a *App) askFor(ctx context.Context, id ID, host string) error {
	var d PendingDomain
	t, err := a.edit(ctx, "add domain to", id, func(ctx context.Context, tx *registryTx, t *Tenant) (err error) {
		if t.hasDomain(host) {
			return nil
		}
		if err := tx.domainConflict(ctx, id, []string{host}); err != nil {
			return err
		}
		if d, err = tx.insertPending(ctx, id, host, "not looked at yet"); err != nil {
			return err
		}
		return tx.update(ctx, t, EventDomains, host+" is pending", `name = name`)
	})
	if err != nil || d.Host == "" {
		return err
	}
	cause := a.approve(Leave(ctx), t, d)
	if cause == nil {
		return nil
	}
	d.Reason = cutReason(cause)
	if _, err := a.reg.db.ExecContext(Leave(ctx), `UPDATE tenement_pending_domains SET reason = $3 WHERE tenant_id = $1 AND host = $2`,
		string(id), host, d.Reason); err != nil {
		return opError("add domain to", t.Slug, err)
	}
	return &DomainPendingError{Domain: d, Err: cause}
}

// approvePending asks the hook about the domains that a tenant is created with. Those that it refuses stay pending.
func (a *App) approvePending(ctx context.Context, r *run) error {
	if a.cfg.Hooks.ApproveDomain == nil || len(r.op.args.Domains) == 0 {
		return nil
	}
	pending, err := pendingDomains(ctx, a.reg.db, r.t.ID)
	if err != nil {
		return err
	}
	for _, host := range r.op.args.Domains {
		i := slices.IndexFunc(pending, func(d PendingDomain) bool { return d.Host == host })
		if i < 0 || !a.spells(host) { // it was claimed by other rules
			continue
		}
		if cause := a.approve(ctx, *r.t, pending[i]); cause == nil {
			r.approved = append(r.approved, host)
		} else if _, err := a.reg.db.ExecContext(ctx, `UPDATE tenement_pending_domains SET reason = $3 WHERE tenant_id = $1 AND host = $2`,
			string(r.t.ID), host, cutReason(cause)); err != nil {
			return err
		}
	}
	return nil
}

// ApproveDomain makes host lead to a tenant without asking [Hooks.ApproveDomain]: an operator's decision. Otherwise it is
// [App.AddDomain].
func (a *App) ApproveDomain(ctx context.Context, id ID, host string) (Tenant, error) {
	name, err := a.domain(host)
	if err != nil {
		return Tenant{}, err
	}
	return a.addDomain(ctx, id, name)
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
