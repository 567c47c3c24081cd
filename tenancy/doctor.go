package tenancy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/tenement-go/tenement/backend"
)

// FindingCode says what kind of fault was found. The texts are stable.
type FindingCode string

// The kinds of findings.
const (
	// FindingHalfMade: a tenant's creation was interrupted, or failed. Repair runs it again.
	FindingHalfMade FindingCode = "tenant-half-made"
	// FindingRename: a rename was interrupted. Repair finishes it.
	FindingRename FindingCode = "rename-unfinished"
	// FindingPurge: a purge was interrupted. Repair finishes it.
	FindingPurge FindingCode = "purge-unfinished"
	// FindingStoreMissing: a tenant's store is not there. Only a backup can mend that.
	FindingStoreMissing FindingCode = "store-missing"
	// FindingStoreForeign: the store at a tenant's place was made for another tenant. Only an operator can tell which
	// of them is right.
	FindingStoreForeign FindingCode = "store-foreign"
	// FindingStoreOrphan: a store belongs to no tenant. Repair removes it with all that is in it.
	FindingStoreOrphan FindingCode = "store-orphan"
	// FindingLedgerOrphan: the migrator's ledger names a store that is not there. Repair removes the entry.
	FindingLedgerOrphan FindingCode = "ledger-orphan"
	// FindingLeftover: the backend found something that belongs to no store: side files, temporary files, roles.
	// Repair removes it.
	FindingLeftover FindingCode = "leftover"
	// FindingFilesOrphan: a directory in FilesDir belongs to no tenant. Repair removes it with all that is in it.
	FindingFilesOrphan FindingCode = "files-orphan"
)

// Finding is one fault that [App.Doctor] found.
type Finding struct {
	Code    FindingCode `json:"code"`
	Subject string      `json:"subject"` // the slug, store, file or directory concerned
	Detail  string      `json:"detail"`  // what is wrong
	// Repair says what [App.Repair] would do about it; empty when it cannot do anything.
	Repair string `json:"repair,omitempty"`

	id       ID
	leftover backend.Leftover
}

// busyAfter is how long a lock must be held against Doctor for it to take the operation as being under way. A server
// may need a moment to notice that a client died.
const busyAfter = 3 * time.Second

// Doctor compares registry, stores, ledger and files, and lists what does not fit. It changes nothing. What an
// operation under way has half done is not listed.
func (a *App) Doctor(ctx context.Context) ([]Finding, error) {
	ctx = Leave(ctx)
	findings, err := a.examine(ctx)
	if err != nil {
		return nil, fmt.Errorf("tenement: doctor: %w", err)
	}
	return findings, nil
}

func (a *App) examine(ctx context.Context) ([]Finding, error) {
	// Stores first: one that is made after is not missed for its tenant.
	stores := map[string]backend.StoreInfo{}
	for info, err := range a.be.Stores(ctx) {
		if err != nil {
			return nil, err
		}
		stores[info.Store.String()] = info
	}
	var findings []Finding
	var suspects []Finding // found without a lock: to be looked at again
	claimed, tenants := map[string]bool{}, map[ID]bool{}
	for t, err := range a.Tenants(ctx, Filter{}) {
		if err != nil {
			return nil, err
		}
		tenants[t.ID] = true
		claimed[t.Store.String()] = true
		claimed[t.pending.store.String()] = true
		if f, ok := a.examineTenant(&t, stores); ok {
			suspects = append(suspects, f)
		}
	}
	for _, f := range suspects {
		again, err := a.reexamine(ctx, f)
		if err != nil {
			return nil, err
		}
		findings = append(findings, again...)
	}
	for _, name := range slices.Sorted(maps.Keys(stores)) {
		if claimed[name] {
			continue
		}
		// It may have been given to a tenant since the tenants were listed, or be gone.
		if orphan, err := a.isOrphan(ctx, stores[name].Store); err != nil {
			return nil, err
		} else if orphan {
			findings = append(findings, Finding{
				Code: FindingStoreOrphan, Subject: name,
				Detail: "the store belongs to no tenant in the registry (its owner's ID: " + stores[name].Owner + ")",
				Repair: "removes the store and all that is in it",
			})
		}
	}
	for _, examine := range []func() ([]Finding, error){
		func() ([]Finding, error) { return a.orphansInLedger(ctx, stores, claimed) },
		func() ([]Finding, error) { return a.leftovers(ctx) },
		func() ([]Finding, error) { return a.orphanFiles(ctx, tenants) },
	} {
		more, err := examine()
		if err != nil {
			return nil, err
		}
		findings = append(findings, more...)
	}
	return findings, nil
}

