package placed

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/tenement-go/tenement/backend"
)

// RunScripts runs the scripts of each place in order, and the places at once; see [backend.ScriptRunner]. The Head of a
// script writes to the shared store of its own place.
func (b *Backend) RunScripts(ctx context.Context, scripts []backend.Script, opt backend.ScriptOptions) []error {
	faults := make([]error, len(scripts))
	var made []backend.Store
	for _, s := range scripts {
		if s.Create && !s.Route.IsZero() {
			made = append(made, s.Route.Store)
		}
	}
	slices.SortFunc(made, func(x, y backend.Store) int { return strings.Compare(x.String(), y.String()) })
	run := func() error {
		b.runScripts(ctx, scripts, opt, faults)
		return nil
	}
	err := error(nil)
	if made = slices.Compact(made); len(made) > 0 {
		err = b.withName(ctx, run, made...)
	} else {
		err = run()
	}
	if err != nil {
		for i := range faults {
			faults[i] = err
		}
	}
	return faults
}

// runScripts runs the scripts. Callers hold the names of stores that are made.
func (b *Backend) runScripts(ctx context.Context, scripts []backend.Script, opt backend.ScriptOptions, faults []error) {
	groups := map[*place][]int{}
	for i, s := range scripts {
		p, err := b.forScript(ctx, s)
		if err != nil {
			faults[i] = err
			continue
		}
		groups[p] = append(groups[p], i)
	}
	var wg sync.WaitGroup
	for p, group := range groups {
		wg.Go(func() { b.runGroup(ctx, p, scripts, group, opt, faults) })
	}
	wg.Wait()
	// A store that its place has not got may be elsewhere by now. Nothing of its script was run.
	var again []int
	for i, s := range scripts {
		if errors.Is(faults[i], backend.ErrStoreMissing) && !s.Create {
			b.dir.forget(s.Route.Store)
			if p, err := b.whereIs(ctx, s.Route.Store); err == nil && !slices.Contains(groups[p], i) {
				again = append(again, i)
			}
		}
	}
	for _, i := range again {
		if p, err := b.whereIs(ctx, scripts[i].Route.Store); err == nil {
			b.runGroup(ctx, p, scripts, []int{i}, opt, faults)
		}
	}
}

// forScript returns the place of a script.
func (b *Backend) forScript(ctx context.Context, s backend.Script) (*place, error) {
	if !s.Create || s.Route.IsZero() {
		return b.whereIs(ctx, s.Route.Store)
	}
	p, exists, err := b.settle(ctx, s.Route.Store)
	if err == nil && exists {
		err = &backend.Error{Op: "run script in", Store: s.Route.Store, Err: backend.ErrStoreExists}
	}
	return p, err
}

func (b *Backend) runGroup(ctx context.Context, p *place, scripts []backend.Script, group []int, opt backend.ScriptOptions, faults []error) {
	var mine []backend.Script
	for _, i := range group {
		mine = append(mine, scripts[i])
	}
	o, ctx, err := b.enter(ctx, p)
	if err != nil {
		for _, i := range group {
			faults[i] = err
		}
		return
	}
	for k, err := range o.be.(backend.ScriptRunner).RunScripts(ctx, mine, opt) {
		faults[group[k]] = err
	}
}

// Flush implements [backend.ScriptRunner]: in all places that are open. Nothing was committed in the others.
func (b *Backend) Flush(ctx context.Context) error {
	var errs []error
	for _, p := range b.places {
		if o := p.now.Load(); o != nil {
			errs = append(errs, o.be.(backend.ScriptRunner).Flush(ctx))
		}
	}
	return errors.Join(errs...)
}
