package tenancy

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tenement-go/tenement/backend"
)

// Adopt makes a tenant of the store spec.Store, which is there and is no tenant's: one that was restored from a dump, or
// a schema or a file that an application had before it had tenants. Nothing in it is changed but its stamp. Its slug
// defaults to the store's name. A store that carries the ID of a tenant that the registry does not know keeps that ID.
// OnCreate is not called. The tenant is active; whether its store is behind is for the migrator to say.
//
// It returns backend.ErrStoreMissing when there is no such store, a [*FieldError] when spec.Place is not where it is, a [*ConflictError] when it is a tenant's, or when
// slug or a domain is taken, and an error that wraps [errors.ErrUnsupported] when the store would have to be stamped
// and the backend is no [backend.Adopter].
func (a *App) Adopt(ctx context.Context, spec Spec) (Tenant, error) {
	return a.adopt(Leave(ctx), spec, Active, "")
}

func (a *App) adopt(ctx context.Context, spec Spec, status Status, reason string) (Tenant, error) {
	spec.Slug = cmp.Or(spec.Slug, spec.Store)
	p, err := a.plan(spec)
	if err != nil {
		return Tenant{}, err
	}
	p.status, p.reason, p.event = status, reason, EventAdopted
	var t *Tenant
	err = a.withStore(ctx, "adopt", p.store, func(ctx context.Context, lock backend.Lock) error {
		info, err := a.be.Stat(ctx, p.store)
		if err != nil && !errors.Is(err, backend.ErrStoreMissing) {
			return err
		}
		if err := a.isAt(ctx, p); err != nil {
			return err
		}
		id, err := a.adoptedID(ctx, ID(info.Owner))
		if err != nil {
			return err
		}
		return a.withTenant(ctx, "adopt", id, func(ctx context.Context, _ *held) error {
			if t, err = a.claimStore(ctx, id, p); err != nil {
				return err
			}
			a.step("adopt: claimed")
			if err = lock.Check(ctx); err == nil {
				err = a.stamp(ctx, info, p.store, id)
			}
			if err != nil {
				return errors.Join(err, a.unclaim(ctx, t))
			}
			a.step("adopt: stamped")
			if t, err = a.admitAdopted(ctx, id, p); err != nil {
				return err
			}
			return a.migrator.Enter(ctx, p.store)
		})
	})
	if err != nil {
		return Tenant{}, opError("adopt", p.slug, err)
	}
	return *t, nil
}

// isAt returns a *FieldError for a place where the store is not.
func (a *App) isAt(ctx context.Context, p plan) error {
	placer, ok := a.be.(backend.Placer)
	if !ok || p.place == "" {
		return nil
	}
	at, err := placer.PlaceOf(ctx, p.store)
	if err == nil && at != p.place {
		err = &FieldError{Field: "place", Value: p.place, Rule: "the store is at " + at + ", and stays there; a tenant can be moved"}
	}
	return err
}

// claimStore enters the tenant that is to have the store, before that is touched: of two who adopt it one is refused
// here. The tenant is suspended until the store is stamped. It is not Provisioning, because somebody who went on with
// a creation would make an empty store in the place of this one.
func (a *App) claimStore(ctx context.Context, id ID, p plan) (t *Tenant, err error) {
	if claimed, err := a.isClaimed(ctx, p.store); err != nil {
		return nil, err
	} else if claimed {
		return nil, &ConflictError{Field: "store", Value: p.store.String()}
	}
	p.status, p.reason, p.event = Suspended, "its store is being adopted", EventClaimed
	err = a.write(ctx, func(ctx context.Context, tx *registryTx) ([]*Tenant, error) {
		if err := tx.conflict(ctx, id, p.slug, p.store, p.domains); err != nil {
			return nil, err
		}
		if t, err = tx.insertTenant(ctx, id, p, nil); err != nil {
			return nil, err
		}
		if t == nil {
			return nil, errRetry
		}
		primary := ""
		for i, host := range p.domains {
			primary = p.domains[0]
			t.Domains = append(t.Domains, Domain{Host: host, Primary: i == 0})
		}
		slices.SortFunc(t.Domains, func(a, b Domain) int { return strings.Compare(a.Host, b.Host) })
		return []*Tenant{t}, tx.setDomains(ctx, id, p.domains, primary)
	})
	return t, err
}

