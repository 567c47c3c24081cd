package migrate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tenement-go/tenement/backend"
)

const (
	batchSize = 32  // stores in one message
	pageSize  = 256 // stores read from the ledger at a time
)

// upShared applies the shared set. It makes the ledger when there is none.
func (m *Migrator) upShared(ctx context.Context, opt options) (*Result, error) {
	lim, err := m.shared.limit(opt)
	if err != nil {
		return nil, fmt.Errorf("tenement: migrate: %w", err)
	}
	if opt.dryRun != nil {
		return m.dryRunShared(ctx, opt, lim)
	}
	if err := m.ledger.ensure(ctx); err != nil {
		return nil, err
	}
	return m.runShared(ctx, opt, m.up(m.shared, lim), func(g *group) bool {
		if g == nil || g.state == nil || g.failed > 0 {
			return false
		}
		todo, _ := m.shared.pending(g.state, lim)
		return len(todo) == 0
	})
}

// runShared runs fn in the shared store, unless the ledger says that it is done.
func (m *Migrator) runShared(ctx context.Context, opt options, fn storeFunc, isDone func(*group) bool) (*Result, error) {
	r := newRun(SetShared, opt)
	_, row, err := m.ledger.groups(ctx)
	if err != nil {
		return nil, err
	}
	if isDone(row) {
		r.res.Current = 1
		return r.res, r.finish(nil)
	}
	r.res.Total = 1
	r.event(EventStarted, backend.Store{}, nil)
	out, err := m.insist(ctx, m.shared, backend.Route{}, fn)
	if err != nil {
		return r.res, r.finish(err)
	}
	r.record(backend.Store{}, out)
	return r.res, r.finish(nil)
}

// upTenants applies the tenant set.
func (m *Migrator) upTenants(ctx context.Context, opt options) (*Result, error) {
	lim, err := m.tenant.limit(opt)
	if err != nil {
		return nil, fmt.Errorf("tenement: migrate: %w", err)
	}
	if opt.dryRun == nil {
		if err := m.ledger.ensure(ctx); err != nil {
			return nil, err
		}
	} else if exists, err := m.ledger.exists(ctx); err != nil || !exists {
		return &Result{Set: SetTenant}, err
	}
	groups, shared, err := m.ledger.groups(ctx)
	if err != nil {
		return nil, err
	}
	if opt.dryRun == nil { // which shows what Up would do, shared set and all
		if err := m.checkShared(shared); err != nil {
			return nil, err
		}
	}
	f := &fleet{run: newRun(SetTenant, opt), m: m, set: m.tenant, plans: map[string]*plan{}, slow: m.up(m.tenant, lim), lim: lim}
	for _, g := range groups {
		p := f.plan(g.fingerprint, g.state)
		if p.late != nil && !m.cfg.AllowOutOfOrder && len(opt.Stores) == 0 {
			return nil, fmt.Errorf("tenement: migrate: %d stores: %w", g.stores, outOfOrder(p.late))
		}
		f.group(g, p.behind())
	}
	if opt.dryRun != nil {
		return f.res, f.dryRun(groups)
	}
	return f.do(ctx)
}

// checkShared refuses to go on while the shared set is not applied.
func (m *Migrator) checkShared(row *group) error {
	if len(m.shared.sources) == 0 {
		return nil
	}
	have := state{}
	if row != nil && row.state != nil {
		have = row.state
	}
	todo, _ := m.shared.pending(have, limit{})
	if len(todo) == 0 {
		return nil
	}
	return fmt.Errorf("tenement: migrate: %w: %d migrations are pending, the first is %s version %d (%s)",
		ErrSharedBehind, len(todo), todo[0].source.name, todo[0].version, todo[0].file)
}

