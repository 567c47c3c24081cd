package warm

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/stretchr/testify/require"
)

// town is a model of a server with cores that connections share, and of goroutines that each run one statement after the
// other: what it costs where depends on what a connection has seen before. Its clock is its own.
type town struct {
	stores, texts, goroutines, slots int
	cores                            float64
	wait                             time.Duration
	slow                             float64 // share of statements that take 20 ms of waiting
	zipf                             bool
	limit                            int // first sights of a connection
	kept                             int // statements of a connection

	p               *policy
	pairs           *census
	rnd             *rand.Rand
	z               *rand.Zipf
	now             float64
	jobs            []*simJob // that run or wait
	conn            []*simConn
	lat             []float64
	ops             int
	sights, retired int
}

type simConn struct {
	seen     map[int]bool
	prepared *simplelru.LRU[int, struct{}]
}

type simJob struct {
	w      *waiter
	store  int
	text   int
	began  float64
	slot   int     // -1: in line
	work   float64 // CPU, ns
	sleeps float64 // until
}

const (
	simWarm  = 33e3  // CPU of a statement, client and server
	simFirst = 200e3 // of the first touch of a text's tables in a store
	simPlan  = 30e3  // of planning anew
)

func (m *town) begin(j *simJob) {
	j.store, j.text, j.began = m.rnd.IntN(m.stores), m.rnd.IntN(m.texts), m.now
	if m.zipf {
		j.store = int(m.z.Uint64())
	}
	key := fmt.Sprint(j.store)
	if j.slot = m.p.take(int64(m.now), key); j.slot >= 0 {
		m.serve(j)
		return
	}
	j.w = newWaiter()
	m.p.join(int64(m.now), j.w, key)
	m.settle(j)
}

func (m *town) serve(j *simJob) {
	c := m.conn[j.slot]
	if c == nil {
		prepared, err := simplelru.NewLRU[int, struct{}](m.kept, nil)
		if err != nil {
			panic(err) // kept is positive
		}
		c = &simConn{seen: map[int]bool{}, prepared: prepared}
		m.conn[j.slot] = c
	}
	j.work, j.sleeps = simWarm, 0
	pair := j.store*m.texts + j.text
	m.pairs.note(mix(uint64(pair + 1)))
	if !c.seen[pair] {
		c.seen[pair] = true
		m.sights++
		j.work += simFirst
	}
	if _, kept := c.prepared.Get(pair); !kept {
		j.work += simPlan
		c.prepared.Add(pair, struct{}{})
	}
	if m.rnd.Float64() < m.slow {
		j.sleeps = m.now + 20e6
	}
}

func (m *town) settle(j *simJob) {
	select {
	case <-j.w.ready:
		j.slot, j.w = j.w.slot, nil
		m.serve(j)
	default:
	}
}

func (m *town) run(ops int) {
	for m.ops < ops {
		active := 0
		for _, j := range m.jobs {
			if j.slot >= 0 && j.sleeps <= m.now {
				active++
			}
		}
		rate := 1.0
		if active > int(m.cores) {
			rate = m.cores / float64(active)
		}
		next := 1e18
		for _, j := range m.jobs {
			switch {
			case j.slot >= 0 && j.sleeps > m.now:
				next = min(next, j.sleeps)
			case j.slot >= 0:
				next = min(next, m.now+j.work/rate)
			case j.w.again > 0:
				next = min(next, float64(j.w.again))
			}
		}
		d := next - m.now
		m.now = next
		var done []*simJob
		for _, j := range m.jobs {
			switch {
			case j.slot < 0:
			case j.sleeps > m.now-d:
			default:
				if j.work -= d * rate; j.work < 1 {
					done = append(done, j)
				}
			}
		}
		for _, j := range m.jobs {
			if j.slot < 0 && j.w.again > 0 && float64(j.w.again) <= m.now+1 {
				m.p.tick(int64(m.now)+1, j.w)
			}
		}
		for _, j := range done {
			m.lat = append(m.lat, m.now-j.began)
			m.ops++
			i := j.slot
			j.slot = -1
			if len(m.conn[i].seen) > m.limit {
				m.conn[i] = nil
				m.retired++
			}
			m.p.release(int64(m.now), i, true)
			for _, o := range m.jobs {
				if o.w != nil {
					m.settle(o)
				}
			}
			m.begin(j)
		}
		for _, o := range m.jobs {
			if o.w != nil {
				m.settle(o)
			}
		}
		for _, i := range m.p.opens {
			m.p.opened(int64(m.now), i)
		}
		m.p.opens = nil
	}
}

