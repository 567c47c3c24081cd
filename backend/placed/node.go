package placed

import (
	"context"
	"errors"

	"github.com/tenement-go/tenement/backend"
)

// A place may be a cluster that spreads its stores over nodes of its own (Citus).

var (
	_ backend.Noder  = (*Backend)(nil)
	_ backend.Sharer = (*Backend)(nil)
)

// Nodes lists those of all places, with the place's name; see [backend.Noder]. A place that does not answer is left out, and
// logged: whoever asks is after where stores are.
func (b *Backend) Nodes(ctx context.Context) (nodes []backend.Node, err error) {
	for _, p := range b.places {
		o, err := p.open(ctx)
		if err == nil {
			noder, ok := o.be.(backend.Noder)
			if !ok {
				continue
			}
			var own []backend.Node
			own, err = noder.Nodes(ctx)
			for _, n := range own {
				n.Place = p.name
				nodes = append(nodes, n)
			}
		}
		switch {
		case ctx.Err() != nil, b.closed.Load():
			return nil, err
		case err != nil:
			b.log.WarnContext(ctx, "tenement: the nodes of a place are not known", "place", p.name, "error", err)
		}
	}
	return nodes, nil
}

// MoveStore brings a store to another node of its place; see [backend.Noder] and package transfer for other places.
func (b *Backend) MoveStore(ctx context.Context, rt backend.Route, node string) error {
	return b.following(ctx, rt.Store, func(o *opened) error {
		if noder, ok := o.be.(backend.Noder); ok {
			return noder.MoveStore(ctx, rt, node)
		}
		return &backend.Error{Op: "move", Store: rt.Store, Err: backend.ErrNoNodes}
	})
}

// ShareEverywhere implements [backend.Sharer]: in each place that has nodes, of its own shared tables.
func (b *Backend) ShareEverywhere(ctx context.Context, tables ...string) error {
	done := false
	err := b.each(ctx, func(_ *place, o *opened) error {
		sharer, ok := o.be.(backend.Sharer)
		if !ok {
			return nil
		}
		err := sharer.ShareEverywhere(ctx, tables...)
		if errors.Is(err, backend.ErrNoNodes) {
			return nil
		}
		done = true
		return err
	})
	if err == nil && !done {
		err = &backend.Error{Op: "share", Err: backend.ErrNoNodes}
	}
	return err
}
