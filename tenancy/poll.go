package tenancy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// mark is a place in the list of changes. The revision alone would not tell a registry that was put back from a backup
// and has come as far again.
type mark struct {
	revision int64
	nonce    string
}

func (r *registry) head(ctx context.Context) (m mark, err error) {
	err = r.db.QueryRowContext(ctx, `SELECT revision, nonce FROM tenement_revision WHERE id = 1`).Scan(&m.revision, &m.nonce)
	return m, err
}

func (a *App) pollLoop() {
	tick := time.NewTicker(a.cfg.PollInterval)
	defer tick.Stop()
	for failed := false; ; {
		select {
		case <-a.ctx.Done():
			return
		case <-tick.C:
		}
		ctx, cancel := context.WithTimeout(a.ctx, a.asking())
		err := errors.Join(a.hear(ctx), a.renewDue(ctx))
		cancel()
		if err != nil {
			a.noteDeaf()
		}
		switch {
		case err == nil && failed:
			a.log.Info("tenement: the registry answers again")
		case err != nil && !failed && a.ctx.Err() == nil:
			a.log.Warn("tenement: the registry cannot be asked for changes; tenants in the cache are served as they were", "error", err)
		}
		failed = err != nil
		if a.news.due() { // not by the one who hears: it may take long, and those who change a tenant wait no longer than the bound
			a.background(func() { a.tellNews(a.ctx) })
		}
		a.known.forget(false)
		a.settle()
		a.spares.wake(a)
	}
}

// Refresh asks the registry for changes now, as is done every PollInterval. It returns when they were acted on and OnChange was
// told of them, with a context that ends when the App is closed. While OnChange is being told of earlier ones it returns sooner, and
// these come after them.
func (a *App) Refresh(ctx context.Context) error {
	err := a.hear(ctx)
	a.tellNews(ctx)
	return err
}

// tellNews tells the application of what was heard. Each is told once: it must not be with a context that is over. Whose locks the
// caller holds is known by the values.
func (a *App) tellNews(ctx context.Context) {
	a.news.each(func(e Event) { a.tell(detach{Leave(ctx), a.ctx}, e) })
}

// detach has the values of one context and the end of another.
type detach struct {
	context.Context
	ends context.Context
}

func (d detach) Deadline() (time.Time, bool) { return d.ends.Deadline() }
func (d detach) Done() <-chan struct{}       { return d.ends.Done() }
func (d detach) Err() error                  { return d.ends.Err() }

// hear is Refresh without telling the application, which may wait for the one who hears.
func (a *App) hear(ctx context.Context) error {
	if err := a.polling.Acquire(ctx, 1); err != nil {
		return fmt.Errorf("tenement: read the registry's changes: %w: %w", ErrUnavailable, context.Cause(ctx))
	}
	defer a.polling.Release(1)
	return a.listen(ctx)
}

// listen acts on the changes that there are. The caller has the turn to poll.
func (a *App) listen(ctx context.Context) error {
	begun := time.Now()
	for {
		more, err := a.poll(Leave(ctx))
		if err != nil {
			return fmt.Errorf("tenement: read the registry's changes: %w: %w", ErrUnavailable, err)
		}
		if !more {
			a.noteHeard(begun)
			return nil
		}
	}
}

const changesPerPoll = 1000

func (a *App) poll(ctx context.Context) (more bool, err error) {
	mine := a.own.latest() // before the registry is asked: it must have that
	head, unfinished, changes, err := a.reg.changesSince(ctx, a.seen)
	if err != nil {
		return false, err
	}
	if unfinished {
		a.resumer.wake(a)
	}
	if head == a.seen && mine.revision <= head.revision {
		return false, nil
	}
	if !follows(a.seen, changes) || lacks(head, changes, mine) {
		// Changes that are not listed any more, or a registry that was put back from a backup.
		if err := a.forgetAll(ctx); err != nil {
			return false, err
		}
		a.seen = head
		return false, nil
	}
	if a.seen.revision > 0 {
		changes = changes[1:]
	}
	if remote := a.own.others(changes); len(remote) > 0 {
		if err := a.learnChanges(ctx, remote); err != nil {
			return false, err
		}
	}
	last := changes[len(changes)-1]
	a.seen = mark{last.revision, last.nonce}
	return a.seen != head, nil
}

// follows reports whether the changes, of which m's own is the first, go on from m without a gap.
func follows(m mark, changes []touch) bool {
	if m.revision > 0 {
		if len(changes) < 2 || changes[0].nonce != m.nonce {
			return false
		}
		changes = changes[1:]
	}
	for i, c := range changes {
		if c.revision != m.revision+int64(i)+1 {
			return false
		}
	}
	return len(changes) > 0
}

// lacks reports whether the registry has not got a change that was made.
func lacks(head mark, changes []touch, made mark) bool {
	return made.revision > head.revision ||
		slices.ContainsFunc(changes, func(c touch) bool { return c.revision == made.revision && c.nonce != made.nonce })
}

