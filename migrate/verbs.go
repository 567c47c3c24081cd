package migrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/tenement-go/tenement/backend"
)

// Up applies what is pending: to the shared store, and then, when that succeeded, to every store of the ledger that
// lacks something, or to those that the options name. The result is the tenant set's; its Shared field has the other.
// With SharedOnly it is the shared set's.
//
// It returns ErrSharedBehind while the shared set is not applied, ErrOutOfOrder when it would apply a migration below one
// that is applied, and ErrUnknownSource when no set in the scope has the source, before anything is changed. A store that
// fails does not stop the others, unless the options say so; the error is then a [*RunError]. A store that is renamed
// meanwhile is migrated all the same; one that is gone is counted as missing. What a database server that crashes, and is back
// in time, takes back of the run is done again. A run that was stopped or cancelled, or killed, is resumed by calling Up again;
// one that was killed also by [Migrator.Settle], unless it was limited to some stores: of these Settle finds out what they have.
// Two runs at once share the work.
//
// When ctx ends, a migration that goose is at is brought to its end first, so that none is left half done; what was sent
// as text is rolled back.
func (m *Migrator) Up(ctx context.Context, opt UpOptions) (*Result, error) {
	if m.parts != nil {
		return m.inPlaces(ctx, opt.Fleet, func(m *Migrator, own Fleet) (*Result, error) {
			opt.Fleet = own
			return m.Up(ctx, opt)
		})
	}
	return m.upBoth(ctx, opt.Scope, opt.Fleet, opt.Source, 0, opt.DryRun)
}

// UpTo is Up for one source, whose newest migration is to be version. The source's name may be empty when the scope has
// only one. It returns ErrUnknownSource when there is no such source or version.
func (m *Migrator) UpTo(ctx context.Context, source string, version int64, opt UpToOptions) (*Result, error) {
	if version <= 0 {
		return nil, fmt.Errorf("tenement: migrate: %w: version %d", ErrUnknownSource, version)
	}
	if m.parts != nil {
		return m.inPlaces(ctx, opt.Fleet, func(m *Migrator, own Fleet) (*Result, error) {
			opt.Fleet = own
			return m.UpTo(ctx, source, version, opt)
		})
	}
	return m.upBoth(ctx, opt.Scope, opt.Fleet, source, version, opt.DryRun)
}

func (m *Migrator) upBoth(ctx context.Context, scope Scope, fleet Fleet, source string, to int64, dryRun io.Writer) (*Result, error) {
	shared, tenants, err := m.limits(scope, source, to)
	if err != nil {
		return nil, fmt.Errorf("tenement: migrate: %w", err)
	}
	var res *Result
	if shared != nil {
		opt := options{Fleet: Fleet{OnEvent: fleet.OnEvent}, limit: *shared}
		if dryRun != nil {
			res, err = m.dryRunShared(ctx, opt, dryRun)
		} else {
			res, err = m.upShared(ctx, opt)
		}
		if err != nil || tenants == nil {
			return res, err
		}
	}
	opt := options{Fleet: fleet, limit: *tenants}
	var own *Result
	if dryRun != nil {
		own, err = m.dryRunTenants(ctx, opt, dryRun)
	} else {
		own, err = m.upTenants(ctx, opt)
	}
	if own != nil {
		own.Shared = res
	}
	return own, err
}

// limits says how far to go in the sets of a scope; nil is a set that the run is not about.
func (m *Migrator) limits(scope Scope, source string, to int64) (shared, tenants *limit, err error) {
	sets := []*set{m.shared, m.tenant}
	switch scope {
	case SharedOnly:
		sets = sets[:1]
	case TenantsOnly:
		sets = sets[1:]
	}
	if source == "" && to != 0 {
		if source, err = onlySource(sets); err != nil {
			return nil, nil, err
		}
	}
	var faults []error
	for _, s := range sets {
		if len(s.sources) == 0 && scope == Everything {
			continue
		}
		lim, err := s.limit(source, to)
		switch {
		case err != nil && s.find(source) == nil: // the other set may have it
			faults = append(faults, err)
		case err != nil:
			return nil, nil, err
		case s == m.shared:
			shared = &lim
		default:
			tenants = &lim
		}
	}
	if shared == nil && tenants == nil {
		if len(faults) > 0 {
			return nil, nil, errors.Join(faults...)
		}
		tenants = &limit{}
	}
	return shared, tenants, nil
}

