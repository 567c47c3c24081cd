package migrate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tenement-go/tenement/backend"
)

// options are the terms of one run, however it was asked for.
type options struct {
	Fleet
	limit
	unlisted bool // it needs no row: it goes on with a run that has one, or whoever asked for it asks again
	filled   bool // the stores named are the caller's to enter
}

// fleet is one run over many stores. Plans and queue say what is to be done and when; the workers here do it.
type fleet struct {
	*report
	m     *Migrator
	opt   options
	work  work
	text  bool // scripts may do it
	queue *queue
	lane  lane

	visits    *visits     // of a run that looks back; nil of another
	unsettled atomic.Bool // the ledger does not know of all stores what became of them

	mu    sync.Mutex
	plans map[string]*scripted // by the ledger's fingerprint
}

// scripted is a plan, and the script for it once somebody needs it.
type scripted struct {
	*plan
	once   sync.Mutex
	ready  bool // the script was looked at
	script script
	text   bool // the script may be used
	print  string
}

func (m *Migrator) newFleet(opt options, do work) *fleet {
	opt.Stores = slices.Clone(opt.Stores)
	return &fleet{report: newReport(SetTenant, opt.OnEvent), m: m, opt: opt, work: do, lane: m.newLane(), plans: map[string]*scripted{}}
}

// planFor returns the plan for stores with a fingerprint.
func (f *fleet) planFor(fingerprint string, have state) *scripted {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.plans[fingerprint]
	if p == nil {
		p = &scripted{plan: f.m.tenant.plan(have, f.opt.limit)}
		f.plans[fingerprint] = p
	}
	return p
}

// known returns the plan for stores with a fingerprint, or nil.
func (f *fleet) known(fingerprint string) *scripted {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.plans[fingerprint]
}

// over makes the run one over the rows of the ledger that are selected, and then over others.
func (f *fleet) over(sel selection, total int, others []entry) {
	pages := f.rows(sel, total)
	if len(others) > 0 {
		pages = pages.then(chunks(others))
	}
	f.res.Total = total + len(others)
	f.line(pages)
}

// rows is a pager over the rows of the ledger that are selected, of which there are so many.
func (f *fleet) rows(sel selection, total int) pager {
	l := &legs{
		list: func(ctx context.Context, after, upto string, limit int) (page []entry, err error) {
			err = f.m.persist(ctx, func() (err error) {
				page, err = f.m.ledger.list(ctx, sel, after, upto, limit)
				return err
			})
			return page, err
		},
		middle: func(ctx context.Context) (string, error) {
			if total <= 2*batchSize {
				return "", nil
			}
			return f.m.ledger.nth(ctx, sel, rand.N(total))
		},
	}
	return l.page
}

// line has the stores stand in line.
func (f *fleet) line(pages pager) {
	f.queue = newQueue(pages, f.opt.StopAfter, f.m.cfg.LockPatience)
	if f.work.descent != nil {
		f.queue.batch = roundSize
	}
}

// overNamed makes the run one over the stores that the options name; those that fail at once have failed.
func (f *fleet) overNamed(ctx context.Context, visit func(*entry) bool) error {
	found, failed, err := f.m.named(ctx, f.opt.Stores, f.opt.filled)
	if err != nil {
		return err
	}
	var list []entry
	for _, e := range found {
		if visit(&e) {
			list = append(list, e)
		} else {
			f.res.Current++
		}
	}
	f.res.Total = len(list) + len(failed)
	f.line(chunks(list))
	f.start()
	for _, failure := range failed {
		f.record(failure.Store, &outcome{failure: failure})
	}
	return nil
}

// successor is the store of another owner that has the name of a row's, which is gone; nil when there is none, or it is to be
// left alone.
func (f *fleet) successor(ctx context.Context, row entry) (*entry, error) {
	var owners map[backend.Store]string
	err := f.m.persist(ctx, func() (err error) {
		owners, err = f.m.owners(ctx, []backend.Store{row.store})
		return err
	})
	owner, there := owners[row.store]
	if err != nil || !there || owner == row.owner {
		return nil, err
	}
	return f.m.unentered(ctx, row.store, owner, f.opt.filled)
}

// do goes through the run: the canaries, and then the rest.
func (f *fleet) do(ctx context.Context) (*Result, error) {
	f.start()
	var err error
	if f.opt.Canary > 0 && f.opt.Canary < f.res.Total {
		f.queue.allow(f.opt.Canary)
		before := f.failed() // names that nothing has
		err = f.phase(ctx)
		if failed := f.failed() - before; err == nil && failed > 0 {
			err = fmt.Errorf("%w: %d of %d", ErrCanary, failed, f.opt.Canary)
		}
		f.queue.allow(-1)
	}
	if err == nil {
		err = f.phase(ctx)
	}
	if err == nil {
		err = f.goOver(ctx)
	}
	f.countMissing()
	return f.res, f.finish(err)
}

