package main

import (
	"context"
	"math/rand/v2"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tenement-go/tenement/internal/pgtest"
)

// The rows behind PgBouncer in transaction mode, with 8 server connections. What one does there without us is BEGIN, SET
// LOCAL, the query, COMMIT. Where the PgBouncer that is installed knows no prepared statements (before 1.21), nobody
// uses any.

var scalePoolerSuites = []suite{
	poolerSuite("scale_pooler_500", "500 stores × 1 text", 500, 1),
	poolerSuite("scale_pooler_1000x10", "1,000 stores × 10 texts", 1000, 10),
	poolerSuite("scale_pooler_9900", "9,900 stores × 1 text", 9900, 1),
}

func poolerSuite(name, what string, stores, texts int) suite {
	return suite{
		name: name, what: what + " behind PgBouncer, 8 goroutines",
		rows: []row{{id: name, what: "÷ BEGIN, SET LOCAL, query, COMMIT", ours: "ours", ref: "BEGIN, SET LOCAL", bar: 0.50}},
		measure: func(ctx context.Context, e *env, s *scores) error {
			return behindPooler(ctx, e, s, uniform(e.pick(stores, 40), texts))
		},
	}
}

func behindPooler(ctx context.Context, e *env, s *scores, v visits) error {
	f, err := e.scaleFleet(ctx, v.stores)
	if err != nil {
		return err
	}
	via, params, err := e.pooler(ctx, f)
	if err != nil {
		return err
	}
	be, err := e.ours(ctx, f, via, "ours", params...)
	if err != nil {
		return err
	}
	pool, err := e.pool(ctx, via, "bare", "", params...)
	if err != nil {
		return err
	}
	ours := oursSQL("ours", be, v)
	ours.app = "" // the server's processes are PgBouncer's
	return e.contest(ctx, s, contest{goroutines: saturating, warm: e.warmUp(v)}, ours, setLocal(pool, v))
}

// pooler starts a PgBouncer in front of the fleet for the suite under way. It returns the URL through it, and what
// clients are to be told about it.
func (e *env) pooler(ctx context.Context, f *fleet) (via string, params []string, err error) {
	prepares, err := pgtest.BouncerPrepares(ctx)
	if err != nil {
		return "", nil, err
	}
	config := pgtest.BouncerConfig{PoolSize: conns}
	if prepares {
		config.PreparedStatements = 200
	} else {
		params = []string{"default_query_exec_mode", "exec"}
	}
	b, err := pgtest.StartBouncer(ctx, f.url, config)
	if err != nil {
		return "", nil, err
	}
	e.cleanup(func() { _ = b.Stop() })
	e.bouncer = b.Version()
	return b.URL(), params, nil
}

// setLocal is what applications do without us behind a pooler.
func setLocal(pool *pgxpool.Pool, v visits) contender {
	set := make([]string, v.stores)
	for i := range set {
		set[i] = `SET LOCAL search_path = "` + numbered(i).String() + `", public`
	}
	return contender{name: "BEGIN, SET LOCAL", worker: func(rng *rand.Rand) operation {
		next := v.draw(rng)
		return func(ctx context.Context) error {
			store, text := next()
			tx, err := pool.Begin(ctx)
			if err != nil {
				return err
			}
			defer func() { _ = tx.Rollback(ctx) }()
			if _, err := tx.Exec(ctx, set[store]); err != nil {
				return err
			}
			if err := readPGX(ctx, tx, text); err != nil {
				return err
			}
			return tx.Commit(ctx)
		}
	}}
}
