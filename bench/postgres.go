package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/postgres"
	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/internal/wireproxy"
)

var postgresSuites = []suite{
	{rows: []string{"postgres_read_sql", "postgres_read_native", "postgres_tx3", "postgres_read_allocs"}, measure: postgresSame},
	{rows: []string{"postgres_read_random"}, measure: postgresRandom},
	{
		rows:    []string{"postgres_read_sql_trips", "postgres_read_native_trips", "postgres_read_random_trips", "postgres_tx3_trips"},
		measure: postgresTrips,
	},
}

// database returns the URL of a new database in the cluster that all suites share, reached through the unix socket.
func (e *env) database(ctx context.Context) (string, error) {
	if e.cluster == nil {
		c, err := pgtest.Start(ctx)
		if err != nil {
			return "", err
		}
		e.cluster = c
		e.cleanup = append(e.cleanup, func() { _ = c.Stop() })
	}
	u, drop, err := e.cluster.NewDatabase(ctx)
	if err != nil {
		return "", err
	}
	e.cleanup = append(e.cleanup, func() { _ = drop(context.WithoutCancel(ctx)) })
	return u, nil
}

// withParams adds query parameters to a database URL.
func withParams(databaseURL string, kv ...string) (string, error) {
	u, err := url.Parse(databaseURL)
	if err != nil {
		return "", err
	}
	q := u.Query()
	for i := 0; i < len(kv); i += 2 {
		q.Set(kv[i], kv[i+1])
	}
	u.RawQuery = q.Encode()
	return u.String(), nil
}

// postgresFixture is a backend with stores that hold the point table, and the bare pools that are the references.
type postgresFixture struct {
	be    *postgres.Backend
	pool  *pgxpool.Pool // search_path fixed to the first store
	std   *sql.DB       // the same, through database/sql
	plain *pgxpool.Pool // no search_path
}

// newPostgres makes stores in the database; the connections go to addr's URL, which may lead through a proxy.
func newPostgres(ctx context.Context, e *env, direct, via string, stores, conns int) (*postgresFixture, error) {
	maker, err := postgres.Open(ctx, direct, postgres.Config{})
	if err != nil {
		return nil, err
	}
	defer maker.Close()
	scripts := make([]backend.Script, stores)
	for i := range scripts {
		scripts[i] = backend.Script{
			Route: backend.Route{Store: numbered(i), Owner: fmt.Sprint(i)}, Create: true,
			SQL: pointTable + ";" + pointRow,
		}
	}
	if err := errors.Join(maker.RunScripts(ctx, scripts, backend.ScriptOptions{})...); err != nil {
		return nil, err
	}
	size := fmt.Sprint(conns)
	sized, err := withParams(via, "pool_max_conns", size)
	if err != nil {
		return nil, err
	}
	fixed, err := withParams(sized, "search_path", numbered(0).String()+",public")
	if err != nil {
		return nil, err
	}
	f := &postgresFixture{}
	if f.be, err = postgres.Open(ctx, sized, postgres.Config{}); err != nil {
		return nil, err
	}
	e.cleanup = append(e.cleanup, func() { _ = f.be.Close() })
	if f.pool, err = pgxpool.New(ctx, fixed); err != nil {
		return nil, err
	}
	e.cleanup = append(e.cleanup, f.pool.Close)
	stdPool, err := pgxpool.New(ctx, fixed)
	if err != nil {
		return nil, err
	}
	f.std = stdlib.OpenDBFromPool(stdPool)
	e.cleanup = append(e.cleanup, func() { _ = f.std.Close(); stdPool.Close() })
	if f.plain, err = pgxpool.New(ctx, sized); err != nil {
		return nil, err
	}
	e.cleanup = append(e.cleanup, f.plain.Close)
	return f, nil
}

func route(ctx context.Context, i int) context.Context {
	return backend.WithRoute(ctx, backend.Route{Store: numbered(i), Owner: fmt.Sprint(i)})
}

