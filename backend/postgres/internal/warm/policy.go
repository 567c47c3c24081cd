package warm

import (
	"math/bits"
	"time"
)

// policy decides who gets which connection. It knows neither connections nor clocks nor goroutines: it is told what
// happened and when (nanoseconds of any clock that does not go back), and says what follows. It is not safe for
// concurrent use; [Keeper] has a lock around it.
//
// What holds after each call:
//   - a slot is in the hands of one caller at most;
//   - nobody waits in line while a connection is idle, unless it is for a home and not yet for longer than wait;
//   - whoever waits is waited for: some slot is busy, or one is being opened, or is asked to be (opens).
type policy struct {
	slots []slot
	keep  int   // the first ones keep their connection while they are idle, and are homes
	wait  int64 // for a home; 0: there are no homes
	brief int64 // how long a home may have been busy and still be worth waiting for

	stores map[string]*store
	line   list // who waits, in order of arrival, and is not overdue
	late   list // who is overdue, the longest overdue first
	// there counts slots with a connection, opening those that are being opened, idle those that nobody has.
	there, opening, idle int
	// generation changes with the slots that have a connection, from which homes are made.
	generation uint64
	idlers     []uint64 // the set of idle slots

	refusedUntil int64 // the server had no place left: not tried again before
	refusal      error // why; nil after a success
	closed       bool
	opens        []int // slots that are to be opened, for the caller to take

	stats counters
}

// counters are what [Stats] says of the policy's decisions.
type counters struct {
	home, seen, waited, overdue uint64
}

type slotState uint8

// empty → opening → busy ⇄ idle → empty; and busy → empty when its connection is lost.
const (
	slotEmpty slotState = iota
	slotOpening
	slotIdle
	slotBusy
)

// slot is a place for one connection. Its number, not its connection, is what homes are made from, so that a
// connection's successor inherits its stores.
type slot struct {
	state slotState
	held  bool  // by a transaction or a *sql.Conn: nobody can tell for how long
	since int64 // when it was handed out or became idle
	idled int64 // for how long it was idle before it was handed out
	// passed counts how often it went to one of its own while somebody else was overdue.
	passed int
	own    [ranks]list // who waits for it as their first, second or third home
	seen   []*store    // what its connection has served
}

// store is what is known of a store that a connection has served.
type store struct {
	key   string
	hash  uint64
	seen  []uint64 // the slots whose connections have served it
	homes homes
	made  uint64 // the policy's generation when homes was worked out
}

// homes are a store's slots, the first first; -1: none.
type homes [ranks]int

func (s *store) has(slot int) bool {
	return s != nil && slot < 64*len(s.seen) && s.seen[slot/64]&(1<<(slot%64)) != 0
}

const (
	// ranks is how many homes a store has.
	ranks = 3
	// turns is how often, at most, a slot goes to its own while somebody else is overdue. Overdue first, always, would
	// give affinity up as soon as the queue is longer than the wait, and what it costs to serve stores anywhere would
	// keep the queue that long.
	turns = 3
	// refusedFor is how long a server that has no place left is not asked again while there are other connections.
	refusedFor = int64(500 * time.Millisecond)
)

// waiter is one caller in line.
type waiter struct {
	key   string
	homes homes
	rank  int   // up to which of them it waits for
	due   int64 // when it is overdue
	again int64 // when tick is to be called next; 0: never
	late  bool

	ready chan struct{} // gets one value when slot or err is set
	slot  int           // -1: none yet
	err   error

	inLine node
	inOwn  [ranks]node
}

func newWaiter() *waiter {
	w := &waiter{ready: make(chan struct{}, 1)}
	w.inLine.w = w
	for i := range w.inOwn {
		w.inOwn[i].w = w
	}
	return w
}

func newPolicy(slots, keep int, wait, brief time.Duration) *policy {
	return &policy{
		slots: make([]slot, slots), keep: keep, wait: int64(wait), brief: int64(brief),
		stores: make(map[string]*store), idlers: make([]uint64, (slots+63)/64),
	}
}

// take gives the store a slot at once, or -1 and a place in line for w. The empty key is of no store: any will do.
func (p *policy) take(now int64, key string) int {
	if p.idle == 0 {
		return -1
	}
	if p.wait == 0 || key == "" {
		i := p.lastUsed()
		p.hand(now, i)
		return i
	}
	st := p.stores[key]
	home := p.homesOf(st, key)[0]
	i := home
	if home < 0 || p.slots[home].state != slotIdle || !st.has(home) {
		switch known := p.known(st); {
		case known >= 0:
			i = known
		case home < 0 || p.slots[home].state != slotIdle:
			return -1
		}
	}
	if i == home {
		p.stats.home++
	} else {
		p.stats.seen++
	}
	p.hand(now, i)
	p.mark(i, st, key)
	return i
}

