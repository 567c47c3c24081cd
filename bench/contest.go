package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// contender is one of the things that a contest compares.
type contender struct {
	name string
	// worker makes what one goroutine repeats. The random numbers are the goroutine's own; every contender of a round
	// gets the same.
	worker func(rng *rand.Rand) operation
	// per divides the figures of an operation that does many things: the stores of a fleet. 0 means 1.
	per float64
	// app is the application_name of its connections, where the memory of the server behind them is to be measured.
	app string
	// beside is repeated by one more goroutine meanwhile. What it takes is not measured.
	beside operation
}

type operation func(ctx context.Context) error

// alike is a worker for an operation that needs no random numbers.
func alike(op operation) func(*rand.Rand) operation {
	return func(*rand.Rand) operation { return op }
}

// contest says how contenders are compared.
type contest struct {
	goroutines int    // 0 means 1
	ops        int    // operations in a round, of all goroutines together; 0: as many as fit into the environment's slice
	warm       int    // operations of each contender ahead of the first round; 0: a round
	rounds     int    // 0: the environment's
	suffix     string // of the contenders' names, where they are in several contests
}

// contest runs the contenders in turn, round by round, and adds what it measured to s. Whoever went first in one round
// goes last in the next. An operation that fails ends it.
func (e *env) contest(ctx context.Context, s *scores, c contest, contenders ...contender) error {
	c.goroutines = max(c.goroutines, 1)
	warm := c
	if c.warm > 0 {
		warm.ops = c.warm
	}
	for _, k := range contenders {
		if _, err := e.bout(ctx, warm, k, e.seed); err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
	}
	rounds := e.rounds
	if c.rounds > 0 {
		rounds = c.rounds
	}
	for round := range rounds {
		for i := range contenders {
			k := contenders[(i+round)%len(contenders)]
			m, err := e.bout(ctx, c, k, e.seed+1+uint64(round))
			if err != nil {
				return fmt.Errorf("%s: %w", k.name, err)
			}
			s.add(k.name+c.suffix, m)
		}
	}
	for _, k := range contenders {
		if k.app == "" {
			continue
		}
		bytes, ok, err := e.serverMemory(ctx, k.app)
		if err != nil {
			return fmt.Errorf("%s: memory of its connections: %w", k.name, err)
		}
		if ok {
			s.add(k.name+c.suffix, measured{serverMemory: bytes})
		}
	}
	return nil
}

// bout is one contender's part of a round.
func (e *env) bout(ctx context.Context, c contest, k contender, seed uint64) (measured, error) {
	runtime.GC() // what the one before left behind is not this one's
	before := e.usage()
	times, took, err := c.run(ctx, k, e.slice, seed)
	if err != nil {
		return nil, err
	}
	m := e.since(before)
	n := float64(len(times)) * max(k.per, 1)
	for metric := range m {
		m[metric] /= n
	}
	m[wall] = float64(took) / n
	slices.Sort(times)
	m[p50], m[p99] = quantile(times, .5), quantile(times, .99)
	m[worst] = times[len(times)-1]
	return m, nil
}

// run repeats the contender's operation in the contest's goroutines and returns how long each one took, in nanoseconds.
func (c contest) run(ctx context.Context, k contender, slice time.Duration, seed uint64) (times []float64, took time.Duration, err error) {
	var (
		stop atomic.Bool
		left atomic.Int64
	)
	left.Store(math.MaxInt64)
	if c.ops > 0 {
		left.Store(int64(c.ops))
	} else {
		defer time.AfterFunc(slice, func() { stop.Store(true) }).Stop()
	}
	defer context.AfterFunc(ctx, func() { stop.Store(true) })()
	// A context that can be cancelled costs every driver something: that is measured by a row of its own.
	quiet := context.WithoutCancel(ctx)
	mine := make([][]float64, c.goroutines)
	var g errgroup.Group
	if k.beside != nil {
		background := repeated(quiet, k.beside)
		defer func() { err = errors.Join(err, background()) }()
	}
	began := time.Now()
	for w := range c.goroutines {
		g.Go(func() error {
			op := k.worker(rand.New(rand.NewPCG(seed, uint64(w))))
			last := time.Now()
			for first := true; (first || !stop.Load()) && left.Add(-1) >= 0; first = false {
				if err := op(quiet); err != nil {
					stop.Store(true)
					return err
				}
				now := time.Now()
				mine[w] = append(mine[w], float64(now.Sub(last)))
				last = now
			}
			return nil
		})
	}
	err = g.Wait()
	took = time.Since(began)
	if err = errors.Join(err, ctx.Err()); err != nil {
		return nil, 0, err
	}
	times = slices.Concat(mine...)
	if len(times) == 0 {
		return nil, 0, errors.New("no operation was done in a round")
	}
	return times, took, nil
}

// repeated repeats an operation until the function that it returns is called, which returns its error.
func repeated(ctx context.Context, op operation) (end func() error) {
	var (
		stop atomic.Bool
		g    errgroup.Group
	)
	g.Go(func() error {
		for !stop.Load() {
			if err := op(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	return func() error {
		stop.Store(true)
		return g.Wait()
	}
}

// quantile returns the q-quantile of sorted values by linear interpolation.
func quantile(sorted []float64, q float64) float64 {
	pos := q * float64(len(sorted)-1)
	i := int(pos)
	if i+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[i] + (pos-float64(i))*(sorted[i+1]-sorted[i])
}
