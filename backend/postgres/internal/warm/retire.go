package warm

import (
	"context"
	"time"
)

// succession is how far the exchange of a slot's connection has come.
type succession uint8

// retireEvery is the least time between two tries to find a successor, when the last one failed.
const retireEvery = int64(time.Second)

// retire opens a successor for a slot's connection, which is used until then. One at a time: there is never more than one
// connection above the pool's limit.
func (k *Keeper[C]) retire(now int64, i int) {
	if k.retiring || k.p.closed || now < k.retireAfter || now < k.p.refusedUntil {
		return
	}
	for j := range k.slots {
		if k.slots[j].loose && j != i {
			return
		}
	}
	k.retiring, k.slots[i].loose = true, true
	k.pool.Detach(k.slots[i].conn)
	go k.succession(i)
}

func (k *Keeper[C]) succession(i int) {
	c, err := k.connect(context.Background())
	k.mu.Lock()
	now := k.now()
	k.retiring = false
	s := &k.slots[i]
	gone, give, spent := c, err == nil, false // c, where nobody needs it
	switch state := k.p.slots[i].state; {
	case err != nil && k.p.there == 1:
		// Better an old one than none. It is tried again.
		k.retireAfter = now + retireEvery
	case err != nil && state == slotIdle:
		gone, give, spent = s.conn, true, true
		s.loose = false
		k.retired++
		k.p.vacate(now, i)
	case err != nil && state == slotBusy:
		s.succeed = goesWithout
		k.retired++
	case err != nil || k.p.closed:
	case state == slotIdle:
		gone, spent = s.conn, true
		s.next = c
		k.replace(i)
	case state == slotBusy:
		s.next, s.succeed, give = c, hasSuccessor, false
	case state == slotEmpty:
		// It broke in the meantime.
		k.p.reserveSlot(i)
		give = !k.install(now, i, c)
	}
	k.unlock(context.Background())
	if give {
		k.pool.GiveBack(gone, spent)
	}
}

// replace puts a slot's successor in the place of its connection.
func (k *Keeper[C]) replace(i int) {
	var none C
	s := &k.slots[i]
	s.conn, s.next, s.succeed, s.loose = s.next, none, stays, false
	k.p.renew(i)
	k.retired++
}
