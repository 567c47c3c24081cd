package migrate

import (
	"context"
	"database/sql"
	"fmt"
	"io"

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

// Status reads the ledger. Its cost does not depend on the number of stores.
func (m *Migrator) Status(ctx context.Context) (*Status, error) {
	st := &Status{Groups: []GroupStatus{}}
	exists, err := m.ledger.exists(ctx)
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
		if len(todo) == 0 && g.state != nil {
			st.Tenants.Current += g.stores
		} else {
			st.Tenants.Pending += g.stores
			st.Tenants.Failed += g.failed
		}
		st.Groups = append(st.Groups, GroupStatus{
			Fingerprint: g.fingerprint, Stores: g.stores, First: g.first, Failed: g.failed, Known: g.state != nil, Pending: pendingList(todo),
		})
		st.Drift = m.tenant.drift(g, st.Drift)
	}
	if exists {
		if st.Failures, err = m.ledger.failures(ctx); err != nil {
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

// Verify asks every store, or those that opt names, which versions it has, and corrects the ledger. Stores of the backend that
// are not in the ledger are entered. The result's Drift says where the ledger was wrong; a row whose store is gone counts
// as failed, with backend.ErrStoreMissing (see Forget). Unlike Status it visits each store.
func (m *Migrator) Verify(ctx context.Context, opt Fleet) (*Result, error) {
	if err := m.ledger.ensure(ctx); err != nil {
		return nil, err
	}
	if len(opt.Stores) == 0 {
		var found []backend.Route
		for info, err := range m.be.Stores(ctx) {
			if err != nil {
				return nil, err
			}
			if found = append(found, backend.Route{Store: info.Store, Owner: info.Owner}); len(found) == pageSize {
				if err := m.ledger.enter(ctx, found); err != nil {
					return nil, err
				}
				found = found[:0]
			}
		}
		if err := m.ledger.enter(ctx, found); err != nil {
			return nil, err
		}
	}
	groups, _, err := m.ledger.groups(ctx)
	if err != nil {
		return nil, err
	}
	f := &fleet{
		run: newRun(SetTenant, options{Fleet: opt}), m: m, set: m.tenant, plans: map[string]*plan{}, anywhere: true,
		slow: func(context.Context, *sql.DB, state) ([]*migration, *StoreError) { return nil, nil },
	}
	f.verify = true
	for _, g := range groups {
		f.group(g, true)
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

// dryRunShared prints what Shared would do.
func (m *Migrator) dryRunShared(ctx context.Context, opt options, lim limit) (*Result, error) {
	res := &Result{Set: SetShared}
	have := state{}
	exists, err := m.ledger.exists(ctx)
	if err != nil {
		return nil, err
	}
	if exists {
		_, row, err := m.ledger.groups(ctx)
		if err != nil {
			return nil, err
		}
		if row != nil && row.state != nil {
			have = row.state
		}
	}
	todo, _ := m.shared.pending(have, lim)
	if len(todo) == 0 {
		res.Current = 1
		return res, nil
	}
	res.Total, res.Left = 1, 1
	return res, print(opt.dryRun, "the shared store", todo)
}

// dryRun prints what the run would do, once for each group of stores.
func (f *fleet) dryRun(groups []group) error {
	for _, g := range groups {
		p := f.plans[g.fingerprint]
		if !p.behind() {
			continue
		}
		title := fmt.Sprintf("%d stores, from %s on", g.stores, g.first)
		if p.unknown {
			if _, err := fmt.Fprintf(f.opt.dryRun, "-- %s: what they have has to be looked up first\n", title); err != nil {
				return err
			}
			continue
		}
		if err := print(f.opt.dryRun, title, p.todo); err != nil {
			return err
		}
	}
	f.res.Left = f.res.Total
	return nil
}

func print(w io.Writer, title string, todo []*migration) error {
	if _, err := fmt.Fprintf(w, "-- %s\n", title); err != nil {
		return err
	}
	for _, m := range todo {
		kind := ""
		switch {
		case !m.sql:
			kind = " (Go)"
		case !m.tx:
			kind = " (no transaction)"
		}
		if _, err := fmt.Fprintf(w, "-- %s version %d%s %s\n", m.source.name, m.version, kind, m.file); err != nil {
			return err
		}
		for _, statement := range m.up {
			if _, err := fmt.Fprintln(w, statement); err != nil {
				return err
			}
		}
	}
	return nil
}
