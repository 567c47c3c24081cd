package migrate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/tenement-go/tenement/backend"
)

// The work that goes backwards.

// descent is how far a down goes: the newest versions of a source above keep, as many as steps; all if that is negative.
type descent struct {
	src    *series
	steps  int
	keep   int64
	forget bool // versions that nothing undoes are forgotten
	meant  *meant
}

// meant is what is to be undone in each store, as it was decided at the first visit. A store that is visited again, since
// its connection was lost, or since it has another name or place by now, has less by then, and is not to lose more for that.
type meant struct {
	mu sync.Mutex
	by map[string][]int64 // the versions, newest first, by the store's owner; by its name where it has none
}

// of lists what is to be undone in a store, newest first, or says why nothing is.
func (d *descent) of(rt backend.Route, have state) (todo []*migration, refused *StoreError) {
	key := rt.Owner
	if key == "" {
		key = "/" + rt.Store.String()
	}
	d.meant.mu.Lock()
	defer d.meant.mu.Unlock()
	if versions, known := d.meant.by[key]; known {
		for _, v := range versions {
			todo = append(todo, d.src.find(v))
		}
		return todo, nil
	}
	if todo, refused = d.in(have); refused != nil {
		return nil, refused
	}
	versions := make([]int64, len(todo))
	for i, mig := range todo {
		versions[i] = mig.version
	}
	if d.meant.by == nil {
		d.meant.by = map[string][]int64{}
	}
	d.meant.by[key] = versions
	return todo, nil
}

// in lists what is to be undone in a store with these migrations, newest first, or says why nothing is.
func (d *descent) in(have state) (todo []*migration, refused *StoreError) {
	for _, a := range slices.Backward(have[d.src.name]) {
		if a.Version <= d.keep || len(todo) == d.steps {
			break
		}
		mig := d.src.find(a.Version)
		switch {
		case mig == nil:
			return nil, &StoreError{Source: d.src.name, Version: a.Version, Err: fmt.Errorf("%w: it is applied, and this binary does not have it", ErrUnknownSource)}
		case mig.noDown && !d.forget:
			return nil, &StoreError{Source: d.src.name, Version: mig.version, File: mig.file, Err: fmt.Errorf("%w: %s version %d (%s)", ErrNoDown, d.src.name, mig.version, mig.file)}
		}
		todo = append(todo, mig)
	}
	return todo, nil
}

// undo is the work of a down.
func (m *Migrator) undo(d *descent) work {
	return work{descent: d, do: func(ctx context.Context, w *workplace) ([]*migration, *StoreError) {
		_, done, failure := m.undoIn(ctx, w, d)
		return done, failure
	}}
}

// undoIn returns what is to be undone in a store, and what of that it has undone.
func (m *Migrator) undoIn(ctx context.Context, w *workplace, d *descent) (todo, done []*migration, failure *StoreError) {
	if todo, failure = d.of(w.rt, w.have); failure != nil {
		return nil, nil, failure
	}
	g, err := m.goose(d.src, w.db)
	if err != nil {
		return todo, nil, &StoreError{Source: d.src.name, Err: err}
	}
	for _, mig := range todo {
		if !w.have.has(d.src.name, mig.version) {
			continue
		}
		// It cannot be undone that something was undone.
		err := w.lock.Check(ctx)
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return todo, done, &StoreError{Source: d.src.name, Version: mig.version, File: mig.file, Err: err}
		}
		undone, failure := g.down(ctx, mig)
		if failure != nil {
			return todo, done, failure
		}
		if undone {
			done = append(done, mig)
		}
	}
	return todo, done, nil
}

// again is the work of a redo.
func (m *Migrator) again(d *descent) work {
	return work{descent: d, do: func(ctx context.Context, w *workplace) ([]*migration, *StoreError) {
		todo, undone, failure := m.undoIn(ctx, w, d)
		if failure != nil {
			return undone, failure
		}
		done, failure := m.run(ctx, w.db, todo)
		return append(undone, done...), failure
	}}
}

// allowed returns ErrNoDown when there is a store, among those that the run is about, in which the work would have to undo what
// nothing undoes. What the ledger does not know is found in the store itself: beforehand where stores are named.
func (m *Migrator) allowed(ctx context.Context, do work, kind Set, f Fleet) error {
	if do.descent == nil {
		return nil
	}
	var have []state
	switch {
	case kind == SetShared:
		row, err := m.ledger.entry(ctx, "")
		if err != nil {
			return err
		}
		if row != nil {
			have = append(have, row.state)
		}
	case len(f.Stores) > 0:
		found, _, err := m.foretold(ctx, f.Stores) // what fails at once is the run's to say
		if err != nil {
			return err
		}
		for _, e := range found {
			if !e.gone {
				have = append(have, e.state)
			}
		}
	default:
		groups, _, err := m.ledger.groups(ctx)
		if err != nil {
			return err
		}
		for _, g := range groups {
			have = append(have, g.state)
		}
	}
	for _, s := range have {
		if _, refused := do.descent.in(s); refused != nil && errors.Is(refused.Err, ErrNoDown) {
			return fmt.Errorf("tenement: migrate: %w", refused.Err)
		}
	}
	return nil
}
