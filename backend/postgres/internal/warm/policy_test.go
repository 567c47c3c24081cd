package warm

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// world drives a policy at random and checks after each step what must hold.
type world struct {
	t   *testing.T
	rnd *rand.Rand
	p   *policy
	now int64

	holder  map[int]string // slot → the store it works for
	waiting map[*waiter]bool
	opening map[int]bool
	asked   []int // opens that nobody has begun yet

	steps  int
	joined map[*waiter]int // in which step
	begun  map[int]int     // in which step the opening of a slot was
	failed int             // the latest begin of one that failed, with no connection there
	vain   map[*waiter]int // openings that have failed since it came, with no connection there

	head                *waiter // the one that has been overdue the longest
	passed              int     // hand-overs to others since it is
	served, ended, errs int
}

func newWorld(t *testing.T, seed uint64, slots, keep int, wait time.Duration) *world {
	w := &world{
		t: t, rnd: rand.New(rand.NewPCG(seed, 1)), p: newPolicy(slots, keep, wait, 700*time.Microsecond),
		holder: map[int]string{}, waiting: map[*waiter]bool{}, opening: map[int]bool{},
		joined: map[*waiter]int{}, begun: map[int]int{}, vain: map[*waiter]int{},
	}
	return w
}

// store is none, one of a few that become regulars, or one of many.
func (w *world) store() string {
	switch n := w.rnd.IntN(12); {
	case n == 0:
		return ""
	case n < 6:
		return fmt.Sprintf("store%d", n)
	}
	return fmt.Sprintf("store%d", 100+w.rnd.IntN(300))
}

// got notes that a slot was handed out.
func (w *world) got(i int, key string) {
	_, taken := w.holder[i]
	require.False(w.t, taken, "slot %d was handed out twice", i)
	require.False(w.t, w.opening[i])
	w.holder[i] = key
	w.served++
}

// collect takes what the last step gave to those in line, and asked to be opened.
func (w *world) collect() {
	for x := range w.waiting {
		select {
		case <-x.ready:
			delete(w.waiting, x)
			delete(w.vain, x)
			if x.err != nil {
				require.True(w.t, w.p.closed || w.joined[x] <= w.failed, "what failed was begun before it came")
				w.errs++
				continue
			}
			w.got(x.slot, x.key)
			if x != w.head {
				w.passed++
			}
		default:
		}
	}
	for _, i := range w.p.opens {
		require.False(w.t, w.opening[i])
		w.opening[i], w.begun[i] = true, w.steps
		w.asked = append(w.asked, i)
	}
	w.p.opens = nil
}

// advance lets time pass, and those look again whose time has come.
func (w *world) advance(d int64) {
	end := w.now + d
	for w.p.soonest > 0 && w.p.soonest <= end {
		w.now = max(w.now, w.p.soonest)
		w.p.ticks(w.now)
		w.collect()
		for x := range w.waiting {
			require.True(w.t, x.again == 0 || x.again > w.now, "it would look again at once, for ever")
		}
		require.True(w.t, w.p.soonest == 0 || w.p.soonest > w.now)
		w.check()
	}
	w.now = end
}

func (w *world) step() {
	w.steps++
	switch w.rnd.IntN(13) {
	case 0, 1, 2, 3:
		key := w.store()
		if i := w.p.take(w.now, key); i >= 0 {
			w.got(i, key)
			break
		}
		if len(w.waiting) > 40 {
			break
		}
		x := newWaiter()
		w.waiting[x], w.joined[x] = true, w.steps
		w.p.join(w.now, x, key)
	case 4, 5, 6, 7:
		w.release(w.rnd.IntN(10) > 0)
	case 8:
		w.finishOpening(w.rnd.IntN(4) > 0)
	case 9:
		for x := range w.waiting {
			if i := w.p.leave(w.now, x); i >= 0 {
				w.t.Fatal("it was given something, and collect did not see it")
			}
			delete(w.waiting, x)
			delete(w.vain, x)
			w.ended++
			break
		}
	case 10:
		for i := range w.holder {
			w.p.hold(w.now, i)
			break
		}
	case 11:
		for _, i := range w.p.idleSince(w.now - int64(3*time.Millisecond)) {
			w.p.vacate(w.now, i)
		}
	case 12:
		w.p.few = w.rnd.IntN(3) == 0
	}
	w.collect()
	w.check()
	w.advance(int64(w.rnd.IntN(int(time.Millisecond))))
}

