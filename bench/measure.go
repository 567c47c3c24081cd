package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/tenement-go/tenement/internal/pgtest"
)

// env is what the suites share.
type env struct {
	quick   bool
	rounds  int
	cluster *pgtest.Cluster // started when a suite first needs it
	cleanup []func()
}

func newEnv(quick bool) *env {
	e := &env{quick: quick, rounds: 7}
	if quick {
		e.rounds = 3
	}
	return e
}

// pick returns full, or with -quick the smaller size.
func (e *env) pick(full, quick int) int {
	if e.quick {
		return quick
	}
	return full
}

func (e *env) close() {
	for _, f := range slices.Backward(e.cleanup) {
		f()
	}
}

// dir returns a new directory that is removed at the end.
func (e *env) dir() (string, error) {
	d, err := os.MkdirTemp("", "tenement-bench-")
	if err != nil {
		return "", err
	}
	d, err = filepath.EvalSymlinks(d)
	e.cleanup = append(e.cleanup, func() { _ = os.RemoveAll(d) })
	return d, err
}

// side is one of the two things compared: it does n operations and returns what they cost in all, in the row's unit.
type side func(ctx context.Context, n int) (float64, error)

// timed makes a side of an operation, its cost the wall-clock time.
func timed(op func(context.Context) error) side {
	return func(ctx context.Context, n int) (float64, error) {
		began := time.Now()
		for range n {
			if err := op(ctx); err != nil {
				return 0, err
			}
		}
		return float64(time.Since(began).Nanoseconds()), nil
	}
}

// compare runs both sides in turn for the environment's rounds, n operations each, and returns the medians per operation
// and the median of the rounds' ratios. Which side goes first alternates, so that neither always finds the warm machine.
func (e *env) compare(ctx context.Context, name, what, unit string, bar float64, n int, ours, ref side) (result, error) {
	scale := map[string]float64{"ns": 1, "µs": 1e3, "ms": 1e6}[unit]
	if scale == 0 {
		scale = 1
	}
	var a, b, ratios []float64
	for round := -1; round < e.rounds; round++ { // round -1 warms up
		m := n
		if round < 0 {
			m = max(1, n/10)
		}
		var x, y float64
		var errX, errY error
		if round%2 == 0 {
			x, errX = ours(ctx, m)
			y, errY = ref(ctx, m)
		} else {
			y, errY = ref(ctx, m)
			x, errX = ours(ctx, m)
		}
		if err := errors.Join(errX, errY); err != nil {
			return result{}, fmt.Errorf("%s: %w", name, err)
		}
		if round < 0 {
			continue
		}
		a, b = append(a, x/float64(m)/scale), append(b, y/float64(m)/scale)
		ratios = append(ratios, x/y)
	}
	return newResult(name, what, unit, bar, quantile(a, .5), quantile(b, .5), ratios), nil
}

func newResult(name, what, unit string, bar, ours, ref float64, ratios []float64) result {
	if len(ratios) == 0 {
		ratios = []float64{ours / ref}
	}
	ratio := quantile(ratios, .5)
	return result{
		Name: name, What: what, Unit: unit, Ours: ours, Reference: ref,
		Ratio: ratio, Bar: bar, OK: ratio <= bar,
		Spread: (quantile(ratios, .75) - quantile(ratios, .25)) / 2,
	}
}

// quantile returns the q-quantile of v by linear interpolation.
func quantile(v []float64, q float64) float64 {
	v = slices.Sorted(slices.Values(v))
	pos := q * float64(len(v)-1)
	i := int(pos)
	if i+1 >= len(v) {
		return v[len(v)-1]
	}
	return v[i] + (pos-float64(i))*(v[i+1]-v[i])
}
