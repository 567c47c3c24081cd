package migrate

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/tenement-go/tenement/backend"
)

const (
	// ReadyBound is how old a positive answer of [Migrator.Ready] can be: what another process undid is noticed within
	// it, as long as the ledger can be reached.
	ReadyBound = time.Second
	// refusalTTL is how long a store that is behind is not looked up again.
	refusalTTL = time.Second
	// lazyRetry is how long a store whose lazy migration failed is not tried again.
	lazyRetry = 15 * time.Second
)

// gate remembers which stores are ready. A store takes a hundred bytes or so.
type gate struct {
	asked    atomic.Int64 // when the ledger's revision was asked for, in nanoseconds since epoch; 0: never
	asking   *semaphore.Weighted
	revision int64 // what it was; under asking

	mu      sync.RWMutex
	age     uint64                   // grows before something is forgotten: what was read before that is not remembered
	ready   map[backend.Store]string // the owner it was ready for
	refused map[backend.Store]refusal
	lazy    map[backend.Store]*lazyRun

	life   context.Context // of the lazy migrations
	end    context.CancelFunc
	closed bool // under mu
	under  sync.WaitGroup
}

var epoch = time.Now()

type refusal struct {
	owner string
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
	defer g.mu.Unlock()
	g.age++
	delete(g.ready, s)
	delete(g.refused, s)
	if run := g.lazy[s]; run != nil && run.over() {
		delete(g.lazy, s)
	}
}

// clear drops what is known about all stores.
func (g *gate) clear() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.age++
	clear(g.ready)
	clear(g.refused)
}

// close ends the lazy migrations and waits for them.
func (g *gate) close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.end()
	g.under.Wait()
}

func (r *lazyRun) over() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// Ready returns nil when the store has every migration of the tenant set that this binary carries (it may have newer
// ones), and an error that wraps ErrBehind when it has not (and ErrUnentered when the ledger does not have it). A positive answer is kept until this process changes the
// store, or hears that another has undone something (see [ReadyBound]); it costs no query, but for one in each bound for
// all stores together. A negative answer is looked up again after a second.
//
// Under the policy [Migrate] a store that is behind is migrated first. However many calls ask for it, it is done once;
// each waits for it no longer than BehindWait and its context allow, and then returns ErrBehind while the migration goes
// on. When the migration failed, its error is returned along with ErrBehind, and it is tried again after 15 seconds at
// the earliest. Under the policy [Serve] the answer is nil.
func (m *Migrator) Ready(ctx context.Context, rt backend.Route) error {
	if m.cfg.Behind == Serve {
		return nil
	}
	if m.parts != nil {
		return m.readyInPlaces(ctx, rt)
	}
	m.hearOfSetbacks(ctx)
	m.gate.mu.RLock()
	owner, ready := m.gate.ready[rt.Store]
	refused, isRefused := m.gate.refused[rt.Store]
	age := m.gate.age
	m.gate.mu.RUnlock()
	if ready && owner == rt.Owner {
		return nil
	}
	if isRefused && refused.owner == rt.Owner && time.Now().Before(refused.until) {
		return refused.err
	}
	err := m.lookUp(ctx, rt)
	if m.cfg.Behind == Migrate && errors.Is(err, ErrBehind) {
		// The answer is not remembered: the next call should wait too, or look what the ledger says now.
		return m.catchUp(ctx, rt)
	}
	m.gate.remember(rt, age, err)
	return err
}

// remember keeps what a look into the ledger came to, unless something was forgotten since.
func (g *gate) remember(rt backend.Route, age uint64, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.age != age:
	case err == nil:
		if g.ready == nil {
			g.ready = map[backend.Store]string{}
		}
		g.ready[rt.Store] = rt.Owner
		delete(g.refused, rt.Store)
	case errors.Is(err, ErrBehind):
		if g.refused == nil {
			g.refused = map[backend.Store]refusal{}
		}
		g.refused[rt.Store] = refusal{owner: rt.Owner, until: time.Now().Add(refusalTTL), err: err}
	}
}