func (w *world) release(keep bool) {
	for i := range w.holder {
		delete(w.holder, i)
		w.p.release(w.now, i, keep)
		break
	}
}

func (w *world) finishOpening(ok bool) {
	if len(w.asked) == 0 {
		return
	}
	i := w.asked[0]
	w.asked = w.asked[1:]
	delete(w.opening, i)
	if ok {
		w.p.opened(w.now, i)
		clear(w.vain)
		return
	}
	if w.p.there > 0 {
		clear(w.vain)
	} else {
		w.failed = max(w.failed, w.begun[i])
		for x := range w.waiting {
			w.vain[x]++
		}
	}
	w.p.failed(w.now, i, errors.New("no place"))
}

func (w *world) check() {
	t, p := w.t, w.p
	var there, opening, idle int
	for i := range p.slots {
		s := &p.slots[i]
		_, held := w.holder[i]
		require.Equal(t, s.state == slotBusy, held, "slot %d", i)
		require.Equal(t, s.state == slotOpening, w.opening[i], "slot %d", i)
		switch s.state {
		case slotOpening:
			opening++
		case slotIdle:
			idle++
			there++
		case slotBusy:
			there++
		}
	}
	require.Equal(t, []int{there, opening, idle}, []int{p.there, p.opening, p.idle})
	require.Equal(t, len(w.waiting), p.line.n+p.late.n)
	require.True(t, p.idle == 0 || p.late.n == 0, "somebody is overdue while a connection is idle")
	if len(w.waiting) > 0 {
		require.True(t, len(w.holder) > 0 || p.opening > 0, "nobody will ever serve those who wait")
	}
	if p.late.n > 0 && p.opening == 0 && p.there < len(p.slots) && !p.closed {
		require.Positive(t, p.soonest, "nobody would ask for the connections that are missing")
		require.LessOrEqual(t, p.soonest, max(w.now, p.refusedUntil))
	}
	for x := range w.waiting {
		require.LessOrEqual(t, w.vain[x], 3*len(p.slots), "it waits for ever for a server that stays away")
		require.True(t, x.again == 0 || p.soonest > 0 && p.soonest <= x.again, "nobody would remind it")
		if x.late {
			continue
		}
		require.Positive(t, x.again, "nobody would notice that it is overdue")
		require.LessOrEqual(t, x.again, x.due)
		for r := 0; r <= x.rank; r++ {
			require.NotEqual(t, slotIdle, p.slots[x.homes[r]].state, "its home is idle, and it waits")
		}
	}
	var head *waiter
	if p.late.first != nil {
		head = p.late.first.w
	}
	if head != w.head {
		w.head, w.passed = head, 0
	}
	if head != nil {
		// Each slot passes it at most turns times; it may have stood in line behind others before.
		require.LessOrEqual(t, w.passed, turns*len(p.slots), "overtaken without bound")
	}
}

