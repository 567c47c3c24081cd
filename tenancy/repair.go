package tenancy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/tenement-go/tenement/backend"
)

// ErrNoRepair: the fault cannot be repaired without an operator's decision; the finding's Detail says what to do.
var ErrNoRepair = errors.New("cannot be repaired automatically")

// Repair does what f.Repair says, after having made sure that the fault is still there. It never removes what may be a
// customer's: a store that belongs to nobody is adopted or set aside. It returns nil when the fault is gone already, and
// an error that wraps ErrNoRepair when there is nothing that it could do.
func (a *App) Repair(ctx context.Context, f Finding) error {
	if err := a.repair(Leave(ctx), f); err != nil {
		return fmt.Errorf("tenement: repair %s (%s): %w", f.Subject, f.Code, err)
	}
	return nil
}

func (a *App) repair(ctx context.Context, f Finding) error {
	switch f.Code {
	case FindingFailed, FindingUnfinished, FindingStoreMissing:
		return a.repairTenant(ctx, f)
	case FindingStoreOrphan:
		return a.repairOrphan(ctx, f)
	case FindingLedgerOrphan:
		s, err := backend.ParseStore(f.Subject)
		if err != nil {
			return err
		}
		if orphan, err := a.isLedgerOrphan(ctx, s); err != nil || !orphan {
			return err
		}
		return a.migrator.Forget(ctx, s)
	case FindingLeftover:
		return a.repairLeftover(ctx, f)
	case FindingFilesOrphan:
		return a.repairFiles(ctx, f)
	case FindingAdvice:
		if advisor, ok := a.be.(backend.Advisor); ok && f.Repair != "" {
			return advisor.Mend(ctx)
		}
	}
	return fmt.Errorf("%w: %s", ErrNoRepair, f.Detail)
}

func (a *App) repairTenant(ctx context.Context, f Finding) error {
	if _, err := ParseID(string(f.Tenant)); err != nil {
		return err
	}
	return a.withTenant(ctx, "repair", f.Tenant, func(ctx context.Context, h *held) error {
		free, err := a.ownStores(ctx, f)
		if err != nil {
			return err
		}
		t, now, wrong, err := a.recheck(ctx, f, free)
		if err != nil || !wrong || now.Code != f.Code {
			return err
		}
		switch {
		case f.Code == FindingStoreMissing && now.Repair != "":
			return a.repoint(ctx, t, storeOf(t.ID, free))
		case f.Code == FindingStoreMissing:
			return fmt.Errorf("%w: %s", ErrNoRepair, now.Detail)
		case f.Code == FindingFailed:
			return a.createAgain(ctx, h, t)
		}
		_, err = a.goOn(ctx, h, true)
		return err
	})
}

// ownStores are the stores that carry the ID of a tenant whose store is missing and are no other tenant's.
func (a *App) ownStores(ctx context.Context, f Finding) (map[string]backend.StoreInfo, error) {
	if f.Code != FindingStoreMissing {
		return nil, nil
	}
	free := map[string]backend.StoreInfo{}
	for info, err := range a.be.Stores(ctx) {
		if err != nil {
			return nil, err
		}
		if info.Owner != string(f.Tenant) || isAside(info.Store) {
			continue
		}
		switch claimed, err := a.isClaimed(ctx, info.Store); {
		case err != nil:
			return nil, err
		case !claimed:
			free[info.Store.String()] = info
		}
	}
	return free, nil
}

// createAgain runs a creation that failed once more, as it was asked for. One whose operation is gone, because the tenant
// was deleted in between, has no seed any more.
func (a *App) createAgain(ctx context.Context, h *held, t *Tenant) error {
	err := a.write(ctx, func(ctx context.Context, tx *registryTx) ([]*Tenant, error) {
		op, err := operation(ctx, tx, t.ID)
		if err == nil && op == nil {
			_, err = tx.begin(ctx, t.ID, OpCreate, "", opArgs{Hook: a.cfg.Hooks.OnCreate != nil})
		}
		if err != nil {
			return nil, err
		}
		claimed, err := one(ctx, tx, selectByID, string(t.ID))
		switch {
		case err != nil:
			return nil, err
		case claimed.Status != t.Status:
			return nil, ErrChanged
		}
		if err := tx.update(ctx, claimed, EventClaimed, t.Slug, `status = $3, reason = ''`, string(Provisioning)); err != nil {
			return nil, err
		}
		claimed.Status, claimed.Reason = Provisioning, ""
		return []*Tenant{claimed}, nil
	})
	if err != nil {
		return err
	}
	_, err = a.goOn(ctx, h, true)
	return err
}

// repoint makes another store, which carries the tenant's ID, the tenant's.
func (a *App) repoint(ctx context.Context, t *Tenant, name string) error {
	store, err := backend.ParseStore(name)
	if err != nil {
		return err
	}
	return a.write(ctx, func(ctx context.Context, tx *registryTx) ([]*Tenant, error) {
		if err := tx.conflict(ctx, t.ID, t.Slug, store, nil); err != nil {
			return nil, err
		}
		moved, err := one(ctx, tx, selectByID, string(t.ID))
		switch {
		case err != nil:
			return nil, err
		case moved.Store != t.Store || moved.Slug != t.Slug:
			return nil, ErrChanged
		}
		if err := tx.update(ctx, moved, EventAdopted, t.Store.String()+" → "+name, `store = $3`, name); err != nil {
			return nil, err
		}
		moved.Store = store
		return []*Tenant{moved}, nil
	})
}

func (a *App) repairOrphan(ctx context.Context, f Finding) error {
	s, err := backend.ParseStore(f.Subject)
	if err != nil {
		return err
	}
	if orphan, err := a.isOrphan(ctx, s); err != nil || !orphan {
		return err
	}
	_, err = a.adopt(ctx, Spec{Store: f.Subject}, Suspended, "found without a tenant, and adopted by a repair")
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrConflict), errors.Is(err, ErrInvalid), errors.Is(err, backend.ErrStoreExists),
		errors.Is(err, errors.ErrUnsupported):
		_, err = a.SetAside(ctx, s)
	}
	return err
}

// repairLeftover looks the leftover up again: what is known of it may come from elsewhere.
func (a *App) repairLeftover(ctx context.Context, f Finding) error {
	sweeper, ok := a.be.(backend.Sweeper)
	if !ok {
		return ErrNoRepair
	}
	leftovers, err := sweeper.Leftovers(ctx)
	if err != nil {
		return err
	}
	for _, l := range leftovers {
		if l.Name == f.Subject {
			return sweeper.Sweep(ctx, l)
		}
	}
	return nil
}

func (a *App) repairFiles(ctx context.Context, f Finding) error {
	id, err := ParseID(f.Subject)
	if err != nil {
		return err
	}
	if a.files == nil {
		return fmt.Errorf("%w: this program has no FilesDir", ErrNoRepair)
	}
	if _, err := one(ctx, a.reg.db, selectByID, string(id)); !errors.Is(err, ErrNotFound) {
		return err
	}
	if err := a.files.Rename(string(id), asideDir(string(id))); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// asideDir is the name of a directory of files that was set aside.
func asideDir(name string) string { return "aside-" + name }