// onlySource returns the name of the one source that the sets have.
func onlySource(sets []*set) (string, error) {
	var names []string
	for _, s := range sets {
		for _, src := range s.sources {
			if !slices.Contains(names, src.name) {
				names = append(names, src.name)
			}
		}
	}
	if len(names) != 1 {
		return "", fmt.Errorf("%w: a version is that of one source; name it (there are: %s)", ErrUnknownSource, strings.Join(names, ", "))
	}
	return names[0], nil
}

// Down undoes the newest migrations of one source, as many as steps says (at least one), newest first, in every store of
// the set or in those that the options name. The source's name may be empty when the set has only one. It returns
// ErrUnknownSource when the set has no such source.
//
// Before anything is undone in a tenant's store, the Ready of every process that needs it refuses the store, and that of
// those that do not goes on letting in: some stores at a time are locked against other migrators and noted, and a bit more
// than [ReadyBound] later it is undone in these. So a Down that has something to undo takes that second, and a store is
// refused for as long as the others of its round take, too, some ten seconds at most. Who was let in before that, and is
// still at work, meets the database's error. When the process dies meanwhile, [Migrator.Settle] finds out what was done.
//
// Given again after it was interrupted, it undoes more in the stores where it was done: go on with DownTo.
//
// A migration that does not say how it is undone is an ErrNoDown, before anything is undone anywhere, unless the options say
// that it may be forgotten.
func (m *Migrator) Down(ctx context.Context, source string, steps int, opt DownOptions) (*Result, error) {
	return m.downwards(ctx, source, opt, descent{steps: max(steps, 1)}, (*Migrator).undo)
}

// DownTo is Down for the migrations that are newer than version; 0 undoes everything.
func (m *Migrator) DownTo(ctx context.Context, source string, version int64, opt DownOptions) (*Result, error) {
	return m.downwards(ctx, source, opt, descent{steps: -1, keep: version}, (*Migrator).undo)
}

// Redo undoes the newest migration of one source and applies it again, as Down does.
func (m *Migrator) Redo(ctx context.Context, source string, opt DownOptions) (*Result, error) {
	return m.downwards(ctx, source, opt, descent{steps: 1}, (*Migrator).again)
}

// downwards does a work that undoes something. What is meant in a store is decided once for all places.
func (m *Migrator) downwards(ctx context.Context, source string, opt DownOptions, d descent, do func(*Migrator, *descent) work) (*Result, error) {
	d.forget, d.meant = opt.Forget, &meant{}
	return m.withSource(ctx, opt.Fleet, opt.Set, source, d.keep, func(m *Migrator, src *series) work {
		own := d
		own.src = src
		return do(m, &own)
	})
}

// Baseline records the migrations of one source up to version (0: all of them) as applied, without running them, in every
// store of the set or in those that the options name. It also accepts, as they are now, the files of migrations that were
// edited after they were applied. The source's name may be empty when the set has only one.
func (m *Migrator) Baseline(ctx context.Context, source string, version int64, opt BaselineOptions) (*Result, error) {
	return m.withSource(ctx, opt.Fleet, opt.Set, source, version, func(m *Migrator, src *series) work { return m.record(src, version) })
}

// withSource works on one source of a set, in every store or in those named.
func (m *Migrator) withSource(ctx context.Context, terms Fleet, in Set, source string, version int64, kind func(*Migrator, *series) work) (*Result, error) {
	if m.parts != nil {
		// What is refused in one place is refused before anything is done in another. One that cannot be asked is passed
		// over here: its own run will say so.
		_, err := m.inPlaces(ctx, Fleet{Stores: terms.Stores}, func(m *Migrator, own Fleet) (*Result, error) {
			if _, err := m.sourced(ctx, own, in, source, version, kind); errors.Is(err, ErrNoDown) {
				return nil, err
			}
			return nil, nil
		})
		if err != nil {
			return nil, err
		}
		return m.inPlaces(ctx, terms, func(m *Migrator, own Fleet) (*Result, error) {
			return m.withSource(ctx, own, in, source, version, kind)
		})
	}
	do, err := m.sourced(ctx, terms, in, source, version, kind)
	if err != nil {
		return nil, err
	}
	if in == SetShared {
		return m.inShared(ctx, newReport(SetShared, terms.OnEvent), do)
	}
	f := m.newFleet(options{Fleet: terms}, do)
	if err := f.overAll(ctx, nil); err != nil {
		return nil, err
	}
	if do.descent == nil {
		return f.do(ctx)
	}
	return m.entered(ctx, f, lookOnly)
}

