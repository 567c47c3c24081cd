package migrate

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tenement-go/tenement/backend"
)

const (
	// ReadyBound is how old a positive answer of [Migrator.Ready] can be: what another process undid is noticed within
	// it.
	ReadyBound = time.Second
	// refusalTTL is how long a store that is behind is not looked up again.
	refusalTTL = time.Second
	// lazyRetry is how long a store whose lazy migration failed is not tried again.
	lazyRetry = 15 * time.Second
)

// gate remembers which stores are ready. A store takes a hundred bytes or so.
type gate struct {
	mu      sync.RWMutex
	ready   map[backend.Store]string // the owner it was ready for
	refused map[backend.Store]refusal
	lazy    map[backend.Store]*lazyRun
}

type refusal struct {
	until time.Time
	err   error
}

// lazyRun is the migration of one store at its first use.
type lazyRun struct {
	done chan struct{}
	err  error     // once done
	next time.Time // when it failed: not before
}

// forget drops what is known about a store. A lazy migration that failed may be tried at once.
func (g *gate) forget(s backend.Store) {
	g.mu.Lock()
	delete(g.ready, s)
	delete(g.refused, s)
	g.mu.Unlock()
}

// Ready returns nil when the store has every migration of the tenant set that this binary carries (it may have newer
// ones), and an error that wraps ErrBehind when it has not. A positive answer is kept until the process ends or changes
// the store itself, and costs nothing; a negative one is looked up again after a second.
//
// Under the policy Migrate a store that is behind is migrated first. However many calls ask for it, it is done once; each waits
// for it no longer than BehindWait and its context allow, and then returns ErrBehind while the migration goes on. When the
// migration failed, its error is returned along with ErrBehind, and it is tried again after 15 seconds at the earliest.
func (m *Migrator) Ready(ctx context.Context, rt backend.Route) error {
	if m.cfg.Behind == Serve {
		return nil
	}
	m.gate.mu.RLock()
	owner, ready := m.gate.ready[rt.Store]
	refused, isRefused := m.gate.refused[rt.Store]
	m.gate.mu.RUnlock()
	if ready && owner == rt.Owner {
		return nil
	}
	if isRefused && time.Now().Before(refused.until) {
		return refused.err
	}
	err := m.lookUp(ctx, rt)
	if m.cfg.Behind == Migrate && errors.Is(err, ErrBehind) {
		var waiting bool
		if waiting, err = m.catchUp(ctx, rt); waiting {
			return err // not remembered: the next call should wait too
		}
	}
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
		m.gate.refused[rt.Store] = refusal{until: time.Now().Add(refusalTTL), err: err}
	}
	return err
}

// lookUp asks the ledger.
func (m *Migrator) lookUp(ctx context.Context, rt backend.Route) error {
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
	if e == nil || e.state == nil {
		return fmt.Errorf("tenement: migrate: store %s: %w: the ledger does not know it; migrate it by name", rt.Store, ErrBehind)
	}
	if todo, _ := m.tenant.pending(e.state, limit{}); len(todo) > 0 {
		return fmt.Errorf("tenement: migrate: store %s: %w: %d are pending, the first is %s version %d",
			rt.Store, ErrBehind, len(todo), todo[0].source.name, todo[0].version)
	}
	return nil
}

// catchUp has the store migrated, by one caller for all, and waits for it. waiting says that it is still under way.
func (m *Migrator) catchUp(ctx context.Context, rt backend.Route) (waiting bool, err error) {
	m.gate.mu.Lock()
	run := m.gate.lazy[rt.Store]
	start := run == nil
	if run != nil {
		select {
		case <-run.done:
			start = time.Now().After(run.next)
		default:
		}
	}
	if start {
		run = &lazyRun{done: make(chan struct{})}
		if m.gate.lazy == nil {
			m.gate.lazy = map[backend.Store]*lazyRun{}
		}
		m.gate.lazy[rt.Store] = run
		go func() {
			// It serves every caller, so it does not end with the first one's request.
			_, err := m.upTenants(context.WithoutCancel(ctx), options{Fleet: Fleet{Stores: []backend.Store{rt.Store}, Parallel: 1}})
			m.gate.mu.Lock()
			defer m.gate.mu.Unlock()
			run.err, run.next = err, time.Now().Add(lazyRetry)
			if err == nil {
				delete(m.gate.lazy, rt.Store)
			}
			close(run.done)
		}()
	}
	m.gate.mu.Unlock()

	timer := time.NewTimer(m.cfg.BehindWait)
	defer timer.Stop()
	select {
	case <-run.done:
		if run.err == nil {
			return false, nil
		}
		return false, fmt.Errorf("tenement: migrate: store %s: %w: %w", rt.Store, ErrBehind, run.err)
	case <-timer.C:
		return true, fmt.Errorf("tenement: migrate: store %s: %w: it is being migrated", rt.Store, ErrBehind)
	case <-ctx.Done():
		return true, fmt.Errorf("tenement: migrate: store %s: %w: it is being migrated: %w", rt.Store, ErrBehind, ctx.Err())
	}
}
