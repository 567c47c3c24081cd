package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
)

// The rows of sign-ups that get a store which was made ahead.

var spareSuites = []suite{
	{
		name: "create_spare", what: "App.Create with a spare of 20 tables and 40 indexes, one domain",
		rows: []row{
			{id: "create_spare", what: "÷ one durable insert of a row", ours: "create", ref: "insert", bar: 3},
			{id: "create_spare_burst", what: "the 99th percentile of 1,000 in a row, their spares at rest (catalogs vacuumed, a checkpoint made), ÷ the median of the insert", metric: count, ours: "burst", limit: 1, bar: 10},
			{id: "create_spare_crowd", what: "the 99th percentile of 1,000, 8 at once, likewise, ÷ the median of the insert", metric: count, ours: "crowd", limit: 1},
		},
		measure: createSpare,
	},
	{
		name: "reads_beside_spares", what: "reads of 500 tenants at random, 8 goroutines, while 20 sign-ups a second go on",
		rows: []row{
			{id: "reads_beside_spares", what: "out of spares ÷ the reads alone", ours: "spares", ref: "alone", bar: 1.1},
			{id: "reads_beside_creates", what: "without spares ÷ the reads alone", ours: "creates", ref: "alone"},
		},
		measure: readsBesideSignUps,
	},
}

// spareApp opens an app with n spares, on a new database. Unless it is to poll, nothing is filled up but by FillSpares.
func (e *env) spareApp(ctx context.Context, n int, poll time.Duration) (*tenancy.App, error) {
	be, err := e.postgres(ctx)
	if err != nil {
		return nil, err
	}
	return e.app(ctx, be, tenancy.Config{
		Tenant: []migrate.Source{{Name: "tables", FS: twentyTablesSource("BIGINT")}},
		Spares: n, PollInterval: poll,
	})
}

// signUp makes tenants of an app, each with a domain.
func signUp(app *tenancy.App) operation {
	made := 0
	return func(ctx context.Context) error {
		made++
		_, err := app.Create(ctx, tenancy.Spec{Slug: fmt.Sprintf("c%d", made), Domains: []string{fmt.Sprintf("c%d.bench.example", made)}})
		return err
	}
}

func createSpare(ctx context.Context, e *env, s *scores) error {
	one := contest{ops: e.pick(200, 4), warm: 8}
	many := contest{ops: e.pick(1000, 8), warm: e.pick(200, 8), rounds: 1} // warm: each connection knows the statement
	app, err := e.spareApp(ctx, one.warm+one.ops*e.rounds+2*(many.warm+many.ops), time.Hour)
	if err != nil {
		return err
	}
	if err := app.FillSpares(ctx); err != nil {
		return err
	}
	if err := e.atRest(ctx, app); err != nil {
		return err
	}
	insert, err := e.insertByHand(ctx)
	if err != nil {
		return err
	}
	create := signUp(app)
	if err := e.contest(ctx, s, one, contender{name: "create", worker: alike(create)}, contender{name: "insert", worker: alike(insert)}); err != nil {
		return err
	}
	numbers := make(chan int)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		for i := 0; ; i++ {
			select {
			case numbers <- i:
			case <-ctx.Done():
				return
			}
		}
	}()
	next := func(ctx context.Context) error {
		n := <-numbers
		_, err := app.Create(ctx, tenancy.Spec{Slug: fmt.Sprintf("b%d", n), Domains: []string{fmt.Sprintf("b%d.bench.example", n)}})
		return err
	}
	for _, way := range []struct {
		name       string
		goroutines int
	}{{"burst", 1}, {"crowd", 8}} {
		many.goroutines = way.goroutines
		own := newScores()
		if err := e.contest(ctx, own, many, contender{name: way.name, worker: alike(next)}); err != nil {
			return err
		}
		took := own.of[way.name]
		s.add(way.name, measured{
			p50: took[p50][0], p99: took[p99][0], worst: took[worst][0],
			count: took[p99][0] / median(s.of["insert"][p50]),
		})
	}
	left, err := app.Spares(ctx)
	if err == nil && len(left) > 0 {
		s.note("%d spares were left", len(left))
	}
	return err
}

