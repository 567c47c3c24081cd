package migrate

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/tenement-go/tenement/backend"
)

// dryRunShared prints what upShared would do.
func (m *Migrator) dryRunShared(ctx context.Context, opt options, w io.Writer) (*Result, error) {
	res := &Result{Set: SetShared}
	_, shared, err := m.readGroups(ctx)
	if err != nil {
		return nil, err
	}
	have := shared.stateOf()
	if have == nil {
		have = state{}
	}
	todo, _ := m.shared.pending(have, opt.limit)
	if len(todo) == 0 {
		res.Current = 1
		return res, nil
	}
	res.Total, res.Left = 1, 1
	return res, print(w, "the shared store", todo)
}

// dryRunTenants prints what upTenants would do, once for each group of stores, and fails as it would where stores are named.
func (m *Migrator) dryRunTenants(ctx context.Context, opt options, w io.Writer) (*Result, error) {
	r := newReport(SetTenant, nil)
	var groups []group
	var err error
	if len(opt.Stores) > 0 {
		groups, err = m.groupsNamed(ctx, opt.Stores, r)
	} else {
		groups, _, err = m.readGroups(ctx)
	}
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		p := m.tenant.plan(g.state, opt.limit)
		if p.late != nil && !m.cfg.AllowOutOfOrder {
			return nil, fmt.Errorf("tenement: migrate: %d stores: %w", g.stores, outOfOrder(p.late))
		}
		if !p.behind() {
			r.res.Current += g.stores
			continue
		}
		r.res.Total += g.stores
		title := fmt.Sprintf("%d stores, from %s on", g.stores, g.first)
		if p.unknown {
			if _, err := fmt.Fprintf(w, "-- %s: what they have has to be looked up first\n", title); err != nil {
				return nil, err
			}
			continue
		}
		if err := print(w, title, p.todo); err != nil {
			return nil, err
		}
	}
	return r.res, r.finish(nil)
}

// readGroups reads the ledger's groups, if there is a ledger.
func (m *Migrator) readGroups(ctx context.Context) (tenants []group, shared *group, err error) {
	exists, err := m.openLedger(ctx)
	if err != nil || !exists {
		return nil, nil, err
	}
	return m.ledger.groups(ctx)
}

// groupsNamed returns the groups of the stores named. Those that a run would not find, or could not work on, go into the report.
func (m *Migrator) groupsNamed(ctx context.Context, stores []backend.Store, r *report) ([]group, error) {
	found, failed, err := m.foretold(ctx, stores)
	if err != nil {
		return nil, err
	}
	for _, failure := range failed {
		r.res.Total++
		r.record(failure.Store, &outcome{failure: failure})
	}
	var groups []group
	for _, e := range found {
		if e.gone {
			r.res.Total++
			r.record(e.store, &outcome{missing: true})
			continue
		}
		i := slices.IndexFunc(groups, func(g group) bool { return g.fingerprint == e.fingerprint })
		if i < 0 {
			i = len(groups)
			groups = append(groups, group{fingerprint: e.fingerprint, state: e.state, first: e.store.String()})
		}
		groups[i].stores++
		groups[i].first = min(groups[i].first, e.store.String())
	}
	return groups, nil
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