func postgresSame(ctx context.Context, e *env) ([]result, error) {
	u, err := e.database(ctx)
	if err != nil {
		return nil, err
	}
	socket, err := e.cluster.SocketURL(u)
	if err != nil {
		return nil, err
	}
	f, err := newPostgres(ctx, e, u, socket, 1, 2)
	if err != nil {
		return nil, err
	}
	n := e.pick(10000, 1500)
	routed := route(ctx, 0)
	oursSQL := func(context.Context) error { return readPoint(routed, f.be.DB()) }
	refSQL := func(ctx context.Context) error { return readPoint(ctx, f.std) }
	a, err := e.compare(ctx, "postgres_read_sql", "routed *sql.DB point read, same tenant ÷ stdlib.OpenDBFromPool, search_path fixed",
		"µs", 1.00, n, timed(oursSQL), timed(refSQL))
	if err != nil {
		return nil, err
	}
	b, err := e.compare(ctx, "postgres_read_native", "native routed QueryRow, same tenant ÷ pgxpool.QueryRow, search_path fixed",
		"µs", 1.10, n, timed(f.native(routed)), timed(f.bareNative))
	if err != nil {
		return nil, err
	}
	c, err := e.compare(ctx, "postgres_tx3", "transaction of 3 statements, routed *sql.DB ÷ bare driver's",
		"µs", 1.05, n/3, timed(func(context.Context) error { return tx3(routed, f.be.DB()) }),
		timed(func(ctx context.Context) error { return tx3(ctx, f.std) }))
	if err != nil {
		return nil, err
	}
	return []result{a, b, c, allocations(ctx, "postgres_read_allocs", "allocations of the routed *sql.DB point read ÷ OpenDBFromPool's", 4, oursSQL, refSQL)}, nil
}

func (f *postgresFixture) native(routed context.Context) func(context.Context) error {
	return func(context.Context) error {
		var q string
		return f.be.PGX().QueryRow(routed, pointRead, 1).Scan(&q)
	}
}

func (f *postgresFixture) bareNative(ctx context.Context) error {
	var q string
	return f.pool.QueryRow(ctx, pointRead, 1).Scan(&q)
}

func tx3(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	for range 3 {
		if err := readPoint(ctx, tx); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// setThenQuery is what applications do without us: take a connection, set its search_path, query.
func (f *postgresFixture) setThenQuery(ctx context.Context, i int) error {
	conn, err := f.plain.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	if _, err := conn.Exec(ctx, `SET search_path = "`+numbered(i).String()+`", public`); err != nil {
		return err
	}
	var q string
	return conn.QueryRow(ctx, pointRead, 1).Scan(&q)
}

func postgresRandom(ctx context.Context, e *env) ([]result, error) {
	u, err := e.database(ctx)
	if err != nil {
		return nil, err
	}
	socket, err := e.cluster.SocketURL(u)
	if err != nil {
		return nil, err
	}
	stores := e.pick(1000, 100)
	f, err := newPostgres(ctx, e, u, socket, stores, 2)
	if err != nil {
		return nil, err
	}
	routes := make([]context.Context, stores)
	for i := range routes {
		routes[i] = route(ctx, i)
	}
	r, err := e.compare(ctx, "postgres_read_random", fmt.Sprintf("routed *sql.DB point read, random of %d tenants ÷ acquire, SET search_path, query", stores),
		"µs", 0.67, e.pick(10000, 1500),
		timed(func(context.Context) error { return readPoint(routes[rand.IntN(stores)], f.be.DB()) }),
		timed(func(ctx context.Context) error { return f.setThenQuery(ctx, rand.IntN(stores)) }))
	return []result{r}, err
}

// postgresTrips counts round trips at a proxy. The reference of a random read is the statement alone.
func postgresTrips(ctx context.Context, e *env) ([]result, error) {
	u, err := e.database(ctx)
	if err != nil {
		return nil, err
	}
	proxy, err := wireproxy.NewURL(u)
	if err != nil {
		return nil, err
	}
	e.cleanup = append(e.cleanup, func() { _ = proxy.Close() })
	f, err := newPostgres(ctx, e, u, proxy.URL(u), 8, 1)
	if err != nil {
		return nil, err
	}
	trips := func(op func(context.Context) error) (float64, error) {
		for range 8 { // connections opened, statements prepared, every tenant seen
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
	next := 0
	routed := route(ctx, 0)
	var results []result
	for _, row := range []struct {
		name      string
		ours, ref func(context.Context) error
	}{
		{
			"postgres_read_sql_trips",
			func(context.Context) error { return readPoint(routed, f.be.DB()) },
			func(ctx context.Context) error { return readPoint(ctx, f.std) },
		},
		{"postgres_read_native_trips", f.native(routed), f.bareNative},
		{
			"postgres_read_random_trips",
			func(ctx context.Context) error { next++; return readPoint(route(ctx, next%8), f.be.DB()) },
			func(ctx context.Context) error { return readPoint(ctx, f.std) },
		},
		{
			"postgres_tx3_trips",
			func(context.Context) error { return tx3(routed, f.be.DB()) },
			func(ctx context.Context) error { return tx3(ctx, f.std) },
		},
	} {
		a, err := trips(row.ours)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", row.name, err)
		}
		b, err := trips(row.ref)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", row.name, err)
		}
		results = append(results, newResult(row.name, "round trips ÷ the bare driver's", "trips", 1, a, b, nil))
	}
	return results, nil
}