// known returns the idle slot that ranks highest among those that have served a store, or -1.
func (p *policy) known(st *store) int {
	best, bestScore := -1, uint64(0)
	if st == nil {
		return best
	}
	for w, word := range st.seen {
		for word &= p.idlers[w]; word != 0; word &= word - 1 {
			i := w*64 + bits.TrailingZeros64(word)
			if score := rank(st.hash, i); best < 0 || score > bestScore {
				best, bestScore = i, score
			}
		}
	}
	return best
}

// join puts w, whom take has given nothing, in line. It may be given something all the same.
func (p *policy) join(now int64, w *waiter, key string) {
	w.key, w.slot, w.err, w.late, w.rank = key, -1, nil, false, -1
	w.due, w.again = now, 0
	if key != "" {
		w.due += p.wait
	}
	w.homes = p.homesOf(p.stores[key], key)
	p.stats.waited++
	if p.closed {
		p.settle(w, -1, ErrClosed)
		return
	}
	p.line.push(&w.inLine)
	p.look(now, w)
	if w.slot < 0 && p.idle == 0 {
		p.grow(now)
	}
}

// tick looks again at w, whose time has come.
func (p *policy) tick(now int64, w *waiter) {
	switch {
	case w.slot >= 0 || w.err != nil:
	case w.late:
		p.grow(now)
		p.patience(now, w)
	default:
		p.look(now, w)
	}
}

// patience says when somebody who is overdue asks again for another connection: the server may have a place by then.
func (p *policy) patience(now int64, w *waiter) {
	w.again = 0
	if w.slot < 0 && p.there+p.opening < len(p.slots) {
		w.again = now + refusedFor
	}
}

// look finds w something, or says until when it waits for what: a home that is busy for a moment only; the next home,
// where it is not; anything, when there is none or its time is over.
func (p *policy) look(now int64, w *waiter) {
	if now < w.due {
		for r, i := range w.homes {
			if i < 0 {
				break
			}
			s := &p.slots[i]
			if s.state == slotIdle {
				p.give(now, i, w)
				return
			}
			if r > w.rank {
				w.rank = r
				s.own[r].push(&w.inOwn[r])
			}
			if until := s.since + p.brief; s.state == slotBusy && !s.held && now < until {
				w.again = min(until, w.due)
				return
			}
		}
	}
	p.expire(w)
	p.serveLate(now)
	if w.slot < 0 {
		p.grow(now)
		p.patience(now, w)
	}
}

// expire makes w overdue.
func (p *policy) expire(w *waiter) {
	p.line.remove(&w.inLine)
	w.late = true
	p.late.push(&w.inLine)
	if w.key != "" && p.wait > 0 {
		p.stats.overdue++
	}
}

// serveLate gives what is idle to those who are overdue.
func (p *policy) serveLate(now int64) {
	for p.idle > 0 && p.late.first != nil {
		w := p.late.first.w
		p.give(now, p.bestIdle(w.key), w)
	}
}

// hold says that a slot is in the hands of somebody who will keep it, and sends those who wait for it elsewhere.
func (p *policy) hold(now int64, i int) {
	s := &p.slots[i]
	if s.held {
		return
	}
	s.held = true
	p.disperse(now, i)
}

// disperse has those who wait for a slot look again.
func (p *policy) disperse(now int64, i int) {
	for r := range p.slots[i].own {
		for n := p.slots[i].own[r].first; n != nil; {
			// Looking takes nobody but its own waiter off this list, and that only when it is given something.
			w := n.w
			n = n.next
			if !w.late && w.rank == r {
				p.look(now, w)
			}
		}
	}
}

// release says that the holder of a slot is done with it. It returns whether the slot keeps its connection; if not, the
// caller has to part with it.
func (p *policy) release(now int64, i int, keep bool) bool {
	s := &p.slots[i]
	s.held = false
	if !keep || p.closed || i >= p.keep {
		// Beyond keep there are only slots of a pool that others use too: they have waited as long as ours.
		p.vacate(now, i)
		return false
	}
	for n := p.line.first; n != nil && n.w.due <= now; n = p.line.first {
		p.expire(n.w)
	}
	p.serveLate(now) // from what was idle already
	p.rest(now, i)
	if w := p.next(s); w != nil {
		p.give(now, i, w)
	}
	return true
}

// next chooses who gets a slot that has become free.
func (p *policy) next(s *slot) *waiter {
	var own *waiter
	for r := range s.own {
		if n := s.own[r].first; n != nil {
			own = n.w
			break
		}
	}
	late := p.late.first
	switch {
	case late == nil || late.w == own:
		s.passed = 0
		return own
	case own == nil || s.passed >= turns:
		s.passed = 0
		return late.w
	}
	s.passed++
	return own
}

