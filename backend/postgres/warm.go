package postgres

import (
	"context"
	"hash/maphash"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tenement-go/tenement/backend/postgres/internal/warm"
)

const (
	// brief is for how long, at least, a store's home may have been busy and still be waited for: a server's process that
	// others keep from the processor for a turn of the system's, and one that sees a store for the first time, are there
	// again sooner than another connection has the store in its caches.
	brief = 4 * time.Millisecond
	// fewOf is which part of what a connection may see all of them may see of all: that much is not worth waiting for.
	fewOf = 8
	// keepIdleLent is for how long an idle connection is kept from a pool that has other users.
	keepIdleLent = time.Second
	// keepApart is for how long a connection of a fleet run is kept for its next script.
	keepApart = time.Second
	// pingAfter is after which silence a connection is asked before it is used, as pgxpool has it.
	pingAfter = time.Second
)

// newKeeper makes what chooses among the pool's connections; see internal/warm.
func (be *Backend) newKeeper() *warm.Keeper[*conn] {
	pc := be.pool.Config()
	be.maxConns, be.lifetime, be.jitter = int(pc.MaxConns), pc.MaxConnLifetime, pc.MaxConnLifetimeJitter
	cfg := warm.Config{
		Slots: be.maxConns, Keep: be.maxConns, Wait: be.cfg.AffinityWait, Brief: brief, Few: be.cfg.FirstSights / fewOf,
		// A pool of our own gets a connection back when it seems not to be needed any more, and closes it after as much
		// time again. Sooner would be no good: what comes back from there is warm for other stores than its slot's.
		Idle: pc.MaxConnIdleTime / 2, ApartIdle: keepApart,
	}
	if be.lent {
		// Its other users wait in the pool's own queue: half of its places are never kept from them, and what we have
		// there goes back after each use. A pool that wants to see every use of its connections sees them all.
		cfg.Keep, cfg.Idle = be.maxConns/2, keepIdleLent
		if pc.PrepareConn != nil || pc.BeforeAcquire != nil || pc.AfterRelease != nil { //nolint:staticcheck // a lent pool may have the old hook
			cfg.Keep = 0
		}
	}
	if be.pooled.Load() {
		// The pooler chooses which server connection works, and there is nothing of ours to keep warm.
		cfg.Wait = 0
	}
	return warm.New(connections{be}, cfg)
}

// connections is the pool as package warm sees it. It, and the making of the pool, are the only places that touch it.
type connections struct{ be *Backend }

var _ warm.Pool[*conn] = connections{}

func (p connections) Open(ctx context.Context) (*conn, error) {
	res, err := p.be.pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	c, _ := res.Conn().PgConn().CustomData()[connKey].(*conn)
	if c == nil {
		c = p.be.newConn(res.Conn())
		if p.be.lifetime > 0 {
			c.expires = time.Now().Add(p.be.lifetime + rand.N(p.be.jitter+1))
		}
	}
	c.be, c.res = p.be, res // a pool that was lent may be so to two
	return c, nil
}

func (p connections) GiveBack(c *conn, spent bool) {
	if res := c.res; res != nil && !spent {
		c.res = nil
		res.Release() // and destroys what is closed, busy or in a transaction
		return
	}
	c.close()
	if res := c.res; res != nil {
		c.res = nil
		res.Release()
	}
}

func (p connections) Detach(c *conn) {
	if res := c.res; res != nil {
		c.res = nil
		res.Hijack()
	}
}

// stale decides whether a connection is asked before it is used: when the server has said nothing on it for a second, or since
// a connection was found broken.
func (be *Backend) stale(spoke time.Time) bool {
	return time.Since(spoke) > pingAfter || spoke.UnixNano() <= be.lastBreak.Load()
}

// shouldPing is stale for what the pool has kept.
func (be *Backend) shouldPing(_ context.Context, p pgxpool.ShouldPingParams) bool {
	return be.stale(time.Now().Add(-p.IdleDuration))
}

// sights are the pairs of store and text that a connection has run, as hashes: up to [Config.FirstSights], after which it is
// to be retired, however long it is held until then. Each is the tables of one more store in the
// caches of the server's process, which never lets go of them.
type sights map[uint64]struct{}

var sightSeed = maphash.MakeSeed()

// see notes that a text is run in the session's store. known says that it is prepared here for that store, and so not new.
func (c *conn) see(sql string, known bool) {
	if c.be.pooled.Load() {
		return // it is the pooler's connections to the server that see it, and which one nobody knows
	}
	pair := maphash.String(sightSeed, sql) ^ maphash.String(sightSeed, c.unit.rt.Store.String())*0x9e3779b97f4a7c15
	if !known {
		c.remember(pair)
	}
	c.be.warm.Saw(c.lease, pair)
}

// remember adds a pair to those that the connection has run.
func (c *conn) remember(pair uint64) {
	if _, seen := c.sights[pair]; !seen && !c.sawEnough() {
		c.sights[pair] = struct{}{}
		c.be.firstSights.Add(1)
	}
}

// sawEnough reports whether the connection is to be retired.
func (c *conn) sawEnough() bool { return len(c.sights) >= c.be.cfg.FirstSights }
