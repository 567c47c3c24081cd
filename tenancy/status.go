package tenancy

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
)

// edit reads a tenant, lets fn change it in the same transaction, and returns it as it is then.
func (a *App) edit(ctx context.Context, op string, id ID, fn func(ctx context.Context, tx *registryTx, t *Tenant) error) (Tenant, error) {
	var after *Tenant
	subject := string(id)
	err := a.write(Leave(ctx), func(ctx context.Context, tx *registryTx) ([]*Tenant, error) {
		t, err := one(ctx, tx, selectByID, string(id))
		if err != nil {
			return nil, err
		}
		after, subject = t, t.Slug
		if err := fn(ctx, tx, t); err != nil || len(tx.touched) == 0 {
			return nil, err
		}
		if after, err = one(ctx, tx, selectByID, string(id)); err != nil {
			return nil, err
		}
		return []*Tenant{after}, nil
	})
	if err != nil {
		return Tenant{}, opError(op, subject, err)
	}
	if after.live == nil { // there was nothing to do
		if latest := a.lives.learn(after); latest != nil {
			after = latest
		}
	}
	return *after, nil
}

func checkReason(reason string) error {
	if len(reason) > maxReason || strings.ContainsRune(reason, 0) {
		return &FieldError{Field: "reason", Value: reason, Rule: fmt.Sprintf("it must have at most %d bytes and no U+0000", maxReason)}
	}
	return nil
}

// Suspend stops a tenant from being served; reason is for those who ask why. Requests that are being served see their
// contexts cancelled. Suspending it again changes the reason.
func (a *App) Suspend(ctx context.Context, id ID, reason string) (Tenant, error) {
	return a.serve(ctx, "suspend", EventSuspended, id, Suspended, reason)
}

// SetReadOnly goes on serving a tenant, but for what would change its store: that fails with ErrReadOnly. reason is for
// those who ask why; setting it again changes the reason. Transactions that are open already may still commit.
func (a *App) SetReadOnly(ctx context.Context, id ID, reason string) (Tenant, error) {
	return a.serve(ctx, "make read-only", EventReadOnly, id, ReadOnly, reason)
}

// Activate lets a suspended or read-only tenant be served in full again. It does nothing to an active one.
func (a *App) Activate(ctx context.Context, id ID) (Tenant, error) {
	return a.serve(ctx, "activate", EventActivated, id, Active, "")
}

// serve moves a tenant between the statuses that an operator chooses among.
func (a *App) serve(ctx context.Context, op string, kind EventKind, id ID, to Status, reason string) (Tenant, error) {
	if err := checkReason(reason); err != nil {
		return Tenant{}, err
	}
	return a.edit(ctx, op, id, func(ctx context.Context, tx *registryTx, t *Tenant) error {
		switch {
		case t.Status != Active && t.Status != ReadOnly && t.Status != Suspended:
			return &StatusError{Op: op, Slug: t.Slug, Status: t.Status, Remedy: "only a tenant that is active, read-only or suspended can be"}
		case t.Status == to && t.Reason == reason:
			return nil
		}
		return tx.update(ctx, t, kind, reason, `status = $3, reason = $4`, string(to), reason)
	})
}

// Delete makes a tenant a tombstone: it is not served any more, and keeps store, slug and domains until it is restored
// or purged. It does nothing to a deleted one. A creation that is under way is waited for; one that failed or was
// interrupted is over then.
func (a *App) Delete(ctx context.Context, id ID) (Tenant, error) {
	t, err := a.tombstone(ctx, id)
	if errors.Is(err, errUnfinished) {
		err = a.withTenant(Leave(ctx), "delete", id, func(ctx context.Context, _ *held) (err error) {
			t, err = a.tombstone(context.WithValue(ctx, lockedKey{}, true), id)
			return err
		})
		err = opError("delete", string(id), err)
	}
	return t, err
}

var errUnfinished = errors.New("its creation is not over")

type lockedKey struct{}