// vacate takes a slot's connection out of service. Those who wait for it look elsewhere.
func (p *policy) vacate(now int64, i int) {
	s := &p.slots[i]
	if s.state == slotIdle {
		p.wake(i)
	}
	if s.state >= slotIdle {
		p.there--
		p.generation++
	}
	s.state, s.held, s.passed = slotEmpty, false, 0
	p.forget(i)
	p.disperse(now, i)
	if p.waiting() && p.idle == 0 {
		p.grow(now)
	}
}

// forget says that a slot's connection has served nobody.
func (p *policy) forget(i int) {
	s := &p.slots[i]
	for _, st := range s.seen {
		st.seen[i/64] &^= 1 << (i % 64)
		if !anySet(st.seen) {
			delete(p.stores, st.key)
		}
	}
	s.seen = nil
}

func anySet(set []uint64) bool {
	for _, word := range set {
		if word != 0 {
			return true
		}
	}
	return false
}

// idleSince lists the slots that nobody has used since a time.
func (p *policy) idleSince(then int64) (slots []int) {
	for i := range p.slots {
		if s := &p.slots[i]; s.state == slotIdle && s.since <= then {
			slots = append(slots, i)
		}
	}
	return slots
}

// waiting reports whether anybody is in line.
func (p *policy) waiting() bool { return p.line.first != nil || p.late.first != nil }

// grow asks for another connection, when somebody waits for whom none is being opened.
func (p *policy) grow(now int64) {
	if p.closed || p.opening >= p.line.n+p.late.n || p.there > 0 && now < p.refusedUntil {
		return
	}
	if i := p.reserve(); i >= 0 {
		p.opens = append(p.opens, i)
	}
}

// reserve finds an empty slot and marks it as being opened, or returns -1.
func (p *policy) reserve() int {
	for i := range p.slots {
		if p.slots[i].state == slotEmpty {
			p.reserveSlot(i)
			return i
		}
	}
	return -1
}

func (p *policy) reserveSlot(i int) {
	p.slots[i].state = slotOpening
	p.opening++
}

// opened says that a slot has its connection. It goes to whoever waits longest; opened reports whether it is idle.
func (p *policy) opened(now int64, i int) bool {
	p.arrive(now, i)
	p.rest(now, i)
	switch {
	case p.late.first != nil:
		p.give(now, i, p.late.first.w)
	case p.line.first != nil:
		p.give(now, i, p.line.first.w)
	default:
		return true
	}
	return false
}

// lend gives a slot that is held, but not used, to who has been overdue the longest.
func (p *policy) lend(now int64, i int) {
	w := p.late.first.w
	p.rest(now, i)
	p.give(now, i, w)
	p.slots[i].held = true
}

// arrive says that a slot has its connection, in the hands of who opened it.
func (p *policy) arrive(now int64, i int) {
	s := &p.slots[i]
	s.state, s.since, s.idled, s.passed = slotBusy, now, 0, 0
	p.opening--
	p.there++
	p.generation++
	p.refusal, p.refusedUntil = nil, 0
}

// failed says that a slot could not get a connection. While there are others that is a full pool: those in line wait for
// one of them. Without any, and with none to come, it is everybody's error.
func (p *policy) failed(now int64, i int, err error) {
	p.slots[i].state = slotEmpty
	p.opening--
	p.refusal = err
	if p.there > 0 {
		p.refusedUntil = now + refusedFor
		return
	}
	if p.opening > 0 {
		return
	}
	p.dismiss(err)
}

// unreserve says that the opening of a slot was given up.
func (p *policy) unreserve(now int64, i int) {
	p.slots[i].state = slotEmpty
	p.opening--
	if p.waiting() && p.idle == 0 {
		p.grow(now)
	}
}

// dismiss ends all waiting with an error.
func (p *policy) dismiss(err error) {
	for _, l := range []*list{&p.late, &p.line} {
		for l.first != nil {
			p.settle(l.first.w, -1, err)
		}
	}
}

// close ends all waiting. It returns the slots that are idle, which are empty from now on.
func (p *policy) close() (idle []int) {
	p.closed = true
	p.opens = p.opens[:0]
	p.dismiss(ErrClosed)
	for i := range p.slots {
		if p.slots[i].state == slotIdle {
			idle = append(idle, i)
		}
	}
	for _, i := range idle {
		p.vacate(0, i)
	}
	return idle
}

// leave takes w out of the line. When it was given a slot already, that is returned, and is the caller's to release.
func (p *policy) leave(w *waiter) (slot int) {
	if w.slot < 0 && w.err == nil {
		p.unlink(w)
	}
	return w.slot
}

// give hands an idle slot to somebody in line.
func (p *policy) give(now int64, i int, w *waiter) {
	st := p.stores[w.key]
	if i == w.homes[0] {
		p.stats.home++
	} else if st.has(i) {
		p.stats.seen++
	}
	p.hand(now, i)
	p.mark(i, st, w.key)
	p.settle(w, i, nil)
}

