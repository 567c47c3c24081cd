package main

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"

	"github.com/tenement-go/tenement/backend/postgres"
)

// The rows in which waiting for a store's home connection could do harm: ours beside ours without it.

var scaleWorkSuites = []suite{
	{
		name: "scale_few", what: "100 stores × 10 texts",
		rows: []row{
			{id: "scale_few_8", what: "8 goroutines ÷ without waiting for the home", ours: "ours (8)", ref: "ours, no waiting (8)", bar: 1.03},
			{id: "scale_few_32", what: "32 goroutines ÷ without waiting for the home", ours: "ours (32)", ref: "ours, no waiting (32)", bar: 1.03},
		},
		measure: func(ctx context.Context, e *env, s *scores) error {
			return e.besideNoWaiting(ctx, s, 100, texts, 8, 32)
		},
	},
	{
		name: "scale_hot", what: "one tenant, 32 goroutines",
		rows: []row{
			{id: "scale_hot", what: "÷ without waiting for the home", ours: "ours (32)", ref: "ours, no waiting (32)", bar: 1.03},
			{id: "scale_hot_p99", what: "p99 ÷ without waiting for the home", metric: p99, ours: "ours (32)", ref: "ours, no waiting (32)", bar: 1.1},
		},
		measure: func(ctx context.Context, e *env, s *scores) error { return e.besideNoWaiting(ctx, s, 1, 1, 32) },
	},
	{
		name: "scale_held", what: "reads of 1,000 tenants, 8 goroutines, while another tenant's transactions take 50 ms",
		rows: []row{
			{id: "scale_held_p99", what: "p99 ÷ without waiting for the home", metric: p99, ours: "ours", ref: "ours, no waiting", bar: 1.2},
			{id: "scale_held", what: "÷ without waiting for the home", ours: "ours", ref: "ours, no waiting"},
		},
		measure: besideTransactions,
	},
}

// besideNoWaiting compares for each number of goroutines.
func (e *env) besideNoWaiting(ctx context.Context, s *scores, stores, texts int, goroutines ...int) error {
	v := uniform(stores, texts)
	f, err := e.scaleFleet(ctx, v.stores)
	if err != nil {
		return err
	}
	contenders, err := e.twice(ctx, f, nil, visiting(v))
	if err != nil {
		return err
	}
	for _, n := range goroutines {
		if err := e.contest(ctx, s, contest{goroutines: n, warm: e.warmUp(v), suffix: at(n)}, contenders...); err != nil {
			return err
		}
	}
	return nil
}

func besideTransactions(ctx context.Context, e *env, s *scores) error {
	v := uniform(e.pick(1000, 40), 1)
	f, err := e.scaleFleet(ctx, v.stores+1)
	if err != nil {
		return err
	}
	routed := routes(v.stores + 1)[v.stores]
	contenders, err := e.twice(ctx, f, nil, func(name string, be *postgres.Backend) contender {
		k := oursSQL(name, be, v)
		k.beside = func(context.Context) error { return slowTransaction(routed, be.DB()) }
		return k
	})
	if err != nil {
		return err
	}
	return e.contest(ctx, s, contest{goroutines: saturating, warm: e.warmUp(v)}, contenders...)
}

func slowTransaction(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if err := readSQL(ctx, tx, 0); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `SELECT pg_sleep($1)`, 0.05); err != nil {
		return err
	}
	return tx.Commit()
}

// slowStatements has one statement in a hundred take 20 ms.
var slowStatements = suite{
	name: "scale_slow", what: "9,900 stores × 1 text, 1 % of the statements take 20 ms, 16 connections",
	rows: []row{
		{id: "scale_slow_8", what: "8 goroutines ÷ without waiting for the home", ours: "ours (8)", ref: "ours, no waiting (8)", bar: 0.90},
		{id: "scale_slow_32", what: "32 goroutines ÷ without waiting for the home", ours: "ours (32)", ref: "ours, no waiting (32)", bar: 0.75},
		{id: "scale_slow_8_p99", what: "8 goroutines, p99 ÷ without waiting", metric: p99, ours: "ours (8)", ref: "ours, no waiting (8)", bar: 1.1},
		{id: "scale_slow_32_p99", what: "32 goroutines, p99 ÷ without waiting", metric: p99, ours: "ours (32)", ref: "ours, no waiting (32)", bar: 1.1},
		{id: "scale_slow_8_memory", what: "8 goroutines, memory of the server ÷ without waiting", metric: serverMemory, ours: "ours (8)", ref: "ours, no waiting (8)", bar: 0.75},
		{id: "scale_slow_memory", what: "32 goroutines, memory of the server ÷ without waiting", metric: serverMemory, ours: "ours (32)", ref: "ours, no waiting (32)", bar: 0.75},
	},
	measure: func(ctx context.Context, e *env, s *scores) error {
		v := uniform(e.pick(9900, 40), 1)
		f, err := e.scaleFleet(ctx, v.stores)
		if err != nil {
			return err
		}
		contenders, err := e.twice(ctx, f, []string{"pool_max_conns", "16"}, func(name string, be *postgres.Backend) contender {
			return sometimesSlow(name, be, v)
		})
		if err != nil {
			return err
		}
		warm := e.pick(scaleWarm, v.pairs())
		for _, n := range []int{8, 32} {
			if err := e.contest(ctx, s, contest{goroutines: n, warm: warm, suffix: at(n)}, contenders...); err != nil {
				return err
			}
			warm = 0
		}
		return nil
	},
}

func sometimesSlow(name string, be *postgres.Backend, v visits) contender {
	const slow = `SELECT question FROM polls0, pg_sleep(0.02) WHERE id = $1`
	to := routes(v.stores)
	return contender{name: name, app: name, worker: func(rng *rand.Rand) operation {
		next := v.draw(rng)
		return func(context.Context) error {
			store, text := next()
			if rng.IntN(100) > 0 {
				return readSQL(to[store], be.DB(), text)
			}
			var q string
			if err := be.DB().QueryRowContext(to[store], slow, 1).Scan(&q); err != nil {
				return fmt.Errorf("the slow statement: %w", err)
			}
			return nil
		}
	}}
}
