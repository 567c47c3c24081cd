package tenancy

import (
	"context"
	"errors"

	"github.com/tenement-go/tenement/backend"
)

// Filler makes the store of a new tenant and fills it: all of it, migrations included. The store to make is t.Route(). It
// is called with the tenant's lock held, and in the tenant's context, with which also [App.Dir] works.
type Filler func(ctx context.Context, t Tenant) error

// CreateBy makes a tenant as [App.Create] does, except that fill makes its store, in the place of the migrations and of
// OnCreate: a copy of another tenant, or one that was elsewhere before. The tenant is served once fill has returned.
//
// When fill fails or panics, or ctx ends, nothing is left: neither store nor files nor the tenant, and the error of fill is
// in the chain of the one returned. It is an [Operation]. Only this process can go on with it, so when it dies, another one
// undoes it: the tenant is gone then, and what was made of its store and its files is set aside (see [App.AsideStores] and
// [App.AsideDirs]). Spec.Seed is not used. Otherwise it returns what Create does.
func (a *App) CreateBy(ctx context.Context, spec Spec, fill Filler) (Tenant, error) {
	if fill == nil {
		return Tenant{}, errors.New("tenement: create a tenant: CreateBy needs a Filler")
	}
	p, err := a.plan(spec)
	if err != nil {
		return Tenant{}, err
	}
	p.fill = fill
	return a.createPlanned(ctx, p)
}

func (p *plan) kind() OperationKind {
	if p.fill != nil {
		return OpImport
	}
	return OpCreate
}

var importSteps = []step{{name: "fill", do: fillImport, commit: activate, atOnce: activateAtOnce}}

// fillImport fills the store or, in a process that does not know with what, undoes what was begun.
func fillImport(ctx context.Context, r *run) error {
	ctx = backend.WithPlace(ctx, r.op.args.Place)
	if r.resumed {
		if err := r.clear(ctx); err != nil {
			return err
		}
		if err := r.clearFiles(ctx); err != nil {
			return err
		}
	}
	if r.fillStore == nil {
		r.a.log.WarnContext(ctx, "tenement: an import whose process has ended was undone", "tenant", r.t.Slug)
		return &abandon{undo: erase}
	}
	err := r.doFill(ctx)
	switch {
	case err == nil:
		return r.a.approvePending(ctx, r)
	case errors.Is(err, backend.ErrLockLost), r.a.ctx.Err() != nil:
		return err // somebody else undoes it
	case errors.Is(err, backend.ErrStoreExists):
		// Another owner's: the claim was wrong, and it is not ours to remove.
		return &abandon{&ConflictError{Field: "store", Value: r.t.Store.String(), nobodys: true}, erase}
	}
	if undone := errors.Join(r.unmake(ctx), r.removeFiles()); undone != nil {
		return errors.Join(err, undone)
	}
	return &abandon{err, erase}
}

func (r *run) doFill(ctx context.Context) error {
	inside := backend.WithRouter(ctx, &operated{r.t})
	err := r.a.guard(inside, "fill", func() error { return r.fillStore(inside, *r.t) })
	if err == nil {
		err = ctx.Err()
	}
	if err == nil && r.resumed {
		err = r.a.tidy(ctx, r.t.Store)
	}
	r.a.step("import: filled")
	return err
}

// clearFiles puts the files that are there already out of the way, and does not remove them, for the reason that clear has.
func (r *run) clearFiles(ctx context.Context) error {
	aside, err := r.a.setFilesAside(r.t.ID)
	if aside != "" && err == nil {
		r.a.log.WarnContext(ctx, "tenement: an import is undone or begun anew; the files that it had are kept", "tenant", r.t.Slug, "aside", aside)
	}
	return err
}

// removeFiles removes the files that this very run has written: those of before are out of the way.
func (r *run) removeFiles() error {
	if r.a.files == nil {
		return nil
	}
	return r.a.files.RemoveAll(string(r.t.ID))
}

// Hold calls fn while the tenant stays where it is: nobody in any process renames or purges it, or goes on with an operation on
// it, before fn has returned. fn gets the tenant as the registry has it then. Within it other tenants may be made, and
// this one cannot be changed. It returns ErrNotFound when there is no such tenant, and otherwise what fn returns.
func (a *App) Hold(ctx context.Context, id ID, fn func(ctx context.Context, t Tenant) error) error {
	return a.withTenant(Leave(ctx), "hold", id, func(ctx context.Context, h *held) error {
		if _, err := a.goOn(ctx, h, false); err != nil {
			return err
		}
		t, err := one(ctx, a.reg.db, selectByID, string(id))
		if err != nil {
			return opError("hold", string(id), err)
		}
		return fn(ctx, *t)
	})
}
