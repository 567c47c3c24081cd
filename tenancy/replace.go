package tenancy

import (
	"context"
	"errors"

	"github.com/tenement-go/tenement/backend"
)

// Replace puts another store in the place of a tenant's: fill makes it, at the route that it is given and nobody is served
// from, migrations included. Then the two change places, and the old one is set aside: [App.AsideStores] lists it,
// [App.PurgeAside] removes it for good. The tenant is served all the time, but for the moment of the change, in which calls fail
// with backend.ErrStoreMissing; what is written after fill began is in the old store alone, so let nobody write
// ([App.SetReadOnly]) where that matters. Files are left as they are.
//
// When fill fails nothing has changed, and its error is in the chain of the one returned. It is an [Operation]: of a process that
// died before the change nothing is left, and after it another one finishes it. It returns ErrNotFound, and a
// [*StatusError] for a tenant that is deleted or not made yet.
func (a *App) Replace(ctx context.Context, id ID, fill func(ctx context.Context, t Tenant, rt backend.Route) error) (AsideStore, error) {
	return a.replace(ctx, id, "", fill)
}

// ReplaceFrozen is Replace for a store that is to have all that was ever written: nobody writes to the tenant from before fill is
// called until the stores have changed places. An active tenant is read-only meanwhile, with that reason, as for [App.Freeze],
// and every transaction that was begun before is over when fill is called. Whatever becomes of it, also when the process dies, the tenant can be written to again afterwards.
func (a *App) ReplaceFrozen(ctx context.Context, id ID, reason string, fill func(ctx context.Context, t Tenant, rt backend.Route) error) (AsideStore, error) {
	if err := checkReason(reason); err != nil {
		return AsideStore{}, err
	}
	return a.replace(ctx, id, reason, func(ctx context.Context, t Tenant, rt backend.Route) error {
		if err := a.outwait(ctx, t.route()); err != nil {
			return err
		}
		return fill(ctx, t, rt)
	})
}

// outwait waits until the transactions that were begun in a store are over.
func (a *App) outwait(ctx context.Context, rt backend.Route) error {
	if adopter, ok := a.be.(backend.Adopter); ok && a.be.Dialect() == backend.Postgres {
		// It changes nothing, and for a moment has the store to itself.
		return adopter.Restamp(ctx, rt, rt.Owner)
	}
	// A transaction that may write is the one writer, from its BEGIN on.
	db := a.be.Maintenance(rt)
	defer db.Close()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	return tx.Rollback()
}

func (a *App) replace(ctx context.Context, id ID, frozen string, fill func(ctx context.Context, t Tenant, rt backend.Route) error) (AsideStore, error) {
	var aside AsideStore
	subject := string(id)
	err := a.withTenant(Leave(ctx), "replace", id, func(ctx context.Context, h *held) error {
		if _, err := a.goOn(ctx, h, false); err != nil {
			return err
		}
		r := &run{a: a, lock: h, replaceStore: fill}
		err := a.write(ctx, func(ctx context.Context, tx *registryTx) ([]*Tenant, error) {
			t, err := one(ctx, tx, selectByID, string(id))
			if err != nil {
				return nil, err
			}
			subject = t.Slug
			return tx.beginReplace(ctx, r, t, frozen)
		})
		if err != nil {
			return err
		}
		a.step("replace: begun")
		if r.op.args.Reason != "" {
			// The operation is there already: who cannot wait for the others leaves it to be undone.
			if err := a.waitHeard(ctx, r.t.Updated); err != nil {
				r.replaceStore = func(context.Context, Tenant, backend.Route) error { return err }
			}
		}
		if _, err := r.finish(ctx); err != nil {
			return err
		}
		store, err := backend.ParseStore(r.op.args.Aside)
		if err != nil {
			return err
		}
		info, err := a.be.Stat(ctx, store)
		aside = asideStore(info)
		return err
	})
	return aside, opError("replace", subject, err)
}

