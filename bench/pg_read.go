package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tenement-go/tenement/internal/wireproxy"
)

// The rows of one tenant: a statement, and a transaction of three. All but those of one goroutine alone saturate the
// machine: alone, one measures how Go and the kernel wake processes.

const saturating = 8 // goroutines

var postgresReadSuites = []suite{
	{
		name: "pg_read", what: "one statement, the same tenant, 8 goroutines",
		rows: append(bothRoles("pg_read",
			row{id: "pg_read_sql_wire", what: "`*sql.DB` ÷ wire client", ours: "sql", ref: "wire", bar: 1.05},
			row{id: "pg_read_native_wire", what: "native ÷ wire client", ours: "native", ref: "wire", bar: 1.03},
			row{id: "pg_read_sql", what: "`*sql.DB` ÷ `stdlib`, search_path fixed", ours: "sql", ref: "stdlib", bar: 1.45},
			row{id: "pg_read_native", what: "native ÷ `pgxpool`, search_path fixed", ours: "native", ref: "pgxpool", bar: 1.45},
			row{id: "pg_read_cpu", what: "client's CPU, `*sql.DB` ÷ `stdlib`", metric: clientCPU, ours: "sql", ref: "stdlib", bar: 1.15},
			row{id: "pg_read_server_cpu", what: "server's CPU, `*sql.DB` ÷ `stdlib`", metric: serverCPU, ours: "sql", ref: "stdlib"},
		),
			row{id: "pg_read_native_role", what: "native, with the tenants' role ÷ without", ours: "native", ref: "native off", bar: 1.03},
			row{id: "pg_read_allocs", what: "allocations, `*sql.DB` ÷ `stdlib`", metric: allocs, ours: "sql", ref: "stdlib", plus: 4},
		),
		measure: func(ctx context.Context, e *env, s *scores) error {
			return e.sameTenant(ctx, s, contest{goroutines: saturating})
		},
	},
	{
		name: "pg_read_alone", what: "one statement, the same tenant, one goroutine",
		rows: bothRoles("pg_read_alone",
			row{id: "pg_read_alone_wire", what: "`*sql.DB` ÷ wire client", ours: "sql", ref: "wire"},
			row{id: "pg_read_alone", what: "`*sql.DB` ÷ `stdlib`", ours: "sql", ref: "stdlib"},
			row{id: "pg_read_alone_native", what: "native ÷ `pgxpool`", ours: "native", ref: "pgxpool"},
		),
		measure: func(ctx context.Context, e *env, s *scores) error { return e.sameTenant(ctx, s, contest{}) },
	},
	{
		name: "pg_read_cancellable", what: "one statement with a context that can be cancelled, the same tenant, 8 goroutines",
		rows: bothRoles("pg_read_cancellable",
			row{id: "pg_read_cancellable", what: "`*sql.DB` ÷ `stdlib`", ours: "sql", ref: "stdlib"},
		),
		measure: readCancellable,
	},
	{
		name: "pg_read_latency", what: "one statement, the same tenant, 8 goroutines, a round trip of 0.5 ms",
		rows: bothRoles("pg_read_latency",
			row{id: "pg_read_latency", what: "`*sql.DB` ÷ `stdlib`", ours: "sql", ref: "stdlib", bar: 1.03},
		),
		measure: func(ctx context.Context, e *env, s *scores) error {
			return e.far(ctx, s, e.readers)
		},
	},
	{
		name: "pg_tx3", what: "a transaction of 3 statements, the same tenant, 8 goroutines",
		rows: bothRoles("pg_tx3",
			row{id: "pg_tx3", what: "`*sql.DB` ÷ `stdlib`", ours: "sql", ref: "stdlib", bar: 0.95},
			row{id: "pg_tx3_native", what: "native ÷ `pgxpool`", ours: "native", ref: "pgxpool"},
			row{id: "pg_tx3_wire", what: "`*sql.DB` ÷ wire client, BEGIN and prefix ahead of the first statement", ours: "sql", ref: "wire"},
			row{id: "pg_tx3_wire_begin", what: "`*sql.DB` ÷ wire client, BEGIN and prefix by themselves", ours: "sql", ref: "wire, BEGIN first"},
		),
		measure: func(ctx context.Context, e *env, s *scores) error {
			contenders, err := e.transactions(ctx, e.near)
			if err != nil {
				return err
			}
			return e.contest(ctx, s, contest{goroutines: saturating}, contenders...)
		},
	},
	{
		name: "pg_tx3_latency", what: "a transaction of 3 statements, the same tenant, 8 goroutines, a round trip of 0.5 ms",
		rows: bothRoles("pg_tx3_latency",
			row{id: "pg_tx3_latency", what: "`*sql.DB` ÷ `stdlib`", ours: "sql", ref: "stdlib", bar: 0.82},
		),
		measure: func(ctx context.Context, e *env, s *scores) error {
			return e.far(ctx, s, e.transactions)
		},
	},
}

// bothRoles adds to rows of a backend with the tenants' role, as it is shipped, the same without, and what it costs.
func bothRoles(suite string, rows ...row) []row {
	all := slices.Clone(rows)
	for _, r := range rows {
		without := r
		without.id, without.what, without.ours = r.id+"_off", r.what+", without the tenants' role", r.ours+" off"
		if strings.HasPrefix(r.ref, "wire") {
			without.ref = strings.ReplaceAll(r.ref, "|", " off|") + " off"
		}
		all = append(all, without)
	}
	cost := row{id: suite + "_role", what: "`*sql.DB`, with the tenants' role ÷ without", ours: "sql", ref: "sql off"}
	if rows[0].bar > 0 {
		cost.bar = 1.03
	}
	return append(all, cost)
}

