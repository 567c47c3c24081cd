package main

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/tenement-go/tenement/backend/postgres"
)

// conns is the size of every pool that is compared, but where a row says otherwise.
const conns = 8

// querier is what *sql.DB and *sql.Tx have in common.
type querier interface {
	QueryRowContext(context.Context, string, ...any) *sql.Row
}

func readSQL(ctx context.Context, db querier, text int) error {
	var q string
	return db.QueryRowContext(ctx, readTexts[text], 1).Scan(&q)
}

// pgxQuerier is what pgx's pools, connections and transactions, and our native handle, have in common.
type pgxQuerier interface {
	QueryRow(context.Context, string, ...any) pgx.Row
}

func readPGX(ctx context.Context, db pgxQuerier, text int) error {
	var q string
	return db.QueryRow(ctx, readTexts[text], 1).Scan(&q)
}

func txSQL(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	for range 3 {
		if err := readSQL(ctx, tx, 0); err != nil {
			return err
		}
	}
	return tx.Commit()
}

func txPGX(ctx context.Context, db interface {
	Begin(context.Context) (pgx.Tx, error)
},
) error {
	tx, err := db.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	for range 3 {
		if err := readPGX(ctx, tx, 0); err != nil {
			return err
		}
	}
	return tx.Commit(ctx)
}

// ours opens a backend for the suite under way; app names its connections to the server.
func (e *env) ours(ctx context.Context, f *fleet, via, app string, params ...string) (*postgres.Backend, error) {
	be, err := f.open(ctx, via, append([]string{"pool_max_conns", fmt.Sprint(conns), "application_name", app}, params...)...)
	if err == nil {
		e.cleanup(func() { _ = be.Close() })
	}
	return be, err
}

// oursSQL reads through the routed *sql.DB.
func oursSQL(name string, be *postgres.Backend, v visits) contender {
	to := routes(v.stores)
	return contender{name: name, app: name, worker: func(rng *rand.Rand) operation {
		next := v.draw(rng)
		return func(context.Context) error {
			store, text := next()
			return readSQL(to[store], be.DB(), text)
		}
	}}
}

// oursNative reads through the routed pgx handle.
func oursNative(name string, be *postgres.Backend, v visits) contender {
	to := routes(v.stores)
	return contender{name: name, worker: func(rng *rand.Rand) operation {
		next := v.draw(rng)
		return func(context.Context) error {
			store, text := next()
			return readPGX(to[store], be.PGX(), text)
		}
	}}
}

// pool opens a bare pool for the suite under way. schema, when there is one, is the search_path of all its connections.
func (e *env) pool(ctx context.Context, via, app, schema string, params ...string) (*pgxpool.Pool, error) {
	params = append([]string{"pool_max_conns", fmt.Sprint(conns), "application_name", app}, params...)
	if schema != "" {
		params = append(params, "search_path", schema+",public")
	}
	u, err := withParams(via, params...)
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.New(ctx, u)
	if err == nil {
		e.cleanup(pool.Close)
	}
	return pool, err
}

// bare is what a single-tenant application uses: pools whose search_path is the first store's.
type bare struct {
	pool *pgxpool.Pool
	std  *sql.DB
}

func (e *env) bare(ctx context.Context, via string) (b bare, err error) {
	schema := numbered(0).String()
	if b.pool, err = e.pool(ctx, via, "pgxpool", schema); err != nil {
		return b, err
	}
	under, err := e.pool(ctx, via, "stdlib", schema)
	if err != nil {
		return b, err
	}
	b.std = stdlib.OpenDBFromPool(under)
	e.cleanup(func() { _ = b.std.Close() })
	return b, nil
}

func (b bare) readStd() contender {
	return contender{name: "stdlib", worker: alike(func(ctx context.Context) error { return readSQL(ctx, b.std, 0) })}
}

func (b bare) readPool() contender {
	return contender{name: "pgxpool", worker: alike(func(ctx context.Context) error { return readPGX(ctx, b.pool, 0) })}
}

// setThenQuery is what applications do without us: take a connection, set its search_path, query.
func setThenQuery(pool *pgxpool.Pool, v visits) contender {
	set := make([]string, v.stores)
	for i := range set {
		set[i] = setSearchPath(numbered(i).String())
	}
	return contender{name: "SET + query", app: "SET + query", worker: func(rng *rand.Rand) operation {
		next := v.draw(rng)
		return func(ctx context.Context) error {
			store, text := next()
			return afterSet(ctx, pool, set[store], func(conn *pgxpool.Conn) error { return readPGX(ctx, conn, text) })
		}
	}}
}

func setSearchPath(schema string) string { return `SET search_path = "` + schema + `", public` }

// afterSet takes a connection, sets its search_path and reads.
func afterSet(ctx context.Context, pool *pgxpool.Pool, set string, read func(conn *pgxpool.Conn) error) error {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	if _, err := conn.Exec(ctx, set); err != nil {
		return err
	}
	return read(conn)
}