// unclaim undoes claimStore.
func (a *App) unclaim(ctx context.Context, t *Tenant) error {
	ctx, cancel := afterwards(ctx)
	defer cancel()
	return a.write(ctx, func(ctx context.Context, tx *registryTx) ([]*Tenant, error) {
		return erase(ctx, tx, &run{a: a, t: t})
	})
}

// admitAdopted gives a tenant whose store is stamped the status that it is to have.
func (a *App) admitAdopted(ctx context.Context, id ID, p plan) (t *Tenant, err error) {
	err = a.write(ctx, func(ctx context.Context, tx *registryTx) ([]*Tenant, error) {
		if t, err = one(ctx, tx, selectByID, string(id)); err != nil {
			return nil, err
		}
		if err := tx.update(ctx, t, p.event, p.slug, `status = $3, reason = $4`, string(p.status), p.reason); err != nil {
			return nil, err
		}
		t.Status, t.Reason = p.status, p.reason
		return []*Tenant{t}, nil
	})
	return t, err
}

// adoptedID is the ID that a store of that owner is adopted under.
func (a *App) adoptedID(ctx context.Context, owner ID) (ID, error) {
	if _, err := ParseID(string(owner)); err != nil {
		return newID()
	}
	switch _, err := one(ctx, a.reg.db, selectByID, string(owner)); {
	case err == nil:
		if lost, err := a.isLost(ctx, owner); err != nil {
			return "", err
		} else if lost {
			return "", fmt.Errorf("its stamp says that it is the store of the tenant with the ID %s, whose place in the registry has none of its own: %w",
				owner, ErrConflict)
		}
		return newID() // a copy of a tenant's store
	case !errors.Is(err, ErrNotFound):
		return "", err
	}
	return owner, nil
}

// stamp makes the store that of id; info is what was found there, zero when it was no store.
func (a *App) stamp(ctx context.Context, info backend.StoreInfo, store backend.Store, id ID) error {
	adopter, able := a.be.(backend.Adopter)
	switch {
	case info.Owner == string(id) && !info.Store.IsZero():
		return nil
	case !able:
		return fmt.Errorf("stamping a store that is there: %w by this backend", errors.ErrUnsupported)
	case info.Store.IsZero():
		return adopter.Adopt(ctx, backend.Route{Store: store, Owner: string(id)})
	}
	return adopter.Restamp(ctx, backend.Route{Store: store, Owner: info.Owner}, string(id))
}

// asidePrefix begins the names of stores that were set aside. No slug has an underscore.
const asidePrefix = "aside_"

func isAside(s backend.Store) bool { return strings.HasPrefix(s.String(), asidePrefix) }

// AsideStore is a store that [App.SetAside] put out of the way.
type AsideStore struct {
	Store backend.Store // its name now
	Was   string        // the beginning of its name before
	Owner string        // the identity stamped into it
	Bytes int64         // size on disk, -1 when that is not known
}

func asideStore(info backend.StoreInfo) AsideStore {
	was := strings.TrimPrefix(info.Store.String(), asidePrefix)
	if i := strings.LastIndexByte(was, '_'); i > 0 {
		was = was[:i]
	}
	return AsideStore{Store: info.Store, Was: was, Owner: info.Owner, Bytes: info.Bytes}
}

// SetAside renames a store that is no tenant's, so that its name is free and nobody is served from it. Nothing of it is
// lost: [App.AsideStores] lists it, [App.PurgeAside] removes it for good. It returns a [*ConflictError] for a tenant's
// store and backend.ErrStoreMissing when there is none of that name.
func (a *App) SetAside(ctx context.Context, store backend.Store) (AsideStore, error) {
	var aside AsideStore
	err := a.withStore(Leave(ctx), "set aside", store, func(ctx context.Context, _ backend.Lock) error {
		info, err := a.be.Stat(ctx, store)
		if err != nil {
			return err
		}
		if claimed, err := a.isClaimed(ctx, store); err != nil {
			return err
		} else if claimed {
			return &ConflictError{Field: "store", Value: store.String()}
		}
		a.step("aside: looked")
		// A tenant that claimed the name meanwhile has a store of another owner, which is not renamed.
		if info.Store, err = a.putAside(ctx, backend.Route{Store: store, Owner: info.Owner}); err != nil {
			return err
		}
		aside = asideStore(info)
		return nil
	})
	if err != nil {
		return AsideStore{}, fmt.Errorf("tenement: set store %s aside: %w", store, err)
	}
	return aside, nil
}