// withSource runs an operation on one source of a set, in every store or in those named.
func (m *Migrator) withSource(ctx context.Context, opt options, fn func(*series) storeFunc) (*Result, error) {
	s := m.tenant
	if opt.set == SetShared {
		s = m.shared
	}
	src, err := s.named(opt)
	if err == nil && opt.to != 0 && src.find(opt.to) == nil {
		err = fmt.Errorf("%w: source %s has no version %d", ErrUnknownSource, src.name, opt.to)
	}
	if err != nil {
		return nil, fmt.Errorf("tenement: migrate: %w", err)
	}
	if err := m.ledger.ensure(ctx); err != nil {
		return nil, err
	}
	if opt.set == SetShared {
		return m.runShared(ctx, opt, fn(src), func(*group) bool { return false })
	}
	groups, _, err := m.ledger.groups(ctx)
	if err != nil {
		return nil, err
	}
	f := &fleet{run: newRun(SetTenant, opt), m: m, set: s, plans: map[string]*plan{}, slow: fn(src), anywhere: true}
	for _, g := range groups {
		f.group(g, true)
	}
	return f.do(ctx)
}

// run keeps the result of a run and reports its progress.
type run struct {
	opt   options
	start time.Time

	mu     sync.Mutex
	res    *Result
	verify bool // report where the ledger was wrong
}

func newRun(s Set, opt options) *run {
	opt.Stores = slices.Clone(opt.Stores)
	return &run{opt: opt, start: time.Now(), res: &Result{Set: s}}
}

// event reports progress. Callers hold no lock or r.mu, which they say by calling report.
func (r *run) event(kind EventKind, store backend.Store, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report(kind, store, err)
}

func (r *run) report(kind EventKind, store backend.Store, err error) {
	if r.opt.OnEvent == nil {
		return
	}
	res := r.res
	r.opt.OnEvent(Event{
		Kind: kind, Set: res.Set, Store: store, Done: res.Applied + res.Skipped + res.Failed, Failed: res.Failed,
		Total: res.Total, Elapsed: time.Since(r.start), Err: err,
	})
}

// record counts a store that is done with.
func (r *run) record(store backend.Store, out *outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.res.Migrations += len(out.touched)
	if r.verify && out.have != nil {
		r.res.Drift = ledgerDrift(store, out.ledger, out.have, r.res.Drift)
	}
	switch {
	case out.failure != nil:
		r.res.Failed++
		if len(r.res.Failures) < maxFailuresKept {
			r.res.Failures = append(r.res.Failures, out.failure)
		}
		r.report(EventFailed, store, out.failure)
	case len(out.touched) == 0:
		r.res.Skipped++
		r.report(EventSkipped, store, nil)
	default:
		r.res.Applied++
		r.report(EventApplied, store, nil)
	}
}

// enough reports whether the options say that the run should stop.
func (r *run) enough() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.res.Failed
	return r.opt.StopAfter > 0 && n >= r.opt.StopAfter
}

// finish closes the result and returns the run's error, if there is one.
func (r *run) finish(err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	res := r.res
	res.Left = max(0, res.Total-res.Applied-res.Skipped-res.Failed)
	res.Elapsed = time.Since(r.start)
	r.report(EventDone, backend.Store{}, err)
	if err == nil && res.Failed == 0 {
		return nil
	}
	return &RunError{Result: res, Err: err}
}

// plan is what stores with the same fingerprint need.
type plan struct {
	unknown bool // the ledger does not know what they have
	todo    []*migration
	late    *migration
	from    state
	next    state // what they have afterwards

	once   sync.Mutex
	ready  bool // the script was looked at
	script script
	text   bool // the script may be used
	print  string
}

func (p *plan) behind() bool { return p.unknown || len(p.todo) > 0 }

// task is a store on its way through a run.
type task struct {
	entry
	tries  int       // how often its tables were locked
	since  time.Time // since when they are
	notYet time.Time // not to be tried again before
}

