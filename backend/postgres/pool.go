package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
	"github.com/tenement-go/tenement/backend/postgres/internal/warm"
)

// Connections are taken here and given back here, and nowhere else. Which it is, and when one is retired, is decided in
// warm.go.

// take takes a connection for rt.
func (be *Backend) take(ctx context.Context, rt backend.Route, access driver.Access) (*conn, error) {
	if be.closed.Load() {
		return nil, &backend.Error{Op: "connect", Store: rt.Store, Err: backend.ErrClosed}
	}
	c, err := be.borrow(ctx, rt.Store)
	if err != nil {
		return nil, &backend.Error{Op: "connect", Store: rt.Store, Err: err}
	}
	c.bindUnit(rt, access)
	c.unit.fence = be.fence(ctx, access)
	// Another owner's store has the name of one that is gone.
	if rt.Store != c.last.Store || rt.Owner != c.last.Owner || access != c.lastAccess {
		c.dirty = c.dirty || be.cleansChanges()
		c.last, c.lastAccess = rt, access
	}
	return c, nil
}

// borrow takes a connection for work in a store, or in none.
func (be *Backend) borrow(ctx context.Context, s backend.Store) (*conn, error) {
	for {
		l, err := be.lease(ctx, s)
		if err != nil {
			if be.closed.Load() || errors.Is(err, warm.ErrClosed) {
				err = backend.ErrClosed
			}
			return nil, err
		}
		c := l.Conn
		c.lease, c.lent = l, true
		if !be.stale(c.spoke) || c.ping(ctx) == nil {
			return c, nil
		}
		if c.pc.IsClosed() {
			be.lastBreak.Store(time.Now().UnixNano())
		}
		c.giveBack()
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
}

func (be *Backend) lease(ctx context.Context, s backend.Store) (warm.Lease[*conn], error) {
	if backend.IsApart(ctx) {
		return be.warm.TakeApart(ctx)
	}
	return be.warm.Take(ctx, s.String())
}

// release gives a connection back, or closes it when it may not serve anyone else.
func (c *conn) release() {
	if !c.lent {
		return
	}
	if c.wire.busy() {
		// Rows that nobody closed, and that may be read on.
		c.wire.held = nil
		c.wire.lost(errBusy)
	}
	be, rt := c.be, c.unit.rt
	owes := c.by != nil && c.by.settleMade()
	c.by = nil
	if c.pc.IsClosed() {
		c.be.lastBreak.Store(time.Now().UnixNano())
	} else if c.dirty = c.dirty || c.tainted; c.doomed || c.dirty && !c.cleanable() || c.estranged() {
		c.close()
	}
	c.rows.s, c.rows.cur, c.tx, c.tainted = nil, nil, txState{}, false
	clear(c.args[:cap(c.args)])
	clear(c.job.queries[:cap(c.job.queries)])
	c.giveBack()
	if owes {
		be.renewElsewhere(rt)
	}
}

// giveBack ends a use of a connection.
func (c *conn) giveBack() {
	be, fate := c.be, warm.Reuse
	switch {
	case c.pc.IsClosed(), c.pc.IsBusy(), !c.idle():
		fate = warm.Discard
	case c.sawEnough():
		fate = warm.Retire
	case !c.expires.IsZero() && time.Now().After(c.expires):
		if fate = warm.Retire; be.lent {
			fate = warm.Return // the ageing of a lent pool is its own
		}
	}
	l := c.lease
	c.lent, c.lease = false, warm.Lease[*conn]{}
	be.warm.Give(l, fate)
}
