package tenancy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/tenement-go/tenement/backend"
)

// FindingCode says what kind of fault was found. The texts are stable.
type FindingCode string

// The kinds of findings.
const (
	// FindingRegistryBehind: many stores belong to no tenant in the registry, which is empty or much older than they
	// are. It comes alone: what else would be found follows from it. Put the registry back, or adopt the stores.
	FindingRegistryBehind FindingCode = "registry-behind"
	// FindingFailed: a tenant's creation failed. Repair runs it again.
	FindingFailed FindingCode = "creation-failed"
	// FindingUnfinished: an operation was interrupted and nobody has gone on with it yet. Repair does.
	FindingUnfinished FindingCode = "operation-unfinished"
	// FindingStoreMissing: a tenant's store is not there. Where one store of another name carries the tenant's ID, Repair
	// makes that the tenant's; otherwise only a backup can mend it.
	FindingStoreMissing FindingCode = "store-missing"
	// FindingStoreForeign: the store at a tenant's place was made for another tenant. Where one store of another name
	// carries the tenant's ID, Repair makes that the tenant's; otherwise only an operator can tell which of them is right.
	FindingStoreForeign FindingCode = "store-foreign"
	// FindingStoreOrphan: a store belongs to no tenant. Repair adopts it as a suspended tenant, or sets it aside.
	FindingStoreOrphan FindingCode = "store-orphan"
	// FindingLedgerOrphan: the migrator's ledger names a store that is not there. Repair removes the entry.
	FindingLedgerOrphan FindingCode = "ledger-orphan"
	// FindingLeftover: the backend found something that belongs to no store: side files, temporary files, roles.
	// Repair removes it.
	FindingLeftover FindingCode = "leftover"
	// FindingAdvice: the backend works, and something about it should be different. Repair does what can be done.
	FindingAdvice FindingCode = "advice"
	// FindingSpare: a store that was made ahead is unfinished, kept by nobody or not there. Repair removes what is left of it.
	FindingSpare FindingCode = "spare"
	// FindingArrival: a move into this place has brought a store and is not over. It is under way, or waits to be resumed
	// (transfer.Move); what one that was given up has left can be set aside, see [App.SetAside].
	FindingArrival FindingCode = "arrival"
	// FindingFilesOrphan: a directory in FilesDir belongs to no tenant. Repair sets it aside; see [App.AsideDirs].
	FindingFilesOrphan FindingCode = "files-orphan"
)

// Finding is one fault that [App.Doctor] found. It may be sent elsewhere as JSON and repaired there.
type Finding struct {
	Code    FindingCode `json:"code"`
	Subject string      `json:"subject"`          // the slug, store, file or directory concerned
	Tenant  ID          `json:"tenant,omitempty"` // the tenant concerned; empty when there is none
	Detail  string      `json:"detail"`           // what is wrong
	// Repair says what [App.Repair] would do about it; empty when it cannot do anything.
	Repair string `json:"repair,omitempty"`
}

// Doctor compares registry, stores, ledger and files, and lists what does not fit. It changes nothing. What an
// operation under way has half done is not listed; see [App.Operations].
func (a *App) Doctor(ctx context.Context) ([]Finding, error) {
	c := &checkup{a: a, stores: map[string]backend.StoreInfo{}, claimed: map[string]bool{}, tenants: map[ID]bool{}}
	if err := c.run(backend.Apart(Leave(ctx))); err != nil {
		return nil, fmt.Errorf("tenement: doctor: %w", err)
	}
	return c.findings, nil
}

// checkup is one examination.
type checkup struct {
	a        *App
	stores   map[string]backend.StoreInfo
	tenants  map[ID]bool
	claimed  map[string]bool // stores that the registry says are a tenant's
	made     map[ID]bool     // stores made ahead, those that the registry does not know among them
	findings []Finding
}

func (c *checkup) run(ctx context.Context) error {
	// Stores first: one that is made after is not missed for its tenant.
	for info, err := range c.a.be.Stores(ctx) {
		if err != nil {
			return err
		}
		if !isAside(info.Store) {
			c.stores[info.Store.String()] = info
		}
	}
	suspects, err := c.readTenants(ctx)
	if err != nil {
		return err
	}
	if err := c.setSparesApart(ctx); err != nil {
		return err
	}
	c.setArrivalsApart()
	orphans, err := c.orphans(ctx)
	if err != nil {
		return err
	}
	if n := len(orphans); n >= 3 && 4*n >= len(c.stores) {
		c.findings = []Finding{{
			Code: FindingRegistryBehind, Subject: orphans[0].Subject,
			Detail: fmt.Sprintf("%d of %d stores belong to no tenant in the registry, %s the first of them: the registry is empty or much "+
				"older than the stores; put the registry back from a backup, or adopt the stores", n, len(c.stores), orphans[0].Subject),
		}}
		return nil
	}
	for _, f := range suspects {
		if err := c.again(ctx, f); err != nil {
			return err
		}
	}
	c.findings = append(c.findings, orphans...)
	for _, examine := range []func(context.Context) error{c.spares, c.arrivals, c.ledger, c.leftovers, c.files, c.advice} {
		if err := examine(ctx); err != nil {
			return err
		}
	}
	return nil
}

