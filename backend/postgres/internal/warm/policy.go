package warm

import "time"

// policy decides who gets which connection. It knows neither connections nor clocks nor goroutines: it is told what
// happened and when (nanoseconds of any clock that does not go back), and says what follows. It is not safe for
// concurrent use; [Keeper] has a lock around it.
//
// What holds after each call:
//   - a slot is in the hands of one caller at most;
//   - nobody waits in line while a connection is idle, unless it is for a home and not yet for longer than wait;
//   - whoever waits is waited for: some slot is busy, or one is being opened, or is asked to be (opens);
//   - while somebody is overdue and a slot has no connection, one is being opened, or ticks will ask for it.
type policy struct {
	slots []slot
	keep  int   // the first ones keep their connection while they are idle, and are homes
	wait  int64 // for a home, see waits; 0: there are no homes
	brief int64 // how long, at least, a home may have been busy and still be worth waiting for
	usual int64 // how long a use takes: about the median

	regulars regulars
	few      bool      // all connections may see all stores
	serial   uint64    // of the latest arrival, or begin of an opening
	line     list      // who waits, in order of arrival, and is not overdue
	late     list      // who is overdue, the longest overdue first
	soonest  int64     // when ticks is to be called next; 0: need not be
	due      []*waiter // a buffer of ticks
	// there counts slots with a connection, opening those that are being opened, idle those that nobody has.
	there, opening, idle int
	idlers               []uint64 // the set of idle slots

	refusedUntil int64 // the server had no place left: not tried again before
	refusal      error // why the last opening failed; nil after a success
	refusedAt    int64 // and when
	away         away
	closed       bool
	opens        []int // slots that are to be opened, for the caller to take

	stats counters
}

// away is what is known of a server that gives no connection, while there is none: serial numbers of openings.
type away struct {
	failed uint64 // the latest that has failed
	until  uint64 // those up to this one were under way when the first failed; 0: none has
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
	begun uint64 // the serial number of its opening
	// passed counts how often it went to one of its own while somebody else was overdue.
	passed int
	own    [ranks]list // who waits for it as their first, second or third home
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
	// dozen is how many usual uses a line may take, while that is no more than longest times the wait.
	dozen   = 12
	longest = 4
	// lateLook is how many of those who wait for any slot are looked at for one who does not do so in vain.
	lateLook = 8
)

func newPolicy(slots, keep int, wait, brief time.Duration) *policy {
	return &policy{
		slots: make([]slot, slots), keep: keep, wait: int64(wait), brief: int64(brief), idlers: make([]uint64, (slots+63)/64),
	}
}

// take gives the store a slot at once, or -1 and a place in line for w. The empty key is of no store: any will do.
func (p *policy) take(now int64, key string) int {
	if p.homeless(key) {
		i := p.lastUsed()
		if i >= 0 {
			p.hand(now, i, key)
		}
		return i
	}
	h := hash(key)
	p.regulars.note(h)
	if p.idle == 0 {
		return -1
	}
	home, anywhere := p.homeOf(h), p.anywhere(h)
	i := home
	if anywhere {
		// The server's process that ran last is in the processor's caches.
		i = p.lastUsed()
	} else if home < 0 || p.slots[home].state != slotIdle {
		return -1
	}
	p.count(i == home, anywhere)
	p.hand(now, i, key)
	return i
}

// anywhere reports whether all connections know the store, or are to.
func (p *policy) anywhere(h uint64) bool { return p.few || p.regulars.has(h) }