// asideName is a new name for a store that is set aside.
func asideName(s backend.Store) (backend.Store, error) {
	was, suffix := s.String(), "_"+asideSuffix()
	return backend.ParseStore(asidePrefix + was[:min(len(was), backend.MaxNameLen-len(asidePrefix)-len(suffix))] + suffix)
}

// asideSuffix tells one thing that was set aside from another that had the same name.
func asideSuffix() string {
	var random [4]byte
	_, _ = rand.Read(random[:]) // never fails
	return hex.EncodeToString(random[:])
}

// putAside renames a store to one of those that are set aside. It returns backend.ErrStoreMissing when there is none of
// that name and owner; then too the ledger has no row of it afterwards, which whoever dropped or renamed it may not have
// come to remove.
func (a *App) putAside(ctx context.Context, rt backend.Route) (to backend.Store, err error) {
	if to, err = asideName(rt.Store); err != nil {
		return to, err
	}
	err = a.be.Rename(ctx, rt, to)
	if err != nil && !errors.Is(err, backend.ErrStoreMissing) {
		return to, err
	}
	return to, cmp.Or(a.migrator.Forget(ctx, rt.Store), err)
}

// PutAside is [App.SetAside] for those who hold a lock that fences ctx, and say whose the store is by its stamp, rt.Owner. It
// returns backend.ErrStoreMissing when there is none of that name and owner.
func (a *App) PutAside(ctx context.Context, rt backend.Route) (AsideStore, error) {
	to, err := a.putAside(Leave(ctx), rt)
	if err != nil {
		return AsideStore{}, fmt.Errorf("tenement: set store %s aside: %w", rt.Store, err)
	}
	return asideStore(backend.StoreInfo{Store: to, Owner: rt.Owner, Bytes: -1}), nil
}

// AsideStores lists the stores that were set aside, in order of name. Those of a replacement are among them once it is over.
func (a *App) AsideStores(ctx context.Context) ([]AsideStore, error) {
	var aside []AsideStore
	for info, err := range a.be.Stores(Leave(ctx)) {
		if err != nil {
			return nil, fmt.Errorf("tenement: list stores that were set aside: %w", err)
		}
		if isAside(info.Store) {
			aside = append(aside, asideStore(info))
		}
	}
	// An operation is entered before it makes a store: of those that were found none is missed.
	replaced, err := a.underReplacement(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(aside, func(s AsideStore) bool { return replaced[s.Store.String()] != "" }), nil
}

// PurgeAside removes a store that was set aside, with all that is in it. It returns backend.ErrStoreMissing when there
// is none of that name among those, and a [*StatusError] for one of a replacement that is not over: it may be all that the
// tenant has.
func (a *App) PurgeAside(ctx context.Context, store backend.Store) error {
	if !isAside(store) {
		return fmt.Errorf("tenement: purge store %s: it was not set aside: %w", store, backend.ErrStoreMissing)
	}
	replaced, err := a.underReplacement(ctx)
	if err != nil {
		return err
	}
	if id := replaced[store.String()]; id != "" {
		t, err := a.ByID(ctx, id)
		if err != nil {
			return err
		}
		return &StatusError{
			Op: "purge a store of", Slug: t.Slug, Status: t.Status,
			Remedy: "its replacement, whose store " + store.String() + " is, is not over; wait for that (App.Operations)",
		}
	}
	if err := a.be.Drop(Leave(ctx), backend.Route{Store: store}); err != nil {
		return err
	}
	// The ledger has the new store of a replacement that was undone without it, when its fill entered it.
	return a.migrator.Forget(Leave(ctx), store)
}

// underReplacement returns, by their names, whose stores replacements under way have set aside or make. The names are those
// operations' own, so that what is not among them now, and is there, will not be.
func (a *App) underReplacement(ctx context.Context) (map[string]ID, error) {
	ops, err := a.Operations(ctx)
	replaced := map[string]ID{}
	for _, op := range ops {
		if op.Kind == OpReplace {
			replaced[op.args.Store], replaced[op.args.Aside] = op.Tenant, op.Tenant
		}
	}
	return replaced, err
}
