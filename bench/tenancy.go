package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/httpx"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
	"github.com/tenement-go/tenement/tenancy/tenancytest"
)

var tenancySuites = []suite{
	{rows: []string{"resolver_hit", "resolver_hit_allocs", "resolver_scaling", "middleware", "middleware_allocs"}, measure: resolver},
	{rows: []string{"registry_memory"}, measure: registryMemory},
	{rows: []string{"create_sqlite"}, measure: createSQLite},
	{rows: []string{"create_postgres"}, measure: createPostgres},
	{rows: []string{"tenancytest_tenant"}, measure: testTenant},
}

func openApp(ctx context.Context, e *env, be backend.Backend, tables fs.FS) (*tenancy.App, error) {
	cfg := tenancy.Config{}
	if tables != nil {
		cfg.Tenant = []migrate.Source{{Name: "tables", FS: tables}}
	}
	app, err := tenancy.Open(ctx, be, cfg)
	if err == nil {
		e.cleanup = append(e.cleanup, func() { _ = app.Close() })
	}
	return app, err
}

// fixed is the reference of a row whose bar is a number.
func fixed(value float64) side {
	return func(_ context.Context, n int) (float64, error) { return value * float64(n), nil }
}

func resolver(ctx context.Context, e *env) ([]result, error) {
	be, _, err := newSQLite(ctx, e, "", 0)
	if err != nil {
		return nil, err
	}
	app, err := openApp(ctx, e, be, nil)
	if err != nil {
		return nil, err
	}
	const tenants = 100
	var hosts [tenants]string
	for i := range hosts {
		hosts[i] = fmt.Sprintf("t%d.bench.example", i)
		if _, err := app.Create(ctx, tenancy.Spec{Slug: fmt.Sprintf("t%d", i), Domains: []string{hosts[i]}}); err != nil {
			return nil, err
		}
		if _, err := app.Resolve(ctx, hosts[i]); err != nil {
			return nil, err
		}
	}
	next := 0
	hit := func(ctx context.Context) error {
		next++
		_, err := app.Resolve(ctx, hosts[next%tenants])
		return err
	}
	a, err := e.compare(ctx, "resolver_hit", "App.Resolve of a cached host ÷ 100 ns", "ns", 1, e.pick(500000, 100000), timed(hit), fixed(100))
	if err != nil {
		return nil, err
	}
	allocs := allocations(ctx, "resolver_hit_allocs", "allocations of the same (bar: none)", 1, hit, func(context.Context) error { return nil })
	allocs = newResult(allocs.Name, allocs.What, "allocs", 0, allocs.Ours, 0, []float64{allocs.Ours})

	// Scaling: the same number of look-ups by as many goroutines as there are cores, against one goroutine's time.
	cores := runtime.GOMAXPROCS(0)
	many := func(ctx context.Context, n int) (float64, error) {
		var failed atomic.Int64
		began := time.Now()
		done := make(chan struct{})
		for c := range cores {
			go func() {
				for i := range n {
					if _, err := app.Resolve(ctx, hosts[(i+c*37)%tenants]); err != nil {
						failed.Add(1)
					}
				}
				done <- struct{}{}
			}()
		}
		for range cores {
			<-done
		}
		if failed.Load() > 0 {
			return 0, errors.New("a look-up failed")
		}
		return float64(time.Since(began)) / float64(cores), nil
	}
	scaling, err := e.compare(ctx, "resolver_scaling", fmt.Sprintf("time per look-up of %d goroutines ÷ of one (perfect: %.2f)", cores, 1/float64(cores)),
		"ns", 1.25/float64(cores), e.pick(500000, 100000), many, timed(hit))
	if err != nil {
		return nil, err
	}

	empty := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	wrapped := httpx.Middleware(app)(empty)
	requests := make([]*http.Request, tenants)
	for i := range requests {
		requests[i] = httptest.NewRequestWithContext(ctx, http.MethodGet, "http://"+hosts[i]+"/", nil)
	}
	w := httptest.NewRecorder()
	serve := func(h http.Handler) func(context.Context) error {
		return func(context.Context) error { next++; h.ServeHTTP(w, requests[next%tenants]); return nil }
	}
	inside, outside := timed(serve(wrapped)), timed(serve(empty))
	m, err := e.compare(ctx, "middleware", "a request through the middleware, less an empty handler ÷ 600 ns", "ns", 1, e.pick(300000, 50000),
		func(ctx context.Context, n int) (float64, error) {
			x, errX := inside(ctx, n)
			y, errY := outside(ctx, n)
			return x - y, errors.Join(errX, errY)
		}, fixed(600))
	if err != nil {
		return nil, err
	}
	ma := allocations(ctx, "middleware_allocs", "allocations of the same ÷ 4", 0, serve(wrapped), serve(empty))
	ma = newResult(ma.Name, ma.What, "allocs", 1, ma.Ours-ma.Reference, 4, nil)
	return []result{a, allocs, scaling, m, ma}, nil
}