// S73: whatever happens, nothing is handed out twice, nobody is forgotten, nobody is overtaken without bound, and no
// connection is idle while somebody is overdue.
func TestPolicyAtRandom(t *testing.T) {
	t.Parallel()
	steps := 4000
	if testing.Short() {
		steps = 400
	}
	for _, c := range []struct {
		slots, keep int
		wait        time.Duration
	}{
		{1, 1, 3 * time.Millisecond},
		{2, 2, 3 * time.Millisecond},
		{4, 4, 3 * time.Millisecond},
		{8, 8, 500 * time.Microsecond},
		{4, 4, 0},
		{1, 0, 3 * time.Millisecond},
		{4, 2, 3 * time.Millisecond},
		{70, 35, 3 * time.Millisecond},
	} {
		for seed := range uint64(10) {
			t.Run(fmt.Sprintf("%d,%d,%s/%d", c.slots, c.keep, c.wait, seed), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, seed, c.slots, c.keep, c.wait)
				for range steps {
					w.step()
				}
				require.Positive(t, w.served)
				// The end: everything is released, and everyone is served.
				for range 100000 {
					if len(w.waiting) == 0 {
						break
					}
					w.release(true)
					w.collect()
					w.finishOpening(true)
					w.collect()
					w.check()
					w.advance(int64(100 * time.Microsecond))
				}
				require.Empty(t, w.waiting, "not everyone was served")
			})
		}
	}
}

// S73
func TestPolicyClosedAtRandom(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		w := newWorld(t, seed, 4, 4, 3*time.Millisecond)
		for range w.rnd.IntN(200) {
			w.step()
		}
		for x := range w.waiting {
			defer func() { require.ErrorIs(t, x.err, ErrClosed) }()
		}
		w.p.close(w.now)
		w.collect()
		w.check()
		require.Empty(t, w.waiting)
		for len(w.holder) > 0 {
			w.release(true)
			w.collect()
			w.check()
		}
		for len(w.asked) > 0 {
			w.finishOpening(false)
		}
		require.Zero(t, w.p.there+w.p.opening)
		x := newWaiter()
		require.Negative(t, w.p.take(w.now, "a"))
		w.p.join(w.now, x, "a")
		require.ErrorIs(t, x.err, ErrClosed)
	}
}

// filled returns a policy whose slots are all idle.
func filled(slots int, wait time.Duration) *policy {
	p := newPolicy(slots, slots, wait, 700*time.Microsecond)
	for i := range slots {
		p.reserveSlot(i)
		p.opened(0, i)
	}
	return p
}

const ms = int64(time.Millisecond)

// neighbours returns stores whose homes are the same.
func neighbours(p *policy, n int) (keys []string) {
	homes := p.homesOf(hash("thor"))
	for i := 0; len(keys) < n; i++ {
		if key := fmt.Sprint("n", i); p.homesOf(hash(key)) == homes {
			keys = append(keys, key)
		}
	}
	return keys
}

// TestPolicyRules: the rules of choosing, one by one.
func TestPolicyRules(t *testing.T) {
	t.Parallel()
	p := filled(8, 3*time.Millisecond)
	k := neighbours(p, 8)
	homes := p.homesOf(hash(k[0]))
	require.NotContains(t, homes, -1)

	// The home, when it is idle.
	require.Equal(t, homes[0], p.take(0, k[0]))
	// Its home has only just become busy: wait.
	require.Equal(t, -1, p.take(0, k[1]))
	a := newWaiter()
	p.join(0, a, k[1])
	require.Equal(t, -1, a.slot)
	require.True(t, p.release(ms/10, homes[0], true))
	require.Equal(t, homes[0], a.slot)
	// Its home has been busy for longer than a moment: the second.
	b := newWaiter()
	p.join(ms/5, b, k[2])
	require.Equal(t, int64(ms/10+7*ms/10), b.again)
	p.tick(b.again, b)
	require.Equal(t, homes[1], b.slot)
	// The home is held: the second is busy for a moment, so wait for that.
	p.hold(ms, homes[0])
	c := newWaiter()
	p.join(ms, c, k[3])
	require.Equal(t, -1, c.slot)
	// And when that is held too, the third at once.
	p.hold(ms, homes[1])
	require.Equal(t, homes[2], c.slot)
	// With all three of them held: any.
	p.hold(ms, homes[2])
	d := newWaiter()
	p.join(ms, d, k[4])
	require.GreaterOrEqual(t, d.slot, 0)
	require.NotContains(t, homes, d.slot)
	require.Equal(t, uint64(2), p.stats.home)
	require.Zero(t, p.stats.seen)
	// Of no store: any.
	require.GreaterOrEqual(t, p.take(ms, ""), 0)
}

