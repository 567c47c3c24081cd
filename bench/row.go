package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tenement-go/tenement/internal/chart"
)

// metric is a kind of figure.
type metric uint8

const (
	wall         metric = iota // time by the clock ÷ operations, whatever the number of goroutines
	p50                        // median time of one operation, as its goroutine saw it
	p99                        //
	worst                      // the slowest operation of a round
	clientCPU                  // of this process, an operation
	serverCPU                  // of all processes of the Postgres server, an operation
	allocs                     // of this process, an operation
	serverMemory               // anonymous memory of the server's processes behind the contender's connections
	heap                       // live heap of this process
	trips                      // round trips an operation
	count                      // of what the row says
)

// measured holds the figures of one round: times in nanoseconds, memory in bytes.
type measured map[metric]float64

// scores holds what was measured, by contender and metric, one figure for each round.
type scores struct {
	names []string // in the order in which they were first seen
	notes []string
	of    map[string]map[metric][]float64
}

func newScores() *scores { return &scores{of: make(map[string]map[metric][]float64)} }

func (s *scores) add(contender string, m measured) {
	if s.of[contender] == nil {
		s.names = append(s.names, contender)
		s.of[contender] = make(map[metric][]float64)
	}
	for k, v := range m {
		s.of[contender][k] = append(s.of[contender][k], v)
	}
}

// note keeps what is to be printed below the suite's figures; once is enough.
func (s *scores) note(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(s.notes, text) {
		s.notes = append(s.notes, text)
	}
}

// suite measures the rows that share a set-up.
type suite struct {
	name    string
	what    string
	rows    []row
	measure func(ctx context.Context, e *env, s *scores) error
	charts  func(s *scores) map[string]chart.Chart // by file name; nil: none
	// needs returns what is not there that the suite cannot do without; nil, or "", when it can be measured.
	needs func() string
}

// absent is why the suite is to be left out, or nothing.
func (su suite) absent() string {
	if su.needs == nil {
		return ""
	}
	return su.needs()
}

// row is a figure of ours beside a reference, and the bar that the project set itself.
type row struct {
	id, what string
	metric   metric
	ours     string
	// ref is the contender that ours is divided by; of several, separated by '|', the best one.
	ref string
	// limit stands in the place of ref where the reference is a number.
	limit float64
	// bar is what the ratio may be; 0 means that the row is printed and compared with nothing.
	bar float64
	// plus makes the bar the reference's figure and so much more.
	plus float64
	// none means that there is to be nothing at all of ours, and compares with nothing.
	none bool
}

// result is a row with its figures: medians of the rounds. Ratio is the median of the rounds' ratios, and Spread half the
// distance between their quartiles.
type result struct {
	row
	Ours, Reference, Ratio, Spread, Bar float64

	err error // why it could not be measured
}

func (r result) missed() bool { return r.Bar > 0 && r.Ratio > r.Bar || r.none && r.Ours > 0 }

// result finds the row's figures.
func (r row) result(s *scores) result {
	ours := s.of[r.ours][r.metric]
	if len(ours) == 0 {
		return result{row: r, err: fmt.Errorf("nothing was measured of %q", r.ours)}
	}
	ref := make([]float64, len(ours))
	for i := range ref {
		ref[i] = r.limit
	}
	if r.ref != "" {
		if ref = s.best(strings.Split(r.ref, "|"), r.metric); len(ref) != len(ours) {
			return result{row: r, err: fmt.Errorf("%q was measured %d times and %q %d times", r.ours, len(ours), r.ref, len(ref))}
		}
	}
	ratios := make([]float64, len(ours))
	for i := range ratios {
		ratios[i] = ours[i] / ref[i]
	}
	slices.Sort(ratios)
	out := result{
		row: r, Ours: median(ours), Reference: median(ref),
		Ratio: quantile(ratios, .5), Spread: (quantile(ratios, .75) - quantile(ratios, .25)) / 2, Bar: r.bar,
	}
	if r.plus > 0 {
		out.Bar = (out.Reference + r.plus) / out.Reference
	}
	return out
}

// best returns the series with the lowest median.
func (s *scores) best(names []string, m metric) []float64 {
	var best []float64
	for _, name := range names {
		if series := s.of[name][m]; len(series) > 0 && (best == nil || median(series) < median(best)) {
			best = series
		}
	}
	return best
}

func median(v []float64) float64 { return quantile(slices.Sorted(slices.Values(v)), .5) }

// metrics returns what was measured of anybody, in order.
func (s *scores) metrics() []metric {
	seen := make(map[metric]bool)
	for _, m := range s.of {
		for k := range m {
			seen[k] = true
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

func (m metric) String() string {
	return [...]string{"time", "p50", "p99", "slowest", "client CPU", "server CPU", "allocations", "server memory", "heap", "round trips", "count"}[m]
}

// format writes a figure with three digits and its unit.
func (m metric) format(v float64) string {
	switch m {
	case allocs, trips, count:
		if v == float64(int64(v)) {
			return fmt.Sprintf("%.0f", v)
		}
		return digits(v)
	case serverMemory, heap:
		return scaled(v, 1e3, "B", "kB", "MB", "GB")
	}
	return scaled(v, 1e3, "ns", "µs", "ms", "s")
}

func scaled(v, step float64, units ...string) string {
	if v == 0 {
		return "0"
	}
	i := 0
	for v >= step && i < len(units)-1 {
		v, i = v/step, i+1
	}
	return digits(v) + " " + units[i]
}

// digits writes v with three significant digits, none of them after the point where three are before it.
func digits(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}
