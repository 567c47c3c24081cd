package placed

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/tenement-go/tenement/backend"
)

// Leftovers lists those of all places that answer, with an error for the others; see [backend.Sweeper]. Their names begin with
// that of the place.
func (b *Backend) Leftovers(ctx context.Context) ([]backend.Leftover, error) {
	var all []backend.Leftover
	err := b.each(ctx, func(p *place, o *opened) error {
		sweeper, ok := o.be.(backend.Sweeper)
		if !ok {
			return nil
		}
		left, err := sweeper.Leftovers(ctx)
		for _, l := range left {
			l.Name = p.name + ":" + l.Name
			all = append(all, l)
		}
		return err
	})
	return all, err
}

// Sweep implements [backend.Sweeper].
func (b *Backend) Sweep(ctx context.Context, l backend.Leftover) error {
	name, inner, _ := strings.Cut(l.Name, ":")
	p, err := b.named(name, l.Store)
	if err != nil {
		return err
	}
	o, err := p.open(ctx)
	if err != nil {
		return err
	}
	l.Name = inner
	return o.be.(backend.Sweeper).Sweep(ctx, l)
}

// each calls fn for each place, and joins the errors of those that do not answer.
func (b *Backend) each(ctx context.Context, fn func(p *place, o *opened) error) error {
	var errs []error
	for _, p := range b.places {
		o, err := p.open(ctx)
		if err == nil {
			if err = fn(p, o); err != nil {
				err = fmt.Errorf("place %s: %w", p.name, err)
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Advise says what the places' backends do, which place cannot be reached, which stores are not where the directory has
// them, and what is wrong with the copies of shared rows; see [backend.Advisor].
func (b *Backend) Advise(ctx context.Context) ([]backend.Advice, error) {
	var all []backend.Advice
	for _, p := range b.places {
		o, err := p.open(ctx)
		if err != nil {
			all = append(all, backend.Advice{Text: fmt.Sprintf("place %s: %v", p.name, err)})
			continue
		}
		advisor, ok := o.be.(backend.Advisor)
		if !ok {
			continue
		}
		advice, err := advisor.Advise(ctx)
		if err != nil {
			return nil, fmt.Errorf("place %s: %w", p.name, err)
		}
		for _, a := range advice {
			a.Text = "place " + p.name + ": " + a.Text
			all = append(all, a)
		}
	}
	found, err := b.found(ctx, b.places)
	if found == nil && err != nil {
		return nil, err
	}
	for _, f := range found {
		if f.stray {
			all = append(all, backend.Advice{Text: fmt.Sprintf("place %s has a store %s, which nobody is served from: the directory has that name elsewhere; drop it there once it is known to be of no use", f.place.name, f.info.Store)})
		}
	}
	shares, err := b.adviseShares(ctx)
	return append(all, shares...), err
}

// Mend implements [backend.Advisor].
func (b *Backend) Mend(ctx context.Context) error {
	return b.each(ctx, func(_ *place, o *opened) error {
		if advisor, ok := o.be.(backend.Advisor); ok {
			return advisor.Mend(ctx)
		}
		return nil
	})
}

// ClientCommand implements [backend.ClientCommander].
func (b *Backend) ClientCommand(ctx context.Context, rt backend.Route) (cmd backend.ClientCommand, err error) {
	err = b.following(ctx, rt.Store, func(o *opened) (err error) {
		commander, ok := o.be.(backend.ClientCommander)
		if !ok {
			return &backend.Error{Op: "open a client on", Store: rt.Store, Err: errors.ErrUnsupported}
		}
		cmd, err = commander.ClientCommand(ctx, rt)
		return err
	})
	return cmd, err
}

// view is the backend as it is in one place.
type view struct {
	*Backend
	p *place
}

func (v *view) Shared() *sql.DB { return v.p.sharedDB() }

func (v *view) here(ctx context.Context) context.Context { return backend.WithPlace(ctx, v.p.name) }

func (v *view) Create(ctx context.Context, rt backend.Route) error {
	return v.Backend.Create(v.here(ctx), rt)
}

func (v *view) Adopt(ctx context.Context, rt backend.Route) error {
	return v.Backend.Adopt(v.here(ctx), rt)
}

func (v *view) RunScripts(ctx context.Context, scripts []backend.Script, opt backend.ScriptOptions) []error {
	return v.Backend.RunScripts(v.here(ctx), scripts, opt)
}

func (v *view) Settle(ctx context.Context, s backend.Store) (string, error) {
	return v.Backend.Settle(v.here(ctx), s)
}

func (v *view) Stores(ctx context.Context) iter.Seq2[backend.StoreInfo, error] {
	return v.storesIn(ctx, []*place{v.p})
}

// Stat returns ErrStoreMissing for a store that is elsewhere.
func (v *view) Stat(ctx context.Context, s backend.Store) (backend.StoreInfo, error) {
	info, err := v.Backend.Stat(ctx, s)
	if err != nil {
		return info, err
	}
	if p, err := v.whereIs(ctx, s); err != nil || p != v.p {
		return backend.StoreInfo{}, errors.Join(err, &backend.Error{Op: "stat", Store: s, Err: backend.ErrStoreMissing})
	}
	return info, nil
}

func (v *view) Flush(ctx context.Context) error {
	o, err := v.p.open(ctx)
	if err != nil {
		return err
	}
	return o.be.(backend.ScriptRunner).Flush(ctx)
}

// Concurrency is that of the place's pool.
func (v *view) Concurrency() int {
	if o := v.p.now.Load(); o != nil {
		if n := concurrency(o.be); n > 0 {
			return n
		}
	}
	return v.Backend.Concurrency()
}

// Places of a view is that one: it is not to be divided again.
func (v *view) Places() []string { return []string{v.p.name} }

// Close does nothing: the place is the backend's.
func (v *view) Close() error { return nil }
