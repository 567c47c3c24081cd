package transfer

import (
	"context"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/tenancy"
)

// RestoreOptions are the terms of [Restore].
type RestoreOptions struct {
	Mappings []Mapping      // see [ImportOptions]
	OnTable  func(Progress) // is told of each table that is loaded; may be nil
}

// Restore puts what is in a file in the place of a tenant's tables: the file may be an earlier export of that tenant, or of
// another one. It is loaded into a store beside the tenant's, which is served meanwhile, and then the two change places; the
// old store is set aside until it is purged ([tenancy.App.PurgeAside]). What is written while it loads is in the old store
// alone: set the tenant read-only first where that matters. Slug, domains, metadata and files stay as they are.
//
// It returns what [Import] returns for a file, or values, that cannot be loaded, and what [tenancy.App.Replace] does; nothing has
// changed then.
func Restore(ctx context.Context, app *tenancy.App, id tenancy.ID, path string, opt RestoreOptions) (tenancy.AsideStore, error) {
	f, err := Open(ctx, path)
	if err != nil {
		return tenancy.AsideStore{}, err
	}
	defer f.Close()
	if err := f.may(app, true); err != nil {
		return tenancy.AsideStore{}, err
	}
	if err := f.sealed(ctx); err != nil {
		return tenancy.AsideStore{}, f.fault(err)
	}
	aside, err := app.Replace(ctx, id, func(ctx context.Context, _ tenancy.Tenant, rt backend.Route) error {
		return f.fill(ctx, app, rt, ImportOptions{NoFiles: true, Mappings: opt.Mappings, OnTable: opt.OnTable})
	})
	return aside, f.fault(err)
}
