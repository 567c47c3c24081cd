package warm

import "time"

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
	brief int64 // how long, at least, a home may have been busy and still be worth waiting for
	usual int64 // how long a use takes: about the median

	guests   map[string]*guest
	clock    uint64 // counts what receive notes
	line     list   // who waits, in order of arrival, and is not overdue
	arrivals uint64
	late     list // who is overdue, the longest overdue first
	// there counts slots with a connection, opening those that are being opened, idle those that nobody has.
	there, opening, idle int
	idlers, roomy        []uint64 // the sets of idle slots, and of those that have room for another guest

	refusedUntil int64 // the server had no place left: not tried again before
	refusal      error // why; nil after a success
	closed       bool
	opens        []int // slots that are to be opened, for the caller to take

	stats counters
}

// counters are what [Stats] says of the policy's decisions.
type counters struct {
	taken, home, seen, waited, overdue, canceled uint64
	waitTime                                     int64
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
	key   string // the store that it serves or served last
	apart bool   // it goes through every store, and is no home
	held  bool   // by a transaction or a *sql.Conn: nobody can tell for how long
	since int64  // when it was handed out or became idle
	idled int64  // for how long it was idle before it was handed out
	// passed counts how often it went to one of its own while somebody else was overdue.
	passed int
	own    [ranks]list // who waits for it as their first, second or third home
	guests []*guest
	hand   int // where to look for one that goes
}

const (
	// turns is how often, at most, a slot goes to its own while somebody else is overdue. Overdue first, always, would
	// give affinity up as soon as the queue is longer than the wait, and what it costs to serve stores anywhere would
	// keep the queue that long.
	turns = 7
	// refusedFor is how long a server that has no place left is not asked again while there are other connections.
	refusedFor = int64(500 * time.Millisecond)
	// usuals is how many usual uses a home may take and still be worth waiting for.
	usuals = 6
	// hotLook is how many of those in line for a home are looked at.
	hotLook  = 8
	hotMany  = 3
	lateLook = 8
)

// waiter is one caller in line.
type waiter struct {
	key     string
	homes   homes
	rank    int   // up to which of them it waits for
	since   int64 // when it came
	due     int64 // when it is overdue
	arrival uint64
	again   int64 // when tick is to be called next; 0: never
	late    bool

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
	p := &policy{
		slots: make([]slot, slots), keep: keep, wait: int64(wait), brief: int64(brief),
		guests: make(map[string]*guest), idlers: make([]uint64, (slots+63)/64), roomy: make([]uint64, (slots+63)/64),
	}
	for i := range keep {
		p.roomy[i/64] |= 1 << (i % 64)
	}
	return p
}

// take gives the store a slot at once, or -1 and a place in line for w. The empty key is of no store: any will do.
func (p *policy) take(now int64, key string) int {
	if p.idle == 0 {
		return -1
	}
	if p.wait == 0 || key == "" {
		i := p.lastUsed()
		p.hand(now, i, key)
		return i
	}
	g := p.guests[key]
	var h uint64
	if g != nil {
		h = g.hash
	} else {
		h = hash(key)
	}
	i := p.homeOf(h)
	if i >= 0 && p.slots[i].state == slotIdle {
		p.stats.home++
	} else if i = p.hostOf(h, g); i >= 0 {
		if g.has(i) {
			p.stats.seen++
		}
		p.receive(i, g, key)
	} else {
		return -1
	}
	p.hand(now, i, key)
	return i
}

