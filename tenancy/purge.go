package tenancy

import (
	"context"
	"errors"
	"time"

	"github.com/tenement-go/tenement/backend"
)

// Purge removes a deleted tenant for good: its store, its files, its place in the registry. The slug and the domains
// are free then, the ID is not used again. It waits until every App that serves has heard that the tenant was deleted:
// each announces in the registry how long that takes, and the time is the database's. It is an [Operation]: once the
// removal has begun the tenant cannot be restored, and when the process dies another goes on.
func (a *App) Purge(ctx context.Context, id ID) error {
	subject := string(id)
	err := a.withTenant(Leave(ctx), "purge", id, func(ctx context.Context, h *held) error {
		// One that stopped is a creation, of which the purge removes what there is.
		if over, err := a.goOn(ctx, h, false); err != nil || over == OpPurge {
			return err
		}
		if err := a.Refresh(ctx); err != nil {
			return err
		}
		t, err := one(ctx, a.reg.db, selectByID, string(id))
		if err != nil {
			return err
		}
		subject = t.Slug
		if t.Status != Deleted {
			return &StatusError{Op: "purge", Slug: t.Slug, Status: t.Status, Remedy: "delete it first"}
		}
		if err := a.waitHeard(ctx, t.Updated); err != nil {
			return err
		}
		r := &run{a: a, lock: h}
		err = a.write(ctx, func(ctx context.Context, tx *registryTx) ([]*Tenant, error) {
			copied := *t
			if err := tx.update(ctx, &copied, EventPurging, "", `name = name`); err != nil {
				return nil, err
			}
			if _, err := tx.ExecContext(ctx, `DELETE FROM tenement_operations WHERE tenant = $1`, string(id)); err != nil {
				return nil, err
			}
			r.t = &copied
			r.op, err = tx.begin(ctx, id, OpPurge, "", opArgs{})
			return []*Tenant{r.t}, err
		})
		if err != nil {
			return err
		}
		a.step("purge: claimed")
		_, err = r.finish(ctx)
		return err
	})
	return opError("purge", subject, err)
}

var purgeSteps = []step{
	{name: "drop", do: func(ctx context.Context, r *run) error {
		if err := r.lock.Check(ctx); err != nil {
			return err
		}
		if err := r.a.be.Drop(ctx, r.t.route()); err != nil && !errors.Is(err, backend.ErrStoreMissing) {
			return err
		}
		if r.resumed {
			return r.a.tidy(ctx, r.t.Store)
		}
		return nil
	}},
	{name: "forget", do: func(ctx context.Context, r *run) error {
		r.a.step("purge: forgetting")
		if err := r.lock.Check(ctx); err != nil {
			return err
		}
		return r.a.migrator.Forget(ctx, r.t.Store)
	}},
	{name: "files", do: func(ctx context.Context, r *run) error {
		if r.a.files == nil {
			return nil
		}
		return r.a.files.RemoveAll(string(r.t.ID))
	}},
	{name: "erase", commit: erase},
}

// waitHeard waits until a change that was made at that time, by the database's clock, has reached every App that serves.
func (a *App) waitHeard(ctx context.Context, at time.Time) error {
	now, bound, err := a.announcedBound(ctx)
	if err != nil {
		return err
	}
	wait := bound - now.Sub(at)
	if wait <= 0 {
		return nil
	}
	timer := time.NewTimer(min(wait, bound))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
