package migrate

import (
	"context"
	"fmt"

	"github.com/tenement-go/tenement/backend"
)

// Status says how far the stores are. It marshals to JSON.
type Status struct {
	Shared  SharedStatus `json:"shared"`
	Tenants TenantStatus `json:"tenants"`
	// Groups are the sets of stores that have the same migrations, the largest first.
	Groups []GroupStatus `json:"groups"`
	// Failures are the stores that failed when they were last tried; at most 100.
	Failures []FailureStatus `json:"failures,omitempty"`
	// Drift is where ledger, stores and binary disagree.
	Drift []Drift `json:"drift,omitempty"`
}

// SharedStatus is the state of the shared set.
type SharedStatus struct {
	Current bool               `json:"current"`
	Pending []PendingMigration `json:"pending,omitempty"`
}

// TenantStatus counts stores. Total is the sum of Current and Pending; the failed are among the pending.
type TenantStatus struct {
	Total   int `json:"total"`
	Current int `json:"current"`
	Pending int `json:"pending"`
	Failed  int `json:"failed"`
}

// PendingMigration is a migration that is not applied.
type PendingMigration struct {
	Source  string `json:"source"`
	Version int64  `json:"version"`
	File    string `json:"file,omitempty"`
}

// GroupStatus describes stores that have the same migrations.
type GroupStatus struct {
	Fingerprint string             `json:"fingerprint"`
	Stores      int                `json:"stores"`
	First       string             `json:"first"` // the first of them by name
	Failed      int                `json:"failed"`
	Known       bool               `json:"known"` // false: what they have has not been looked up
	Pending     []PendingMigration `json:"pending,omitempty"`
}

// FailureStatus is the last failure of a store.
type FailureStatus struct {
	Store    string `json:"store"`
	Source   string `json:"source,omitempty"`
	Version  int64  `json:"version,omitempty"`
	SQLState string `json:"sqlstate,omitempty"`
	Error    string `json:"error"`
}

// DriftKind says what disagrees.
type DriftKind string

// The kinds of drift.
const (
	DriftEdited  DriftKind = "edited"  // the file was changed after it was applied
	DriftUnknown DriftKind = "unknown" // a version is applied that this binary does not have
	DriftInvalid DriftKind = "invalid" // an index that the version makes is invalid: a CREATE INDEX CONCURRENTLY failed
	DriftLedger  DriftKind = "ledger"  // the store has the version and the ledger says it has not, or the reverse
)

// Drift is one disagreement.
type Drift struct {
	Kind    DriftKind `json:"kind"`
	Set     Set       `json:"set"`
	Source  string    `json:"source"`
	Version int64     `json:"version"`
	File    string    `json:"file,omitempty"`
	Stores  int       `json:"stores"` // how many are concerned
	First   string    `json:"first"`  // the first of them by name; empty for the shared store
}

// Status reads the ledger. Its cost does not depend on the number of stores. Where there are several places and one cannot be
// asked, it returns what the others say, and an error that names that place.
func (m *Migrator) Status(ctx context.Context) (*Status, error) {
	if m.parts != nil {
		return m.statusOfPlaces(ctx)
	}
	st := &Status{Groups: []GroupStatus{}}
	exists, err := m.openLedger(ctx)
	if err != nil {
		return nil, err
	}
	var groups []group
	var shared *group
	if exists {
		if groups, shared, err = m.ledger.groups(ctx); err != nil {
			return nil, err
		}
	}
	if shared == nil {
		shared = &group{state: state{}, stores: 1}
	}
	todo, _ := m.shared.pending(shared.state, limit{})
	st.Shared = SharedStatus{Current: len(todo) == 0, Pending: pendingList(todo)}
	st.Drift = m.shared.drift(*shared, st.Drift)
	for _, g := range groups {
		todo, _ := m.tenant.pending(g.state, limit{})
		st.Tenants.Total += g.stores
		st.Tenants.Failed += g.failed
		if len(todo) == 0 && g.state != nil {
			st.Tenants.Current += g.stores - g.failed
			st.Tenants.Pending += g.failed // they have the versions, and something is wrong with them
		} else {
			st.Tenants.Pending += g.stores
		}
		st.Groups = append(st.Groups, GroupStatus{
			Fingerprint: g.fingerprint, Stores: g.stores, First: g.first, Failed: g.failed, Known: g.state != nil, Pending: pendingList(todo),
		})
		st.Drift = m.tenant.drift(g, st.Drift)
	}
	if st.Tenants.Failed+shared.failed > 0 {
		if st.Failures, err = m.ledger.failures(ctx); err != nil {
			return nil, err
		}
		if st.Drift, err = m.ledger.invalid(ctx, st.Drift); err != nil {
			return nil, err
		}
	}
	return st, nil
}

func pendingList(todo []*migration) []PendingMigration {
	var list []PendingMigration
	for _, m := range todo {
		list = append(list, PendingMigration{Source: m.source.name, Version: m.version, File: m.file})
	}
	return list
}

func addDrift(list []Drift, d Drift) []Drift {
	for i := range list {
		if l := &list[i]; l.Kind == d.Kind && l.Set == d.Set && l.Source == d.Source && l.Version == d.Version {
			l.Stores += d.Stores
			l.First = min(l.First, d.First)
			return list
		}
	}
	return append(list, d)
}

