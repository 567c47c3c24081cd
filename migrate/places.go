package migrate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tenement-go/tenement/backend"
)

// Where the backend has several places, each has a ledger, a shared set and stores of its own, and a Migrator for them: the
// one that New returns sends what is about one store to that store's, and what is about all to each in turn. So the ledger's
// row is written in the transaction of the migration, in every place, and one that is down keeps nobody else waiting.

// part is the Migrator of one place.
type part struct {
	place string
	m     *Migrator
}

// newParts makes the Migrators of a backend's places; none for a backend that has but one.
func newParts(be backend.Backend, cfg Config) (backend.Placer, []part, error) {
	placer, ok := be.(backend.Placer)
	if !ok || len(placer.Places()) < 2 {
		return nil, nil, nil
	}
	var parts []part
	for i, place := range placer.Places() {
		own := cfg
		if i > 0 {
			own.System = nil // tables of a library are home's
		}
		m, err := New(placer.In(place), own)
		if err != nil {
			return nil, nil, err
		}
		m.apart = i > 0
		parts = append(parts, part{place, m})
	}
	return placer, parts, nil
}

// of returns the Migrator of the place where a store is.
func (m *Migrator) of(ctx context.Context, s backend.Store) (*Migrator, error) {
	if m.parts == nil {
		return m, nil
	}
	place, err := m.placer.PlaceOf(ctx, s)
	if err != nil {
		return nil, err
	}
	return m.at(place)
}

// settled returns the Migrator of the place where a store is to be made.
func (m *Migrator) settled(ctx context.Context, s backend.Store) (*Migrator, error) {
	if m.parts == nil {
		return m, nil
	}
	place, err := m.placer.Settle(ctx, s)
	if err != nil {
		return nil, err
	}
	return m.at(place)
}

func (m *Migrator) at(place string) (*Migrator, error) {
	for _, p := range m.parts {
		if p.place == place {
			return p.m, nil
		}
	}
	return nil, fmt.Errorf("tenement: migrate: there is no place %q: %w", place, backend.ErrInvalidName)
}

// inPlaces has each place do a run, or those in which the named stores are, and adds up what came of it.
func (m *Migrator) inPlaces(ctx context.Context, fleet Fleet, do func(m *Migrator, fleet Fleet) (*Result, error)) (*Result, error) {
	named, err := m.byPlace(ctx, fleet.Stores)
	if err != nil {
		return nil, err
	}
	var concerned []part
	for _, p := range m.parts {
		if len(fleet.Stores) == 0 || len(named[p.place]) > 0 {
			concerned = append(concerned, p)
		}
	}
	var sum *Result
	var faults []error
	failed := false
	for i, p := range concerned {
		if cause := enough(ctx, fleet.StopAfter, sum); cause != nil && i > 0 {
			failed, faults = true, append(faults, cause)
			break
		}
		own := fleet
		own.Stores = named[p.place]
		own.OnEvent = onwards(fleet.OnEvent, sum)
		if fleet.StopAfter > 0 {
			own.StopAfter = fleet.StopAfter - sum.tenantsFailed()
		}
		res, err := do(p.m, own)
		if err != nil {
			failed = true
			var run *RunError
			if !errors.As(err, &run) {
				faults = append(faults, fmt.Errorf("place %s: %w", p.place, err))
			} else if run.Err != nil {
				faults = append(faults, fmt.Errorf("place %s: %w", p.place, run.Err))
			}
		}
		sum = sum.plus(res)
		if errors.Is(err, ErrCanary) || errors.Is(err, ErrStopped) {
			break // what is meant for one place is meant for those after it
		}
	}
	switch {
	case !failed:
		return sum, nil
	case sum == nil:
		return nil, errors.Join(faults...)
	}
	return sum, &RunError{Result: sum, Err: errors.Join(faults...)}
}

// enough is why a run does not go on to another place; nil when it does.
func enough(ctx context.Context, stopAfter int, sum *Result) error {
	if stopAfter > 0 && sum.tenantsFailed() >= stopAfter {
		return ErrStopped
	}
	return context.Cause(ctx)
}

// tenantsFailed is how many tenants' stores failed in the places so far. While a shared set is all that they came to, none did.
func (r *Result) tenantsFailed() int {
	if r == nil || r.Set != SetTenant {
		return 0
	}
	return r.Failed
}

// byPlace divides stores by where they are.
func (m *Migrator) byPlace(ctx context.Context, stores []backend.Store) (map[string][]backend.Store, error) {
	named := map[string][]backend.Store{}
	for _, s := range stores {
		place, err := m.placer.PlaceOf(ctx, s)
		if err != nil {
			return nil, err
		}
		named[place] = append(named[place], s)
	}
	return named, nil
}

// onwards reports a place's events with those before it counted.
func onwards(report func(Event), before *Result) func(Event) {
	if report == nil || before == nil {
		return report
	}
	done, failed, total := before.Applied+before.Skipped+before.Missing+before.Failed, before.Failed, before.Total
	return func(e Event) {
		if e.Set == before.Set {
			e.Done, e.Failed, e.Total = e.Done+done, e.Failed+failed, e.Total+total
		}
		report(e)
	}
}