// TestPolicyRegulars: a store that is used very often, among many, does not wait for its home: it may be everywhere. When
// it is used no more than the others, it has a home again.
func TestPolicyRegulars(t *testing.T) {
	t.Parallel()
	p := filled(4, 3*time.Millisecond)
	home := p.homesOf(hash("thor"))[0]
	require.Equal(t, home, p.take(0, "thor"))
	require.Equal(t, -1, p.take(0, "thor"), "its home is busy, and it was hardly ever seen")
	p.release(0, home, true)
	visit := func(key string) {
		if i := p.take(0, key); i >= 0 {
			p.release(0, i, true)
		}
	}
	for range regularUses {
		visit("thor")
	}
	for range 4 {
		require.GreaterOrEqual(t, p.take(ms, "thor"), 0)
	}
	// Who waits for any is served in turn with those who wait for this one.
	first, second := newWaiter(), newWaiter()
	p.join(ms, first, "thor")
	p.join(ms, second, neighbours(p, 1)[0])
	require.True(t, p.release(ms, home, true))
	require.Equal(t, home, first.slot)
	require.Zero(t, p.stats.overdue)
	p.leave(ms, second)
	for i := range 4 {
		p.release(ms, i, true)
	}
	for n := range 8 * regularWindow {
		visit(fmt.Sprint("other", n%5000))
	}
	require.Equal(t, home, p.take(ms, "thor"))
	require.Equal(t, -1, p.take(ms, "thor"))
}

// Nobody is a regular among thousands who all come alike, and few are among those who come by Zipf's law.
func TestRegularsAreFew(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 1))
	zipf := rand.NewZipf(rng, 1.1, 1, 9899)
	for _, c := range []struct {
		name        string
		of          int
		draw        func() int
		least, most int
	}{
		{"alike", 1000, func() int { return rng.IntN(1000) }, 0, 3},
		{"zipf", 9900, func() int { return int(zipf.Uint64()) }, 10, 100},
		{"a hundred", 100, func() int { return rng.IntN(100) }, 99, 100},
	} {
		var r regulars
		for range 10 * regularWindow {
			r.note(hash(fmt.Sprintf("tenant_%05d", c.draw())))
		}
		n := 0
		for i := range c.of {
			if r.has(hash(fmt.Sprintf("tenant_%05d", i))) {
				n++
			}
		}
		require.GreaterOrEqual(t, n, c.least, c.name)
		require.LessOrEqual(t, n, c.most, c.name)
	}
}

// TestCensus: what is in use is few or many, also when that changes, and also where it is few at any time, but others
// each time.
func TestCensus(t *testing.T) {
	t.Parallel()
	const limit = 256
	told := 0
	c := newCensus(limit, func() { told++ })
	at := 0
	uses := func(n, pairs int) {
		for i := range n {
			c.note(mix(uint64(at + i%pairs + 1)))
		}
	}
	require.True(t, c.few.Load(), "nothing is known yet")
	uses(10*limit*windowOf, limit/2)
	require.True(t, c.few.Load())
	require.Zero(t, told)
	uses(2*limit, 2*limit)
	require.False(t, c.few.Load(), "that is noticed at once")
	uses(10*limit*windowOf, 2*limit)
	require.False(t, c.few.Load())
	require.Equal(t, 1, told)
	uses(3*limit*windowOf, limit/2)
	require.True(t, c.few.Load(), "they are few again")
	for range 20 { // one after the other
		uses(limit*windowOf/2, limit*2/3)
		at += limit * 2 / 3
	}
	require.False(t, c.few.Load())
	require.False(t, newCensus(0, nil).few.Load())
}