// sourced returns the work on one source of a set, unless it is not allowed in some store.
func (m *Migrator) sourced(ctx context.Context, terms Fleet, in Set, source string, version int64, kind func(*Migrator, *series) work) (work, error) {
	s := m.tenant
	if in == SetShared {
		s = m.shared
	}
	lim, err := s.limit(source, version)
	var src *series
	if err == nil {
		src, err = s.named(lim.source)
	}
	if err != nil {
		return work{}, fmt.Errorf("tenement: migrate: %w", err)
	}
	if err := m.ensureLedger(ctx); err != nil {
		return work{}, err
	}
	do := kind(m, src)
	return do, m.allowed(ctx, do, in, terms)
}

// overAll makes the run one over every store of the ledger and others, or over those that the options name.
func (f *fleet) overAll(ctx context.Context, others []entry) error {
	if len(f.opt.Stores) > 0 {
		return f.overNamed(ctx, func(*entry) bool { return true })
	}
	groups, _, err := f.m.ledger.groups(ctx)
	if err != nil {
		return err
	}
	total := 0
	for _, g := range groups {
		total += g.stores
	}
	f.over(selection{all: true}, total, others)
	return nil
}

// upShared applies the shared set, unless the ledger says that it is applied.
func (m *Migrator) upShared(ctx context.Context, opt options) (*Result, error) {
	if err := m.ensureLedger(ctx); err != nil {
		return nil, err
	}
	row, err := m.ledger.entry(ctx, "")
	if err != nil {
		return nil, err
	}
	r := newReport(SetShared, opt.OnEvent)
	if row != nil && row.failed == "" && !m.shared.plan(row.state, opt.limit).behind() {
		r.res.Current = 1
		return r.res, r.finish(nil)
	}
	return m.inShared(ctx, r, m.apply(opt.limit))
}

// inShared works in the shared store.
func (m *Migrator) inShared(ctx context.Context, r *report, do work) (*Result, error) {
	r.res.Total = 1
	r.start()
	free, err := m.slot(ctx)
	if err != nil {
		return r.res, r.finish(err)
	}
	defer free()
	out, err := m.insist(ctx, m.shared, backend.Route{}, do)
	if err != nil {
		return r.res, r.finish(err)
	}
	r.record(backend.Store{}, out)
	return r.res, r.finish(nil)
}

// upTenants applies the tenant set.
func (m *Migrator) upTenants(ctx context.Context, opt options) (*Result, error) {
	ctx = backend.Apart(ctx)
	if err := m.ensureLedger(ctx); err != nil {
		return nil, err
	}
	f := m.newFleet(opt, m.apply(opt.limit))
	f.text, f.visits = true, newVisits()
	if len(opt.Stores) > 0 {
		return m.upNamed(ctx, f)
	}
	groups, shared, err := m.ledger.groups(ctx)
	if err != nil {
		return nil, err
	}
	if err := m.sharedApplied(shared.stateOf()); err != nil {
		return nil, err
	}
	for _, g := range groups {
		if p := f.planFor(g.fingerprint, g.state); p.late != nil && !m.cfg.AllowOutOfOrder {
			return nil, fmt.Errorf("tenement: migrate: %d stores: %w", g.stores, outOfOrder(p.late))
		}
		f.res.Current += g.stores
	}
	sel, total := f.behind(groups)
	f.res.Current -= total
	f.over(sel, total, nil)
	return m.entered(ctx, f, opt.limit)
}

// upNamed applies the tenant set to the stores that the options name.
func (m *Migrator) upNamed(ctx context.Context, f *fleet) (*Result, error) {
	row, err := m.ledger.entry(ctx, "")
	if err != nil {
		return nil, err
	}
	have := state(nil)
	if row != nil {
		have = row.state
	}
	if err := m.sharedApplied(have); err != nil {
		return nil, err
	}
	err = f.overNamed(ctx, func(e *entry) bool {
		return e.failed != "" || f.planFor(e.fingerprint, e.state).behind()
	})
	if err != nil {
		return nil, err
	}
	return m.entered(ctx, f, lookBehind)
}

// sharedApplied refuses to go on while the shared set is not applied.
func (m *Migrator) sharedApplied(have state) error {
	if len(m.shared.sources) == 0 {
		return nil
	}
	return m.shared.behindShared(have)
}