// phase has workers at it until there is nothing left to take.
func (f *fleet) phase(ctx context.Context) error {
	if f.res.Total == 0 {
		return nil
	}
	workers := f.opt.Parallel
	if workers <= 0 {
		workers = f.lane.workers()
	}
	g, gctx := errgroup.WithContext(ctx)
	for range min(workers, f.m.slots.size) {
		g.Go(func() error { return f.worker(gctx) })
	}
	err := g.Wait()
	if err == nil && f.queue.exhausted() {
		err = ErrStopped
	}
	// What was done is written down, and on disk, before anyone is told.
	return errors.Join(err, f.settleAll(ctx))
}

// settleAll settles what was done, however long the run's patience lasts.
func (f *fleet) settleAll(ctx context.Context) (err error) {
	ctx, cancel := outlasting(ctx)
	defer cancel()
	defer func() {
		if err != nil {
			f.unsettled.Store(true)
		}
	}()
	free, err := f.m.slot(ctx)
	if err != nil {
		return err
	}
	defer free()
	return f.m.persist(ctx, func() error { return f.settle(ctx, true) })
}

// settleSome settles what was done if there is much of it. What somebody keeps it from is settled later.
func (f *fleet) settleSome(ctx context.Context) error {
	err := f.settle(ctx, false)
	if err == nil || !passing(err, f.m.dialect) {
		return err
	}
	f.m.log.InfoContext(ctx, "the ledger is told later", "error", err)
	return nil
}

// settle has the ledger know what was done. Callers hold a slot.
func (f *fleet) settle(ctx context.Context, all bool) error {
	missed, err := f.lane.settle(ctx, all)
	for _, e := range missed {
		if _, fault := f.m.insist(ctx, f.m.tenant, e.route(), f.m.look()); fault != nil {
			f.unsettled.Store(true)
			err = errors.Join(err, fault)
		}
	}
	return err
}

func (f *fleet) worker(ctx context.Context) error {
	for {
		tasks, wait, err := f.queue.take(ctx)
		switch {
		case errors.Is(err, ErrStopped):
			return nil // the others finish what they are at
		case err != nil:
			return err
		case wait > 0:
			if err := pause(ctx, wait); err != nil {
				return err
			}
			continue
		case len(tasks) == 0:
			return nil
		}
		if err := f.batch(ctx, tasks); err != nil {
			return err
		}
	}
}