// examineTenant finds what is wrong with one tenant, going by a list of the stores.
func (a *App) examineTenant(t *Tenant, stores map[string]backend.StoreInfo) (Finding, bool) {
	f := Finding{Subject: t.Slug, id: t.ID}
	info, exists := stores[t.Store.String()]
	switch {
	case t.pending.kind == opRename:
		f.Code, f.Detail = FindingRename, fmt.Sprintf("its rename from %s was interrupted", t.pending.slug)
		f.Repair = fmt.Sprintf("finishes it: moves the store from %s to %s", t.Store, t.pending.store)
	case t.pending.kind == opPurge:
		f.Code, f.Detail, f.Repair = FindingPurge, "its purge was interrupted", "finishes it: removes the tenant for good"
	case t.Status == Provisioning:
		f.Code, f.Detail, f.Repair = FindingHalfMade, "its creation was interrupted", "creates it anew, with an empty store"
	case t.Status == Failed:
		f.Code, f.Detail, f.Repair = FindingHalfMade, "its creation failed: "+t.Reason, "creates it anew, with an empty store"
	case !exists:
		f.Code, f.Detail = FindingStoreMissing, fmt.Sprintf("its store %s is not there; put it back from a backup, or delete and purge the tenant", t.Store)
		if t.Status == Deleted {
			f.Detail = fmt.Sprintf("its store %s is not there, and it is deleted; purge it", t.Store)
		}
	case info.Owner != string(t.ID):
		f.Code = FindingStoreForeign
		f.Detail = fmt.Sprintf("its store %s was made for the tenant with the ID %s; its own ID is %s", t.Store, info.Owner, t.ID)
	default:
		return f, false
	}
	return f, true
}

// reexamine looks at a tenant again while holding its lock. When the lock cannot be had, somebody is at work on it.
func (a *App) reexamine(ctx context.Context, f Finding) ([]Finding, error) {
	unlock, err := a.tryLock(ctx, f.Subject)
	if err != nil || unlock == nil {
		return nil, err
	}
	defer unlock()
	_, f, ok, err := a.recheck(ctx, f)
	if err != nil || !ok {
		return nil, err
	}
	return []Finding{f}, nil
}

func (a *App) tryLock(ctx context.Context, slug string) (unlock func(), err error) {
	short, cancel := context.WithTimeout(ctx, busyAfter)
	defer cancel()
	unlock, err = a.lock(short, slug)
	if err != nil && short.Err() != nil && ctx.Err() == nil {
		return nil, nil
	}
	return unlock, err
}

// recheck finds the present state of what f is about. The caller holds the tenant's lock.
func (a *App) recheck(ctx context.Context, f Finding) (*Tenant, Finding, bool, error) {
	t, err := one(ctx, a.reg.db, selectByID, string(f.id))
	if errors.Is(err, ErrNotFound) {
		return nil, f, false, nil
	}
	if err != nil {
		return nil, f, false, err
	}
	stores := map[string]backend.StoreInfo{}
	switch info, err := a.be.Stat(ctx, t.Store); {
	case err == nil:
		stores[t.Store.String()] = info
	case !errors.Is(err, backend.ErrStoreMissing):
		return nil, f, false, err
	}
	f, ok := a.examineTenant(t, stores)
	return t, f, ok, nil
}

// isOrphan reports whether the store is there and no tenant's.
func (a *App) isOrphan(ctx context.Context, s backend.Store) (bool, error) {
	if _, err := a.be.Stat(ctx, s); errors.Is(err, backend.ErrStoreMissing) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	claimed, err := a.isClaimed(ctx, s)
	return !claimed, err
}

// isClaimed reports whether the registry says that the store is a tenant's.
func (a *App) isClaimed(ctx context.Context, s backend.Store) (bool, error) {
	var n int
	err := a.reg.db.QueryRowContext(ctx, `SELECT count(*) FROM tenement_tenants WHERE store = $1 OR op_store = $1`, s.String()).Scan(&n)
	return n > 0, err
}

func (a *App) leftovers(ctx context.Context) ([]Finding, error) {
	sweeper, ok := a.be.(backend.Sweeper)
	if !ok {
		return nil, nil
	}
	leftovers, err := sweeper.Leftovers(ctx)
	if err != nil {
		return nil, err
	}
	var findings []Finding
	for _, l := range leftovers {
		findings = append(findings, Finding{
			Code: FindingLeftover, Subject: l.Name, Detail: l.Kind + ": " + l.Detail, Repair: "removes it", leftover: l,
		})
	}
	return findings, nil
}

