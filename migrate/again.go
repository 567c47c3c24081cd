package migrate

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/tenement-go/tenement/backend"
)

// An Up asks the ledger once more when it is through. A store that had another name by the time of its turn, or got one before
// the ledger heard what was done in it, and one of which a server that crashed has taken back what it had not on disk yet, are
// behind then, and are gone over again.

// maxRounds is how often stores are gone over again, should there be something new each time.
const maxRounds = 10

// visits is what a run has made of the stores that it has been at, some hundred bytes of each. It is safe for concurrent use.
type visits struct {
	mu      sync.Mutex
	of      map[backend.Route]visit // by what stays when a store is renamed
	several map[string]bool         // owners that have several stores
	news    bool                    // something was done, or found to be missing, since the ledger was last asked
}

// visit is what a run has made of one store.
type visit struct {
	route   backend.Route
	updated int64        // when the ledger's row was written, as it was read before
	touched []*migration // applied
	missing bool
	failed  bool
	counted bool // as applied or skipped
}

func newVisits() *visits {
	return &visits{of: map[backend.Route]visit{}, several: map[string]bool{}}
}

// key is what stays of a row when its store is renamed: its owner, unless that has several. Callers hold mu.
func (v *visits) key(e entry) backend.Route {
	if e.owner == "" || v.several[e.owner] {
		return e.route()
	}
	return backend.Route{Owner: e.owner}
}

// last returns what was made of a store so far.
func (v *visits) last(e entry) (was visit, been bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	was, been = v.of[v.key(e)]
	return was, been
}

// tellApart notes that an owner has several stores.
func (v *visits) tellApart(owner string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.divide(owner)
}

// divide is tellApart. Callers hold mu.
func (v *visits) divide(owner string) {
	v.several[owner] = true
	if was, been := v.of[backend.Route{Owner: owner}]; been {
		delete(v.of, backend.Route{Owner: owner})
		v.of[was.route] = was
	}
}

// note notes what became of a store, has the outcome list what was applied there before, too, and returns that visit and whether
// it was counted, which it is no longer. before is what the store was called then, as far as is known.
func (v *visits) note(e entry, before backend.Route, out *outcome) (was visit, counted bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	key := v.key(e)
	was, been := v.of[key]
	if been && was.route != e.route() && was.route != before { // another store of the owner, at the same moment
		v.divide(e.owner)
		key = v.key(e)
		was = v.of[key]
	}
	again := out.missing && was.missing && was.route == e.route() && was.updated == e.updated
	v.news = v.news || len(out.touched) > 0 || out.missing && !again
	for _, mig := range was.touched {
		if !slices.Contains(out.touched, mig) {
			out.touched = append(slices.Clip(out.touched), mig)
		}
	}
	failed := out.failure != nil
	v.of[key] = visit{
		route: e.route(), updated: e.updated, touched: out.touched,
		missing: out.missing, failed: failed, counted: !out.missing && !failed,
	}
	return was, was.counted
}

// uncount returns the visit to a store and whether it is counted, which it is no longer.
func (v *visits) uncount(e entry) (was visit, counted bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	key := v.key(e)
	was = v.of[key]
	if counted = was.counted; counted {
		was.counted = false
		v.of[key] = was
	}
	return was, counted
}

// anyNews reports whether there is a reason to ask the ledger again.
func (v *visits) anyNews() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	news := v.news
	v.news = false
	return news
}

// list returns all of them, by name.
func (v *visits) list() []visit {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.SortedFunc(maps.Values(v.of), func(a, b visit) int { return compareStores(a.route.Store, b.route.Store) })
}

// behind returns the rows of these groups that are behind, those that failed included, and how many there are.
func (f *fleet) behind(groups []group) (sel selection, total int) {
	return rowsOf(groups, func(g group) bool { return f.planFor(g.fingerprint, g.state).behind() })
}

// rowsOf returns the rows that a run over some of these groups goes through, those that failed included, and how many there are.
func rowsOf(groups []group, some func(group) bool) (sel selection, total int) {
	for _, g := range groups {
		if some(g) {
			sel.fingerprints = append(sel.fingerprints, g.fingerprint)
			total += g.stores
		} else {
			total += g.failed
		}
	}
	return sel, total
}

