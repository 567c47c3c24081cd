package tenancy

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tenement-go/tenement/backend"
)

// ErrNoRepair means that the fault cannot be repaired without an operator's decision; the finding's Detail says what to do.
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
	case FindingFailed, FindingUnfinished, FindingStoreMissing, FindingStoreForeign:
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
	case FindingSpare:
		return a.repairSpare(ctx, ID(f.Subject))
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
		stores, err := a.storesFor(ctx, f)
		if err != nil {
			return err
		}
		now, moves, wrong, err := a.recheck(ctx, f, stores)
		if err != nil || !wrong || now.Code != f.Code {
			return err
		}
		switch {
		case len(moves) > 0:
			return a.repoint(ctx, moves)
		case f.Code == FindingStoreMissing || f.Code == FindingStoreForeign:
			return fmt.Errorf("%w: %s", ErrNoRepair, now.Detail)
		case f.Code == FindingFailed:
			return a.createAgain(ctx, h)
		}
		_, err = a.goOn(ctx, h, true)
		return err
	})
}

// storesFor lists the stores where a finding is about one that is elsewhere.
func (a *App) storesFor(ctx context.Context, f Finding) (map[string]backend.StoreInfo, error) {
	if f.Code != FindingStoreMissing && f.Code != FindingStoreForeign {
		return nil, nil
	}
	stores := map[string]backend.StoreInfo{}
	for info, err := range a.be.Stores(ctx) {
		if err != nil {
			return nil, err
		}
		if !isAside(info.Store) {
			stores[info.Store.String()] = info
		}
	}
	return stores, nil
}

// createAgain runs a creation that failed once more, as it was asked for. One whose operation is gone, because the tenant
// was deleted in between, has no seed any more.
func (a *App) createAgain(ctx context.Context, h *held) error {
	err := a.write(ctx, func(ctx context.Context, tx *registryTx) ([]*Tenant, error) {
		op, err := operation(ctx, tx, h.id)
		if err == nil && op == nil {
			_, err = tx.begin(ctx, h.id, OpCreate, "", opArgs{Hook: a.cfg.Hooks.OnCreate != nil})
		}
		if err != nil {
			return nil, err
		}
		claimed, err := one(ctx, tx, selectByID, string(h.id))
		switch {
		case err != nil:
			return nil, err
		case claimed.Status != Provisioning && claimed.Status != Failed:
			return nil, ErrChanged
		}
		if err := tx.update(ctx, claimed, EventClaimed, claimed.Slug, `status = $3, reason = ''`, string(Provisioning)); err != nil {
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

// move makes a store, which carries the tenant's ID, the tenant's.
type move struct {
	t  *Tenant
	to backend.Store
}

// regain returns what gives a tenant at whose place there is no store, or another's, the one that carries its ID. Where that
// is at the place of another tenant, that one gets its own in the same way: a registry that was put back from a backup
// may have the places of before some renames. It returns nil when the stamps do not tell, or a tenant that something is
// being done to would lose its place.
func (a *App) regain(ctx context.Context, t *Tenant, stores map[string]backend.StoreInfo) (moves []move, err error) {
	for next := t; ; {
		own := storeOf(next.ID, stores)
		if own == "" {
			return nil, nil
		}
		moves = append(moves, move{next, stores[own].Store})
		holder, err := one(ctx, a.reg.db, selectByStore, own)
		if errors.Is(err, ErrNotFound) {
			if claimed, err := a.isClaimed(ctx, stores[own].Store); err != nil || claimed { // by a rename
				return nil, err
			}
			return moves, nil
		}
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(moves, func(m move) bool { return m.t.ID == holder.ID }) {
			return moves, nil
		}
		if op, err := operation(ctx, a.reg.db, holder.ID); err != nil || op != nil {
			return nil, err
		}
		next = holder
	}
}

// repoint does moves, all of them or none, and has the ledger know.
func (a *App) repoint(ctx context.Context, moves []move) error {
	err := a.write(ctx, func(ctx context.Context, tx *registryTx) (after []*Tenant, err error) {
		for _, m := range moves {
			// No two tenants have one place, not even within the transaction; no store has such a name.
			_, err := tx.ExecContext(ctx, `UPDATE tenement_tenants SET store = $2 WHERE id = $1 AND store = $3`,
				string(m.t.ID), "-"+string(m.t.ID), m.t.Store.String())
			if err != nil {
				return nil, err
			}
		}
		for _, m := range moves {
			moved := *m.t
			switch err := tx.update(ctx, &moved, EventAdopted, m.t.Store.String()+" → "+m.to.String(), `store = $3`, m.to.String()); {
			case errors.Is(err, errRetry):
				return nil, ErrChanged // since it was looked at
			case err != nil:
				return nil, err
			}
			moved.Store = m.to
			after = append(after, &moved)
		}
		return after, nil
	})
	if err != nil {
		return err
	}
	stores := make([]backend.Store, len(moves))
	for i, m := range moves {
		stores[i] = m.to
	}
	return a.migrator.Enter(ctx, stores...)
}

func (a *App) repairOrphan(ctx context.Context, f Finding) error {
	s, err := backend.ParseStore(f.Subject)
	if err != nil {
		return err
	}
	if orphan, err := a.isOrphan(ctx, s); err != nil || !orphan {
		return err
	}
	spec := Spec{Store: f.Subject}
	if _, err := ParseID(f.Subject); err == nil {
		spec.Slug = "found-" + f.Subject[len(f.Subject)-12:] // it was made of a spare, and no slug looks like an ID
	}
	_, err = a.adopt(ctx, spec, Suspended, "found without a tenant, and adopted by a repair")
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
	if arriving, err := a.isArriving(ctx, id); err != nil || arriving {
		return err
	}
	_, err = a.setFilesAside(id)
	return err
}
