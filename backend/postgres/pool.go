package postgres

import (
	"context"
	"time"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
)

// How a connection is chosen, and when it is retired, is decided here and nowhere else: take and giveBack are the only
// functions that touch the pool.

// take takes a connection for rt.
func (be *Backend) take(ctx context.Context, rt backend.Route, access driver.Access) (*conn, error) {
	if be.closed.Load() {
		return nil, &backend.Error{Op: "connect", Store: rt.Store, Err: backend.ErrClosed}
	}
	res, err := be.pool.Acquire(ctx)
	if err != nil {
		if be.closed.Load() {
			err = backend.ErrClosed
		}
		return nil, &backend.Error{Op: "connect", Store: rt.Store, Err: err}
	}
	c, _ := res.Conn().PgConn().CustomData()[connKey].(*conn)
	if c == nil {
		c = be.newConn(res.Conn())
	}
	c.be, c.res = be, res // a pool that was lent may be so to two
	c.bindUnit(rt, access)
	if rt.Store != c.last || access != c.lastAccess {
		c.dirty = c.dirty || c.leaves(ctx)
		c.last, c.lastAccess = rt.Store, access
		if access != driver.AccessShared {
			c.tenants[rt.Store] = struct{}{}
		}
	}
	return c, nil
}

// release gives a connection back, or closes it when it may not serve anyone else.
func (c *conn) release() {
	if c.res == nil {
		return
	}
	if c.wire.open {
		// Rows that nobody closed.
		c.wire.lost(errBusy)
	}
	if c.by != nil {
		c.by.settleMade()
		c.by = nil
	}
	if c.pc.IsClosed() {
		c.be.lastBreak.Store(time.Now().UnixNano())
	} else if c.dirty = c.dirty || c.tainted; c.retired() {
		c.close()
	}
	c.rows.s, c.rows.cur, c.tx, c.tainted = nil, nil, txState{}, false
	clear(c.args[:cap(c.args)])
	clear(c.job.queries[:cap(c.job.queries)])
	c.giveBack()
}

// retired reports whether a connection that is sound is not used any more.
func (c *conn) retired() bool {
	return c.doomed || c.dirty && !c.cleanable() || len(c.tenants) > c.be.cfg.MaxTenantsPerConn
}

func (c *conn) giveBack() {
	res := c.res
	c.res = nil
	res.Release() // and destroys what is closed, busy or in a transaction
}
