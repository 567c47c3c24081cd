package migrate

import (
	"sync"
	"time"

	"github.com/tenement-go/tenement/backend"
)

// report keeps the result of a run and tells of its progress.
type report struct {
	onEvent func(Event)
	began   time.Time
	res     *Result
	verify  bool // say where the ledger was wrong

	mu      sync.Mutex
	started bool
}

func newReport(s Set, onEvent func(Event)) *report {
	return &report{onEvent: onEvent, began: time.Now(), res: &Result{Set: s}}
}

// start tells that the run knows how much there is to do.
func (r *report) start() {
	if !r.started {
		r.started = true
		r.event(EventStarted, backend.Store{}, nil)
	}
}

func (r *report) event(kind EventKind, store backend.Store, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tell(kind, store, err)
}

// tell reports progress. Callers hold mu.
func (r *report) tell(kind EventKind, store backend.Store, err error) {
	if r.onEvent == nil {
		return
	}
	r.onEvent(Event{
		Kind: kind, Set: r.res.Set, Store: store, Done: r.res.done(), Failed: r.res.Failed,
		Total: r.res.Total, Elapsed: time.Since(r.began), Err: err,
	})
}

func (r *Result) done() int { return r.Applied + r.Skipped + r.Missing + r.Failed }

// record counts a store that is done with.
func (r *report) record(store backend.Store, out *outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.res.Migrations += len(out.touched)
	if r.verify && out.have != nil {
		r.res.Drift = ledgerDrift(store, out.ledger, out.have, r.res.Drift)
	}
	switch {
	case out.missing:
		r.res.Missing++
		r.tell(EventMissing, store, backend.ErrStoreMissing)
	case out.failure != nil:
		r.res.Failed++
		if len(r.res.Failures) < maxFailuresKept {
			r.res.Failures = append(r.res.Failures, out.failure)
		}
		r.tell(EventFailed, store, out.failure)
	case len(out.touched) == 0:
		r.res.Skipped++
		r.tell(EventSkipped, store, nil)
	default:
		r.res.Applied++
		r.tell(EventApplied, store, nil)
	}
}

// takeBack counts a store no longer that was counted as done, and did not fail.
func (r *report) takeBack(was visit) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.res.Migrations -= len(was.touched)
	if len(was.touched) == 0 {
		r.res.Skipped--
	} else {
		r.res.Applied--
	}
}

// addMigrations counts what was applied in a store that is not done with.
func (r *report) addMigrations(n int) {
	r.mu.Lock()
	r.res.Migrations += n
	r.mu.Unlock()
}

func (r *report) failed() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.res.Failed
}

// finish closes the result and returns the run's error, if there is one.
func (r *report) finish(err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.res.Left = max(0, r.res.Total-r.res.done())
	r.res.Elapsed = time.Since(r.began)
	r.tell(EventDone, backend.Store{}, err)
	if err == nil && r.res.Failed == 0 {
		return nil
	}
	return &RunError{Result: r.res, Err: err}
}