func (tx *registryTx) beginReplace(ctx context.Context, r *run, t *Tenant, frozen string) ([]*Tenant, error) {
	if !t.Status.Served() && t.Status != Suspended {
		return nil, &StatusError{Op: "replace", Slug: t.Slug, Status: t.Status, Remedy: "only the store of an active, read-only or suspended tenant can be replaced"}
	}
	// Both are names that no tenant can have.
	fresh, err := asideName(t.Store)
	if err != nil {
		return nil, err
	}
	old, err := asideName(t.Store)
	if err != nil {
		return nil, err
	}
	r.t = t
	args := opArgs{Store: fresh.String(), Aside: old.String()}
	if t.Status == Active {
		args.Reason = frozen
	}
	if r.op, err = tx.begin(ctx, t.ID, OpReplace, "", args); err != nil || args.Reason == "" {
		return nil, err
	}
	return []*Tenant{t}, tx.freeze(ctx, t, frozen)
}

var replaceSteps = []step{
	{name: "fill", do: fillReplacement},
	{name: "swap", do: swapStores, commit: func(ctx context.Context, tx *registryTx, r *run) ([]*Tenant, error) {
		if err := tx.update(ctx, r.t, EventReplaced, "the old store is "+r.op.args.Aside, `name = name`); err != nil {
			return nil, err
		}
		_, err := thaw(ctx, tx, r)
		return []*Tenant{r.t}, err
	}},
}

// replacement is the route of the store that is made.
func (r *run) replacement() (backend.Route, error) {
	store, err := backend.ParseStore(r.op.args.Store)
	return backend.Route{Store: store, Owner: string(r.t.ID)}, err
}

// fillReplacement makes the new store or, in a process that does not know of what, removes what there is of it.
func fillReplacement(ctx context.Context, r *run) error {
	rt, err := r.replacement()
	if err != nil {
		return err
	}
	if r.replaceStore == nil {
		if err := r.dropReplacement(ctx, rt); err != nil {
			return err
		}
		r.a.log.WarnContext(ctx, "tenement: the replacement of a store whose process has ended was undone", "tenant", r.t.Slug)
		return &abandon{undo: thaw}
	}
	err = r.a.guard(ctx, "fill", func() error { return r.replaceStore(ctx, *r.t, rt) })
	if err == nil {
		err = ctx.Err()
	}
	switch {
	case err == nil, errors.Is(err, backend.ErrLockLost), r.a.ctx.Err() != nil:
		return err
	}
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	if undone := r.dropReplacement(clean, rt); undone != nil {
		return errors.Join(err, undone)
	}
	return &abandon{err, thaw}
}

// dropReplacement removes a store that nobody was ever served from: its name is this operation's own.
func (r *run) dropReplacement(ctx context.Context, rt backend.Route) error {
	if err := r.lock.Check(ctx); err != nil {
		return err
	}
	if err := r.a.be.Drop(ctx, rt); err != nil && !errors.Is(err, backend.ErrStoreMissing) {
		return err
	}
	if err := r.a.tidy(ctx, rt.Store); err != nil {
		return err
	}
	return r.a.migrator.Forget(ctx, rt.Store)
}

// swapStores sets the old store aside and gives the new one its name. Each of the two is done once: the new store has its own name
// until all is done.
func swapStores(ctx context.Context, r *run) error {
	a := r.a
	fresh, err := r.replacement()
	if err != nil {
		return err
	}
	old, err := backend.ParseStore(r.op.args.Aside)
	if err != nil {
		return err
	}
	switch _, err := a.be.Stat(ctx, fresh.Store); {
	case errors.Is(err, backend.ErrStoreMissing): // it has the tenant's name already
		return a.migrator.Renamed(ctx, fresh.Store, r.t.Store)
	case err != nil:
		return err
	}
	switch _, err := a.be.Stat(ctx, old); {
	case errors.Is(err, backend.ErrStoreMissing):
		if err := a.be.Rename(ctx, r.t.route(), old); err != nil && !errors.Is(err, backend.ErrStoreMissing) {
			return err
		}
	case err != nil:
		return err
	}
	a.step("replace: aside")
	if err := a.migrator.Forget(ctx, r.t.Store); err != nil {
		return err
	}
	if err := a.be.Rename(ctx, fresh, r.t.Store); err != nil {
		return err
	}
	a.step("replace: in place")
	return a.migrator.Renamed(ctx, fresh.Store, r.t.Store)
}