// plus adds the result of one more place. Either may be nil.
func (r *Result) plus(o *Result) *Result {
	switch {
	case r == nil:
		return o
	case o == nil:
		return r
	case r.Set == SetShared && o.Set != SetShared: // the shared set of the earlier places was all that they came to
		return o.plusShared(r)
	case r.Set != SetShared && o.Set == SetShared:
		return r.plusShared(o)
	}
	r.Total += o.Total
	r.Applied += o.Applied
	r.Skipped += o.Skipped
	r.Missing += o.Missing
	r.Failed += o.Failed
	r.Left += o.Left
	r.Current += o.Current
	r.Migrations += o.Migrations
	r.Elapsed += o.Elapsed
	r.Failures = append(r.Failures, o.Failures...)
	r.Failures = r.Failures[:min(len(r.Failures), maxFailuresKept)]
	for _, d := range o.Drift {
		r.Drift = addDrift(r.Drift, d)
	}
	r.Shared = r.Shared.plus(o.Shared)
	return r
}

func (r *Result) plusShared(o *Result) *Result {
	r.Shared = r.Shared.plus(o)
	return r
}

// statusOfPlaces adds up the status of all places that answer; the error names the others. The shared set is current when it
// is everywhere.
func (m *Migrator) statusOfPlaces(ctx context.Context) (*Status, error) {
	var sum *Status
	var faults []error
	for _, p := range m.parts {
		st, err := p.m.Status(ctx)
		if err != nil {
			faults = append(faults, fmt.Errorf("place %s: %w", p.place, err))
			continue
		}
		sum = sum.plus(st)
	}
	return sum, errors.Join(faults...)
}

func (st *Status) plus(o *Status) *Status {
	if st == nil || o == nil {
		return cmp.Or(st, o)
	}
	if st.Shared.Current {
		st.Shared = o.Shared
	}
	st.Tenants.Total += o.Tenants.Total
	st.Tenants.Current += o.Tenants.Current
	st.Tenants.Pending += o.Tenants.Pending
	st.Tenants.Failed += o.Tenants.Failed
	for _, g := range o.Groups {
		i := slices.IndexFunc(st.Groups, func(have GroupStatus) bool { return have.Fingerprint == g.Fingerprint })
		if i < 0 {
			st.Groups = append(st.Groups, g)
			continue
		}
		have := &st.Groups[i]
		have.Stores, have.Failed, have.First = have.Stores+g.Stores, have.Failed+g.Failed, min(have.First, g.First)
	}
	slices.SortStableFunc(st.Groups, func(x, y GroupStatus) int { return y.Stores - x.Stores })
	st.Failures = append(st.Failures, o.Failures...)
	st.Failures = st.Failures[:min(len(st.Failures), 100)]
	for _, d := range o.Drift {
		st.Drift = addDrift(st.Drift, d)
	}
	return st
}

// storesOfPlaces lists the stores that the ledgers have, in order of name.
func (m *Migrator) storesOfPlaces(ctx context.Context) ([]backend.Store, error) {
	var all []backend.Store
	for _, p := range m.parts {
		stores, err := p.m.Stores(ctx)
		if err != nil {
			return nil, fmt.Errorf("place %s: %w", p.place, err)
		}
		all = append(all, stores...)
	}
	slices.SortFunc(all, func(x, y backend.Store) int { return strings.Compare(x.String(), y.String()) })
	return slices.Compact(all), nil
}

// inLedgers tells every ledger about a store, and returns an error when none was told, or not the one that has to be (nil: it
// is not known any more which). A place that is down keeps a row that Status and the doctor show once it is up.
func (m *Migrator) inLedgers(ctx context.Context, s backend.Store, must *Migrator, tell func(m *Migrator) error) error {
	var faults []error
	missed := false
	for _, p := range m.parts {
		if err := tell(p.m); err != nil {
			faults = append(faults, fmt.Errorf("place %s: %w", p.place, err))
			missed = missed || p.m == must
		}
	}
	err := errors.Join(faults...)
	if err != nil && !missed && len(faults) < len(m.parts) && ctx.Err() == nil {
		m.log.WarnContext(ctx, "a ledger could not be told about a store", "store", s.String(), "error", err)
		return nil
	}
	return err
}

// renamedInPlaces is Renamed. The ledger of the place where the store is has the row, without which nobody is let in.
func (m *Migrator) renamedInPlaces(ctx context.Context, from, to backend.Store) error {
	// What is remembered of the name may be about an earlier store.
	if _, err := m.there(ctx, to); err != nil {
		return err
	}
	must, err := m.of(ctx, to)
	if err != nil {
		return err
	}
	return m.inLedgers(ctx, to, must, func(m *Migrator) error { return m.Renamed(ctx, from, to) })
}

// readyInPlaces asks the store's place and, when its ledger does not have the store or cannot be read, whether it is elsewhere
// by now.
func (m *Migrator) readyInPlaces(ctx context.Context, rt backend.Route) error {
	there, err := m.of(ctx, rt.Store)
	if err != nil {
		return err
	}
	err = there.Ready(ctx, rt)
	if err == nil {
		return nil
	}
	if _, missing := m.be.Stat(ctx, rt.Store); missing != nil {
		return err
	}
	now, unknown := m.of(ctx, rt.Store)
	if unknown != nil || now == there {
		return err
	}
	return now.Ready(ctx, rt)
}
