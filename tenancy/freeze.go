package tenancy

import (
	"cmp"
	"context"
	"time"
)

// frozenReason is the reason of a freeze for which none is given: by it the freeze is told from what an operator said.
const frozenReason = "it is frozen for a moment"

// Freeze calls fn while nobody writes to the tenant, nor renames or purges it. An active tenant is read-only meanwhile, with
// that reason: it goes on being read, and every App that serves it has heard of it when fn is called. Afterwards it is active
// again, whatever fn returned, also when ctx is over. It is an [Operation]: when the process dies, another one lets the
// tenant be written to again. A tenant that is not active stays as it is, and so does one whose status an operator changes
// meanwhile; one that is deleted meanwhile is active once it is restored. An empty reason is replaced.
//
// Transactions that were begun before may still commit; who needs their rows waits for their locks. fn gets the tenant as it was
// before. Freeze returns what fn returns, ErrNotFound, and a [*StatusError] for a tenant that is not made yet.
func (a *App) Freeze(ctx context.Context, id ID, reason string, fn func(ctx context.Context, t Tenant) error) error {
	reason = cmp.Or(reason, frozenReason)
	if err := checkReason(reason); err != nil {
		return err
	}
	return a.withTenant(Leave(ctx), "freeze", id, func(ctx context.Context, h *held) error {
		r := &run{a: a, lock: h}
		var was Tenant
		err := a.begin(ctx, h, func() (err error) {
			was, err = a.beginFreeze(ctx, r, id, reason)
			return err
		})
		if err != nil {
			return opError("freeze", string(id), err)
		}
		if r.op == nil {
			return fn(ctx, was)
		}
		a.step("freeze: begun")
		err = a.waitHeard(ctx, time.Time{})
		if err == nil {
			err = a.guard(ctx, "freeze", func() error { return fn(ctx, was) })
		}
		a.step("freeze: done")
		clean, cancel := afterwards(ctx)
		defer cancel()
		if thawed := r.commit(clean, "", thaw); err == nil {
			err = opError("let write to", was.Slug, thawed)
		}
		return err
	})
}

// beginFreeze makes an active tenant read-only. It leaves the run without an operation where there is nothing to be undone.
func (a *App) beginFreeze(ctx context.Context, r *run, id ID, reason string) (was Tenant, err error) {
	err = a.write(ctx, func(ctx context.Context, tx *registryTx) ([]*Tenant, error) {
		r.op = nil
		t, err := one(ctx, tx, selectByID, string(id))
		if err != nil {
			return nil, err
		}
		was = *t
		switch t.Status {
		case Active:
		case Provisioning, Failed:
			return nil, &StatusError{Op: "freeze", Slug: t.Slug, Status: t.Status, Remedy: "its creation has to be over"}
		default:
			return nil, nil
		}
		if r.op, err = tx.begin(ctx, id, OpFreeze, "", opArgs{Reason: reason}); err != nil {
			return nil, err
		}
		err = tx.freeze(ctx, t, reason)
		r.t = t
		return []*Tenant{t}, err
	})
	return was, err
}

func (tx *registryTx) freeze(ctx context.Context, t *Tenant, reason string) error {
	err := tx.update(ctx, t, EventReadOnly, reason, `status = $3, reason = $4`, string(ReadOnly), reason)
	t.Status, t.Reason = ReadOnly, reason
	return err
}

// freezeSteps are what is left of it when its process has died.
var freezeSteps = []step{{name: "thaw", commit: thaw}}

// thaw lets the tenant be written to again, unless its status is an operator's by now. One that was deleted meanwhile is active
// once it is restored.
func thaw(ctx context.Context, tx *registryTx, r *run) (_ []*Tenant, err error) {
	if r.op.args.Reason == "" || r.t.Reason != r.op.args.Reason {
		return nil, nil
	}
	status := r.t.Status
	if status == Deleted {
		status, err = restoreTo(ctx, tx.Tx, r.t.ID)
	}
	switch {
	case err != nil || status != ReadOnly:
		return nil, err
	case r.t.Status == Deleted:
		err = tx.update(ctx, r.t, EventUpdated, "restored, it is "+string(Active), `restore_to = $3, reason = ''`, string(Active))
	default:
		err = tx.update(ctx, r.t, EventActivated, "", `status = $3, reason = ''`, string(Active))
		r.t.Status = Active
	}
	r.t.Reason = ""
	return []*Tenant{r.t}, err
}