// hearOfSetbacks asks for the ledger's revision when nobody did for half of the bound. Others go on meanwhile, unless the
// bound is over: then they wait, too.
func (m *Migrator) hearOfSetbacks(ctx context.Context) {
	g := &m.gate
	now := int64(time.Since(epoch))
	asked := g.asked.Load()
	switch {
	case asked != 0 && now-asked < int64(ReadyBound)/2:
		return
	case asked == 0 || now-asked >= int64(ReadyBound):
		if g.asking.Acquire(ctx, 1) != nil {
			return
		}
	case !g.asking.TryAcquire(1):
		return
	}
	defer g.asking.Release(1)
	if g.asked.Load() != asked {
		return // somebody else did
	}
	// A ledger that cannot be read refuses nobody: the stores are mostly where it is, and say so themselves.
	revision, err := m.askRevision(ctx)
	switch {
	case ctx.Err() != nil:
		return // it is the next caller's to ask
	case err != nil:
		m.log.WarnContext(ctx, "the ledger's revision cannot be read", "error", err)
	case revision != g.revision:
		g.revision = revision
		g.clear()
	}
	g.asked.Store(now)
}

// askRevision returns the ledger's revision; 0 when there is no ledger.
func (m *Migrator) askRevision(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, ReadyBound)
	defer cancel()
	if exists, err := m.openLedger(ctx); err != nil || !exists {
		return 0, err
	}
	return m.ledger.revision(ctx)
}

// lookUp asks the ledger.
func (m *Migrator) lookUp(ctx context.Context, rt backend.Route) error {
	exists, err := m.openLedger(ctx)
	if err != nil {
		return err
	}
	var e *entry
	if exists {
		if e, err = m.ledger.entry(ctx, rt.Store.String()); err != nil {
			return err
		}
	}
	switch {
	case e == nil:
		return fmt.Errorf("tenement: migrate: store %s: %w: %w; migrate it by name", rt.Store, ErrBehind, ErrUnentered)
	case rt.Owner != "" && e.owner != "" && e.owner != rt.Owner:
		return fmt.Errorf("tenement: migrate: store %s: %w: %w: its row is about another owner's store of the name; migrate it by name",
			rt.Store, ErrBehind, ErrUnentered)
	case e.state == nil:
		return fmt.Errorf("tenement: migrate: store %s: %w: the ledger does not know what it has; migrate it by name", rt.Store, ErrBehind)
	}
	if todo, _ := m.tenant.pending(e.state, limit{}); len(todo) > 0 {
		return fmt.Errorf("tenement: migrate: store %s: %w: %d are pending, the first is %s version %d",
			rt.Store, ErrBehind, len(todo), todo[0].source.name, todo[0].version)
	}
	return nil
}

// catchUp has the store migrated, by one caller for all, and waits for it.
func (m *Migrator) catchUp(ctx context.Context, rt backend.Route) error {
	run := m.lazyRun(rt)
	if run == nil {
		return fmt.Errorf("tenement: migrate: store %s: %w: the migrator is closed", rt.Store, ErrBehind)
	}
	timer := time.NewTimer(m.cfg.BehindWait)
	defer timer.Stop()
	select {
	case <-run.done:
		if run.err == nil {
			return nil
		}
		return fmt.Errorf("tenement: migrate: store %s: %w: %w", rt.Store, ErrBehind, run.err)
	case <-timer.C:
		return fmt.Errorf("tenement: migrate: store %s: %w: it is being migrated", rt.Store, ErrBehind)
	case <-ctx.Done():
		return fmt.Errorf("tenement: migrate: store %s: %w: it is being migrated: %w", rt.Store, ErrBehind, ctx.Err())
	}
}

// lazyRun returns the migration of a store that is under way, or failed a moment ago, or a new one; nil after Close.
func (m *Migrator) lazyRun(rt backend.Route) *lazyRun {
	g := &m.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if run := g.lazy[rt.Store]; run != nil && (!run.over() || time.Now().Before(run.next)) {
		return run
	}
	if g.closed {
		return nil
	}
	run := &lazyRun{done: make(chan struct{})}
	if g.lazy == nil {
		g.lazy = map[backend.Store]*lazyRun{}
	}
	g.lazy[rt.Store] = run
	g.under.Go(func() {
		// It serves every caller, so it does not end with the first one's request, but with the Migrator.
		_, err := m.upTenants(g.life, options{Fleet: Fleet{Stores: []backend.Store{rt.Store}, Parallel: 1}, unlisted: true})
		g.mu.Lock()
		defer g.mu.Unlock()
		run.err, run.next = err, time.Now().Add(lazyRetry)
		if err == nil {
			delete(g.lazy, rt.Store)
		}
		close(run.done)
	})
	return run
}
