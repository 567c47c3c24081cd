package main

import (
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/jackc/pgx/v5/pgxpool"
)

// The rows of many tenants: each statement is another tenant's.

const (
	randomStores   = 500 // with one text
	randomStores10 = 600 // with ten
)

var postgresRandomSuites = []suite{
	{
		name: "pg_random", what: "one text, tenants at random of 500, 8 goroutines",
		rows: bothRoles("pg_random",
			row{id: "pg_random", what: "`*sql.DB` ÷ `SET search_path`, query", ours: "sql", ref: "SET + query", bar: 0.52},
			row{id: "pg_random_wire", what: "`*sql.DB` ÷ wire client, a statement per store", ours: "sql", ref: "wire", bar: 1.08},
			row{id: "pg_random_native", what: "native ÷ wire client", ours: "native", ref: "wire"},
			row{id: "pg_random_uncleaned", what: "`*sql.DB` ÷ wire client that takes nothing away of what the tenant before may have left", ours: "sql", ref: "wire, uncleaned"},
		),
		measure: func(ctx context.Context, e *env, s *scores) error {
			return e.random(ctx, s, uniform(e.pick(randomStores, 50), 1), wireWay{"wire", perStore, 0, true}, wireWay{"wire, uncleaned", perStore, 0, false})
		},
	},
	{
		name: "pg_random10", what: "ten texts, tenants at random of 600, 8 goroutines",
		rows: bothRoles("pg_random10",
			row{id: "pg_random10", what: "`*sql.DB` ÷ `SET search_path`, query", ours: "sql", ref: "SET + query", bar: 0.80},
			row{id: "pg_random10_wire", what: "`*sql.DB` ÷ the best wire client", ours: "sql", ref: anyWire, bar: 1.08},
			row{id: "pg_random10_native", what: "native ÷ the best wire client", ours: "native", ref: anyWire},
		),
		measure: func(ctx context.Context, e *env, s *scores) error {
			return e.random(ctx, s, uniform(e.pick(randomStores10, 50), texts),
				wireWay{"wire, replanned", perText, 0, true}, wireWay{"wire, 1,000 kept", perStore, 1000, true}, wireWay{"wire, unnamed", unnamed, 0, true})
		},
	},
	{
		name: "pg_zipf10", what: "ten texts, tenants by Zipf (1.1) of 600, 8 goroutines",
		rows: bothRoles("pg_zipf10",
			row{id: "pg_zipf10", what: "`*sql.DB` ÷ `SET search_path`, query", ours: "sql", ref: "SET + query", bar: 0.70},
		),
		measure: func(ctx context.Context, e *env, s *scores) error {
			return e.random(ctx, s, zipf(e.pick(randomStores10, 50), texts))
		},
	},
	{
		name: "pg_pools", what: "one text, tenants at random of 500, 8 goroutines, beside a pool of one connection per tenant",
		rows: []row{
			{id: "pg_pools", what: "`*sql.DB` ÷ a `pgxpool` per tenant", ours: "sql", ref: "pool per tenant"},
			{id: "pg_pools_memory", what: "memory of the server behind them", metric: serverMemory, ours: "sql", ref: "pool per tenant"},
		},
		measure: func(ctx context.Context, e *env, s *scores) error {
			return e.besidePools(ctx, s, uniform(e.pick(randomStores, 50), 1))
		},
	},
	{
		name: "pg_pools10", what: "ten texts, tenants at random of 600, 8 goroutines, beside a pool of one connection per tenant",
		rows: []row{
			{id: "pg_pools10", what: "`*sql.DB` ÷ a `pgxpool` per tenant", ours: "sql", ref: "pool per tenant"},
			{id: "pg_pools10_memory", what: "memory of the server behind them", metric: serverMemory, ours: "sql", ref: "pool per tenant"},
		},
		measure: func(ctx context.Context, e *env, s *scores) error {
			return e.besidePools(ctx, s, uniform(e.pick(randomStores10, 50), texts))
		},
	},
}

const anyWire = "wire, replanned|wire, 1,000 kept|wire, unnamed"

// wireWay is how a wire client of random tenants names its statements, how many it keeps, and whether it cleans a
// connection that goes over to another store, as ours does.
type wireWay struct {
	name   string
	naming naming
	keep   int
	cleans bool
}

// warmUp is how many operations let every connection see every store and text.
func (e *env) warmUp(v visits) int { return e.pick(3*conns*v.pairs(), v.pairs()) }

func (e *env) random(ctx context.Context, s *scores, v visits, wires ...wireWay) error {
	p, err := e.pair(ctx, v.stores)
	if err != nil {
		return err
	}
	bare, err := e.pool(ctx, p.off.socket, "SET + query", "")
	if err != nil {
		return err
	}
	contenders := []contender{setThenQuery(bare, v)}
	for _, f := range []*fleet{p.on, p.off} {
		be, err := e.ours(ctx, f, f.socket, f.label("sql"))
		if err != nil {
			return err
		}
		contenders = append(contenders, oursSQL(f.label("sql"), be, v), oursNative(f.label("native"), be, v))
		if len(wires) == 0 {
			continue
		}
		said, err := listenTo(ctx, f, v.stores)
		if err != nil {
			return err
		}
		for _, way := range wires {
			says := said
			if !way.cleans {
				says = said.uncleaned()
			}
			w, err := e.wire(ctx, f.socket, says, way.naming, way.keep)
			if err != nil {
				return err
			}
			contenders = append(contenders, readWire(f.label(way.name), w, v))
		}
	}
	return e.contest(ctx, s, contest{goroutines: saturating, warm: e.warmUp(v)}, contenders...)
}

// besidePools compares with what needs no routing at all: a pool for each tenant, here of one connection.
func (e *env) besidePools(ctx context.Context, s *scores, v visits) error {
	p, err := e.pair(ctx, v.stores)
	if err != nil {
		return err
	}
	be, err := e.ours(ctx, p.on, p.on.socket, "sql")
	if err != nil {
		return err
	}
	const app = "pool per tenant"
	pools := make([]*pgxpool.Pool, v.stores)
	for i := range pools {
		if pools[i], err = e.pool(ctx, p.off.socket, app, numbered(i).String(), "pool_max_conns", "1"); err != nil {
			return err
		}
		if err := pools[i].Ping(ctx); err != nil {
			return fmt.Errorf("pool %d: %w", i, err)
		}
	}
	perTenant := contender{name: app, app: app, worker: func(rng *rand.Rand) operation {
		next := v.draw(rng)
		return func(ctx context.Context) error {
			store, text := next()
			return readPGX(ctx, pools[store], text)
		}
	}}
	return e.contest(ctx, s, contest{goroutines: saturating, warm: e.warmUp(v)}, oursSQL("sql", be, v), perTenant)
}