func (a *App) orphanFiles(ctx context.Context, tenants map[ID]bool) ([]Finding, error) {
	if a.files == nil {
		return nil, nil
	}
	entries, err := fs.ReadDir(a.files.FS(), ".")
	if err != nil {
		return nil, err
	}
	var findings []Finding
	for _, e := range entries {
		id, err := ParseID(e.Name())
		if err != nil || tenants[id] {
			continue // not ours, or in use
		}
		switch _, err := one(ctx, a.reg.db, selectByID, string(id)); {
		case errors.Is(err, ErrNotFound):
			findings = append(findings, Finding{
				Code: FindingFilesOrphan, Subject: e.Name(), Detail: "a directory of files belongs to no tenant in the registry",
				Repair: "removes it and all that is in it", id: id,
			})
		case err != nil:
			return nil, err
		}
	}
	return findings, nil
}

// orphansInLedger finds entries of stores that are not there. That of a tenant's store is left to the tenant.
func (a *App) orphansInLedger(ctx context.Context, stores map[string]backend.StoreInfo, claimed map[string]bool) ([]Finding, error) {
	entered, err := a.migrator.Stores(ctx)
	if err != nil {
		return nil, err
	}
	var findings []Finding
	for _, s := range entered {
		if _, exists := stores[s.String()]; exists || claimed[s.String()] {
			continue
		}
		orphan, err := a.isLedgerOrphan(ctx, s)
		if err != nil {
			return nil, err
		}
		if orphan {
			findings = append(findings, Finding{
				Code: FindingLedgerOrphan, Subject: s.String(), Detail: "the migrator's ledger has a store that is not there",
				Repair: "removes the entry",
			})
		}
	}
	return findings, nil
}

func (a *App) isLedgerOrphan(ctx context.Context, s backend.Store) (bool, error) {
	if _, err := a.be.Stat(ctx, s); !errors.Is(err, backend.ErrStoreMissing) {
		return false, err
	}
	claimed, err := a.isClaimed(ctx, s)
	return !claimed, err
}

// ErrNoRepair: the fault cannot be repaired without an operator's decision; the finding's Detail says what to do.
var ErrNoRepair = errors.New("cannot be repaired automatically")

// Repair does what f.Repair says, after having made sure that the fault is still there. It returns nil when it is not,
// and an error that wraps ErrNoRepair when there is nothing that it could do.
func (a *App) Repair(ctx context.Context, f Finding) error {
	if err := a.repair(Leave(ctx), f); err != nil {
		return fmt.Errorf("tenement: repair %s (%s): %w", f.Subject, f.Code, err)
	}
	return nil
}

func (a *App) repair(ctx context.Context, f Finding) error {
	switch f.Code {
	case FindingHalfMade, FindingRename, FindingPurge:
		return a.repairTenant(ctx, f)
	case FindingStoreOrphan:
		s, err := backend.ParseStore(f.Subject)
		if err != nil {
			return err
		}
		// Whoever makes a store holds the lock of a slug; stores are named after slugs unless told otherwise, and in
		// that case the owner decides.
		unlock, err := a.lock(ctx, f.Subject)
		if err != nil {
			return err
		}
		defer unlock()
		orphan, err := a.isOrphan(ctx, s)
		if err != nil || !orphan {
			return err
		}
		info, err := a.be.Stat(ctx, s)
		if err == nil {
			err = a.be.Drop(ctx, backend.Route{Store: s, Owner: info.Owner})
		}
		if err != nil && !errors.Is(err, backend.ErrStoreMissing) {
			return err
		}
		return a.migrator.Forget(ctx, s)
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
		sweeper, ok := a.be.(backend.Sweeper)
		if !ok {
			return ErrNoRepair
		}
		return sweeper.Sweep(ctx, f.leftover)
	case FindingFilesOrphan:
		if _, err := one(ctx, a.reg.db, selectByID, string(f.id)); !errors.Is(err, ErrNotFound) || a.files == nil {
			return err
		}
		return a.files.RemoveAll(string(f.id))
	}
	return fmt.Errorf("%w: %s", ErrNoRepair, f.Detail)
}

func (a *App) repairTenant(ctx context.Context, f Finding) error {
	unlock, err := a.lock(ctx, f.Subject)
	if err != nil {
		return err
	}
	defer unlock()
	t, now, ok, err := a.recheck(ctx, f)
	if err != nil || !ok || now.Code != f.Code {
		return err
	}
	switch f.Code {
	case FindingRename:
		_, err = a.finishRename(ctx, t, true)
	case FindingPurge:
		err = a.finishPurge(ctx, t, true)
	default:
		a.lives.learn(t)
		_, err = a.provision(ctx, t, true)
	}
	return err
}
