package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/tenement-go/tenement/backend/postgres"
)

// The rows of -scale 10k: thousands of stores of ten tables and twenty indexes through a few connections, beside a pool
// that sets search_path and is never retired, and beside ours without waiting for a store's home connection.

var scaleSuites = slices.Concat(
	scaleLoads(
		scaleLoad{
			name: "scale_1000x10", what: "1,000 stores × 10 texts", stores: 1000, texts: 10, draw: uniform,
			bars: []scaleBar{{goroutines: 8, time: 0.65, memory: 0.45}, {goroutines: 32, time: 0.60, memory: 0.55}},
		},
		scaleLoad{
			name: "scale_1000x10_zipf", what: "1,000 stores by Zipf (1.1) × 10 texts", stores: 1000, texts: 10, draw: zipf,
			bars: []scaleBar{{goroutines: 8, time: 0.70}, {goroutines: 32, time: 0.70}},
		},
	),
	scaleWorkSuites,
	scaleLoads(
		scaleLoad{
			name: "scale_9900", what: "9,900 stores × 1 text", stores: 9900, texts: 1, draw: uniform,
			bars: []scaleBar{{goroutines: 8, time: 0.50, memory: 0.40}, {goroutines: 32, time: 0.50, memory: 0.40}},
		},
		scaleLoad{
			name: "scale_9900_zipf", what: "9,900 stores by Zipf (1.1) × 1 text", stores: 9900, texts: 1, draw: zipf,
			bars: []scaleBar{{goroutines: 8, time: 0.70}, {goroutines: 32, time: 0.70}},
		},
		scaleLoad{
			name: "scale_9900x10", what: "9,900 stores × 10 texts", stores: 9900, texts: 10, draw: uniform,
			bars: []scaleBar{{goroutines: 32, time: 1.0, memory: 0.45}},
		},
		scaleLoad{
			name: "scale_9900x10_256MB", what: "9,900 stores × 10 texts, 256 MB a process", stores: 9900, texts: 10, draw: uniform,
			params: roomyProcesses, bars: []scaleBar{{goroutines: 32, time: 0.75, memory: 0.80}},
		},
		scaleLoad{
			name: "scale_9900x10_zipf", what: "9,900 stores by Zipf (1.1) × 10 texts", stores: 9900, texts: 10, draw: zipf,
			bars: []scaleBar{{goroutines: 32, time: 0.70}},
		},
	),
	[]suite{slowStatements},
	scalePoolerSuites,
	scaleConnSuites,
	scaleFileSuites,
	othersSuites(10_000, 16),
)

// Parameters of our backend that the rows are about.
var (
	withoutWaiting = []string{"affinity_wait", "0"}
	// By the formula in the doc of postgres.Config: 5 MB + 16,384 × 12.5 KB + 4,096 × 9 KB, or 16.
	roomyProcesses = []string{"first_sights", "16384", "tenant_statements", "4096"}
)

// scaleLoad is one way to visit a fleet, with the bars that it has for each number of goroutines.
type scaleLoad struct {
	name, what    string
	stores, texts int // few stores with -quick
	draw          func(stores, texts int) visits
	params        []string // of ours
	bars          []scaleBar
}

type scaleBar struct {
	goroutines   int
	time, memory float64 // 0: printed
}

func scaleLoads(loads ...scaleLoad) (suites []suite) {
	for _, l := range loads {
		suites = append(suites, suite{name: l.name, what: l.what, rows: l.rows(), measure: l.measure})
	}
	return suites
}

func (l scaleLoad) rows() (rows []row) {
	for _, b := range l.bars {
		id, who := fmt.Sprintf("%s_%d", l.name, b.goroutines), fmt.Sprintf("%d goroutines", b.goroutines)
		ours, set, hasty := "ours"+at(b.goroutines), "SET + query"+at(b.goroutines), "ours, no waiting"+at(b.goroutines)
		rows = append(rows,
			row{id: id, what: who + " ÷ `SET search_path`, query", ours: ours, ref: set, bar: b.time},
			row{id: id + "_memory", what: who + ", memory of the server", metric: serverMemory, ours: ours, ref: set, bar: b.memory},
			row{id: id + "_p99", what: who + ", p99 ÷ p99 without waiting for the home", metric: p99, ours: ours, ref: hasty, bar: 1.1})
	}
	return rows
}

// at is what contenders are called when they are at work with so many goroutines.
func at(goroutines int) string { return fmt.Sprintf(" (%d)", goroutines) }

// scaleWarm is how many reads come first: enough for each of eight connections to see nearly all of 9,900 pairs of store
// and text, and the same for everybody.
const scaleWarm = 240_000

func (l scaleLoad) measure(ctx context.Context, e *env, s *scores) error {
	v := l.draw(e.pick(l.stores, 40), l.texts)
	f, err := e.scaleFleet(ctx, v.stores)
	if err != nil {
		return err
	}
	contenders, err := e.twice(ctx, f, l.params, visiting(v))
	if err != nil {
		return err
	}
	pool, err := e.pool(ctx, f.socket, "SET + query", "")
	if err != nil {
		return err
	}
	contenders = append(contenders, setThenQuery(pool, v))
	warm := e.pick(scaleWarm, v.pairs())
	for _, b := range l.bars {
		if err := e.contest(ctx, s, contest{goroutines: b.goroutines, warm: warm, suffix: at(b.goroutines)}, contenders...); err != nil {
			return err
		}
		warm = 0
	}
	return nil
}

// scaleCluster starts the server of thousands of stores. Making them waits for no disk.
func (e *env) scaleCluster(ctx context.Context) error {
	return e.startCluster(ctx, "fsync=off", "full_page_writes=off", "shared_buffers=1GB", "max_locks_per_transaction=256")
}

// scaleFleet returns the fleet that all rows of the scale share, with so many stores.
func (e *env) scaleFleet(ctx context.Context, stores int) (*fleet, error) {
	if err := e.scaleCluster(ctx); err != nil {
		return nil, err
	}
	return e.fleet(ctx, fleetKey{role: true}, stores)
}

// twice returns a contender for ours as it is shipped, and one for ours without waiting for a store's home connection.
func (e *env) twice(ctx context.Context, f *fleet, params []string, make func(name string, be *postgres.Backend) contender) (both []contender, err error) {
	for _, k := range []struct {
		name  string
		extra []string
	}{{"ours", nil}, {"ours, no waiting", withoutWaiting}} {
		be, err := e.ours(ctx, f, f.socket, k.name, slices.Concat(params, k.extra)...)
		if err != nil {
			return nil, err
		}
		both = append(both, make(k.name, be))
	}
	return both, nil
}

// visiting makes a contender that reads.
func visiting(v visits) func(string, *postgres.Backend) contender {
	return func(name string, be *postgres.Backend) contender { return oursSQL(name, be, v) }
}