// atRest has the server do what it does about thousands of stores that were just made, so that it does not do it beside what is
// measured next, on as few cores: gigabytes of log and files go to the disk, and the catalogs are vacuumed. Spares are made at
// quiet moments, and so is that.
func (e *env) atRest(ctx context.Context, app *tenancy.App) error {
	cfg, err := pgx.ParseConfig(e.cluster.AdminURL())
	if err != nil {
		return err
	}
	if err := app.Shared().QueryRowContext(ctx, `SELECT current_database()`).Scan(&cfg.Database); err != nil {
		return err
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var vacuum string
	err = conn.QueryRow(ctx, `SELECT 'VACUUM (ANALYZE) ' || string_agg(oid::regclass::text, ', ') FROM pg_class
		WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind = 'r' AND NOT relisshared`).Scan(&vacuum)
	if err != nil {
		return err
	}
	for _, statement := range []string{vacuum, `CHECKPOINT`} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// insertByHand inserts a row, durably, into a database of its own.
func (e *env) insertByHand(ctx context.Context) (operation, error) {
	u, err := e.database(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := pgx.Connect(ctx, u)
	if err != nil {
		return nil, err
	}
	e.cleanup(func() { _ = conn.Close(context.WithoutCancel(ctx)) })
	if _, err := conn.Exec(ctx, `CREATE TABLE tenants (id TEXT PRIMARY KEY, slug TEXT UNIQUE, status TEXT)`); err != nil {
		return nil, err
	}
	made := 0
	return func(ctx context.Context) error {
		made++
		id := fmt.Sprint(made)
		_, err := conn.Exec(ctx, `INSERT INTO tenants VALUES ($1, $2, 'active')`, id, id)
		return err
	}, nil
}

func readsBesideSignUps(ctx context.Context, e *env, s *scores) error {
	var contenders []contender
	for _, way := range []struct {
		name   string
		spares int
		busy   bool
	}{{"alone", 0, false}, {"spares", e.pick(600, 60), true}, {"creates", 0, true}} {
		// As many as are used up: they are made at quiet moments.
		app, err := e.spareApp(ctx, way.spares, time.Hour)
		if err != nil {
			return err
		}
		tenants, err := e.readable(ctx, app, e.pick(500, 4))
		if err != nil {
			return err
		}
		c := contender{name: way.name, worker: func(rng *rand.Rand) operation {
			return func(ctx context.Context) error {
				return app.Run(ctx, tenants[rng.IntN(len(tenants))], tenancy.Policy{}, func(ctx context.Context, _ *tenancy.Tenant) error {
					var n int
					return app.DB().QueryRowContext(ctx, `SELECT c FROM t0 WHERE id = $1`, 1).Scan(&n)
				})
			}
		}}
		if way.busy {
			c.beside = e.paced(20, signUp(app))
		}
		contenders = append(contenders, c)
	}
	return e.contest(ctx, s, contest{goroutines: 8}, contenders...)
}

// readable makes tenants with a row to read.
func (e *env) readable(ctx context.Context, app *tenancy.App, n int) (tenants []tenancy.Tenant, err error) {
	for i := range n {
		t, err := app.Create(ctx, tenancy.Spec{Slug: fmt.Sprintf("r%d", i), Store: fmt.Sprintf("r%d", i)})
		if err != nil {
			return nil, err
		}
		err = app.Run(ctx, t, tenancy.Policy{}, func(ctx context.Context, _ *tenancy.Tenant) error {
			_, err := app.DB().ExecContext(ctx, `INSERT INTO t0 (id, a, c) VALUES (1, 'a', 1)`)
			return err
		})
		if err != nil {
			return nil, err
		}
		tenants = append(tenants, t)
	}
	return tenants, app.FillSpares(ctx)
}
