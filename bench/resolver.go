package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"

	"github.com/tenement-go/tenement/httpx"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
	"github.com/tenement-go/tenement/tenancy/tenancytest"
)

// The rows of finding a tenant. They take less than a clock does, so one operation is a thousand of them.

const resolverTenants, thousand = 100, 1000

var cores = runtime.GOMAXPROCS(0)

var resolverSuites = []suite{
	{
		name: "resolver", what: "App.Resolve of a cached host, one goroutine",
		rows: []row{
			{id: "resolver_hit", what: "÷ 100 ns", ours: "hit", limit: 100, bar: 1},
			{id: "resolver_hit_allocs", what: "allocations: less than half of one", metric: allocs, ours: "hit", limit: 0.5, bar: 1},
		},
		measure: resolverHit,
	},
	{
		name: "resolver_scaling", what: "the same by as many goroutines as there are cores",
		rows: []row{
			{id: "resolver_scaling", what: "÷ one goroutine", ours: "all cores", ref: "one", bar: 1.25 / float64(cores)},
		},
		measure: resolverScaling,
	},
	{
		name: "middleware", what: "a request through httpx.Middleware, by host",
		rows: []row{
			{id: "middleware", what: "less an empty handler ÷ 600 ns", ours: "middleware alone", limit: 600, bar: 1},
			{id: "middleware_allocs", what: "allocations ÷ 4", metric: allocs, ours: "middleware alone", limit: 4, bar: 1},
		},
		measure: middleware,
	},
	{
		name: "registry_memory", what: "heap grown by looking up all tenants, cache of 1,000",
		rows: []row{
			{id: "registry_memory", what: "of 100,000 tenants ÷ of 10,000", metric: heap, ours: "registry", ref: "a tenth of it", bar: 1.5},
		},
		measure: registryMemory,
	},
	{
		name: "tenancytest", what: "a test's fresh tenant of 20 tables, SQLite",
		rows: []row{
			{id: "tenancytest_tenant", what: "÷ 5 ms", ours: "tenant", limit: 5e6, bar: 1},
		},
		measure: testTenant,
	},
}

// hosts makes an app with tenants and returns their hosts, all of them cached.
func (e *env) hosts(ctx context.Context) (*tenancy.App, []string, error) {
	be, _, err := e.sqlite(ctx, "", 0)
	if err != nil {
		return nil, nil, err
	}
	app, err := e.app(ctx, be, tenancy.Config{})
	if err != nil {
		return nil, nil, err
	}
	hosts := make([]string, resolverTenants)
	for i := range hosts {
		hosts[i] = fmt.Sprintf("t%d.bench.example", i)
		if _, err := app.Create(ctx, tenancy.Spec{Slug: fmt.Sprintf("t%d", i), Domains: []string{hosts[i]}}); err != nil {
			return nil, nil, err
		}
		if _, err := app.Resolve(ctx, hosts[i]); err != nil {
			return nil, nil, err
		}
	}
	return app, hosts, nil
}

func resolving(name string, app *tenancy.App, hosts []string) contender {
	return contender{name: name, per: thousand, worker: alike(func(ctx context.Context) error {
		for i := range thousand {
			if _, err := app.Resolve(ctx, hosts[i%len(hosts)]); err != nil {
				return err
			}
		}
		return nil
	})}
}

func resolverHit(ctx context.Context, e *env, s *scores) error {
	app, hosts, err := e.hosts(ctx)
	if err != nil {
		return err
	}
	return e.contest(ctx, s, contest{}, resolving("hit", app, hosts))
}

func resolverScaling(ctx context.Context, e *env, s *scores) error {
	app, hosts, err := e.hosts(ctx)
	if err != nil {
		return err
	}
	// Two contests, since they differ in their goroutines; a round of each in turn.
	for range e.rounds {
		one := contest{rounds: 1}
		if err := e.contest(ctx, s, one, resolving("one", app, hosts)); err != nil {
			return err
		}
		all := contest{rounds: 1, goroutines: cores}
		if err := e.contest(ctx, s, all, resolving("all cores", app, hosts)); err != nil {
			return err
		}
	}
	return nil
}

