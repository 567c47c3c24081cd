package warm

import "context"

// TakeApart lends a connection for work that goes through every store, and would leave all of them in its caches: it
// serves nothing else, and is closed when nobody has taken it again for a while. It is a new one where there is room.
func (k *Keeper[C]) TakeApart(ctx context.Context) (Lease[C], error) {
	k.mu.Lock()
	i, now := -1, k.now()
	switch n := len(k.apart); {
	case k.p.closed:
	case n > 0:
		i = k.apart[n-1]
		k.apart = k.apart[:n-1]
		l := k.lease(i)
		l.apart = true
		k.mu.Unlock()
		return l, nil
	case now >= k.p.refusedUntil:
		i = k.p.reserve()
	}
	k.mu.Unlock()
	if i >= 0 {
		if l, err, ok := k.openApart(ctx, i); ok {
			return l, err
		}
	}
	l, err := k.Take(ctx, "")
	if err != nil {
		return l, err
	}
	k.mu.Lock()
	l = k.setApart(l.slot)
	k.unlock(ctx)
	return l, nil
}

// openApart opens a connection for TakeApart. It is not ok when the pool turns out to be full.
func (k *Keeper[C]) openApart(ctx context.Context, i int) (l Lease[C], err error, ok bool) {
	c, err := k.pool.Open(ctx)
	k.mu.Lock()
	now := k.now()
	ok = true
	switch {
	case err != nil && ctx.Err() != nil:
		k.p.unreserve(now, i)
	case err != nil:
		ok = k.p.there == 0
		k.p.failed(now, i, err)
	case k.p.closed:
		k.p.unreserve(now, i)
		err = ErrClosed
		defer k.pool.GiveBack(c, false)
	default:
		k.slots[i].conn = c
		k.p.arrive(now, i)
		l = k.setApart(i)
	}
	k.unlock(ctx)
	return l, err, ok
}

func (k *Keeper[C]) setApart(i int) Lease[C] {
	k.p.setApart(k.now(), i)
	l := k.lease(i)
	l.apart = true
	return l
}

// keepApart keeps a connection for the next TakeApart, or gives it to somebody who is overdue in the meantime. Not one beyond
// Keep, for which others wait in the pool: a fleet run would have it for as long as it goes on.
func (k *Keeper[C]) keepApart(now int64, l Lease[C], fate Fate) bool {
	s := &k.slots[l.slot]
	if l.apart {
		s.until = now + int64(k.cfg.ApartIdle)
	}
	if fate != Reuse || k.p.closed || l.slot >= k.cfg.Keep || now >= s.until {
		return false
	}
	k.apart = append(k.apart, l.slot)
	k.relieve(now)
	k.sweepIn(now, k.cfg.ApartIdle)
	return true
}

// part takes a connection that is kept for TakeApart out of service, and returns what is to be given back: with it goes the
// successor that it has got since it was given, which would have its place in the pool for good.
func (k *Keeper[C]) part(now int64, i int) (spent []C) {
	s := &k.slots[i]
	spent = append(spent, s.conn)
	if s.succeed == hasSuccessor {
		spent = append(spent, s.next)
	}
	s.succeed, s.loose = stays, false
	k.p.vacate(now, i)
	return spent
}

// relieve lends connections that are kept for TakeApart to those who are overdue.
func (k *Keeper[C]) relieve(now int64) {
	for len(k.apart) > 0 && k.p.late.first != nil {
		i := k.apart[len(k.apart)-1]
		k.apart = k.apart[:len(k.apart)-1]
		k.p.lend(now, i)
	}
}