// A census has bounded memory whatever is asked for, and a keeper that has no homes needs none.
func TestCensusIsBounded(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{1 << 16, 1 << 20, 1 << 58, math.MaxInt} {
		c := newCensus(limit, nil)
		require.True(t, c.few.Load())
		require.LessOrEqual(t, len(c.now)+len(c.before), 1<<15, "words, for a limit of %d", limit)
		for i := range uint64(1 << 16) {
			c.note(mix(i + 1))
		}
		require.True(t, c.few.Load(), "with a limit of %d", limit)
	}
	cfg := config(1)
	cfg.Wait, cfg.Few = 0, 1024
	k := New(newFakePool(t, 1, 1), cfg)
	defer k.Close()
	require.Len(t, k.pairs.now, 1)
}

// S73: a census that is told by many at once is not confused by it for long.
func TestCensusOfMany(t *testing.T) {
	t.Parallel()
	const limit = 64
	var mu sync.Mutex
	var told bool // as a keeper is told
	var c *census
	c = newCensus(limit, func() {
		mu.Lock()
		defer mu.Unlock()
		told = c.few.Load()
	})
	everybody := func(pairs int) {
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for i := range 4 * limit * windowOf {
					c.note(mix(uint64(i%pairs + 1)))
				}
			})
		}
		all.Wait()
	}
	everybody(4 * limit)
	require.False(t, c.few.Load())
	require.False(t, told)
	everybody(limit / 2)
	require.True(t, c.few.Load())
	require.True(t, told)
}

// TestPolicyWaitsNoLonger: somebody who is overdue takes what is idle.
func TestPolicyWaitsNoLonger(t *testing.T) {
	t.Parallel()
	p := filled(4, 3*time.Millisecond)
	k := neighbours(p, 20)
	home := p.take(0, k[0])
	w := newWaiter()
	p.join(0, w, k[1])
	// It is handed to others of its own each time, for a moment only.
	now := int64(0)
	for n := 2; now < 3*ms; n++ {
		require.Negative(t, w.slot)
		now += ms / 2
		first := newWaiter()
		p.join(now, first, k[n])
		first.arrival = 0 // as if it had come before
		p.slots[home].own[0].remove(&w.inOwn[0])
		p.slots[home].own[0].push(&w.inOwn[0])
		p.release(now, home, true)
		require.Equal(t, home, first.slot)
	}
	p.tick(now, w)
	require.GreaterOrEqual(t, w.slot, 0, "three connections are idle")
	require.NotEqual(t, home, w.slot)
	require.Equal(t, uint64(1), p.stats.overdue)
}

// Where uses take long, so does the line for a home, and one waits longer: within bounds.
func TestPolicyWaitsByUses(t *testing.T) {
	t.Parallel()
	p := filled(2, 5*time.Millisecond)
	for usual, want := range map[int64]int64{0: 5 * ms, ms / 4: 5 * ms, ms: 12 * ms, 10 * ms: 20 * ms} {
		p.usual = usual
		w := newWaiter()
		p.take(0, "a")
		p.take(0, "b")
		p.join(0, w, "c")
		require.Equal(t, want, w.due, "with uses of %v", time.Duration(usual))
	}
}

// TestPolicyFew: where all connections may know all stores, nobody waits for a home.
func TestPolicyFew(t *testing.T) {
	t.Parallel()
	p := filled(4, 3*time.Millisecond)
	p.few = true
	for range 4 {
		require.GreaterOrEqual(t, p.take(0, "s1"), 0)
	}
	require.Zero(t, p.stats.waited)
	w := newWaiter()
	p.join(0, w, "s2")
	require.True(t, w.late, "and is given what is free first")
}

