package tenancy

import (
	"context"
	"errors"
	"fmt"
)

// domain is the spelling of host under which it is registered. It stays the same when it is spelled so once more.
func (a *App) domain(host string) (string, error) {
	name, err := parseDomain(host)
	if err != nil || !a.cfg.IgnoreWWW {
		return name, err
	}
	if name = stripWWW(name); stripWWW(name) != name {
		return "", &FieldError{Field: "domain", Value: host, Rule: "it must begin with www. no more than once, which is ignored"}
	}
	return name, nil
}

// spellings are those under which host may be in the registry: as it is, which other rules may have put there, and as it would be
// registered now.
func (a *App) spellings(host string) ([]string, error) {
	now, err := a.domain(host)
	asIs, malformed := NormalizeHost(host)
	switch {
	case malformed != nil:
		return nil, err
	case err != nil || asIs == now:
		return []string{asIs}, nil
	}
	return []string{asIs, now}, nil
}

// spelled is the first of the spellings under which the tenant has the host, and the last one when it does not.
func (t *Tenant) spelled(names []string) string {
	for _, name := range names {
		if t.hasDomain(name) {
			return name
		}
	}
	return names[len(names)-1]
}

// AddDomain makes host lead to a tenant. The first domain of a tenant is its primary one. It does nothing when host is
// the tenant's already, and returns a [*ConflictError] when it is another's. Where there is [Hooks.ApproveDomain] that is
// asked first, and when it refuses the domain is pending: the error is a [*DomainPendingError], which says how to prove
// whose the host is. Called again, it asks again.
func (a *App) AddDomain(ctx context.Context, id ID, host string) (Tenant, error) {
	name, err := a.domain(host)
	if err != nil {
		return Tenant{}, err
	}
	if a.cfg.Hooks.ApproveDomain != nil {
		if err := a.askFor(ctx, id, name); err != nil {
			return Tenant{}, err
		}
	}
	return a.addDomain(ctx, id, name)
}

func (a *App) addDomain(ctx context.Context, id ID, name string) (Tenant, error) {
	return a.edit(ctx, "add domain to", id, func(ctx context.Context, tx *registryTx, t *Tenant) error {
		if t.hasDomain(name) {
			return nil
		}
		if len(t.Domains) >= maxDomains {
			return &FieldError{Field: "domain", Value: name, Rule: "the tenant has as many domains as it may have"}
		}
		if err := tx.insertDomain(ctx, t, name, t.PrimaryDomain() == ""); err != nil {
			return err
		}
		return tx.update(ctx, t, EventDomains, name, `name = name`)
	})
}

// insertDomain makes host the tenant's, which may have been pending.
func (tx *registryTx) insertDomain(ctx context.Context, t *Tenant, host string, primary bool) error {
	tx.hosts = true
	res, err := tx.ExecContext(ctx, `INSERT INTO tenement_domains (host, tenant_id, is_primary) VALUES ($1, $2, $3) ON CONFLICT (host) DO NOTHING`,
		host, string(t.ID), primary)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil {
		return err
	} else if n == 0 {
		if err := tx.domainConflict(ctx, t.ID, []string{host}); err != nil {
			return err
		}
		return errRetry
	}
	_, err = tx.deletePending(ctx, t.ID, host)
	return err
}