// readTenants returns what seems wrong with tenants, going by the list of the stores.
func (c *checkup) readTenants(ctx context.Context) (suspects []Finding, err error) {
	ops, err := c.a.Operations(ctx)
	if err != nil {
		return nil, err
	}
	under := map[ID]*Operation{}
	for i, op := range ops {
		under[op.Tenant] = &ops[i]
		if op.args.Store != "" {
			c.claimed[op.args.Store] = true
		}
	}
	for t, err := range c.a.Tenants(ctx, Filter{}) {
		if err != nil {
			return nil, err
		}
		c.tenants[t.ID] = true
		c.claimed[t.Store.String()] = true
		if f, ok := examine(&t, under[t.ID], c.stores[t.Store.String()], ""); ok {
			suspects = append(suspects, f)
		}
	}
	return suspects, nil
}

// examine finds what is wrong with one tenant. info is the store at its place, zero when there is none; own is the store of
// another name that Repair would make its own, or "".
func examine(t *Tenant, op *Operation, info backend.StoreInfo, own string) (Finding, bool) {
	f := Finding{Subject: t.Slug, Tenant: t.ID}
	exists := !info.Store.IsZero()
	switch {
	case op != nil && !op.Stopped:
		f.Code, f.Detail, f.Repair = FindingUnfinished, fmt.Sprintf("its %s was interrupted before the step %q", op.Kind, op.Step), "finishes it"
		if op.Error != "" {
			f.Detail = fmt.Sprintf("its %s does not get past the step %q: %s", op.Kind, op.Step, op.Error)
		}
	case t.Status == Provisioning || t.Status == Failed:
		f.Code, f.Detail, f.Repair = FindingFailed, "its creation failed: "+t.Reason, "creates it anew, with an empty store"
	case !exists:
		f.Code, f.Detail = FindingStoreMissing, fmt.Sprintf("its store %s is not there; put it back from a backup, or delete and purge the tenant", t.Store)
		if t.Status == Deleted {
			f.Detail = fmt.Sprintf("its store %s is not there, and it is deleted; purge it", t.Store)
		}
		if own != "" {
			f.Detail = fmt.Sprintf("its store %s is not there, and the store %s is its own by the stamp", t.Store, own)
			f.Repair = "makes " + own + " its store"
		}
	case t.Status == Deleted && t.ofSpare() && info.Owner == spareOwner(t.ID):
		return f, false // its creation failed before the spare was stamped; the purge removes it
	case info.Owner != string(t.ID):
		f.Code = FindingStoreForeign
		f.Detail = fmt.Sprintf("its store %s was made for the tenant with the ID %s; its own ID is %s", t.Store, info.Owner, t.ID)
		if own != "" {
			f.Detail += ", which the store " + own + " has"
			f.Repair = "makes " + own + " its store, and does the same for a tenant at whose place that is"
		}
	default:
		return f, false
	}
	return f, true
}

// storeOf returns the one store that carries the ID, or "".
func storeOf(id ID, stores map[string]backend.StoreInfo) (found string) {
	for name, info := range stores {
		if info.Owner == string(id) {
			if found != "" {
				return ""
			}
			found = name
		}
	}
	return found
}

// again looks at a tenant once more, while holding its lock. When the lock cannot be had, somebody is at work on it.
func (c *checkup) again(ctx context.Context, f Finding) error {
	_, err := c.a.tryTenant(ctx, "examine", f.Tenant, func(ctx context.Context, _ *held) error {
		now, _, wrong, err := c.a.recheck(ctx, f, c.stores)
		if err == nil && wrong {
			c.findings = append(c.findings, now)
		}
		return err
	})
	return err
}

// recheck finds the present state of what f is about, and what gives the tenant its own store back. The caller holds the
// tenant's lock. stores are those that there are, as they were listed.
func (a *App) recheck(ctx context.Context, f Finding, stores map[string]backend.StoreInfo) (now Finding, moves []move, wrong bool, err error) {
	t, err := one(ctx, a.reg.db, selectByID, string(f.Tenant))
	if errors.Is(err, ErrNotFound) {
		return f, nil, false, nil
	}
	if err != nil {
		return f, nil, false, err
	}
	op, err := operation(ctx, a.reg.db, f.Tenant)
	if err != nil {
		return f, nil, false, err
	}
	info, err := a.be.Stat(ctx, t.Store)
	if err != nil && !errors.Is(err, backend.ErrStoreMissing) {
		return f, nil, false, err
	}
	if op == nil && info.Owner != string(t.ID) {
		if moves, err = a.regain(ctx, t, stores); err != nil {
			return f, nil, false, err
		}
	}
	own := ""
	if len(moves) > 0 {
		own = moves[0].to.String()
	}
	now, wrong = examine(t, op, info, own)
	return now, moves, wrong, nil
}