// TestPolicyHomesMoveLittle: homes are shared out evenly, and a slot that goes moves only its own stores.
func TestPolicyHomesMoveLittle(t *testing.T) {
	t.Parallel()
	p := filled(8, 3*time.Millisecond)
	before := map[string]int{}
	share := make([]int, 8)
	for s := range 8000 {
		key := fmt.Sprint("store-", s)
		before[key] = p.homesOf(hash(key))[0]
		share[before[key]]++
	}
	for i, n := range share {
		require.InDelta(t, 1000, n, 150, "slot %d", i)
	}
	p.vacate(0, 3)
	for key, home := range before {
		if now := p.homesOf(hash(key))[0]; home != 3 {
			require.Equal(t, home, now)
		} else {
			require.NotEqual(t, 3, now)
		}
	}
}

// TestPolicyFull: a server without another place is a pool that is full, as long as there is a connection.
func TestPolicyFull(t *testing.T) {
	t.Parallel()
	p := newPolicy(4, 4, 3*time.Millisecond, 700*time.Microsecond)
	full := errors.New("too many clients")
	a, b := newWaiter(), newWaiter()
	p.join(0, a, "a")
	p.join(0, b, "b")
	require.Equal(t, []int{0, 1}, p.opens)
	p.opened(0, 0)
	require.Equal(t, 0, a.slot)
	p.failed(0, 1, full)
	require.NoError(t, b.err, "there is one to wait for")
	p.opens = nil
	require.True(t, p.release(ms, 0, true))
	require.Equal(t, 0, b.slot)
	// The server is not asked again at once.
	c := newWaiter()
	p.join(ms, c, "c")
	require.Empty(t, p.opens)
	passes(p)
	require.Equal(t, []int{1}, p.opens, "but after a while")
	// The only connection goes: now it is an error.
	p.release(ms, 0, false)
	require.NoError(t, c.err)
	for _, i := range p.opens {
		p.failed(ms, i, full)
	}
	require.ErrorIs(t, c.err, full)
}

// TestPolicyFailsThoseWhoAsked: an opening that fails is the error of those who had come by when it was begun, once all have
// ended that were under way then. For who came later there is another one.
func TestPolicyFailsThoseWhoAsked(t *testing.T) {
	t.Parallel()
	refused := errors.New("connection refused")
	t.Run("one slot", func(t *testing.T) {
		t.Parallel()
		p := newPolicy(1, 1, 3*time.Millisecond, 700*time.Microsecond)
		a, b := newWaiter(), newWaiter()
		p.join(0, a, "a")
		require.Equal(t, []int{0}, asks(p))
		p.join(ms, b, "b")
		require.Empty(t, asks(p))
		p.failed(2*ms, 0, refused)
		require.ErrorIs(t, a.err, refused)
		require.NoError(t, b.err)
		require.Equal(t, []int{0}, asks(p))
		p.failed(3*ms, 0, refused)
		require.ErrorIs(t, b.err, refused)
		require.Empty(t, asks(p), "nobody waits")
	})
	t.Run("two slots", func(t *testing.T) {
		t.Parallel()
		p := newPolicy(2, 2, 3*time.Millisecond, 700*time.Microsecond)
		a, b, c, d := newWaiter(), newWaiter(), newWaiter(), newWaiter()
		p.join(0, a, "a")
		p.join(0, b, "b")
		p.join(0, c, "c")
		require.Equal(t, []int{0, 1}, asks(p))
		p.failed(ms, 0, refused)
		require.NoError(t, a.err, "the other may succeed")
		p.join(ms, d, "d")
		require.Equal(t, []int{0}, asks(p))
		p.failed(2*ms, 1, refused)
		require.ErrorIs(t, a.err, refused, "what was begun since does not count")
		require.ErrorIs(t, b.err, refused)
		require.NoError(t, c.err)
		require.NoError(t, d.err)
		p.failed(3*ms, 0, refused)
		p.failed(3*ms, 1, refused)
		require.ErrorIs(t, c.err, refused)
		require.ErrorIs(t, d.err, refused)
	})
	t.Run("one of two succeeds", func(t *testing.T) {
		t.Parallel()
		p := newPolicy(2, 2, 3*time.Millisecond, 700*time.Microsecond)
		a, b := newWaiter(), newWaiter()
		p.join(0, a, "a")
		p.join(0, b, "b")
		p.failed(ms, 0, refused)
		p.opened(ms, 1)
		require.Equal(t, 1, a.slot)
		p.hold(ms, 1)
		p.vacate(2*ms, 1) // it breaks
		p.opens = nil
		require.NoError(t, b.err, "there was one since")
	})
}

