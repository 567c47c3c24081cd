package tenancy

import (
	"cmp"
	"context"
	"errors"

	"github.com/tenement-go/tenement/backend"
)

// Rename gives a tenant another slug. A store that is named after the slug is renamed with it; ID, data and domains
// stay. It is an [Operation]: when the process dies, another goes on. While the store is being moved calls on it fail
// with backend.ErrStoreMissing, in other processes until they have heard of it; who enters the tenant where it was not
// entered lately waits for the end of the move. It returns a [*ConflictError] when the slug or the store is taken, and then
// nothing has changed.
func (a *App) Rename(ctx context.Context, id ID, newSlug string) (Tenant, error) {
	if err := a.CheckSlug(newSlug); err != nil {
		return Tenant{}, err
	}
	var t *Tenant
	subject := string(id)
	err := a.withTenant(Leave(ctx), "rename", id, func(ctx context.Context, h *held) (err error) {
		var r *run
		err = a.begin(ctx, h, func() error {
			return a.write(ctx, func(ctx context.Context, tx *registryTx) ([]*Tenant, error) {
				r = &run{a: a, lock: h}
				if t, err = one(ctx, tx, selectByID, string(id)); err != nil {
					return nil, err
				}
				subject = t.Slug
				return tx.beginRename(ctx, r, t, newSlug)
			})
		})
		if err != nil || r.op == nil {
			return err
		}
		a.step("rename: claimed")
		t, err = r.finish(ctx)
		if errors.Is(err, ErrConflict) { // the name was taken while the store was moved, which is undone
			_, undone := a.goOn(ctx, h, false)
			err = cmp.Or(undone, err)
		}
		return err
	})
	if err != nil {
		return Tenant{}, opError("rename", subject, err)
	}
	return *t, nil
}

// beginRename changes the slug, or enters the operation that also moves the store into r.
func (tx *registryTx) beginRename(ctx context.Context, r *run, t *Tenant, slug string) (after []*Tenant, err error) {
	switch {
	case !t.Status.Served() && t.Status != Suspended:
		return nil, &StatusError{Op: "rename", Slug: t.Slug, Status: t.Status, Remedy: "only an active, read-only or suspended tenant can be renamed"}
	case t.Slug == slug:
		return nil, nil
	}
	var store backend.Store
	if t.Store.String() == t.Slug {
		if store, err = backend.ParseStore(slug); err != nil {
			return nil, err
		}
	}
	if err := tx.conflict(ctx, t.ID, slug, store, nil); err != nil {
		return nil, err
	}
	if store.IsZero() {
		return tx.setSlug(ctx, t, slug, t.Store)
	}
	r.t = t
	r.op, err = tx.begin(ctx, t.ID, OpRename, slug, opArgs{Slug: slug, Store: store.String()})
	return nil, err
}

// setSlug enters a slug that was found to be free. Somebody whose change was not to be seen then may have taken it since.
func (tx *registryTx) setSlug(ctx context.Context, t *Tenant, slug string, store backend.Store) ([]*Tenant, error) {
	err := tx.update(ctx, t, EventRenamed, t.Slug+" → "+slug, `slug = $3, store = $4`, slug, store.String())
	switch {
	case inTheWay(err):
		return nil, errRetry
	case err != nil:
		return nil, err
	}
	t.Slug, t.Store = slug, store
	return []*Tenant{t}, nil
}

var renameSteps = []step{{name: "move", do: moveStore, commit: func(ctx context.Context, tx *registryTx, r *run) ([]*Tenant, error) {
	to, err := backend.ParseStore(r.op.args.Store)
	if err != nil {
		return nil, err
	}
	if err := nameConflict(ctx, tx, r.t.ID, r.op.args.Slug, to); err != nil {
		return nil, err
	}
	return tx.setSlug(ctx, r.t, r.op.args.Slug, to)
}}}

// moveStore gives the store its new name. The registry has the old one until that is done, and so it can be undone.
func moveStore(ctx context.Context, r *run) error {
	from := r.t.Store
	to, err := backend.ParseStore(r.op.args.Store)
	if err != nil {
		return err
	}
	if err := r.mayMove(ctx, to); err != nil {
		return err
	}
	switch err := r.a.be.Rename(ctx, r.t.route(), to); {
	case errors.Is(err, backend.ErrStoreMissing):
		info, statErr := r.a.be.Stat(ctx, to)
		if statErr != nil && !errors.Is(statErr, backend.ErrStoreMissing) {
			return errors.Join(err, statErr)
		}
		if info.Owner != string(r.t.ID) {
			return &abandon{cause: err} // it is somewhere else, or nowhere, which the doctor finds
		}
		// Moved before the interruption.
	case errors.Is(err, backend.ErrStoreExists):
		return &abandon{cause: &ConflictError{Field: "store", Value: to.String(), nobodys: true}}
	case err != nil:
		return err
	}
	r.a.step("rename: store moved")
	if r.resumed {
		if err := r.a.tidy(ctx, from, to); err != nil {
			return err
		}
	}
	return r.a.migrator.Renamed(ctx, from, to)
}

// mayMove looks whether the new slug and the name to are still free, and undoes the rename when they are not.
func (r *run) mayMove(ctx context.Context, to backend.Store) error {
	taken := nameConflict(ctx, r.a.reg.db, r.t.ID, r.op.args.Slug, to)
	if !errors.Is(taken, ErrConflict) {
		return taken
	}
	err := r.giveBack(ctx, to)
	if err != nil && !errors.Is(err, backend.ErrStoreMissing) && !errors.Is(err, backend.ErrStoreExists) {
		return err
	}
	if err := r.a.migrator.Renamed(ctx, to, r.t.Store); err != nil {
		return err
	}
	return &abandon{cause: taken}
}