func (a *App) tombstone(ctx context.Context, id ID) (Tenant, error) {
	return a.edit(ctx, "delete", id, func(ctx context.Context, tx *registryTx, t *Tenant) error {
		switch t.Status {
		case Deleted:
			return nil
		case Provisioning, Failed:
			if ctx.Value(lockedKey{}) == nil {
				return errUnfinished
			}
			// Nobody is at work on it, and nobody is to go on.
			if _, err := tx.ExecContext(ctx, `DELETE FROM tenement_operations WHERE tenant = $1`, string(t.ID)); err != nil {
				return err
			}
			return tx.update(ctx, t, EventDeleted, "", `status = $3, restore_to = $4`, string(Deleted), string(Failed))
		}
		return tx.update(ctx, t, EventDeleted, "", `status = $3, restore_to = $4`, string(Deleted), string(t.Status))
	})
}

// Restore undoes Delete: the tenant is as it was before. It does nothing to a tenant that is not deleted. One that is
// being purged cannot be restored. One whose creation was not over is Failed, and can be created again.
func (a *App) Restore(ctx context.Context, id ID) (Tenant, error) {
	return a.edit(ctx, "restore", id, func(ctx context.Context, tx *registryTx, t *Tenant) error {
		if t.Status != Deleted {
			return nil
		}
		switch op, err := operation(ctx, tx, id); {
		case err != nil:
			return err
		case op != nil && op.Kind == OpPurge:
			return &StatusError{Op: "restore", Slug: t.Slug, Status: "being purged", Remedy: "its store may be gone already; purge it to the end"}
		}
		return tx.update(ctx, t, EventRestored, "", `status = restore_to, restore_to = ''`)
	})
}

// restoreTo is the status that a deleted tenant has once it is restored; "" for one that is not deleted.
func restoreTo(ctx context.Context, tx *sql.Tx, id ID) (status Status, err error) {
	err = tx.QueryRowContext(ctx, `SELECT restore_to FROM tenement_tenants WHERE id = $1`, string(id)).Scan(&status)
	return status, err
}

// Update changes a tenant's name or metadata. It returns ErrChanged when patch.IfVersion does not hold any more.
func (a *App) Update(ctx context.Context, id ID, patch Patch) (Tenant, error) {
	set, args := []string{}, []any{}
	if patch.Name != nil {
		if err := validateName(*patch.Name); err != nil {
			return Tenant{}, err
		}
		args = append(args, *patch.Name)
		set = append(set, fmt.Sprintf("name = $%d", 2+len(args)))
	}
	if patch.Meta != nil {
		meta, err := encodeMeta(patch.Meta)
		if err != nil {
			return Tenant{}, err
		}
		args = append(args, string(meta))
		set = append(set, fmt.Sprintf("meta = $%d", 2+len(args)))
	}
	return a.edit(ctx, "update", id, func(ctx context.Context, tx *registryTx, t *Tenant) error {
		switch {
		case patch.IfVersion != 0 && t.Version != patch.IfVersion:
			return ErrChanged
		case len(set) == 0:
			return nil
		}
		return tx.update(ctx, t, EventUpdated, "", strings.Join(set, ", "), args...)
	})
}

// UpdateMeta changes a tenant's metadata by what fn does to it, read as a T (as [MetaAs] does), and loses nobody else's
// change: when somebody changed the tenant meanwhile fn is called again, with what is there then. Fields that T does
// not have are lost. An error of fn is returned and nothing is changed.
func UpdateMeta[T any](ctx context.Context, a *App, id ID, fn func(meta *T) error) (Tenant, error) {
	for {
		t, err := a.ByID(ctx, id)
		if err != nil {
			return Tenant{}, err
		}
		meta, err := MetaAs[T](t)
		if err != nil {
			return Tenant{}, err
		}
		if err := fn(&meta); err != nil {
			return Tenant{}, opError("update", t.Slug, err)
		}
		t, err = a.Update(ctx, id, Patch{Meta: meta, IfVersion: t.Version})
		if !errors.Is(err, ErrChanged) {
			return t, err
		}
	}
}
