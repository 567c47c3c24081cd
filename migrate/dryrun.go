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

// dryRunTenants prints what upTenants would do, once for each group of stores.
func (m *Migrator) dryRunTenants(ctx context.Context, opt options, w io.Writer) (*Result, error) {
	res := &Result{Set: SetTenant}
	groups, err := m.groupsOf(ctx, opt.Stores)
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		p := m.tenant.plan(g.state, opt.limit)
		if p.late != nil && !m.cfg.AllowOutOfOrder {
			return nil, fmt.Errorf("tenement: migrate: %d stores: %w", g.stores, outOfOrder(p.late))
		}
		if !p.behind() {
			res.Current += g.stores
			continue
		}
		res.Total += g.stores
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
	res.Left = res.Total
	return res, nil
}

// readGroups reads the ledger's groups, if there is a ledger.
func (m *Migrator) readGroups(ctx context.Context) (tenants []group, shared *group, err error) {
	exists, err := m.openLedger(ctx)
	if err != nil || !exists {
		return nil, nil, err
	}
	return m.ledger.groups(ctx)
}

// groupsOf returns the groups of the stores named, or all.
func (m *Migrator) groupsOf(ctx context.Context, stores []backend.Store) ([]group, error) {
	if len(stores) == 0 {
		groups, _, err := m.readGroups(ctx)
		return groups, err
	}
	exists, err := m.openLedger(ctx)
	if err != nil || !exists {
		return nil, err
	}
	stores = slices.Clone(stores)
	slices.SortFunc(stores, compareStores)
	var groups []group
	for chunk := range slices.Chunk(slices.Compact(stores), pageSize) {
		page, err := m.ledger.named(ctx, chunk)
		if err != nil {
			return nil, err
		}
		for _, e := range page {
			i := slices.IndexFunc(groups, func(g group) bool { return g.fingerprint == e.fingerprint })
			if i < 0 {
				i = len(groups)
				groups = append(groups, group{fingerprint: e.fingerprint, state: e.state, first: e.store.String()})
			}
			groups[i].stores++
			groups[i].first = min(groups[i].first, e.store.String())
		}
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