// batch brings some stores on: those for which there is a script in one message, the others, and those whose script
// failed, through goose.
func (f *fleet) batch(ctx context.Context, tasks []task) error {
	free, err := f.m.slot(ctx)
	if err != nil {
		return err
	}
	defer free()
	if f.work.descent != nil {
		return f.descend(ctx, tasks)
	}
	slow, err := f.send(ctx, tasks)
	if err != nil {
		return err
	}
	for _, t := range slow {
		if f.queue.exhausted() {
			return nil
		}
		if err := f.one(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

// prepared makes the script of a plan, once, and publishes the state it leads to.
func (f *fleet) prepared(ctx context.Context, p *scripted) (text bool, err error) {
	if !f.text || f.m.scripts == nil || p == nil || p.unknown || len(p.todo) == 0 || p.late != nil && !f.m.cfg.AllowOutOfOrder {
		return false, nil
	}
	p.once.Lock()
	defer p.once.Unlock()
	if p.ready {
		return p.text, nil
	}
	sc, ok := f.m.dialect.compose(p.from, p.todo, false)
	if ok {
		err := f.m.persist(ctx, func() (err error) {
			p.print, err = f.m.ledger.publish(ctx, p.next)
			return err
		})
		if err != nil {
			return false, err
		}
	}
	p.script, p.text, p.ready = sc, ok, true
	return ok, nil
}

// send sends the scripts of a batch, and returns the stores for goose.
func (f *fleet) send(ctx context.Context, tasks []task) (slow []task, err error) {
	var sent []task
	var scripts []backend.Script
	wait := f.m.cfg.LockTimeout
	for _, t := range tasks {
		p := f.known(t.fingerprint)
		text, err := f.prepared(ctx, p)
		if err != nil {
			return nil, err
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
		head, args := f.lane.claim(t.store, t.fingerprint, p.print)
		scripts = append(scripts, backend.Script{
			Route: t.route(), Head: head, HeadArgs: args, Guard: p.script.guard(t.store), SQL: p.script.body,
		})
	}
	if len(scripts) == 0 {
		return slow, nil
	}
	errs := f.m.scripts.RunScripts(ctx, scripts, backend.ScriptOptions{LockTimeout: wait, Async: true})
	failed, err := f.sent(ctx, sent, errs)
	if err != nil {
		return nil, err
	}
	return append(slow, failed...), f.settleSome(ctx)
}

// sent deals with the outcome of scripts, and returns the stores that goose should look at.
func (f *fleet) sent(ctx context.Context, tasks []task, errs []error) (slow []task, err error) {
	for i, err := range errs {
		if t := tasks[i]; err == nil {
			f.m.gate.forget(t.store)
			f.lane.done(t.entry, f.known(t.fingerprint).print)
		}
	}
	var again []task // of which the guard may have said that another migrator was there
	for i, err := range errs {
		t := tasks[i]
		switch {
		case err == nil:
			if err := f.visited(ctx, t.entry, &outcome{touched: f.known(t.fingerprint).todo}); err != nil {
				return nil, err
			}
		case context.Cause(ctx) != nil: // the run is over; whatever became of this one, the next run finds out
		case errors.Is(err, backend.ErrStoreMissing):
			if err := f.came(ctx, t, &outcome{missing: true}, nil); err != nil {
				return nil, err
			}
		case passing(err, f.m.dialect) && f.putOff(t, err):
		case f.lane.refused(err):
			again = append(again, t)
		default:
			f.m.log.InfoContext(ctx, "migration text failed; goose takes over", "store", t.store.String(), "error", err)
			slow = append(slow, t)
		}
	}
	if len(again) == 0 {
		return slow, nil
	}
	behind, err := f.lookAgain(ctx, again)
	return append(slow, behind...), err
}

// lookAgain returns those of the stores that are still behind. The others were migrated by another migrator.
func (f *fleet) lookAgain(ctx context.Context, tasks []task) (behind []task, err error) {
	names := make([]backend.Store, len(tasks))
	for i, t := range tasks {
		names[i] = t.store
	}
	var page []entry
	err = f.m.persist(ctx, func() (err error) {
		page, err = f.m.ledger.named(ctx, names)
		return err
	})
	if err != nil {
		return nil, err
	}
	now := make(map[backend.Store]entry, len(page))
	for _, e := range page {
		now[e.store] = e
	}
	for _, t := range tasks {
		e, there := now[t.store]
		switch {
		case !there:
			err = f.visited(ctx, t.entry, &outcome{missing: true}) // it was purged, or renamed
		case f.m.tenant.plan(e.state, f.opt.limit).behind():
			t.entry = e
			behind = append(behind, t)
		default:
			f.m.gate.forget(t.store)
			err = f.visited(ctx, e, &outcome{})
		}
		if err != nil {
			return nil, err
		}
	}
	return behind, nil
}

// one works on one store through goose.
func (f *fleet) one(ctx context.Context, t task) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	out, err := f.m.inStore(ctx, f.m.tenant, t.route(), f.work)
	return f.came(ctx, t, out, err)
}

// came deals with what became of one store.
func (f *fleet) came(ctx context.Context, t task, out *outcome, err error) error {
	switch {
	case err != nil && passing(err, f.m.dialect) && context.Cause(ctx) == nil && f.putOff(t, err):
		if out != nil {
			f.addMigrations(len(out.touched))
		}
		return nil
	case err != nil:
		return err
	case out.failure != nil && passing(out.failure, f.m.dialect) && f.putOff(t, out.failure):
		f.addMigrations(len(out.touched))
		return nil
	case out.missing:
		next, err := f.successor(ctx, t.entry)
		if err != nil {
			return err
		}
		if next != nil {
			f.addMigrations(len(out.touched))
			f.queue.giveBack(task{entry: *next})
			return nil
		}
	}
	return f.visited(ctx, t.entry, out)
}

// record counts a store that is done with, one that failed against the budget too.
func (f *fleet) record(store backend.Store, out *outcome) {
	if out.failure != nil {
		f.queue.fail()
	}
	f.report.record(store, out)
}

// putOff puts a store aside for later, and reports whether it did.
func (f *fleet) putOff(t task, err error) bool {
	if !f.queue.putOff(t) {
		return false
	}
	f.event(EventRetrying, t.store, err)
	return true
}
