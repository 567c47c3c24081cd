package tenancy

import (
	"context"
	"errors"
	"time"

	"github.com/tenement-go/tenement/backend"
)

// Purge removes a deleted tenant for good: its store, its files, its place in the registry. The slug and the domains
// are free then; the ID is used again for nobody but a store that carries it ([App.Adopt], [App.Enroll]). It waits until
// every App that serves has heard that the tenant was deleted: each announces in the registry how long that takes, and the
// time is the database's. It is an [Operation]: once the removal has begun the tenant cannot be restored, and when the
// process dies another goes on.
func (a *App) Purge(ctx context.Context, id ID) error {
	subject := string(id)
	err := a.withTenant(Leave(ctx), "purge", id, func(ctx context.Context, h *held) error {
		// One that stopped is a creation, of which the purge removes what there is.
		over, err := a.goOn(ctx, h, false)
		if err != nil || over == OpPurge {
			return err
		}
		if err := a.Refresh(ctx); err != nil {
			return err
		}
		r := &run{a: a, lock: h}
		for r.op == nil {
			last, t, err := a.heardDeleted(ctx, id)
			if t != nil {
				subject = t.Slug
			}
			if err != nil {
				return err
			}
			a.step("purge: heard")
			if err := a.claimPurge(ctx, r, id, last); err != nil {
				return err
			}
		}
		a.step("purge: claimed")
		_, err = r.finish(ctx)
		return err
	})
	return opError("purge", subject, err)
}

// heardDeleted waits until everybody has heard that the tenant was deleted. last is the change that they heard of. It could be
// heard of when it was committed, which may be long after it was made; but whoever made the next one, of whatever tenant, had
// waited for that (see [registry.change]).
func (a *App) heardDeleted(ctx context.Context, id ID) (last int64, t *Tenant, err error) {
	if last, err = lastDeleted(ctx, a.reg.db, id); err != nil {
		return last, nil, err
	}
	if t, err = deletedTenant(ctx, a.reg.db, id); err != nil {
		return last, t, err
	}
	committed, err := madeAfter(ctx, a.reg.db, last)
	if err != nil {
		return last, t, err
	}
	return last, t, a.waitHeard(ctx, committed)
}

// claimPurge enters the operation into r, unless the tenant was restored and deleted once more since last: not everybody
// may have heard of that. Other changes of it do not matter.
func (a *App) claimPurge(ctx context.Context, r *run, id ID, last int64) error {
	return a.write(ctx, func(ctx context.Context, tx *registryTx) ([]*Tenant, error) {
		r.op = nil
		t, err := deletedTenant(ctx, tx, id)
		if err != nil {
			return nil, err
		}
		if now, err := lastDeleted(ctx, tx, id); err != nil || now != last {
			return nil, err
		}
		if err := tx.update(ctx, t, EventPurging, "", `name = name`); err != nil {
			return nil, err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM tenement_operations WHERE tenant = $1`, string(id)); err != nil {
			return nil, err
		}
		r.t = t
		r.op, err = tx.begin(ctx, id, OpPurge, "", opArgs{})
		return []*Tenant{t}, err
	})
}

// deletedTenant returns the tenant, with a *StatusError when it is not deleted.
func deletedTenant(ctx context.Context, q querier, id ID) (*Tenant, error) {
	t, err := one(ctx, q, selectByID, string(id))
	if err == nil && t.Status != Deleted {
		err = &StatusError{Op: "purge", Slug: t.Slug, Status: t.Status, Remedy: "delete it first"}
	}
	return t, err
}

// lastDeleted is the revision of the latest change that made a tenant a tombstone, 0 when that is not listed any more.
func lastDeleted(ctx context.Context, q querier, id ID) (revision int64, err error) {
	rows, err := q.QueryContext(ctx, `SELECT COALESCE(max(revision), 0) FROM tenement_changes WHERE tenant_id = $1 AND kind = $2`,
		string(id), string(EventDeleted))
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	for rows.Next() {
		if err := rows.Scan(&revision); err != nil {
			return 0, err
		}
	}
	return revision, rows.Err()
}

// madeAfter is when the change after a revision was made, and zero when there is none yet, or it is not known which it is. What a
// tenant's history from elsewhere says was not made here.
func madeAfter(ctx context.Context, q querier, revision int64) (at time.Time, err error) {
	if revision == 0 {
		return at, nil
	}
	list, err := texts(ctx, q, 1, `SELECT at FROM tenement_changes WHERE revision > $1 AND nonce <> $2 ORDER BY revision LIMIT 1`, revision, historyNonce)
	if err != nil || len(list) == 0 {
		return at, err
	}
	return time.Parse(timeFormat, list[0][0].(string))
}

var purgeSteps = []step{
	{name: "drop", do: func(ctx context.Context, r *run) error {
		if err := r.lock.Check(ctx); err != nil {
			return err
		}
		if err := r.dropUnstamped(ctx); err != nil {
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

// waitHeard waits until a change that was committed by that time, by the database's clock, has reached every App that serves.
// The zero time is for one that was committed just now. One that the registry did not answer for longer than a lease hears of
// nothing until it asks again, however long ago the change was made: it is waited for from now on.
func (a *App) waitHeard(ctx context.Context, committed time.Time) error {
	o, err := a.announcedOthers(ctx)
	if err != nil {
		return err
	}
	wait := o.bound
	if !committed.IsZero() {
		wait = min(o.bound, o.bound-o.at.Sub(committed))
	}
	if wait = max(wait, o.deaf); wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return a.bury(ctx, o.lapsed)
}