// settle ends w's waiting.
func (p *policy) settle(w *waiter, slot int, err error) {
	p.unlink(w)
	w.slot, w.err, w.again = slot, err, 0
	w.ready <- struct{}{}
}

func (p *policy) unlink(w *waiter) {
	if w.late {
		p.late.remove(&w.inLine)
	} else {
		p.line.remove(&w.inLine)
	}
	for r := 0; r <= w.rank; r++ {
		p.slots[w.homes[r]].own[r].remove(&w.inOwn[r])
	}
	w.rank = -1
}

// hand takes an idle slot into use.
func (p *policy) hand(now int64, i int) {
	s := &p.slots[i]
	p.wake(i)
	s.state, s.held, s.idled, s.since = slotBusy, false, now-s.since, now
}

// rest makes a slot idle.
func (p *policy) rest(now int64, i int) {
	s := &p.slots[i]
	s.state, s.since = slotIdle, now
	p.idle++
	p.idlers[i/64] |= 1 << (i % 64)
}

// wake is the end of rest.
func (p *policy) wake(i int) {
	p.idle--
	p.idlers[i/64] &^= 1 << (i % 64)
}

// mark notes that a slot's connection serves a store; st is nil when nothing is known of it.
func (p *policy) mark(i int, st *store, key string) {
	if st.has(i) || key == "" || p.wait == 0 || i >= p.keep {
		return
	}
	if st == nil {
		st = &store{key: key, hash: hash(key), seen: make([]uint64, (p.keep+63)/64)}
		p.stores[key] = st
	}
	st.seen[i/64] |= 1 << (i % 64)
	p.slots[i].seen = append(p.slots[i].seen, st)
}

// lastUsed returns the idle slot that was used last: so that those that are not needed become old.
func (p *policy) lastUsed() int {
	last := -1
	for i := range p.slots {
		if s := &p.slots[i]; s.state == slotIdle && (last < 0 || s.since > p.slots[last].since) {
			last = i
		}
	}
	return last
}

// bestIdle returns the idle slot that ranks highest for a store: so that what overflows goes the same way each time.
func (p *policy) bestIdle(key string) int {
	if key == "" || p.wait == 0 {
		return p.lastUsed()
	}
	best, h := -1, hash(key)
	var bestScore uint64
	for i := range p.slots {
		if p.slots[i].state != slotIdle {
			continue
		}
		if score := rank(h, i); best < 0 || score > bestScore {
			best, bestScore = i, score
		}
	}
	return best
}

// homesOf returns a store's homes; st is what is known of it, or nil.
func (p *policy) homesOf(st *store, key string) homes {
	switch {
	case key == "" || p.wait == 0:
		return homes{-1, -1, -1}
	case st == nil:
		return p.rendezvous(hash(key))
	case st.made != p.generation:
		st.homes, st.made = p.rendezvous(st.hash), p.generation
	}
	return st.homes
}

// rendezvous returns the slots with a connection that rank highest for a store. One that comes or goes moves only the
// stores that it wins or had.
func (p *policy) rendezvous(h uint64) homes {
	found := homes{-1, -1, -1}
	var scores [ranks]uint64
	for i := range p.keep {
		if p.slots[i].state < slotIdle {
			continue
		}
		score, slot := rank(h, i), i
		for r := 0; r < ranks && slot >= 0; r++ {
			if found[r] < 0 || score > scores[r] {
				found[r], slot = slot, found[r]
				scores[r], score = score, scores[r]
			}
		}
	}
	return found
}

// hash is FNV-1a, which is quick for short names.
func hash(key string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(key) {
		h = (h ^ uint64(key[i])) * 1099511628211
	}
	return h
}

// rank is a slot's weight for a store.
func rank(h uint64, slot int) uint64 {
	h ^= bits.RotateLeft64(uint64(slot+1)*0x9e3779b97f4a7c15, 17)
	h = (h ^ h>>32) * 0xd6e8feb86659fd93
	return h ^ h>>32
}

// list is a queue of waiters from whose middle one can go.
type list struct {
	first, last *node
	n           int
}

type node struct {
	prev, next *node
	in         *list
	w          *waiter
}

func (l *list) push(n *node) {
	n.prev, n.next, n.in = l.last, nil, l
	if l.last == nil {
		l.first = n
	} else {
		l.last.next = n
	}
	l.last = n
	l.n++
}

func (l *list) remove(n *node) {
	if n.in != l {
		return
	}
	if n.prev == nil {
		l.first = n.next
	} else {
		n.prev.next = n.next
	}
	if n.next == nil {
		l.last = n.prev
	} else {
		n.next.prev = n.prev
	}
	n.prev, n.next, n.in = nil, nil, nil
	l.n--
}