// RemoveDomain makes host lead nowhere, or withdraws what is pending. When it was the primary one, the first of those left
// in order of host becomes primary. It returns ErrUnknownHost when host is not the tenant's.
func (a *App) RemoveDomain(ctx context.Context, id ID, host string) (Tenant, error) {
	names, err := a.spellings(host)
	if err != nil {
		return Tenant{}, err
	}
	return a.edit(ctx, "remove domain from", id, func(ctx context.Context, tx *registryTx, t *Tenant) error {
		name := t.spelled(names)
		withdrawn, err := tx.withdraw(ctx, id, names)
		if err != nil {
			return err
		}
		if !t.hasDomain(name) {
			if !withdrawn {
				return &noHostError{"it has no domain", name}
			}
			return tx.update(ctx, t, EventDomains, name, `name = name`)
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM tenement_domains WHERE host = $1 AND tenant_id = $2`, name, string(t.ID)); err != nil {
			return err
		}
		if err := tx.promote(ctx, t, name); err != nil {
			return err
		}
		return tx.update(ctx, t, EventDomains, name, `name = name`)
	})
}

// promote gives a tenant that lost a host another primary domain if it needs one.
func (tx *registryTx) promote(ctx context.Context, t *Tenant, lost string) error {
	if t.PrimaryDomain() != lost {
		return nil
	}
	for _, d := range t.Domains {
		if d.Host != lost {
			_, err := tx.ExecContext(ctx, `UPDATE tenement_domains SET is_primary = TRUE WHERE host = $1 AND tenant_id = $2`, d.Host, string(t.ID))
			return err
		}
	}
	return nil
}

// SetPrimaryDomain makes one of a tenant's domains the one that its URLs are built with. It returns ErrUnknownHost when
// host is not the tenant's.
func (a *App) SetPrimaryDomain(ctx context.Context, id ID, host string) (Tenant, error) {
	names, err := a.spellings(host)
	if err != nil {
		return Tenant{}, err
	}
	return a.edit(ctx, "set primary domain of", id, func(ctx context.Context, tx *registryTx, t *Tenant) error {
		name := t.spelled(names)
		switch {
		case !t.hasDomain(name):
			return &noHostError{"it has no domain", name}
		case t.PrimaryDomain() == name:
			return nil
		}
		for _, set := range []string{
			`UPDATE tenement_domains SET is_primary = FALSE WHERE tenant_id = $1 AND is_primary AND host <> $2`,
			`UPDATE tenement_domains SET is_primary = TRUE WHERE tenant_id = $1 AND host = $2`,
		} {
			if _, err := tx.ExecContext(ctx, set, string(t.ID), name); err != nil {
				return err
			}
		}
		return tx.update(ctx, t, EventDomains, name, `name = name`)
	})
}

// MoveDomain takes host from the tenant that has it and gives it to another, at once: at every moment it leads to one
// of the two. It returns the tenant that has it now, and does nothing when that has it already. It returns
// ErrUnknownHost when no tenant has it.
func (a *App) MoveDomain(ctx context.Context, host string, toID ID) (Tenant, error) {
	names, err := a.spellings(host)
	if err != nil {
		return Tenant{}, err
	}
	var after *Tenant
	err = a.write(Leave(ctx), func(ctx context.Context, tx *registryTx) ([]*Tenant, error) {
		from, err := tx.holder(ctx, names)
		if errors.Is(err, ErrNotFound) {
			return nil, &noHostError{"no tenant has the domain", host}
		}
		if err != nil {
			return nil, err
		}
		name := from.spelled(names)
		to, err := one(ctx, tx, selectByID, string(toID))
		if err != nil {
			return nil, err
		}
		if after = to; from.ID == to.ID {
			a.lives.learn(to)
			return nil, nil
		}
		if len(to.Domains) >= maxDomains {
			return nil, &FieldError{Field: "domain", Value: host, Rule: "the tenant has as many domains as it may have"}
		}
		if _, err := tx.ExecContext(ctx, `UPDATE tenement_domains SET tenant_id = $2, is_primary = $3 WHERE host = $1 AND tenant_id = $4`,
			name, string(to.ID), to.PrimaryDomain() == "", string(from.ID)); err != nil {
			return nil, err
		}
		if err := tx.promote(ctx, from, name); err != nil {
			return nil, err
		}
		changed := []*Tenant{from, to}
		if to.ID < from.ID { // rows are locked in one order, or two moves could wait for each other
			changed = []*Tenant{to, from}
		}
		for i, t := range changed {
			if err := tx.update(ctx, t, EventDomains, name, `name = name`); err != nil {
				return nil, err
			}
			if changed[i], err = one(ctx, tx, selectByID, string(t.ID)); err != nil {
				return nil, err
			}
			if t.ID == to.ID {
				after = changed[i]
			}
		}
		return changed, nil
	})
	if err != nil {
		return Tenant{}, opError("move domain to", string(toID), err)
	}
	return *after, nil
}

// holder returns the tenant that has one of the hosts, the first that anybody has, or ErrNotFound.
func (tx *registryTx) holder(ctx context.Context, hosts []string) (t *Tenant, err error) {
	for _, host := range hosts {
		if t, err = one(ctx, tx, selectByHost, host); !errors.Is(err, ErrNotFound) {
			return t, err
		}
	}
	return nil, ErrNotFound
}

// noHostError is ErrUnknownHost with the host: others may be meant by one command, and it may lead to another tenant.
type noHostError struct{ what, host string }

func (e *noHostError) Error() string { return fmt.Sprintf("%s %q", e.what, e.host) }
func (e *noHostError) Unwrap() error { return ErrUnknownHost }