// passes lets time pass until slots are to be opened, or nobody has anything to wait for but the others.
func passes(p *policy) {
	for p.soonest > 0 && len(p.opens) == 0 {
		p.ticks(p.soonest)
	}
}

// asks returns which slots are to be opened, and takes note of them.
func asks(p *policy) []int {
	opens := p.opens
	p.opens = nil
	return opens
}

// TestPolicyAsksAgain: whoever waits while the server has no place left is not forgotten: it is asked again, whoever came
// when.
func TestPolicyAsksAgain(t *testing.T) {
	t.Parallel()
	full := errors.New("too many clients")
	t.Run("refused once", func(t *testing.T) {
		t.Parallel()
		p := newPolicy(2, 2, 3*time.Millisecond, 700*time.Microsecond)
		a, b := newWaiter(), newWaiter()
		p.join(0, a, "a")
		require.Equal(t, []int{0}, asks(p))
		p.opened(0, 0)
		p.hold(0, 0)
		p.join(0, b, "b")
		require.Equal(t, []int{1}, asks(p))
		p.failed(0, 1, full)
		require.NoError(t, b.err)
		passes(p)
		require.Equal(t, []int{1}, asks(p))
		p.opened(600*ms, 1)
		require.Equal(t, 1, b.slot)
	})
	t.Run("connections break", func(t *testing.T) {
		t.Parallel()
		p := filled(4, 3*time.Millisecond)
		p.few = true
		for i := range 4 {
			p.hold(0, p.take(0, fmt.Sprint("s", i)))
		}
		waiters := make([]*waiter, 4)
		for i := range waiters {
			waiters[i] = newWaiter()
			p.join(0, waiters[i], "b")
		}
		require.Empty(t, asks(p))
		p.release(0, 3, false)
		require.Equal(t, []int{3}, asks(p))
		p.failed(0, 3, full)
		p.release(0, 2, false)
		p.release(0, 1, false)
		require.Empty(t, asks(p), "not at once")
		// Also when the one who waits longest has left. One is enough to find out.
		p.leave(0, waiters[0])
		passes(p)
		require.Equal(t, []int{1}, asks(p))
		p.opened(600*ms, 1)
		require.Equal(t, 1, waiters[1].slot)
		require.Equal(t, []int{2, 3}, asks(p), "the server has places again")
	})
	t.Run("one apart", func(t *testing.T) {
		t.Parallel()
		p := newPolicy(3, 3, 3*time.Millisecond, 700*time.Microsecond)
		p.reserveSlot(0)
		p.opened(0, 0)
		require.Equal(t, 0, p.take(0, "a"))
		p.hold(0, 0)
		b := newWaiter()
		i := p.reserve() // as TakeApart does
		p.join(0, b, "b")
		require.Empty(t, asks(p), "it may be for this one, for all that is known")
		p.arrive(0, i)
		require.Equal(t, []int{2}, asks(p))
	})
}

func BenchmarkTake(b *testing.B) {
	for _, slots := range []int{8, 64} {
		b.Run(fmt.Sprint(slots), func(b *testing.B) {
			p := filled(slots, 3*time.Millisecond)
			keys := make([]string, 1024)
			for i := range keys {
				keys[i] = fmt.Sprint("tenant-number-", i)
				p.release(0, p.take(0, keys[i]), true)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				p.release(0, p.take(0, keys[i%len(keys)]), true)
			}
		})
	}
}