// goOver goes over the stores that are behind although the run came to its end, until there are none or it gets nowhere.
func (f *fleet) goOver(ctx context.Context) error {
	for round := range maxRounds {
		if f.visits == nil || !f.visits.anyNews() {
			return nil
		}
		var rows pager
		err := f.m.persist(ctx, func() (err error) {
			rows, err = f.remaining(ctx)
			return err
		})
		if err != nil || rows == nil {
			return err
		}
		f.queue.goOn(rows.only(func(ctx context.Context, page []entry) ([]entry, error) { return f.again(ctx, page, round == 0) }))
		if err := f.phase(ctx); err != nil {
			return err
		}
	}
	return nil
}

// remaining returns the rows that are behind by what the ledger says now, or nil. Those that failed may be among them.
func (f *fleet) remaining(ctx context.Context) (pager, error) {
	if len(f.opt.Stores) > 0 {
		return f.remainingNamed(ctx)
	}
	groups, _, err := f.m.ledger.groups(ctx)
	if err != nil {
		return nil, err
	}
	sel, total := f.behind(groups)
	if total <= f.failed() {
		return nil, nil
	}
	return f.rows(sel, 0), nil
}

// remainingNamed is remaining of a run over stores that were named: of these alone, whatever they are called by now.
func (f *fleet) remainingNamed(ctx context.Context) (pager, error) {
	var behind []entry
	for chunk := range slices.Chunk(f.visits.list(), pageSize) {
		names, elsewhere := make([]backend.Store, len(chunk)), map[string]bool{}
		for i, was := range chunk {
			names[i], elsewhere[was.route.Owner] = was.route.Store, true
		}
		rows, err := f.m.ledger.named(ctx, names)
		if err != nil {
			return nil, err
		}
		for _, e := range rows {
			delete(elsewhere, e.owner)
		}
		delete(elsewhere, "")
		renamed, err := f.m.ledger.owned(ctx, slices.Collect(maps.Keys(elsewhere)))
		if err != nil {
			return nil, err
		}
		for _, e := range append(rows, renamed...) {
			if f.planFor(e.fingerprint, e.state).behind() {
				behind = append(behind, e)
			}
		}
	}
	if len(behind) == 0 {
		return nil, nil
	}
	return chunks(behind), nil
}

// again returns those of some rows that are to be gone over again, and counts them no longer. What failed has failed; and
// what was written about a store since the run was there is somebody else's word: a Down's, for instance. Stores that the run
// has never met are for one round: where tenants are made all the time at an older version there are always some.
func (f *fleet) again(ctx context.Context, rows []entry, strangers bool) (again []entry, err error) {
	lost := false
	for _, e := range rows {
		was, been, err := f.before(ctx, e)
		switch {
		case err != nil:
			return nil, err
		case was.failed, !been && !strangers, been && !was.missing && was.route == e.route() && was.updated != e.updated:
			continue
		case been && !was.missing:
			lost = lost || was.route == e.route()
			f.m.gate.forget(e.store)
			f.uncount(e)
		}
		again = append(again, e)
	}
	if lost { // processes may know them as ready
		err = f.m.persist(ctx, func() error { return f.m.ledger.lost(ctx) })
	}
	return again, err
}

// before returns what the run has made of a row's store so far, whatever that was called then.
func (f *fleet) before(ctx context.Context, e entry) (was visit, been bool, err error) {
	was, been = f.visits.last(e)
	if !been || was.route == e.route() {
		return was, been, nil
	}
	var row *entry
	err = f.m.persist(ctx, func() (err error) {
		row, err = f.m.ledger.entry(ctx, was.route.Store.String())
		return err
	})
	if err != nil {
		return visit{}, false, err
	}
	if row != nil && row.owner == e.owner { // it was another one
		f.visits.tellApart(e.owner)
		was, been = f.visits.last(e)
	}
	return was, been, nil
}

// uncount has a store that was counted as done be so no longer.
func (f *fleet) uncount(e entry) {
	if was, counted := f.visits.uncount(e); counted {
		f.takeBack(was)
	}
}

// visited counts a store that is done with, once. Whether one is missing shows at the end: it may have another name.
func (f *fleet) visited(ctx context.Context, e entry, out *outcome) error {
	if f.visits != nil {
		was, _, err := f.before(ctx, e)
		if err != nil {
			return err
		}
		if was, counted := f.visits.note(e, was.route, out); counted {
			f.takeBack(was)
		}
		if out.missing {
			return nil
		}
	}
	f.record(e.store, out)
	return nil
}

// countMissing counts the stores that are missing in the end.
func (f *fleet) countMissing() {
	if f.visits == nil {
		return
	}
	for _, was := range f.visits.list() {
		if was.missing {
			f.record(was.route.Store, &outcome{missing: true, touched: was.touched})
		}
	}
}
