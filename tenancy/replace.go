package tenancy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

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

// ReplaceFrozen is Replace for a store that is to have all that was ever written. An active tenant is read-only first, with that
// reason, as for [App.Freeze], so that most calls are refused politely. Then its store is set aside, for which every
// transaction that was begun waits and is waited for, and fill is called with a tenant whose Store is that one: nobody
// writes to it any more, nor reads it. Calls fail with backend.ErrStoreMissing until fill has returned. Whatever becomes of it,
// also when the process dies, the tenant has the one store or the other, and can be written to again.
// An empty reason is replaced.
func (a *App) ReplaceFrozen(ctx context.Context, id ID, reason string, fill func(ctx context.Context, t Tenant, rt backend.Route) error) (AsideStore, error) {
	reason = cmp.Or(reason, frozenReason)
	if err := checkReason(reason); err != nil {
		return AsideStore{}, err
	}
	return a.replace(ctx, id, reason, fill)
}

func (a *App) replace(ctx context.Context, id ID, frozen string, fill func(ctx context.Context, t Tenant, rt backend.Route) error) (AsideStore, error) {
	var aside AsideStore
	subject := string(id)
	err := a.withTenant(Leave(ctx), "replace", id, func(ctx context.Context, h *held) error {
		r := &run{a: a, lock: h, replaceStore: fill}
		err := a.begin(ctx, h, func() error {
			return a.write(ctx, func(ctx context.Context, tx *registryTx) ([]*Tenant, error) {
				t, err := one(ctx, tx, selectByID, string(id))
				if err != nil {
					return nil, err
				}
				subject = t.Slug
				return tx.beginReplace(ctx, r, t, frozen)
			})
		})
		if err != nil {
			return err
		}
		a.step("replace: begun")
		if r.op.args.Reason != "" {
			// The operation is there already: who cannot wait for the others leaves it to be undone.
			if err := a.waitHeard(ctx, time.Time{}); err != nil {
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
	args := opArgs{Store: fresh.String(), Aside: old.String(), Apart: frozen != ""}
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
		r.a.log.WarnContext(ctx, "tenement: the replacement of a store whose process has ended is undone", "tenant", r.t.Slug)
		return r.undoReplacement(ctx, rt, nil)
	}
	t := *r.t
	if r.op.args.Apart {
		if t.Store, err = r.setApart(ctx); err != nil {
			return err
		}
		t.live = nil // what this process knows of the tenant is where it was
	}
	err = r.a.guard(ctx, "fill", func() error { return r.replaceStore(ctx, t, rt) })
	if err == nil {
		err = ctx.Err()
	}
	switch {
	case err == nil, errors.Is(err, backend.ErrLockLost), r.a.ctx.Err() != nil:
		return err
	}
	clean, cancel := afterwards(ctx)
	defer cancel()
	return r.undoReplacement(clean, rt, err)
}

// setApart gives the tenant's store the name under which it is kept afterwards: nobody reaches it any more.
func (r *run) setApart(ctx context.Context) (backend.Store, error) {
	old, err := backend.ParseStore(r.op.args.Aside)
	if err == nil {
		err = r.a.be.Rename(ctx, r.t.route(), old)
	}
	r.a.step("replace: apart")
	return old, err
}

// undoReplacement gives the tenant's store its name back if it has lost it, removes the new one, and returns the end of the
// operation for that cause, which may be none. The end of a tenant that has no store then is an error too, and an end all the
// same: the doctor finds it, and another store can take the place. So is that of a new store that cannot be removed, as in a
// place that is down: it has the name of one that was set aside, is listed as that, and the tenant need not wait for it. One that
// is still in use, or for which there was no time, is removed by whoever goes on.
func (r *run) undoReplacement(ctx context.Context, rt backend.Route, cause error) error {
	old, err := backend.ParseStore(r.op.args.Aside)
	if err == nil {
		err = r.giveBack(ctx, old)
	}
	if err != nil && !errors.Is(err, backend.ErrStoreMissing) {
		return errors.Join(cause, err)
	}
	dropped := r.dropReplacement(ctx, rt)
	if errors.Is(dropped, backend.ErrLockLost) || errors.Is(dropped, backend.ErrBusy) || dropped != nil && ctx.Err() != nil {
		return errors.Join(cause, err, dropped)
	}
	return &abandon{errors.Join(cause, err, dropped), thaw}
}

// giveBack gives the tenant's store its name back if it has lost it to the other. It returns backend.ErrStoreMissing when there
// is none.
func (r *run) giveBack(ctx context.Context, from backend.Store) error {
	if has, err := r.hasStore(ctx); err != nil || has {
		return err
	}
	return r.a.be.Rename(ctx, backend.Route{Store: from, Owner: string(r.t.ID)}, r.t.Store)
}

// hasStore reports whether the store of the tenant's name is there, and its own. Who was at work on the operation before, and has
// not noticed yet that the lock is lost, may be renaming it. Nothing waits for that but a fenced change, and so one is made that
// changes nothing.
func (r *run) hasStore(ctx context.Context) (bool, error) {
	switch err := r.a.be.Rename(ctx, r.t.route(), r.t.Store); {
	case err == nil, errors.Is(err, backend.ErrStoreExists):
		return true, nil
	case errors.Is(err, backend.ErrStoreMissing):
		return false, nil
	default:
		return false, err
	}
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
	case errors.Is(err, backend.ErrStoreMissing):
		return r.swapped(ctx, fresh)
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

// swapped ends the change of places when the new store has not its own name any more: it has the tenant's already, unless
// somebody removed it. Then the tenant has its old one again.
func (r *run) swapped(ctx context.Context, fresh backend.Route) error {
	switch has, err := r.hasStore(ctx); {
	case err != nil:
		return err
	case has:
		return r.a.migrator.Renamed(ctx, fresh.Store, r.t.Store)
	}
	end := r.undoReplacement(ctx, fresh, fmt.Errorf("the new store is gone: %w", backend.ErrStoreMissing))
	return errors.Join(end, r.a.migrator.Enter(ctx, r.t.Store)) // the ledger has forgotten it
}