func middleware(ctx context.Context, e *env, s *scores) error {
	app, hosts, err := e.hosts(ctx)
	if err != nil {
		return err
	}
	requests := make([]*http.Request, len(hosts))
	for i := range requests {
		requests[i] = httptest.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+hosts[i]+"/", nil)
	}
	serving := func(name string, wrap func(http.Handler) http.Handler) contender {
		var served int
		handler := wrap(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served++ }))
		w := httptest.NewRecorder()
		return contender{name: name, per: thousand, worker: alike(func(context.Context) error {
			before := served
			for i := range thousand {
				handler.ServeHTTP(w, requests[i%len(requests)])
			}
			if served-before != thousand {
				return fmt.Errorf("%d of %d requests reached the handler", served-before, thousand)
			}
			return nil
		})}
	}
	err = e.contest(ctx, s, contest{},
		serving("through it", httpx.Middleware(app)), serving("empty handler", func(h http.Handler) http.Handler { return h }))
	if err != nil {
		return err
	}
	for _, m := range []metric{wall, allocs} {
		for i, through := range s.of["through it"][m] {
			s.add("middleware alone", measured{m: through - s.of["empty handler"][m][i]})
		}
	}
	return nil
}

// registryMemory looks up every one of many tenants: what stays in memory is bounded by the cache, not by the registry.
func registryMemory(ctx context.Context, e *env, s *scores) error {
	large := e.pick(100000, 3000)
	for _, size := range []struct {
		name    string
		tenants int
	}{{"registry", large}, {"a tenth of it", large / 10}} {
		grown, err := heapOfLookups(ctx, e, size.tenants, e.pick(1000, 200))
		if err != nil {
			return err
		}
		s.add(size.name, measured{heap: grown})
	}
	return nil
}

func heapOfLookups(ctx context.Context, e *env, tenants, cache int) (float64, error) {
	be, _, err := e.sqlite(ctx, "", 0)
	if err != nil {
		return 0, err
	}
	app, err := e.app(ctx, be, tenancy.Config{CacheSize: cache})
	if err != nil {
		return 0, err
	}
	if err := fillRegistry(ctx, be.Shared(), tenants); err != nil {
		return 0, err
	}
	before := liveHeap()
	for i := range tenants {
		if _, err := app.Resolve(ctx, fmt.Sprintf("r%d.bench.example", i)); err != nil {
			return 0, err
		}
	}
	after := liveHeap()
	runtime.KeepAlive(app)
	return after - before, nil
}

// fillRegistry writes tenants without stores, which Create would take long to make so many of.
func fillRegistry(ctx context.Context, shared *sql.DB, n int) error {
	tx, err := shared.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	for i := range n {
		id := fmt.Sprintf("01900000-0000-7000-8000-%012d", i)
		slug := fmt.Sprintf("r%d", i)
		if _, err := tx.ExecContext(ctx, `INSERT INTO tenement_tenants (id, slug, name, status, store, created_at, updated_at)
			VALUES ($1, $2, $2, 'active', $2, $3, $3)`, id, slug, "2026-01-01T00:00:00.000000Z"); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO tenement_domains (host, tenant_id, is_primary) VALUES ($1, $2, $3)`,
			slug+".bench.example", id, true); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// testTenant makes tenants as the tests of an application do.
func testTenant(_ context.Context, _ *env, s *scores) error {
	cfg := tenancy.Config{Tenant: []migrate.Source{{Name: "tables", FS: twentyTablesSource("INTEGER")}}}
	r := testing.Benchmark(func(b *testing.B) {
		tt := tenancytest.New(b, cfg)
		tt.Tenant(b) // makes the template
		for b.Loop() {
			tt.Tenant(b)
		}
	})
	if r.N == 0 {
		return errors.New("tenancytest could not make a tenant")
	}
	s.add("tenant", measured{wall: float64(r.NsPerOp())})
	return nil
}