// join puts w, whom take has given nothing, in line. It may be given something all the same.
func (p *policy) join(now int64, w *waiter, key string) {
	w.key, w.slot, w.err, w.late, w.rank = key, -1, nil, false, -1
	w.since, w.due, w.again = now, now, 0
	if key != "" {
		w.due += p.wait
	}
	w.homes = p.homesOf(key)
	p.arrivals++
	w.arrival = p.arrivals
	p.stats.waited++
	if p.closed {
		p.settle(now, w, -1, ErrClosed)
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
	if now < w.due && !p.hot(w) {
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
			if until := s.since + max(p.brief, usuals*p.usual); s.state == slotBusy && !s.held && now < until {
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

// hot reports whether w's store keeps its home busy itself, so that it should spread: at once where something is idle,
// else when there are several of it.
func (p *policy) hot(w *waiter) bool {
	if w.homes[0] < 0 {
		return false
	}
	s, same := &p.slots[w.homes[0]], 0
	if s.key == w.key {
		same++
	}
	n := s.own[0].first
	for range hotLook {
		if n == nil || n.w == w {
			break
		}
		if n.w.key == w.key {
			same++
		}
		n = n.next
	}
	return same >= hotMany || same > 0 && p.idle > 0
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

// setApart says that a slot is used for what goes through every store, until it is vacated.
func (p *policy) setApart(now int64, i int) {
	p.forget(i)
	p.slots[i].apart = true
	p.hold(now, i)
}

// renew says that a slot has another connection.
func (p *policy) renew(i int) {
	p.forget(i)
	p.slots[i].apart = false
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
	p.learn(now-s.since, s.held)
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
	if w := p.next(i); w != nil {
		p.give(now, i, w)
	}
	return true
}

// learn notes how long a use took: a step up or down brings usual to the median, however long the longest are.
func (p *policy) learn(d int64, held bool) {
	switch step := max(p.usual/64, 1000); {
	case held:
	case d > p.usual:
		p.usual += step
	default:
		p.usual = max(p.usual-step, 0)
	}
}

// next chooses who gets a slot that has become free.
func (p *policy) next(i int) *waiter {
	s := &p.slots[i]
	var own *waiter
	for r := range s.own {
		if n := s.own[r].first; n != nil && (own == nil || n.w.arrival < own.arrival) {
			own = n.w
		}
	}
	late := p.late.first
	for n, left := late, lateLook; n != nil && left > 0; n, left = n.next, left-1 {
		if (own == nil || n.w.arrival < own.arrival) && p.guests[n.w.key].has(i) {
			own = n.w
			break
		}
	}
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
	}
	s.state, s.held, s.apart, s.passed = slotEmpty, false, false, 0
	p.forget(i)
	p.disperse(now, i)
	if p.waiting() && p.idle == 0 {
		p.grow(now)
	}
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
	p.dismiss(now, err)
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
func (p *policy) dismiss(now int64, err error) {
	for _, l := range []*list{&p.late, &p.line} {
		for l.first != nil {
			p.settle(now, l.first.w, -1, err)
		}
	}
}

// close ends all waiting. It returns the slots that are idle, which are empty from now on.
func (p *policy) close(now int64) (idle []int) {
	p.closed = true
	p.opens = p.opens[:0]
	p.dismiss(now, ErrClosed)
	for i := range p.slots {
		if p.slots[i].state == slotIdle {
			idle = append(idle, i)
		}
	}
	for _, i := range idle {
		p.vacate(now, i)
	}
	return idle
}

// leave takes w out of the line. When it was given a slot already, that is returned, and is the caller's to release.
func (p *policy) leave(now int64, w *waiter) (slot int) {
	p.stats.canceled++
	if w.slot < 0 && w.err == nil {
		p.unlink(w)
		p.stats.waitTime += now - w.since
	}
	return w.slot
}

// give hands an idle slot to somebody in line.
func (p *policy) give(now int64, i int, w *waiter) {
	if i == w.homes[0] {
		p.stats.home++
	} else {
		g := p.guests[w.key]
		if g.has(i) {
			p.stats.seen++
		}
		p.receive(i, g, w.key)
	}
	p.hand(now, i, w.key)
	p.settle(now, w, i, nil)
}

// settle ends w's waiting.
func (p *policy) settle(now int64, w *waiter, slot int, err error) {
	p.unlink(w)
	p.stats.waitTime += now - w.since
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
func (p *policy) hand(now int64, i int, key string) {
	s := &p.slots[i]
	p.stats.taken++
	s.key = key
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
