package tenancy

import (
	"context"
	"errors"

	"github.com/tenement-go/tenement/backend"
)

// Adopt makes a tenant of the store spec.Store, which is there and is no tenant's: one that was restored from a dump, or
// a schema or a file that an application had before it had tenants. Nothing in it is changed but its stamp. Its slug
// defaults to the store's name. A store that carries the ID of a tenant that the registry does not know keeps that ID.
// OnCreate is not called. The tenant is active; whether its store is behind is for the migrator to say.
//
// It returns backend.ErrStoreMissing when there is no such store and a [*ConflictError] when it is a tenant's, or when
// slug or a domain is taken.
func (a *App) Adopt(ctx context.Context, spec Spec) (Tenant, error) {
	return Tenant{}, errors.ErrUnsupported
}

// AsideStore is a store that [App.SetAside] put out of the way.
type AsideStore struct {
	Store backend.Store // its name now
	Was   string        // the beginning of its name before
	Owner string        // the identity stamped into it
	Bytes int64         // size on disk, -1 when that is not known
}

// SetAside renames a store that is no tenant's, so that its name is free and nobody is served from it. Nothing of it is
// lost: [App.AsideStores] lists it, [App.Adopt] takes it back, [App.PurgeAside] removes it for good.
func (a *App) SetAside(ctx context.Context, store backend.Store) (AsideStore, error) {
	return AsideStore{}, errors.ErrUnsupported
}

// AsideStores lists the stores that were set aside, in order of name.
func (a *App) AsideStores(ctx context.Context) ([]AsideStore, error) { return nil, nil }

// PurgeAside removes a store that was set aside, with all that is in it. It returns backend.ErrStoreMissing when there
// is none of that name among those.
func (a *App) PurgeAside(ctx context.Context, store backend.Store) error {
	return errors.ErrUnsupported
}
