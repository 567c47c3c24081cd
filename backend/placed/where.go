package placed

import (
	"context"
	"errors"
	"fmt"

	"github.com/tenement-go/tenement/backend"
)

// PlaceOf implements [backend.Placer].
func (b *Backend) PlaceOf(ctx context.Context, s backend.Store) (string, error) {
	p, err := b.whereIs(ctx, s)
	if err != nil {
		return "", err
	}
	return p.name, nil
}

// whereIs returns the place of a store, as far as is known.
func (b *Backend) whereIs(ctx context.Context, s backend.Store) (*place, error) {
	if b.closed.Load() {
		return nil, &backend.Error{Op: "find", Store: s, Err: backend.ErrClosed}
	}
	name, err := b.dir.lookUp(ctx, s)
	if err != nil {
		return nil, err
	}
	return b.named(name, s)
}

// named returns a place that the directory or a caller names.
func (b *Backend) named(name string, s backend.Store) (*place, error) {
	p := b.place(name)
	if p == nil {
		return nil, &backend.Error{Op: "find", Store: s, Err: fmt.Errorf("there is no place %q in the configuration: %w", name, backend.ErrInvalidName)}
	}
	return p, nil
}

// following calls fn with the place of a store, and once more, elsewhere, when that fails and home has it there by now. So
// fn either does nothing when it fails, or nothing that would be wrong elsewhere.
func (b *Backend) following(ctx context.Context, s backend.Store, fn func(o *opened) error) error {
	p, err := b.whereIs(ctx, s)
	if err != nil {
		return err
	}
	o, err := p.open(ctx)
	if err == nil {
		err = fn(o)
	}
	if err == nil {
		return nil
	}
	if next, ok := b.elsewhere(ctx, s, o, err); ok {
		return fn(next)
	}
	return err
}

// elsewhere asks home anew where a store is, for which a place (nil: one that could not be opened) has only an error, and
// returns another place. A place that is down cannot say that it has not got the store any more.
func (b *Backend) elsewhere(ctx context.Context, s backend.Store, was *opened, fault error) (*opened, bool) {
	switch {
	case errors.Is(fault, backend.ErrStoreMissing):
		b.dir.forget(s)
	case was == b.home:
		return nil, false // it would be asked in vain
	default:
		b.dir.doubt(ctx, s)
	}
	if ctx.Err() != nil {
		return nil, false
	}
	p, err := b.whereIs(ctx, s)
	if err != nil {
		return nil, false
	}
	o, err := p.open(ctx)
	if err != nil || o == was {
		return nil, false
	}
	return o, true
}

// nameKey is the key of the lock under which a name gets, or loses, its row in the directory.
func nameKey(s backend.Store) string { return "tenement/place/" + s.String() }

// withName calls fn while nobody else makes, drops or renames a store of these names. Names are in order.
func (b *Backend) withName(ctx context.Context, fn func() error, names ...backend.Store) error {
	if b.closed.Load() {
		return &backend.Error{Op: "use", Store: names[0], Err: backend.ErrClosed}
	}
	for _, s := range names {
		lock, err := b.lockName(ctx, s)
		if err != nil {
			return err
		}
		defer lock.Unlock()
	}
	return fn()
}

// Settle implements [backend.Placer].
func (b *Backend) Settle(ctx context.Context, s backend.Store) (name string, err error) {
	err = b.withName(ctx, func() error {
		p, _, err := b.settle(ctx, s)
		if err == nil {
			name = p.name
		}
		return err
	}, s)
	return name, err
}

// settle returns the place where a store is or, if there is none, is to be made; the directory has it then. Callers hold
// the name's lock.
func (b *Backend) settle(ctx context.Context, s backend.Store) (p *place, exists bool, err error) {
	wanted := backend.PlaceFrom(ctx)
	if wanted != "" {
		if _, err := b.named(wanted, s); err != nil {
			return nil, false, err
		}
	}
	// What is remembered may be about a store that is gone.
	name, there, err := b.dir.ask(ctx, s)
	if err != nil {
		return nil, false, err
	}
	// A row without a store is of one that was to be made, or is gone; without a row there may be one at home.
	if p, err = b.named(name, s); err != nil {
		return nil, false, err
	}
	if there && (wanted == "" || wanted == name) {
		return p, false, nil // it may be there: whoever makes it will see
	}
	o, err := p.open(ctx)
	if err != nil {
		return nil, false, err
	}
	switch _, err := o.be.Stat(ctx, s); {
	case err == nil:
		return p, true, nil
	case !errors.Is(err, backend.ErrStoreMissing):
		return nil, false, err
	}
	if wanted == "" {
		if wanted, err = b.dir.fewest(ctx, b.reachable(ctx)); err != nil {
			return nil, false, err
		}
	}
	if err := b.dir.put(ctx, s, wanted); err != nil {
		return nil, false, err
	}
	p, err = b.named(wanted, s)
	return p, false, err
}

// reachable returns the places that stores can be made in.
func (b *Backend) reachable(ctx context.Context) []string {
	var names []string
	for _, p := range b.places {
		if p.up(ctx) {
			names = append(names, p.name)
		}
	}
	return names
}