// fleet is one run over many stores.
type fleet struct {
	*run
	m     *Migrator
	set   *set
	lim   limit
	slow  storeFunc
	plans map[string]*plan // by the ledger's fingerprint; complete before the workers start

	fingerprints []string // of the stores to visit, when none are named
	anywhere     bool     // visit every store, whatever its plan

	queueMu  sync.Mutex
	queue    []task
	deferred []task // locked; at most as many as there are stores, but each a few words
	cursor   string
	upto     string // on the second leg
	leg      int    // 0: not begun, 1: from a random store to the last, 2: from the first to that one, 3: over
	names    []backend.Store
	quota    int // how many more stores may be taken from the ledger; negative: all

	async     atomic.Bool // something may not be on disk yet
	settleMu  sync.Mutex
	settled   map[settlement][]string
	unsettled int
}

func (f *fleet) plan(fingerprint string, have state) *plan {
	if p := f.plans[fingerprint]; p != nil {
		return p
	}
	p := &plan{unknown: have == nil}
	if have != nil {
		p.todo, p.late = f.set.pending(have, f.lim)
		p.from, p.next = have, have.with(p.todo)
	}
	f.plans[fingerprint] = p
	return p
}

// group counts a group of stores in.
func (f *fleet) group(g group, visit bool) {
	if len(f.opt.Stores) > 0 {
		return
	}
	if !visit {
		f.res.Current += g.stores
		return
	}
	f.res.Total += g.stores
	f.fingerprints = append(f.fingerprints, g.fingerprint)
}

func (f *fleet) do(ctx context.Context) (*Result, error) {
	if len(f.opt.Stores) > 0 {
		slices.SortFunc(f.opt.Stores, func(a, b backend.Store) int { return strings.Compare(a.String(), b.String()) })
		f.names = slices.Compact(f.opt.Stores)
		f.res.Total = len(f.names)
	}
	f.event(EventStarted, backend.Store{}, nil)
	f.quota = -1
	var err error
	if f.opt.Canary > 0 && f.opt.Canary < f.res.Total {
		f.quota = f.opt.Canary
		err = f.phase(ctx)
		if err == nil && f.res.Failed > 0 {
			err = fmt.Errorf("%w: %d of %d", ErrCanary, f.res.Failed, f.opt.Canary)
		}
		f.quota = -1
	}
	if err == nil {
		err = f.phase(ctx)
	}
	return f.res, f.finish(err)
}

// phase runs the workers until there is nothing left to take.
func (f *fleet) phase(ctx context.Context) error {
	if f.res.Total == 0 {
		return nil
	}
	workers := f.opt.Parallel
	if workers <= 0 {
		workers = 2
		if f.m.dialect.name == backend.SQLite {
			workers = max(runtime.GOMAXPROCS(0), 2)
		}
	}
	// Through goose a worker on Postgres holds up to three connections: the lock, goose's, and that of a Go migration
	// without a transaction. With all workers at it a small pool would be waiting for itself.
	through := make(chan struct{}, max(1, workers/2))
	if f.m.dialect.name == backend.SQLite {
		through = make(chan struct{}, workers)
	}
	g, ctx := errgroup.WithContext(ctx)
	for range workers {
		g.Go(func() error {
			for {
				tasks, wait, err := f.take(ctx)
				switch {
				case err != nil:
					return err
				case wait > 0:
					select {
					case <-time.After(wait):
						continue
					case <-ctx.Done():
						return context.Cause(ctx)
					}
				case len(tasks) == 0:
					return nil
				}
				if err := f.batch(ctx, tasks, through); err != nil {
					return err
				}
			}
		})
	}
	err := g.Wait()
	// What was done is written down, and on disk, before anyone is told.
	ctx = context.WithoutCancel(ctx)
	err = errors.Join(err, f.settle(ctx, true))
	if f.async.Load() {
		if flushErr := f.m.scripts.Flush(ctx); flushErr != nil {
			err = errors.Join(err, fmt.Errorf("tenement: migrate: making the migrations durable: %w", flushErr))
		}
	}
	return err
}

