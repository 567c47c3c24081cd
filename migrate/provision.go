package migrate

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tenement-go/tenement/backend"
)

// Provision makes the store that rt names, applies the tenant set to it and enters it into the ledger. Called again it
// finishes what an earlier call, or a process that died, left undone, and does nothing when all is done. It returns an
// error that wraps backend.ErrStoreExists when there is a store of that name that is not rt.Owner's.
func (m *Migrator) Provision(ctx context.Context, rt backend.Route) error {
	if err := m.ledger.ensure(ctx); err != nil {
		return err
	}
	err := m.be.Create(ctx, rt)
	if errors.Is(err, backend.ErrStoreExists) {
		info, statErr := m.be.Stat(ctx, rt.Store)
		if statErr != nil {
			return statErr
		}
		if info.Owner != rt.Owner {
			return err
		}
	} else if err != nil {
		return err
	}
	return m.finishProvision(ctx, rt)
}

func (m *Migrator) finishProvision(ctx context.Context, rt backend.Route) error {
	out, err := m.inStore(ctx, m.tenant, rt, m.up(m.tenant, limit{}))
	if err != nil {
		return err
	}
	if out.failure != nil {
		return out.failure
	}
	return nil
}

// gate remembers which stores are ready.
type gate struct {
	mu      sync.Mutex
	ready   map[backend.Store]string // the owner it was ready for
	refused map[backend.Store]refusal
}

type refusal struct {
	until time.Time
	err   error
}

func (g *gate) forget(s backend.Store) {
	g.mu.Lock()
	delete(g.ready, s)
	delete(g.refused, s)
	g.mu.Unlock()
}

// Ready returns nil when the store has every migration of the tenant set that this binary carries (it may have newer
// ones), and an error that wraps ErrBehind when it has not. A positive answer is kept until the process ends or changes
// the store itself; a negative one is looked up again after a second. With Config.Lazy the store is migrated first.
func (m *Migrator) Ready(ctx context.Context, rt backend.Route) error {
	m.gate.mu.Lock()
	owner, ready := m.gate.ready[rt.Store]
	refused, isRefused := m.gate.refused[rt.Store]
	m.gate.mu.Unlock()
	if ready && owner == rt.Owner {
		return nil
	}
	if isRefused && time.Now().Before(refused.until) {
		return refused.err
	}
	err := m.check(ctx, rt)
	m.gate.mu.Lock()
	defer m.gate.mu.Unlock()
	switch {
	case err == nil:
		if m.gate.ready == nil {
			m.gate.ready = map[backend.Store]string{}
		}
		m.gate.ready[rt.Store] = rt.Owner
		delete(m.gate.refused, rt.Store)
	case errors.Is(err, ErrBehind):
		if m.gate.refused == nil {
			m.gate.refused = map[backend.Store]refusal{}
		}
		m.gate.refused[rt.Store] = refusal{until: time.Now().Add(time.Second), err: err}
	}
	return err
}

func (m *Migrator) check(ctx context.Context, rt backend.Route) error {
	exists, err := m.ledger.exists(ctx)
	if err != nil {
		return err
	}
	var e *entry
	if exists {
		if e, err = m.ledger.entry(ctx, m.ledger.db, rt.Store.String()); err != nil {
			return err
		}
	}
	if e == nil {
		return fmt.Errorf("tenement: migrate: store %s: %w: it is not in the ledger; migrate it by name", rt.Store, ErrBehind)
	}
	todo, _ := m.tenant.pending(e.state, limit{})
	if len(todo) == 0 && e.state != nil {
		return nil
	}
	return fmt.Errorf("tenement: migrate: store %s: %w: %d migrations are pending", rt.Store, ErrBehind, len(todo))
}