// registryMemory looks up every one of many tenants: what stays in memory is bounded by the cache, not by the registry.
func registryMemory(ctx context.Context, e *env) ([]result, error) {
	const cache = 1000
	grown := func(tenants int) (float64, error) {
		be, _, err := newSQLite(ctx, e, "", 0)
		if err != nil {
			return 0, err
		}
		app, err := tenancy.Open(ctx, be, tenancy.Config{CacheSize: cache})
		if err != nil {
			return 0, err
		}
		defer app.Close()
		if err := fillRegistry(ctx, be.Shared(), tenants); err != nil {
			return 0, err
		}
		live := func() float64 {
			runtime.GC()
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return float64(m.HeapAlloc)
		}
		before := live()
		for i := range tenants {
			if _, err := app.Resolve(ctx, fmt.Sprintf("r%d.bench.example", i)); err != nil {
				return 0, err
			}
		}
		after := live()
		runtime.KeepAlive(app)
		return (after - before) / (1 << 20), nil
	}
	large, small := e.pick(100000, 5000), e.pick(10000, 2000)
	a, errA := grown(large)
	b, errB := grown(small)
	if err := errors.Join(errA, errB); err != nil {
		return nil, err
	}
	return []result{newResult("registry_memory", fmt.Sprintf("heap grown by looking up %d tenants ÷ %d, cache of %d", large, small, cache), "MiB", 1.5, a, b, nil)}, nil
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

func createSQLite(ctx context.Context, e *env) ([]result, error) {
	be, dir, err := newSQLite(ctx, e, "", 0)
	if err != nil {
		return nil, err
	}
	app, err := openApp(ctx, e, be, twentyTablesSource("INTEGER"))
	if err != nil {
		return nil, err
	}
	made := 0
	ours := func(ctx context.Context) error {
		made++
		_, err := app.Create(ctx, tenancy.Spec{Slug: fmt.Sprintf("c%d", made), Domains: []string{fmt.Sprintf("c%d.bench.example", made)}})
		return err
	}
	if err := ours(ctx); err != nil {
		return nil, err
	}
	// The floor: the file, and two commits in a registry of the same kind.
	bareDir, err := e.dir()
	if err != nil {
		return nil, err
	}
	bare, err := sql.Open("sqlite", "file:"+filepath.ToSlash(filepath.Join(bareDir, "shared.db"))+"?_txlock=immediate"+barePragmas)
	if err != nil {
		return nil, err
	}
	defer bare.Close()
	bare.SetMaxOpenConns(1)
	if _, err := bare.ExecContext(ctx, `CREATE TABLE tenants (id TEXT PRIMARY KEY, slug TEXT UNIQUE, status TEXT);
		CREATE TABLE domains (host TEXT PRIMARY KEY, tenant TEXT)`); err != nil {
		return nil, err
	}
	template := filepath.Join(dir, "tenants", "c1.db")
	copies := 0
	ref := func(ctx context.Context) error {
		copies++
		id := fmt.Sprint(copies)
		if _, err := bare.ExecContext(ctx, `BEGIN IMMEDIATE; INSERT INTO tenants VALUES ('`+id+`', '`+id+`', 'provisioning');
			INSERT INTO domains VALUES ('`+id+`', '`+id+`'); COMMIT`); err != nil {
			return err
		}
		if err := copyFile(template, filepath.Join(bareDir, id+".db")); err != nil {
			return err
		}
		_, err := bare.ExecContext(ctx, `BEGIN IMMEDIATE; UPDATE tenants SET status = 'active' WHERE id = '`+id+`'; COMMIT`)
		return err
	}
	r, err := e.compare(ctx, "create_sqlite", "App.Create, 20 tables, one domain ÷ copy + fsync of the template and two registry commits", "ms", 2,
		e.pick(150, 20), timed(ours), timed(ref))
	return []result{r}, err
}

func createPostgres(ctx context.Context, e *env) ([]result, error) {
	be, oneMessage, err := besideOneMessage(ctx, e)
	if err != nil {
		return nil, err
	}
	app, err := openApp(ctx, e, be, twentyTablesSource("BIGINT"))
	if err != nil {
		return nil, err
	}
	made := 0
	r, err := e.compare(ctx, "create_postgres", "App.Create, 20 tables and 40 indexes, one domain ÷ the same DDL sent as one message", "ms", 1.2, e.pick(20, 5),
		timed(func(ctx context.Context) error {
			made++
			_, err := app.Create(ctx, tenancy.Spec{Slug: fmt.Sprintf("c%d", made), Domains: []string{fmt.Sprintf("c%d.bench.example", made)}})
			return err
		}),
		oneMessage)
	return []result{r}, err
}

// testTenant makes tenants as the tests of an application do.
func testTenant(context.Context, *env) ([]result, error) {
	cfg := tenancy.Config{Tenant: []migrate.Source{{Name: "tables", FS: twentyTablesSource("INTEGER")}}}
	r := testing.Benchmark(func(b *testing.B) {
		tt := tenancytest.New(b, cfg)
		tt.Tenant(b) // makes the template
		for b.Loop() {
			tt.Tenant(b)
		}
	})
	if r.N == 0 {
		return nil, errors.New("tenancytest could not make a tenant")
	}
	return []result{newResult("tenancytest_tenant", "a test's fresh tenant, 20 tables, SQLite ÷ 5 ms", "ms", 1, float64(r.NsPerOp())/1e6, 5, nil)}, nil
}