// count counts who serves a store.
func (p *policy) count(home, anywhere bool) {
	switch {
	case home:
		p.stats.home++
	case anywhere:
		p.stats.seen++
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

// held returns how many slots are in such hands.
func (p *policy) held() (n int) {
	for i := range p.slots {
		if p.slots[i].held {
			n++
		}
	}
	return n
}

// setApart says that a slot is used for what goes through every store, until it is vacated.
func (p *policy) setApart(now int64, i int) {
	p.slots[i].apart = true
	p.hold(now, i)
}

// renew says that a slot has another connection.
func (p *policy) renew(i int) { p.slots[i].apart = false }

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
	p.disperse(now, i)
	p.grow(now)
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

// grow asks for another connection, when nothing is idle and somebody waits for whom none is being opened. A server that had
// no place left is asked later. It reports whether it asked now.
func (p *policy) grow(now int64) bool {
	switch {
	case p.closed, p.idle > 0, p.opening >= p.line.n+p.late.n, p.there+p.opening == len(p.slots):
		return false
	case p.there > 0 && now < p.refusedUntil:
		p.callBy(p.refusedUntil)
		return false
	}
	p.opens = append(p.opens, p.reserve())
	return true
}

// growOn asks for all connections that were not asked for while the server had no place left: it has given one now.
func (p *policy) growOn(now int64) {
	for p.grow(now) {
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
	p.serial++
	p.slots[i].state, p.slots[i].begun = slotOpening, p.serial
	p.opening++
}

// opened says that a slot has its connection. It goes to whoever waits longest; opened reports whether it is idle.
func (p *policy) opened(now int64, i int) bool {
	p.connected(now, i)
	p.rest(now, i)
	switch {
	case p.late.first != nil:
		p.give(now, i, p.late.first.w)
	case p.line.first != nil:
		p.give(now, i, p.line.first.w)
	default:
		return true
	}
	p.growOn(now)
	return false
}

// lend gives a slot that is held, but not used, to who has been overdue the longest.
func (p *policy) lend(now int64, i int) {
	w := p.late.first.w
	p.rest(now, i)
	p.give(now, i, w)
	p.slots[i].held = true
}

// arrive says that a slot has its connection, which stays in the hands of who opened it.
func (p *policy) arrive(now int64, i int) {
	p.connected(now, i)
	p.growOn(now)
}

func (p *policy) connected(now int64, i int) {
	s := &p.slots[i]
	s.state, s.since, s.passed = slotBusy, now, 0
	p.opening--
	p.there++
	p.refusal, p.refusedAt, p.refusedUntil = nil, 0, 0
	p.away = away{}
}

// failed says that a slot could not get a connection. While there are others that is a full pool: those in line wait for
// one of them. Without any it is the error of all who had come by when the opening was begun, once those have ended too
// that were under way when the first failed. Not those begun since: while callers come, there is always one of them.
func (p *policy) failed(now int64, i int, err error) {
	p.slots[i].state = slotEmpty
	p.opening--
	p.refusal, p.refusedAt = err, now
	if p.there > 0 {
		p.refusedUntil = now + refusedFor
		p.grow(now)
		return
	}
	p.away.failed = max(p.away.failed, p.slots[i].begun)
	if p.away.until == 0 {
		p.away.until = p.serial
	}
	if p.opensUpTo(p.away.until) {
		return
	}
	p.away.until = 0
	p.dismiss(now, p.away.failed, err)
	p.grow(now)
}

// opensUpTo reports whether an opening is under way that was begun by then.
func (p *policy) opensUpTo(serial uint64) bool {
	for i := range p.slots {
		if s := &p.slots[i]; s.state == slotOpening && s.begun <= serial {
			return true
		}
	}
	return false
}

// refusalOf returns why no more connections could be opened while w waited, or nil: in its time, or so shortly before that it
// was not tried again.
func (p *policy) refusalOf(w *waiter) error {
	if w.since >= p.refusedAt+refusedFor {
		return nil
	}
	return p.refusal
}

// unreserve says that the opening of a slot was given up.
func (p *policy) unreserve(now int64, i int) {
	p.slots[i].state = slotEmpty
	p.opening--
	p.grow(now)
}

// close ends all waiting. It returns the slots that are idle, which are empty from now on.
func (p *policy) close(now int64) (idle []int) {
	p.closed = true
	p.opens = p.opens[:0]
	p.dismiss(now, p.serial, ErrClosed)
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

// give hands an idle slot to somebody in line.
func (p *policy) give(now int64, i int, w *waiter) {
	if !p.homeless(w.key) {
		p.count(i == w.homes[0], w.anywhere)
	}
	p.hand(now, i, w.key)
	p.settle(now, w, i, nil)
}

// hand takes an idle slot into use.
func (p *policy) hand(now int64, i int, key string) {
	s := &p.slots[i]
	p.stats.taken++
	s.key = key
	p.wake(i)
	s.state, s.held, s.since = slotBusy, false, now
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
