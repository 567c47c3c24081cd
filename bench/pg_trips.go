package main

import (
	"context"
	"fmt"

	"github.com/tenement-go/tenement/internal/wireproxy"
)

var postgresTripSuites = []suite{{
	name: "pg_trips", what: "round trips, counted by a proxy",
	rows: []row{
		{id: "pg_trips_read", what: "one statement, `*sql.DB` ÷ `stdlib`", metric: trips, ours: "sql", ref: "stdlib", bar: 1},
		{id: "pg_trips_native", what: "one statement, native ÷ `pgxpool`", metric: trips, ours: "native", ref: "pgxpool", bar: 1},
		{id: "pg_trips_random", what: "one statement, each of another tenant ÷ `stdlib`, one tenant", metric: trips, ours: "sql, in turn", ref: "stdlib", bar: 1},
		{id: "pg_trips_tx3", what: "transaction of 3, `*sql.DB` ÷ `stdlib`", metric: trips, ours: "sql, transaction", ref: "stdlib, transaction", bar: 0.8},
	},
	measure: countTrips,
}}

func countTrips(ctx context.Context, e *env, s *scores) error {
	const stores = 8
	f, err := e.fleet(ctx, fleetKey{role: true}, stores)
	if err != nil {
		return err
	}
	proxy, err := wireproxy.NewURL(f.url)
	if err != nil {
		return err
	}
	e.cleanup(func() { _ = proxy.Close() })
	via := proxy.URL(f.url)
	be, err := e.ours(ctx, f, via, "sql", "pool_max_conns", "1")
	if err != nil {
		return err
	}
	b, err := e.bare(ctx, via)
	if err != nil {
		return err
	}
	to := routes(stores)
	next := 0
	for _, k := range []struct {
		name string
		op   operation
	}{
		{"sql", func(context.Context) error { return readSQL(to[0], be.DB(), 0) }},
		{"stdlib", func(ctx context.Context) error { return readSQL(ctx, b.std, 0) }},
		{"native", func(context.Context) error { return readPGX(to[0], be.PGX(), 0) }},
		{"pgxpool", func(ctx context.Context) error { return readPGX(ctx, b.pool, 0) }},
		{"sql, in turn", func(context.Context) error { next++; return readSQL(to[next%stores], be.DB(), 0) }},
		{"sql, transaction", func(context.Context) error { return txSQL(to[0], be.DB()) }},
		{"stdlib, transaction", func(ctx context.Context) error { return txSQL(ctx, b.std) }},
	} {
		n, err := tripsOf(ctx, proxy, k.op)
		if err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
		s.add(k.name, measured{trips: n})
	}
	return nil
}

// tripsOf returns the round trips of one operation when connections are open, and all is prepared and known.
func tripsOf(ctx context.Context, proxy *wireproxy.Proxy, op operation) (float64, error) {
	for range 24 {
		if err := op(ctx); err != nil {
			return 0, err
		}
	}
	proxy.ResetRoundTrips()
	for range 100 {
		if err := op(ctx); err != nil {
			return 0, err
		}
	}
	return float64(proxy.ResetRoundTrips()) / 100, nil
}