// prepared makes the script of a plan, once, and publishes the state it leads to.
func (f *fleet) prepared(ctx context.Context, p *plan) (text bool, err error) {
	if f.m.scripts == nil || f.anywhere || p == nil || p.unknown || p.late != nil && !f.m.cfg.AllowOutOfOrder {
		return false, nil
	}
	p.once.Lock()
	defer p.once.Unlock()
	if p.ready {
		return p.text, nil
	}
	sc, ok := f.m.compose(p.from, p.next, p.todo)
	if ok {
		if p.print, err = f.m.ledger.publish(ctx, f.m.ledger.db, p.next); err != nil {
			return false, err
		}
	}
	p.script, p.text, p.ready = sc, ok, true
	return ok, nil
}

// batch migrates some stores: those whose plan is text in one message, the others, and those in which the text failed,
// through goose.
func (f *fleet) batch(ctx context.Context, tasks []task, through chan struct{}) error {
	var slow, sent []task
	var scripts []backend.Script
	wait := f.m.cfg.LockTimeout
	for _, t := range tasks {
		p := f.plans[t.fingerprint]
		text, err := f.prepared(ctx, p)
		if err != nil {
			return err
		}
		if !text {
			slow = append(slow, t)
			continue
		}
		if t.tries == 0 {
			// The others of the batch wait behind a store that is locked, and so do that store's own statements: the
			// first attempt is a short one.
			wait = max(f.m.cfg.LockTimeout/10, time.Millisecond)
		}
		sent = append(sent, t)
		scripts = append(scripts, backend.Script{Route: t.route(), SQL: p.script.head(t.store) + p.script.body})
	}
	if len(scripts) > 0 {
		f.async.Store(true)
		// A batch that was begun is brought to its end: a run is cancelled between stores.
		errs := f.m.scripts.RunScripts(context.WithoutCancel(ctx), scripts, backend.ScriptOptions{LockTimeout: wait, Async: true})
		failed, err := f.sent(ctx, sent, errs)
		if err != nil {
			return err
		}
		slow = append(slow, failed...)
	}
	for i := range slow {
		if f.enough() {
			return ErrStopped
		}
		if err := f.one(ctx, &slow[i], through); err != nil {
			return err
		}
	}
	return nil
}

// sent deals with the outcome of scripts, and returns the stores that goose should look at.
func (f *fleet) sent(ctx context.Context, tasks []task, errs []error) (slow []task, err error) {
	postgres := f.m.dialect.name == backend.Postgres
	var again []task // of which the guard may have said that another migrator was there
	for i, err := range errs {
		t := &tasks[i]
		p := f.plans[t.fingerprint]
		switch {
		case err == nil:
			f.m.gate.forget(t.store)
			if !postgres {
				f.settling(p, t)
			}
			f.record(t.store, &outcome{touched: p.todo})
		case f.putOff(t, err):
		case sqlState(err) == notNullViolation:
			again = append(again, *t)
		default:
			f.m.log.InfoContext(ctx, "migration text failed; goose takes over", "store", t.store.String(), "error", err)
			slow = append(slow, *t)
		}
	}
	if len(again) > 0 {
		names := make([]backend.Store, len(again))
		for i := range again {
			names[i] = again[i].store
		}
		page, err := f.m.ledger.named(ctx, names)
		if err != nil {
			return nil, err
		}
		for _, e := range page {
			if p := f.plans[e.fingerprint]; p != nil && !p.behind() || f.leadsTo(e.fingerprint) {
				f.m.gate.forget(e.store)
				f.record(e.store, &outcome{}) // another migrator did it
				continue
			}
			slow = append(slow, task{entry: e})
		}
	}
	if !postgres {
		err = f.settle(ctx, false)
	}
	return slow, err
}

// leadsTo reports whether a fingerprint is what this run brings stores to.
func (f *fleet) leadsTo(fingerprint string) bool {
	for _, p := range f.plans {
		p.once.Lock()
		hit := p.ready && p.print == fingerprint
		p.once.Unlock()
		if hit {
			return true
		}
	}
	return false
}

// settlement is a change of the ledger for stores that were migrated where the ledger could not be changed along.
type settlement struct{ from, to string }