// ledgerDrift adds to list what differs between the ledger and a store. A ledger that did not know was not wrong.
func ledgerDrift(store backend.Store, ledger, have state, list []Drift) []Drift {
	if ledger == nil {
		return list
	}
	for _, pair := range [][2]state{{ledger, have}, {have, ledger}} {
		for name, versions := range pair[0] {
			for _, a := range versions {
				if !pair[1].has(name, a.Version) {
					list = addDrift(list, Drift{Kind: DriftLedger, Set: SetTenant, Source: name, Version: a.Version, Stores: 1, First: store.String()})
				}
			}
		}
	}
	return list
}

// Verify asks every store, or those that opt names, which versions it has, and corrects the ledger. Stores of the backend
// that are not in the ledger are entered, unless they are somebody else's to enter (see [Config].Ahead): one that is named fails
// then, with ErrUnentered. The result's Drift says where the ledger was wrong, and which stores have an
// index that is invalid; a row whose store is gone counts as missing (see Forget), and one of a name that another owner's store
// has by now becomes that store's. Unlike Status it visits each store.
func (m *Migrator) Verify(ctx context.Context, opt Fleet) (*Result, error) {
	return m.verify(ctx, options{Fleet: opt})
}

// Enter has the ledger know of stores that the caller has made or filled by other means than this package's, and that are whole
// by now: each is asked which versions it has. [Config].Ahead is not asked.
func (m *Migrator) Enter(ctx context.Context, stores ...backend.Store) error {
	if len(stores) == 0 {
		return nil
	}
	_, err := m.verify(ctx, options{Fleet: Fleet{Stores: stores}, filled: true})
	return err
}

func (m *Migrator) verify(ctx context.Context, opt options) (*Result, error) {
	if m.parts != nil {
		return m.inPlaces(ctx, opt.Fleet, func(m *Migrator, own Fleet) (*Result, error) {
			return m.verify(ctx, options{Fleet: own, filled: opt.filled})
		})
	}
	ctx = backend.Apart(ctx)
	if err := m.ensureLedger(ctx); err != nil {
		return nil, err
	}
	f := m.newFleet(opt, m.look())
	f.verify = true
	var others []entry
	if len(opt.Stores) == 0 {
		entered, err := m.Stores(ctx)
		if err != nil {
			return nil, err
		}
		known := make(map[backend.Store]bool, len(entered))
		for _, s := range entered {
			known[s] = true
		}
		for info, err := range m.be.Stores(ctx) {
			if err != nil {
				return nil, err
			}
			if known[info.Store] {
				continue
			}
			alone, err := m.leftAlone(ctx, info)
			if err != nil {
				return nil, err
			}
			if !alone {
				others = append(others, entry{store: info.Store, owner: info.Owner})
			}
		}
	}
	if err := f.overAll(ctx, others); err != nil {
		return nil, err
	}
	return f.do(ctx)
}

// drift adds to list what differs between a group of stores and the binary.
func (s *set) drift(g group, list []Drift) []Drift {
	add := func(d Drift) {
		d.Set, d.Stores, d.First = s.kind, g.stores, g.first
		list = addDrift(list, d)
	}
	for name, versions := range g.state {
		src := s.find(name)
		for _, a := range versions {
			var mig *migration
			if src != nil {
				mig = src.find(a.Version)
			}
			switch {
			case mig == nil:
				add(Drift{Kind: DriftUnknown, Source: name, Version: a.Version})
			case mig.sum != a.Sum && a.Sum != "?":
				add(Drift{Kind: DriftEdited, Source: name, Version: a.Version, File: mig.file})
			}
		}
	}
	return list
}

// invalid adds to list the indexes that were found to be invalid.
func (l *ledger) invalid(ctx context.Context, list []Drift) ([]Drift, error) {
	fault := func(err error) error { return fmt.Errorf("tenement: migrate: reading the ledger: %w", err) }
	rows, err := l.db.QueryContext(ctx, l.dialect.bind(`SELECT CASE WHEN store = '' THEN 1 ELSE 0 END, failed_source, failed_version, count(*), min(store)
		FROM tenement_ledger WHERE failed_error LIKE ? GROUP BY 1, 2, 3 ORDER BY 1, 2, 3`), ErrInvalidIndex.Error()+"%")
	if err != nil {
		return nil, fault(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		d := Drift{Kind: DriftInvalid}
		var shared int
		if err := rows.Scan(&shared, &d.Source, &d.Version, &d.Stores, &d.First); err != nil {
			return nil, fault(err)
		}
		if shared == 1 {
			d.Set = SetShared
		}
		list = append(list, d)
	}
	if err := rows.Err(); err != nil {
		return nil, fault(err)
	}
	return list, nil
}

// failures returns the first hundred stores that failed.
func (l *ledger) failures(ctx context.Context) ([]FailureStatus, error) {
	rows, err := l.db.QueryContext(ctx, `SELECT store, failed_source, failed_version, failed_state, failed_error
		FROM tenement_ledger WHERE failed_error <> '' ORDER BY store LIMIT 100`)
	if err != nil {
		return nil, fmt.Errorf("tenement: migrate: reading the ledger: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var list []FailureStatus
	for rows.Next() {
		var f FailureStatus
		if err := rows.Scan(&f.Store, &f.Source, &f.Version, &f.SQLState, &f.Error); err != nil {
			return nil, fmt.Errorf("tenement: migrate: reading the ledger: %w", err)
		}
		list = append(list, f)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("tenement: migrate: reading the ledger: %w", err)
	}
	return list, nil
}