// pair is the fleet with the tenants' role and the one without; the bare drivers use the latter.
type pair struct{ on, off *fleet }

func (e *env) pair(ctx context.Context, stores int) (p pair, err error) {
	if p.on, err = e.fleet(ctx, fleetKey{role: true}, stores); err != nil {
		return p, err
	}
	p.off, err = e.fleet(ctx, fleetKey{role: false}, stores)
	return p, err
}

// way leads to a fleet.
type way func(*fleet) string

func (e *env) near(f *fleet) string { return f.socket }

// sameTenant has everybody read one row of one tenant, over and over.
func (e *env) sameTenant(ctx context.Context, s *scores, c contest) error {
	contenders, err := e.readers(ctx, e.near)
	if err != nil {
		return err
	}
	return e.contest(ctx, s, c, contenders...)
}

func (e *env) readers(ctx context.Context, via way) ([]contender, error) {
	p, err := e.pair(ctx, 1)
	if err != nil {
		return nil, err
	}
	b, err := e.bare(ctx, via(p.off))
	if err != nil {
		return nil, err
	}
	contenders := []contender{b.readStd(), b.readPool()}
	for _, f := range []*fleet{p.on, p.off} {
		be, err := e.ours(ctx, f, via(f), f.label("sql"))
		if err != nil {
			return nil, err
		}
		said, err := listenTo(ctx, f, 1)
		if err != nil {
			return nil, err
		}
		w, err := e.wire(ctx, via(f), said, perStore, 0)
		if err != nil {
			return nil, err
		}
		contenders = append(contenders,
			readWire(f.label("wire"), w, sameStore()),
			oursSQL(f.label("sql"), be, sameStore()),
			oursNative(f.label("native"), be, sameStore()))
	}
	return contenders, nil
}

// label is a contender's name on this fleet.
func (f *fleet) label(name string) string {
	if f.role {
		return name
	}
	return name + " off"
}

func (e *env) transactions(ctx context.Context, via way) ([]contender, error) {
	p, err := e.pair(ctx, 1)
	if err != nil {
		return nil, err
	}
	b, err := e.bare(ctx, via(p.off))
	if err != nil {
		return nil, err
	}
	contenders := []contender{
		{name: "stdlib", worker: alike(func(ctx context.Context) error { return txSQL(ctx, b.std) })},
		{name: "pgxpool", worker: alike(func(ctx context.Context) error { return txPGX(ctx, b.pool) })},
	}
	for _, f := range []*fleet{p.on, p.off} {
		be, err := e.ours(ctx, f, via(f), f.label("sql"))
		if err != nil {
			return nil, err
		}
		said, err := listenTo(ctx, f, 1)
		if err != nil {
			return nil, err
		}
		w, err := e.wire(ctx, via(f), said, perStore, 0)
		if err != nil {
			return nil, err
		}
		routed := routes(1)[0]
		contenders = append(contenders,
			txWire(f.label("wire"), w, true),
			txWire(f.label("wire, BEGIN first"), w, false),
			contender{name: f.label("sql"), worker: alike(func(context.Context) error { return txSQL(routed, be.DB()) })},
			contender{name: f.label("native"), worker: alike(func(context.Context) error { return txPGX(routed, be.PGX()) })})
	}
	return contenders, nil
}

// far has contenders reach the server with 0.25 ms of latency each way.
func (e *env) far(ctx context.Context, s *scores, make func(context.Context, way) ([]contender, error)) error {
	proxies := map[*fleet]*wireproxy.Proxy{}
	p, err := e.pair(ctx, 1)
	if err != nil {
		return err
	}
	for _, f := range []*fleet{p.on, p.off} {
		proxy, err := wireproxy.NewURL(f.url)
		if err != nil {
			return err
		}
		e.cleanup(func() { _ = proxy.Close() })
		proxy.SetLatency(250 * time.Microsecond)
		proxies[f] = proxy
	}
	contenders, err := make(ctx, func(f *fleet) string { return proxies[f].URL(f.url) })
	if err != nil {
		return err
	}
	return e.contest(ctx, s, contest{goroutines: saturating}, contenders...)
}

// readCancellable measures what it costs to watch a context.
func readCancellable(ctx context.Context, e *env, s *scores) error {
	p, err := e.pair(ctx, 1)
	if err != nil {
		return err
	}
	b, err := e.bare(ctx, e.near(p.off))
	if err != nil {
		return err
	}
	cancellable, cancel := context.WithCancel(context.Background())
	e.cleanup(cancel)
	contenders := []contender{{name: "stdlib", worker: alike(func(context.Context) error { return readSQL(cancellable, b.std, 0) })}}
	for _, f := range []*fleet{p.on, p.off} {
		be, err := e.ours(ctx, f, e.near(f), f.label("sql"))
		if err != nil {
			return err
		}
		routed := routeContext(cancellable, 0)
		contenders = append(contenders, contender{name: f.label("sql"), worker: alike(func(context.Context) error { return readSQL(routed, be.DB(), 0) })})
	}
	if err := e.contest(ctx, s, contest{goroutines: saturating}, contenders...); err != nil {
		return fmt.Errorf("cancellable: %w", err)
	}
	return nil
}
