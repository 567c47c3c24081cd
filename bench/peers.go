package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// The rows of a peer that needs no library: a database for each tenant.

const (
	eachDatabase = "a database each"
	eachPool     = "a database each, a connection for each"
	eachBounded  = "a database each, 8 connections"
)

var peerSuites = []suite{
	{
		name: "peer_databases_create", what: "App.Create with 20 tables and 40 indexes, beside CREATE DATABASE from a template that has them",
		rows: []row{
			{id: "peer_databases_create", what: "÷ a database of its own", ours: "create", ref: eachDatabase},
		},
		measure: createDatabases,
	},
	{
		name: "peer_databases", what: "one text, tenants at random of 64, 8 goroutines, beside a database per tenant",
		rows: []row{
			{id: "peer_databases", what: "`*sql.DB` ÷ a connection kept to each database", ours: "sql", ref: eachPool},
			{id: "peer_databases_bounded", what: "`*sql.DB` ÷ as many connections, which go from database to database", ours: "sql", ref: eachBounded},
			{id: "peer_databases_memory", what: "memory of the server behind a connection for each", metric: serverMemory, ours: "sql", ref: eachPool},
		},
		measure: readDatabases,
	},
}

// template is a database that others are copied from, which go when the suite has ended.
type template struct {
	admin *pgx.Conn
	cfg   *pgx.ConnConfig
	made  int
}

func (e *env) template(ctx context.Context, ddl string) (*template, error) {
	u, err := e.database(ctx)
	if err != nil {
		return nil, err
	}
	socket, err := e.cluster.SocketURL(u)
	if err != nil {
		return nil, err
	}
	t := &template{}
	if t.cfg, err = pgx.ParseConfig(socket); err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, t.cfg)
	if err != nil {
		return nil, err
	}
	_, err = conn.PgConn().Exec(ctx, ddl).ReadAll()
	if err = errors.Join(err, conn.Close(ctx)); err != nil {
		return nil, err
	}
	if t.admin, err = pgx.Connect(ctx, e.cluster.AdminURL()); err != nil {
		return nil, err
	}
	e.cleanup(func() {
		ctx := context.WithoutCancel(ctx)
		for i := range t.made {
			_, _ = t.admin.Exec(ctx, "DROP DATABASE IF EXISTS "+t.name(i)+" WITH (FORCE)")
		}
		_ = t.admin.Close(ctx)
	})
	return t, nil
}

func (t *template) name(i int) string { return fmt.Sprintf("%s_%d", t.cfg.Database, i) }

func (t *template) create(ctx context.Context) error {
	t.made++
	_, err := t.admin.Exec(ctx, "CREATE DATABASE "+t.name(t.made-1)+" TEMPLATE "+t.cfg.Database)
	return err
}

func createDatabases(ctx context.Context, e *env, s *scores) error {
	be, err := e.postgres(ctx)
	if err != nil {
		return err
	}
	create, err := e.signUps(ctx, be, twentyTablesSource("BIGINT"))
	if err != nil {
		return err
	}
	t, err := e.template(ctx, twentyTables("BIGINT"))
	if err != nil {
		return err
	}
	return e.contest(ctx, s, contest{ops: e.pick(5, 2), warm: 1, rounds: e.pick(5, 1)},
		contender{name: "create", worker: alike(create)}, contender{name: eachDatabase, worker: alike(t.create)})
}

func readDatabases(ctx context.Context, e *env, s *scores) error {
	v := uniform(e.pick(64, 8), 1)
	p, err := e.pair(ctx, v.stores)
	if err != nil {
		return err
	}
	be, err := e.ours(ctx, p.on, p.on.socket, "sql")
	if err != nil {
		return err
	}
	t, err := e.template(ctx, tenTables())
	if err != nil {
		return err
	}
	for range v.stores {
		if err := t.create(ctx); err != nil {
			return err
		}
	}
	each, err := e.poolEach(ctx, t, v)
	if err != nil {
		return err
	}
	return e.contest(ctx, s, contest{goroutines: saturating, warm: e.warmUp(v)}, oursSQL("sql", be, v), each, e.roaming(ctx, t, v))
}

// poolEach keeps a connection to each database.
func (e *env) poolEach(ctx context.Context, t *template, v visits) (contender, error) {
	const app = "database each"
	pools := make([]*pgxpool.Pool, v.stores)
	for i := range pools {
		cfg, err := pgxpool.ParseConfig("pool_max_conns=1")
		if err != nil {
			return contender{}, err
		}
		cfg.ConnConfig = t.config(i, app)
		if pools[i], err = pgxpool.NewWithConfig(ctx, cfg); err != nil {
			return contender{}, err
		}
		e.cleanup(pools[i].Close)
		if err := pools[i].Ping(ctx); err != nil {
			return contender{}, fmt.Errorf("database %d: %w", i, err)
		}
	}
	return contender{name: eachPool, app: app, worker: func(rng *rand.Rand) operation {
		next := v.draw(rng)
		return func(ctx context.Context) error {
			store, text := next()
			return readPGX(ctx, pools[store], text)
		}
	}}, nil
}

func (t *template) config(i int, app string) *pgx.ConnConfig {
	cfg := t.cfg.Copy()
	cfg.Database = t.name(i)
	cfg.RuntimeParams["application_name"] = app
	return cfg
}

// roaming has as many connections as ours, each to the database that was last asked for over it: a connection of Postgres
// cannot change its database.
func (e *env) roaming(ctx context.Context, t *template, v visits) contender {
	type seat struct {
		conn  *pgx.Conn
		store int
	}
	seats := make(chan *seat, conns)
	for range conns {
		seats <- &seat{}
	}
	e.cleanup(func() {
		for range conns {
			if s := <-seats; s.conn != nil {
				_ = s.conn.Close(context.WithoutCancel(ctx))
			}
		}
	})
	return contender{name: eachBounded, worker: func(rng *rand.Rand) operation {
		next := v.draw(rng)
		return func(ctx context.Context) (err error) {
			store, text := next()
			s := <-seats
			defer func() { seats <- s }()
			if s.conn != nil && s.store != store {
				if err := s.conn.Close(ctx); err != nil {
					return err
				}
				s.conn = nil
			}
			if s.conn == nil {
				if s.conn, err = pgx.ConnectConfig(ctx, t.config(store, "databases in turn")); err != nil {
					return err
				}
				s.store = store
			}
			return readPGX(ctx, s.conn, text)
		}
	}}
}
