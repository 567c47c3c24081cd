package migrate

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

const (
	batchSize = 32  // stores that a worker takes at a time
	pageSize  = 256 // stores read from the ledger at a time
)

// task is a store on its way through a run.
type task struct {
	entry
	tries  int       // how often it was put off
	since  time.Time // since when it is
	notYet time.Time // not to be tried again before
}

// pager gives out the stores of a run, page by page; an empty page is the end.
type pager func(ctx context.Context, limit int) ([]entry, error)

// queue hands the stores of a run to its workers: a few canaries first, if there are to be any, then the rest in batches;
// those whose tables are locked again later; and none any more when enough have failed. It is safe for concurrent use.
type queue struct {
	pages     pager
	stopAfter int           // stop when this many have failed; 0: never
	patience  time.Duration // how long one store is put off before it counts as failed
	batch     int           // how many stores are taken at a time, at most
	now       func() time.Time

	mu       sync.Mutex
	ready    []task
	deferred []task // at most as many as there are stores, but each a few words
	quota    int    // how many more may be taken from the pages; negative: all
	failed   int
}

func newQueue(pages pager, stopAfter int, patience time.Duration) *queue {
	return &queue{pages: pages, stopAfter: stopAfter, patience: patience, batch: batchSize, now: time.Now, quota: -1}
}

// allow sets how many more stores may be taken from the pages; negative means all.
func (q *queue) allow(n int) {
	q.mu.Lock()
	q.quota = n
	q.mu.Unlock()
}

// goOn adds stores to a queue that is at its end.
func (q *queue) goOn(pages pager) {
	q.mu.Lock()
	q.pages, q.quota = pages, -1
	q.mu.Unlock()
}

// fail counts a store that failed.
func (q *queue) fail() {
	q.mu.Lock()
	q.failed++
	q.mu.Unlock()
}

// exhausted reports whether so many have failed that the run is to stop.
func (q *queue) exhausted() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.stopAfter > 0 && q.failed >= q.stopAfter
}

// putOff takes a store back for later, and reports whether it did: there is an end to patience.
func (q *queue) putOff(t task) bool {
	now := q.now()
	if t.tries > 0 && now.Sub(t.since) > q.patience {
		return false
	}
	if t.tries == 0 {
		t.since = now
	}
	t.tries++
	t.notYet = now.Add(retryPause(t.tries))
	q.mu.Lock()
	q.deferred = append(q.deferred, t)
	q.mu.Unlock()
	return true
}

// giveBack takes a store back for which there was no time.
func (q *queue) giveBack(t task) {
	q.mu.Lock()
	q.ready = append(q.ready, t)
	q.mu.Unlock()
}

// take returns the next stores to visit, or how long to wait for one that was put off, or neither when none is left. It
// returns ErrStopped when enough have failed.
func (q *queue) take(ctx context.Context) ([]task, time.Duration, error) {
	if q.exhausted() {
		return nil, 0, ErrStopped
	}
	if err := context.Cause(ctx); err != nil {
		return nil, 0, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.now()
	if due := q.due(now); len(due) > 0 {
		return due, 0, nil
	}
	if len(q.ready) == 0 && q.quota != 0 {
		if err := q.fill(ctx); err != nil {
			return nil, 0, err
		}
	}
	if n := min(len(q.ready), q.batch); n > 0 {
		batch := slices.Clone(q.ready[:n])
		q.ready = q.ready[n:]
		return batch, 0, nil
	}
	var wait time.Duration
	for _, t := range q.deferred {
		if d := t.notYet.Sub(now); wait == 0 || d < wait {
			wait = d
		}
	}
	return nil, wait, nil
}

// due takes the stores whose time has come. Callers hold mu.
func (q *queue) due(now time.Time) []task {
	var due []task
	q.deferred = slices.DeleteFunc(q.deferred, func(t task) bool {
		if len(due) == q.batch || t.notYet.After(now) {
			return false
		}
		due = append(due, t)
		return true
	})
	return due
}

// fill reads the next page. Callers hold mu: another worker has nothing to do before the page is there.
func (q *queue) fill(ctx context.Context) error {
	limit := pageSize
	if q.quota >= 0 {
		limit = min(limit, q.quota)
	}
	page, err := q.pages(ctx, limit)
	if err != nil {
		return err
	}
	if q.quota > 0 {
		q.quota -= min(q.quota, len(page))
	}
	if len(page) == 0 {
		q.quota = 0
	}
	q.ready = make([]task, 0, len(page))
	for _, e := range page {
		q.ready = append(q.ready, task{entry: e})
	}
	return nil
}

// retryPause is how long to wait after having failed for the nth time.
func retryPause(n int) time.Duration {
	pause := min(200*time.Millisecond<<min(n, 8), 5*time.Second)
	return pause/2 + rand.N(pause/2)
}

// legs is the way through the ledger: from a store somewhere in the middle to the last, and then from the first to that
// one. Two runs at once, each with a beginning of its own, meet late.
type legs struct {
	// list returns stores in order of name: those after one name and, when upto is set, not after another.
	list func(ctx context.Context, after, upto string, limit int) ([]entry, error)
	// middle returns where to begin, or nothing.
	middle func(ctx context.Context) (string, error)

	begun  bool
	cursor string
	upto   string // on the first leg it is where the second ends
	second bool
	over   bool
}

// page is a pager.
func (l *legs) page(ctx context.Context, limit int) ([]entry, error) {
	if !l.begun {
		name, err := l.middle(ctx)
		if err != nil {
			return nil, err
		}
		l.begun, l.cursor, l.upto, l.second = true, name, name, name == ""
	}
	for !l.over {
		upto := ""
		if l.second {
			upto = l.upto
		}
		page, err := l.list(ctx, l.cursor, upto, limit)
		if err != nil {
			return nil, err
		}
		if len(page) > 0 {
			l.cursor = page[len(page)-1].store.String()
			return page, nil
		}
		l.over = l.second
		l.second, l.cursor = true, ""
	}
	return nil, nil
}

// then is a pager that goes on to another when the first is at its end.
func (p pager) then(next pager) pager {
	over := false
	return func(ctx context.Context, limit int) ([]entry, error) {
		if !over {
			page, err := p(ctx, limit)
			if err != nil || len(page) > 0 {
				return page, err
			}
			over = true
		}
		return next(ctx, limit)
	}
}

// only is a pager over what keep returns of the pages of another.
func (p pager) only(keep func(context.Context, []entry) ([]entry, error)) pager {
	return func(ctx context.Context, limit int) ([]entry, error) {
		for {
			page, err := p(ctx, limit)
			if err != nil || len(page) == 0 {
				return nil, err
			}
			if page, err = keep(ctx, page); err != nil || len(page) > 0 {
				return page, err
			}
		}
	}
}

// chunks is a pager over a list.
func chunks(list []entry) pager {
	return func(_ context.Context, limit int) ([]entry, error) {
		n := min(limit, len(list))
		page := list[:n]
		list = list[n:]
		return page, nil
	}
}