type outcome struct {
	perOp         float64 // µs
	p50, p99      float64
	home, overdue float64
	pairs         int
	retired       int
	first, seen   float64
}

func (m town) simulate(warmup, ops int) outcome {
	m.rnd = rand.New(rand.NewPCG(1, 2))
	m.z = rand.NewZipf(m.rnd, 1.1, 1, uint64(m.stores-1))
	m.p = filled(m.slots, m.wait)
	m.pairs = newCensus(1024, func() { m.p.few = m.pairs.few.Load() })
	m.p.few = true
	m.p.brief = int64(4 * time.Millisecond)
	m.conn = make([]*simConn, m.slots)
	if m.limit == 0 {
		m.limit = 1 << 30
	}
	for range m.goroutines {
		j := &simJob{}
		m.jobs = append(m.jobs, j)
		m.begin(j)
	}
	m.run(warmup)
	begun, stats, retired, sights := m.now, m.p.stats, m.retired, m.sights
	m.ops, m.lat = 0, nil
	m.run(ops)
	slices.Sort(m.lat)
	n := float64(len(m.lat))
	pairs := 0
	for _, c := range m.conn {
		if c != nil {
			pairs += len(c.seen)
		}
	}
	return outcome{
		perOp: (m.now - begun) / n / 1e3, p50: m.lat[len(m.lat)/2] / 1e3, p99: m.lat[len(m.lat)*99/100] / 1e3,
		home: float64(m.p.stats.home-stats.home) / n, overdue: float64(m.p.stats.overdue-stats.overdue) / n, pairs: pairs,
		retired: m.retired - retired, first: float64(m.sights-sights) / n, seen: float64(m.p.stats.seen-stats.seen) / n,
	}
}

// TestTown: in the model, stores at home pay, and cost nothing where there is nothing to gain.
// The same happens in each run; the bounds hold for other seeds too.
func TestTown(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		town
		time, tail, pairs float64 // at most, of what it is with any connection for any store
	}{
		{town{stores: 3000, texts: 1, goroutines: 8, slots: 8}, 0.6, 1.1, 0.25},
		{town{stores: 3000, texts: 1, goroutines: 32, slots: 8}, 0.6, 1.1, 0.25},
		{town{stores: 1000, texts: 5, goroutines: 8, slots: 8}, 0.4, 1.1, 0.3},
		{town{stores: 1000, texts: 5, goroutines: 32, slots: 8}, 0.4, 1.1, 0.35},
		{town{stores: 1000, texts: 5, goroutines: 32, slots: 8, zipf: true}, 0.7, 1.1, 0.6},
		{town{stores: 3000, texts: 1, goroutines: 32, slots: 16, slow: 0.005}, 0.9, 1.3, 0.8},
		{town{stores: 100, texts: 10, goroutines: 8, slots: 8}, 1.01, 1.01, 1},
		{town{stores: 1, texts: 10, goroutines: 32, slots: 8}, 1.01, 1.3, 1},
	} {
		t.Run(fmt.Sprintf("%dx%d,%d,%d,%v,%v", c.stores, c.texts, c.goroutines, c.slots, c.slow, c.zipf), func(t *testing.T) {
			t.Parallel()
			c.cores, c.kept = 2, 2000
			all := c.simulate(30000, 10000)
			c.wait = 3 * time.Millisecond
			home := c.simulate(30000, 10000)
			t.Logf("any  %+v", all)
			t.Logf("home %+v", home)
			require.LessOrEqual(t, home.perOp/all.perOp, c.time)
			require.LessOrEqual(t, home.p99/all.p99, c.tail)
			require.LessOrEqual(t, float64(home.pairs)/float64(all.pairs), c.pairs)
		})
	}
}
