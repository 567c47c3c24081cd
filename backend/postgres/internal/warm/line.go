package warm

// waiter is one caller in line.
type waiter struct {
	key     string
	hash    uint64 // of the key, where that has homes
	homes   homes
	rank    int    // up to which of them it waits for
	since   int64  // when it came
	due     int64  // when it is overdue
	arrival uint64 // its serial number
	again   int64  // when tick is to be called next; 0: never, it is overdue
	late    bool
	// anywhere says that any slot is as good: it is of no store, or of one that all connections know.
	anywhere bool

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

// join puts w, whom take has given nothing, in line. It may be given something all the same.
func (p *policy) join(now int64, w *waiter, key string) {
	w.key, w.slot, w.err, w.late, w.rank = key, -1, nil, false, -1
	w.since, w.due, w.again = now, now, 0
	w.homes, w.anywhere = noHomes, true
	if !p.homeless(key) {
		w.hash = hash(key)
		w.homes, w.anywhere = p.homesOf(w.hash), p.anywhere(w.hash)
	}
	if !w.anywhere {
		w.due += p.waits()
	}
	p.serial++
	w.arrival = p.serial
	p.stats.waited++
	if p.closed {
		p.settle(now, w, -1, ErrClosed)
		return
	}
	p.line.push(&w.inLine)
	p.look(now, w)
	if w.slot < 0 {
		p.grow(now)
	}
}

// waits is how long one waits for a home: longer where uses take long, since the line there does, too.
func (p *policy) waits() int64 {
	return max(p.wait, min(dozen*p.usual, longest*p.wait))
}

// ticks is tick for everybody whose time has come; and what could not be opened before may be now.
func (p *policy) ticks(now int64) {
	due := p.due[:0] // looking moves them between the lists, and takes others off
	for n := p.line.first; n != nil; n = n.next {
		if n.w.again <= now {
			due = append(due, n.w)
		}
	}
	for _, w := range due {
		p.tick(now, w)
	}
	clear(due)
	p.due, p.soonest = due, 0
	for n := p.line.first; n != nil; n = n.next {
		p.callBy(n.w.again)
	}
	p.grow(now)
}

// callBy has ticks called at a time, or before.
func (p *policy) callBy(at int64) {
	if p.soonest == 0 || at < p.soonest {
		p.soonest = at
	}
}

// remind has tick called for w at a time, or before.
func (p *policy) remind(w *waiter, at int64) {
	w.again = at
	p.callBy(at)
}

// tick looks again at w, whose time has come.
func (p *policy) tick(now int64, w *waiter) {
	if w.slot < 0 && w.err == nil && !w.late {
		p.look(now, w)
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
			if until := s.since + max(p.brief, usuals*p.usual); s.state == slotBusy && !s.held && now < until {
				p.remind(w, min(until, w.due))
				return
			}
		}
	}
	p.expire(w)
	p.serveLate(now)
	if w.slot < 0 {
		p.grow(now)
	}
}

// expire makes w overdue.
func (p *policy) expire(w *waiter) {
	p.line.remove(&w.inLine)
	w.late, w.again = true, 0
	p.late.push(&w.inLine)
	if !w.anywhere {
		p.stats.overdue++
	}
}

// serveLate gives what is idle to those who are overdue.
func (p *policy) serveLate(now int64) {
	for p.idle > 0 && p.late.first != nil {
		w := p.late.first.w
		p.give(now, p.bestIdle(w), w)
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
		if (own == nil || n.w.arrival < own.arrival) && n.w.anywhere {
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

// dismiss ends the waiting of all who have come by then with an error.
func (p *policy) dismiss(now int64, serial uint64, err error) {
	for _, l := range []*list{&p.late, &p.line} {
		for n := l.first; n != nil; {
			w := n.w
			n = n.next
			if w.arrival <= serial {
				p.settle(now, w, -1, err)
			}
		}
	}
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
