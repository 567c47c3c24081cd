package transfer

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
)

// copy makes the tenant's store in the target what it is in the source, unless it is that already. source is the context for
// what is done to the source.
func (m *move) copy(ctx, source context.Context, t tenancy.Tenant) (rows int64, same bool, err error) {
	if claimed, ok := m.claims.had[t.ID]; ok {
		if claimed == t.Store {
			if rows, same, err = m.same(ctx, source, t); err != nil || same {
				return rows, same, err
			}
		}
		if err := m.drop(ctx, t.ID, claimed); err != nil {
			return 0, false, err
		}
	}
	if _, err := m.to.Backend().Stat(ctx, t.Store); err == nil {
		return 0, false, &tenancy.ConflictError{Field: "store", Value: t.Store.String()}
	} else if !errors.Is(err, backend.ErrStoreMissing) {
		return 0, false, err
	}
	if err := m.claims.claim(ctx, t.ID, t.Store); err != nil {
		return 0, false, err
	}
	err = withSnapshot(source, m.from, own(t), m.opt.Without, func(s *snapshot) error {
		rows, err = m.fill(ctx, s, t)
		return err
	})
	return rows, false, err
}

// arriving is the route to a store that was claimed, until it is handed over.
func arriving(id tenancy.ID, s backend.Store) backend.Route {
	return backend.Route{Store: s, Owner: tenancy.ArrivalOwner(id)}
}

// drop removes what this move made of a tenant, or an earlier one that is gone on with. What was handed over to him is set
// aside: maybe he was served from it, and the claim is from a backup.
func (m *move) drop(ctx context.Context, id tenancy.ID, s backend.Store) error {
	switch err := m.to.Backend().Drop(ctx, arriving(id, s)); {
	case err == nil:
		return m.to.Migrator().Forget(ctx, s)
	case !errors.Is(err, backend.ErrStoreMissing):
		return err
	}
	aside, err := m.to.PutAside(ctx, backend.Route{Store: s, Owner: string(id)})
	if errors.Is(err, backend.ErrStoreMissing) {
		return nil
	}
	if err == nil {
		m.mu.Lock()
		m.res.Aside = append(m.res.Aside, aside.Store.String())
		m.mu.Unlock()
	}
	return err
}

// fill makes the store and loads what the snapshot has into it, and sees that it has arrived.
func (m *move) fill(ctx context.Context, s *snapshot, t tenancy.Tenant) (rows int64, err error) {
	rt := arriving(t.ID, t.Store)
	made, err := m.to.Migrator().ProvisionAt(ctx, rt, s.sources, beforeLoad)
	if err != nil {
		return 0, err
	}
	m.tell(MoveEvent{Kind: MoveMade, Tenant: t})
	l := m.loads(ctx, s, t, &rows)
	if err := l.into(ctx, m.to.Backend(), rt); err != nil {
		return 0, err
	}
	m.arrived.add(t.ID, arrival{rt, made})
	m.tell(MoveEvent{Kind: MoveLoaded, Tenant: t, Rows: rows})
	m.tell(MoveEvent{Kind: MoveVerified, Tenant: t, Rows: rows})
	return rows, nil
}

// loads is the load of what s has, which ends with a look at what has arrived.
func (m *move) loads(ctx context.Context, s *snapshot, t tenancy.Tenant, rows *int64) *load {
	mappings := m.mappings(s.tables())
	return &load{
		from: s.reader, later: m.later != nil, dialect: m.from.Backend().Dialect(), leave: leave(s.sources, m.opt.Without), mappings: mappings,
		told: func(p Progress) {
			*rows += p.Rows
			m.tell(MoveEvent{Kind: MoveTable, Tenant: t, Table: p.Table, Rows: p.Rows})
		},
		planned: func(made []*tablePlan) {
			for _, p := range made {
				if !m.bothPostgres() || !p.unchanged() {
					p.checked(mappings)
				}
			}
		},
		arrived: func(to reader, plans []*tablePlan) error { return verifyPlans(ctx, s.reader, to, plans) },
	}
}

func (m *move) bothPostgres() bool {
	return m.from.Backend().Dialect() == backend.Postgres && m.to.Backend().Dialect() == backend.Postgres
}

// verifyPlans compares what was sent by plans with what the target has.
func verifyPlans(ctx context.Context, from, to reader, plans []*tablePlan) error {
	for _, p := range plans {
		var err error
		if p.check == nil {
			err = p.sameSums(ctx, from.(*postgresReader), to.(*postgresReader))
		} else {
			err = p.arrived(ctx, to)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// same reports whether the store that was claimed is what the source has. It has arrived then.
func (m *move) same(ctx, source context.Context, t tenancy.Tenant) (rows int64, same bool, err error) {
	info, err := m.to.Backend().Stat(ctx, t.Store)
	if errors.Is(err, backend.ErrStoreMissing) {
		return 0, false, nil // it was claimed, and not made
	} else if err != nil {
		return 0, false, err
	}
	rt := arriving(t.ID, t.Store)
	if info.Owner == string(t.ID) {
		rt = own(t) // it was handed over, and the process died
	}
	err = withSnapshot(source, m.from, own(t), m.opt.Without, func(s *snapshot) error {
		return withSnapshot(ctx, m.to, rt, m.opt.Without, func(there *snapshot) error {
			if same = sameVersions(s.sources, there.sources) && !behind(s.sequences(), there.sequences()); same {
				rows, same, err = equalRows(ctx, s.reader, there.reader, leave(s.sources, m.opt.Without))
			}
			return err
		})
	})
	if errors.Is(err, backend.ErrStoreMissing) && info.Owner != rt.Owner {
		return 0, false, nil // it is another's, which the caller finds
	}
	if err == nil && same {
		m.arrived.add(t.ID, arrival{rt, nil})
	}
	return rows, same, err
}

// equalRows reports whether two stores have the same tables and the same rows.
func equalRows(ctx context.Context, a, b reader, out map[string]bool) (rows int64, same bool, err error) {
	c := &Comparison{}
	pairs := c.match(a.tables(), b.tables(), out)
	for _, t := range c.Tables {
		if t.Detail != "" {
			return 0, false, nil
		}
	}
	for side, r := range []reader{a, b} {
		if err := c.sum(ctx, r, pairs, side, nil); err != nil {
			return 0, false, err
		}
	}
	for _, t := range c.Tables {
		rows += t.Rows[0]
	}
	return rows, c.Err() == nil, nil
}

func sameVersions(a, b []migrate.AppliedSource) bool {
	list := func(sources []migrate.AppliedSource) string {
		var text strings.Builder
		for _, s := range sources {
			fmt.Fprint(&text, s.Source, ":")
			for _, v := range s.Versions {
				fmt.Fprint(&text, " ", v.Version)
			}
			text.WriteByte('\n')
		}
		return text.String()
	}
	return list(a) == list(b)
}

// behind reports whether a series of numbers has given out more here than there, as far as it can be told which is which.
func behind(here, there []Sequence) bool {
	next := func(s Sequence) int64 {
		if s.Called {
			return s.Last + 1
		}
		return s.Last
	}
	for _, s := range here {
		for _, o := range there {
			if (s.Name != "" && s.Name == o.Name || s.Table != "" && strings.EqualFold(s.Table, o.Table)) && next(o) < next(s) {
				return true
			}
		}
	}
	return false
}