// Create makes an empty store where Settle says; see [backend.Backend].
func (b *Backend) Create(ctx context.Context, rt backend.Route) error {
	if rt.IsZero() {
		return &backend.Error{Op: "create", Err: backend.ErrInvalidName}
	}
	return b.withName(ctx, func() error {
		p, exists, err := b.settle(ctx, rt.Store)
		switch {
		case err != nil:
			return err
		case exists:
			return &backend.Error{Op: "create", Store: rt.Store, Err: backend.ErrStoreExists}
		}
		o, ctx, err := b.enter(ctx, p)
		if err != nil {
			return err
		}
		return o.be.Create(ctx, rt)
	}, rt.Store)
}

// Drop removes the store, and then its row; see [backend.Backend].
func (b *Backend) Drop(ctx context.Context, rt backend.Route) error {
	if rt.IsZero() {
		return &backend.Error{Op: "drop", Err: backend.ErrStoreMissing}
	}
	return b.withName(ctx, func() error {
		o, ctx, err := b.enterStore(ctx, rt.Store)
		if err != nil {
			return err
		}
		if err := o.be.Drop(ctx, rt); err != nil {
			return err
		}
		return b.dir.remove(ctx, rt.Store)
	}, rt.Store)
}

// Rename renames the store within its place, which the directory has under both names until that is done; see
// [backend.Backend].
func (b *Backend) Rename(ctx context.Context, rt backend.Route, to backend.Store) error {
	if rt.IsZero() || to.IsZero() {
		return &backend.Error{Op: "rename", Store: rt.Store, Err: backend.ErrInvalidName}
	}
	names := []backend.Store{rt.Store, to}
	if rt.Store == to {
		names = names[:1]
	} else if to.String() < rt.Store.String() {
		names[0], names[1] = to, rt.Store
	}
	return b.withName(ctx, func() error { return b.rename(ctx, rt, to) }, names...)
}

func (b *Backend) rename(ctx context.Context, rt backend.Route, to backend.Store) error {
	at, err := b.placeNow(ctx, rt.Store)
	if err != nil {
		return err
	}
	o, ctx, err := b.enter(ctx, at)
	if err != nil {
		return err
	}
	if rt.Store == to {
		return o.be.Rename(ctx, rt, to)
	}
	// Whether there is one to be renamed comes first, as elsewhere.
	info, err := o.be.Stat(ctx, rt.Store)
	if err != nil {
		return err
	}
	if rt.Owner != "" && info.Owner != rt.Owner {
		return &backend.Error{Op: "rename", Store: rt.Store, Err: backend.ErrStoreMissing}
	}
	p, exists, err := b.settle(backend.WithPlace(ctx, at.name), to)
	switch {
	case err != nil:
		return err
	case exists && p != at:
		return &backend.Error{Op: "rename", Store: rt.Store, Err: fmt.Errorf("to %s: %w", to, backend.ErrStoreExists)}
	}
	if err := o.be.Rename(ctx, rt, to); err != nil {
		return err
	}
	return b.dir.remove(ctx, rt.Store)
}

// enterStore is enter for the place of a store, as home has it now. Callers hold the name's lock.
func (b *Backend) enterStore(ctx context.Context, s backend.Store) (*opened, context.Context, error) {
	p, err := b.placeNow(ctx, s)
	if err != nil {
		return nil, nil, err
	}
	return b.enter(ctx, p)
}

// placeNow is whereIs by what home has now, whatever is remembered. Callers hold the name's lock.
func (b *Backend) placeNow(ctx context.Context, s backend.Store) (*place, error) {
	name, _, err := b.dir.ask(ctx, s)
	if err != nil {
		return nil, err
	}
	return b.named(name, s)
}

// Adopt makes a store of what bears its name, in the place that the context names or else in the first that has it; see
// [backend.Adopter].
func (b *Backend) Adopt(ctx context.Context, rt backend.Route) error {
	return b.withName(ctx, func() error {
		places := b.places
		if wanted := backend.PlaceFrom(ctx); wanted != "" {
			p, err := b.named(wanted, rt.Store)
			if err != nil {
				return err
			}
			places = []*place{p}
		} else if name, there, err := b.dir.ask(ctx, rt.Store); err != nil {
			return err
		} else if there {
			p, err := b.named(name, rt.Store)
			if err != nil {
				return err
			}
			places = append([]*place{p}, places...)
		}
		missing := error(&backend.Error{Op: "adopt", Store: rt.Store, Err: backend.ErrStoreMissing})
		for _, p := range places {
			o, ctx, err := b.enter(ctx, p)
			if err != nil {
				return err
			}
			adopter, ok := o.be.(backend.Adopter)
			if !ok {
				return &backend.Error{Op: "adopt", Store: rt.Store, Err: errors.ErrUnsupported}
			}
			switch err := adopter.Adopt(ctx, rt); {
			case errors.Is(err, backend.ErrStoreMissing):
				missing = err
			case err != nil:
				return err
			default:
				return b.dir.put(ctx, rt.Store, p.name)
			}
		}
		return missing
	}, rt.Store)
}

// Restamp implements [backend.Adopter].
func (b *Backend) Restamp(ctx context.Context, rt backend.Route, owner string) error {
	return b.withName(ctx, func() error {
		o, ctx, err := b.enterStore(ctx, rt.Store)
		if err != nil {
			return err
		}
		adopter, ok := o.be.(backend.Adopter)
		if !ok {
			return &backend.Error{Op: "restamp", Store: rt.Store, Err: errors.ErrUnsupported}
		}
		return adopter.Restamp(ctx, rt, owner)
	}, rt.Store)
}