func (f *fleet) settling(p *plan, t *task) {
	f.settleMu.Lock()
	defer f.settleMu.Unlock()
	if f.settled == nil {
		f.settled = map[settlement][]string{}
	}
	key := settlement{from: t.fingerprint, to: p.print}
	f.settled[key] = append(f.settled[key], t.store.String())
	f.unsettled++
}

// settle writes what is due into the ledger, when it is worth a transaction.
func (f *fleet) settle(ctx context.Context, all bool) error {
	f.settleMu.Lock()
	due := f.settled
	if f.unsettled == 0 || !all && f.unsettled < pageSize {
		f.settleMu.Unlock()
		return nil
	}
	f.settled, f.unsettled = nil, 0
	f.settleMu.Unlock()
	// First the stores, then the ledger: a row that outlived a migration which a power failure undid would be a lie.
	if err := f.m.scripts.Flush(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("tenement: migrate: making the migrations durable: %w", err)
	}
	for key, stores := range due {
		if err := f.m.ledger.move(context.WithoutCancel(ctx), key.from, key.to, stores); err != nil {
			return err
		}
	}
	return nil
}

// one migrates one store through goose.
func (f *fleet) one(ctx context.Context, t *task, through chan struct{}) error {
	select {
	case through <- struct{}{}:
		defer func() { <-through }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	out, err := f.m.inStore(ctx, f.set, t.route(), f.slow)
	if err != nil {
		return err
	}
	if out.failure != nil && worthAnotherTry(out.failure) && f.putOff(t, out.failure) {
		f.res.addMigrations(f.run, len(out.touched))
		return nil
	}
	f.record(t.store, out)
	return nil
}

func (r *Result) addMigrations(run *run, n int) {
	run.mu.Lock()
	r.Migrations += n
	run.mu.Unlock()
}

// worthAnotherTry reports whether a failure was for a lock that somebody else held.
func worthAnotherTry(err error) bool {
	switch sqlState(err) {
	case "55P03", // lock_not_available
		"40P01", // deadlock_detected
		"40001": // serialization_failure
		return true
	}
	var sqlite interface{ Code() int }
	if errors.As(err, &sqlite) {
		switch sqlite.Code() & 0xff {
		case 5, 6: // SQLITE_BUSY, SQLITE_LOCKED
			return true
		}
	}
	return errors.Is(err, backend.ErrBusy)
}

// putOff puts a store aside when it failed for a lock, or for a connection that was lost, and reports whether it did.
func (f *fleet) putOff(t *task, err error) bool {
	lost := errors.Is(err, backend.ErrOutcomeUnknown) || f.m.dialect.name == backend.Postgres && sqlState(err) == "" && !errors.Is(err, backend.ErrStoreMissing)
	if !(worthAnotherTry(err) || lost) || t.tries > 0 && time.Since(t.since) > f.m.cfg.LockPatience {
		return false
	}
	next := *t
	if next.tries++; next.tries == 1 {
		next.since = time.Now()
	}
	next.notYet = time.Now().Add(retryPause(t.tries))
	f.queueMu.Lock()
	f.deferred = append(f.deferred, next)
	f.queueMu.Unlock()
	f.event(EventRetrying, t.store, err)
	return true
}

// take returns the next stores to migrate, or how long to wait for one that was put aside, or neither when none is left.
func (f *fleet) take(ctx context.Context) ([]task, time.Duration, error) {
	if f.enough() {
		return nil, 0, ErrStopped
	}
	if err := context.Cause(ctx); err != nil {
		return nil, 0, err
	}
	f.queueMu.Lock()
	defer f.queueMu.Unlock()
	now := time.Now()
	var due []task
	f.deferred = slices.DeleteFunc(f.deferred, func(t task) bool {
		if len(due) == batchSize || t.notYet.After(now) {
			return false
		}
		due = append(due, t)
		return true
	})
	if len(due) > 0 {
		return due, 0, nil
	}
	if len(f.queue) == 0 && f.quota != 0 {
		if err := f.fill(ctx); err != nil {
			return nil, 0, err
		}
	}
	if n := min(len(f.queue), batchSize); n > 0 {
		batch := slices.Clone(f.queue[:n])
		f.queue = f.queue[n:]
		return batch, 0, nil
	}
	var wait time.Duration
	for _, t := range f.deferred {
		if d := t.notYet.Sub(now); wait == 0 || d < wait {
			wait = d
		}
	}
	return nil, wait, nil
}

// fill reads the next page of stores. Callers hold queueMu.
func (f *fleet) fill(ctx context.Context) error {
	limit := pageSize
	if f.quota >= 0 {
		limit = min(limit, f.quota)
	}
	var page []entry
	var err error
	if len(f.opt.Stores) > 0 {
		page, err = f.fillNamed(ctx, limit)
	} else {
		page, err = f.fillLedger(ctx, limit)
	}
	if err != nil {
		return err
	}
	if f.quota > 0 {
		f.quota -= min(f.quota, len(page))
	}
	f.queue = make([]task, 0, len(page))
	for _, e := range page {
		f.queue = append(f.queue, task{entry: e})
	}
	return nil
}

// fillLedger pages through the ledger, from a random store on: two runs at once then meet late.
func (f *fleet) fillLedger(ctx context.Context, limit int) ([]entry, error) {
	if f.leg == 0 {
		f.leg = 2
		if f.res.Total > 2*batchSize {
			list, err := f.m.ledger.entries(ctx, fingerprintsIn(f.fingerprints)+` ORDER BY store LIMIT 1 OFFSET ?`,
				append(anys(f.fingerprints), rand.N(f.res.Total))...)
			if err != nil {
				return nil, err
			}
			if len(list) > 0 {
				f.leg, f.cursor, f.upto = 1, list[0].store.String(), list[0].store.String()
			}
		}
	}
	for f.leg < 3 {
		where, args := fingerprintsIn(f.fingerprints)+` AND store > ?`, append(anys(f.fingerprints), f.cursor)
		if f.leg == 2 && f.upto != "" {
			where, args = where+` AND store <= ?`, append(args, f.upto)
		}
		page, err := f.m.ledger.entries(ctx, where+` ORDER BY store LIMIT ?`, append(args, limit)...)
		if err != nil {
			return nil, err
		}
		if len(page) > 0 {
			f.cursor = page[len(page)-1].store.String()
			return page, nil
		}
		f.leg++
		f.cursor = ""
	}
	return nil, nil
}

func fingerprintsIn(list []string) string {
	return `WHERE store <> '' AND fingerprint IN (?` + strings.Repeat(", ?", len(list)-1) + `)`
}

func anys(list []string) []any {
	args := make([]any, len(list), len(list)+3)
	for i, s := range list {
		args[i] = s
	}
	return args
}

// fillNamed reads the rows of the stores that the options name, and enters those that have none.
func (f *fleet) fillNamed(ctx context.Context, limit int) ([]entry, error) {
	for len(f.names) > 0 {
		n := min(limit, len(f.names))
		chunk := f.names[:n]
		f.names = f.names[n:]
		page, err := f.m.ledger.named(ctx, chunk)
		if err != nil {
			return nil, err
		}
		known := make(map[backend.Store]bool, len(page))
		for _, e := range page {
			known[e.store] = true
		}
		for _, s := range chunk {
			if !known[s] {
				page = append(page, entry{store: s}) // its row is made when it is migrated
			}
		}
		if !f.anywhere {
			page = slices.DeleteFunc(page, func(e entry) bool {
				p := f.plans[e.fingerprint]
				if p == nil || p.behind() {
					return false
				}
				f.mu.Lock()
				f.res.Current++
				f.res.Total--
				f.mu.Unlock()
				return true
			})
		}
		if len(page) > 0 {
			return page, nil
		}
	}
	return nil, nil
}