func (c *checkup) orphans(ctx context.Context) (findings []Finding, err error) {
	for _, name := range slices.Sorted(maps.Keys(c.stores)) {
		if c.claimed[name] {
			continue
		}
		info := c.stores[name]
		if t, err := one(ctx, c.a.reg.db, selectByID, info.Owner); err == nil {
			if c.stores[t.Store.String()].Owner != string(t.ID) && storeOf(t.ID, c.stores) == name {
				continue // it is found with the tenant, whose store it is
			}
		} else if !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		// It may have been given to a tenant since the tenants were listed, or be gone.
		switch orphan, err := c.a.isOrphan(ctx, info.Store); {
		case err != nil:
			return nil, err
		case orphan:
			findings = append(findings, Finding{
				Code: FindingStoreOrphan, Subject: name,
				Detail: "the store belongs to no tenant in the registry (its owner's ID: " + info.Owner + ")",
				Repair: "adopts it as a suspended tenant, or sets it aside when that cannot be",
			})
		}
	}
	return findings, nil
}

// isOrphan reports whether the store is there and no tenant's, be it by the registry or, where that has another for the
// tenant which is not the tenant's, by its stamp.
func (a *App) isOrphan(ctx context.Context, s backend.Store) (bool, error) {
	info, err := a.be.Stat(ctx, s)
	if errors.Is(err, backend.ErrStoreMissing) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	if claimed, err := a.isClaimed(ctx, s); err != nil || claimed || isArrival(info.Owner) {
		return false, err
	}
	lost, err := a.isLost(ctx, ID(info.Owner))
	return !lost, err
}

// isLost reports whether the registry has a tenant of that ID, and no store that carries it.
func (a *App) isLost(ctx context.Context, id ID) (bool, error) {
	if _, err := ParseID(string(id)); err != nil {
		return false, nil
	}
	t, err := one(ctx, a.reg.db, selectByID, string(id))
	if errors.Is(err, ErrNotFound) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	info, err := a.be.Stat(ctx, t.Store)
	if err != nil && !errors.Is(err, backend.ErrStoreMissing) {
		return false, err
	}
	return info.Owner != string(id), nil
}

// isClaimed reports whether the registry says that the store is a tenant's, or is to be, or a spare.
func (a *App) isClaimed(ctx context.Context, s backend.Store) (claimed bool, err error) {
	err = a.reg.db.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM tenement_tenants WHERE store = $1)
		OR EXISTS (SELECT 1 FROM tenement_operations WHERE slug = $1) OR EXISTS (SELECT 1 FROM tenement_spares WHERE id = $1)`, s.String()).Scan(&claimed)
	return claimed, err
}

// ledger finds entries of stores that are not there. That of a tenant's store is left to the tenant.
func (c *checkup) ledger(ctx context.Context) error {
	entered, err := c.a.migrator.Stores(ctx)
	if err != nil {
		return err
	}
	for _, s := range entered {
		if _, exists := c.stores[s.String()]; exists || c.claimed[s.String()] {
			continue
		}
		orphan, err := c.a.isLedgerOrphan(ctx, s)
		if err != nil {
			return err
		}
		if orphan {
			c.findings = append(c.findings, Finding{
				Code: FindingLedgerOrphan, Subject: s.String(), Detail: "the migrator's ledger has a store that is not there",
				Repair: "removes the entry",
			})
		}
	}
	return nil
}

func (a *App) isLedgerOrphan(ctx context.Context, s backend.Store) (bool, error) {
	if _, err := a.be.Stat(ctx, s); !errors.Is(err, backend.ErrStoreMissing) {
		return false, err
	}
	claimed, err := a.isClaimed(ctx, s)
	return !claimed, err
}

func (c *checkup) leftovers(ctx context.Context) error {
	sweeper, ok := c.a.be.(backend.Sweeper)
	if !ok {
		return nil
	}
	leftovers, err := sweeper.Leftovers(ctx)
	for _, l := range leftovers {
		c.findings = append(c.findings, Finding{
			Code: FindingLeftover, Subject: l.Name, Detail: l.Kind + ": " + l.Detail, Repair: "removes it",
		})
	}
	return err
}

func (c *checkup) advice(ctx context.Context) error {
	advisor, ok := c.a.be.(backend.Advisor)
	if !ok {
		return nil
	}
	advice, err := advisor.Advise(ctx)
	for _, d := range advice {
		c.findings = append(c.findings, Finding{Code: FindingAdvice, Subject: string(c.a.be.Dialect()), Detail: d.Text, Repair: d.Mend})
	}
	return err
}

func (c *checkup) files(ctx context.Context) error {
	if c.a.files == nil {
		return nil
	}
	entries, err := fs.ReadDir(c.a.files.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		id, err := ParseID(e.Name())
		if err != nil || c.tenants[id] {
			continue // not ours, or in use
		}
		switch _, err := one(ctx, c.a.reg.db, selectByID, string(id)); {
		case errors.Is(err, ErrNotFound):
			c.findings = append(c.findings, Finding{
				Code: FindingFilesOrphan, Subject: e.Name(), Detail: "a directory of files belongs to no tenant in the registry",
				Repair: "renames it to " + asideDirPrefix + e.Name() + "-…",
			})
		case err != nil:
			return err
		}
	}
	return nil
}