// changesSince returns the latest revision, the changes from m on (m's own first), and whether there are operations that
// have not stopped.
func (r *registry) changesSince(ctx context.Context, m mark) (head mark, unfinished bool, changes []touch, err error) {
	rows, err := r.db.QueryContext(ctx, `SELECT r.revision, r.nonce, EXISTS (SELECT 1 FROM tenement_operations WHERE NOT stopped),
		COALESCE(c.revision, 0), COALESCE(c.tenant_id, ''), COALESCE(c.kind, ''), COALESCE(c.nonce, ''), COALESCE(c.actor, '')
		FROM tenement_revision r LEFT JOIN tenement_changes c ON c.revision >= $1 WHERE r.id = 1
		ORDER BY c.revision LIMIT `+fmt.Sprint(changesPerPoll), m.revision)
	if err != nil {
		return head, false, nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var c touch
		if err := rows.Scan(&head.revision, &head.nonce, &unfinished, &c.revision, &c.id, &c.kind, &c.nonce, &c.actor); err != nil {
			return head, false, nil, err
		}
		if c.revision != 0 {
			changes = append(changes, c)
		}
	}
	return head, unfinished, changes, rows.Err()
}

// learnChanges reads the tenants that were changed by others. Those that were purged are forgotten first: one that is read
// after that has come back since, be it by a change of our own.
func (a *App) learnChanges(ctx context.Context, changes []touch) error {
	a.gen.Add(1)
	var ids []ID
	entered := map[ID]bool{}
	for _, c := range changes {
		ids = append(ids, c.id)
		if c.purges() {
			a.lives.forget(c.id)
		}
		entered[c.id] = entered[c.id] || c.purges() || c.enters()
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	tenants, err := many(ctx, a.reg.db, ids)
	if err != nil {
		return err
	}
	byID := make(map[ID]*Tenant, len(tenants))
	for _, t := range tenants {
		a.learned(t, entered[t.ID])
		byID[t.ID] = t
	}
	if a.cfg.Hooks.OnChange == nil {
		return nil
	}
	for _, c := range changes {
		if c.nonce == historyNonce {
			continue
		}
		e := Event{Kind: c.kind, Tenant: Tenant{ID: c.id}, Actor: c.actor, Remote: true}
		if t := byID[c.id]; t != nil {
			e.Tenant = *t
		}
		a.news.add(e)
	}
	return nil
}

// forgetAll is for when it is not known what changed, or when the registry went back in time.
func (a *App) forgetAll(ctx context.Context) error {
	defer a.own.pause()()
	a.gen.Add(1)
	a.known.forget(true)
	for _, tb := range []*table{a.hosts, a.slugs, a.ids} {
		tb.absent.InvalidateAll()
	}
	// What is in use is read anew rather than forgotten, so that those who were suspended are told.
	ids := a.lives.ids()
	tenants, err := many(ctx, a.reg.db, ids)
	if err != nil {
		return err
	}
	found := make(map[ID]*Tenant, len(tenants))
	for _, t := range tenants {
		found[t.ID] = t
	}
	for _, id := range ids {
		if l := a.lives.find(id); l != nil {
			l.replace(found[id])
		}
	}
	a.gen.Add(1)
	return nil
}

// resumer goes on with operations that nobody is at work on, one round at a time.
type resumer struct {
	running atomic.Bool

	mu      sync.Mutex
	waiting map[int64]waiting
}

// waiting is an operation that was not over when it was last looked at.
type waiting struct {
	step    string
	fence   int64
	next    time.Time
	backoff time.Duration
}

const maxBackoff = time.Minute

// settle finishes what a run over the tenants' stores left undone whose process died, unless that is being done.
func (a *App) settle() {
	if a.settling.Swap(true) {
		return
	}
	a.background(func() {
		defer a.settling.Store(false)
		if _, err := a.migrator.Settle(a.ctx); err != nil && a.ctx.Err() == nil {
			a.log.Warn("tenement: a migration of the tenants is not over", "error", err)
		}
	})
}

// wake begins a round unless one is going on.
func (w *resumer) wake(a *App) {
	if w.running.Swap(true) {
		return
	}
	a.background(func() {
		defer w.running.Store(false)
		if err := w.round(a.ctx, a); err != nil && a.ctx.Err() == nil {
			a.log.Warn("tenement: operations are not over", "error", err)
		}
	})
}

func (w *resumer) round(ctx context.Context, a *App) error {
	ops, err := a.Operations(ctx)
	if err != nil {
		return err
	}
	w.mu.Lock()
	before := w.waiting
	w.waiting = map[int64]waiting{}
	w.mu.Unlock()
	var errs []error
	for _, op := range ops {
		if op.Stopped {
			continue
		}
		then, seen := before[op.ID]
		now := waiting{step: op.Step, fence: op.fence}
		switch {
		case !seen || then.step != op.Step || then.fence < op.fence:
			// Somebody may be at work on it: the lock would tell, and costs a connection. Look again at the next poll.
		case time.Now().Before(then.next):
			now = then
		default:
			if _, err := a.resume(ctx, op); err != nil {
				errs = append(errs, err)
				now.backoff = min(max(2*then.backoff, a.cfg.PollInterval), maxBackoff)
				now.next = time.Now().Add(now.backoff)
				now.fence++ // it was taken up
			}
		}
		w.mu.Lock()
		w.waiting[op.ID] = now
		w.mu.Unlock()
	}
	return errors.Join(errs...)
}
