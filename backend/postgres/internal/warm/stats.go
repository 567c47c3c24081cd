package warm

import (
	"time"
)

// Stats are counts since the Keeper was made, and what is now.
type Stats struct {
	// Taken counts loans, Home those by a store's home, and Seen those by another connection since all are to know the store.
	Taken, Home, Seen uint64
	// Waited counts who had to stand in line, Overdue those of them who waited for a home in vain or to no purpose,
	// Canceled those who left. WaitDuration is how long they stood there, in all.
	Waited, Overdue, Canceled uint64
	WaitDuration              time.Duration
	// Retired counts connections that had seen too much.
	Retired uint64
	// Conns, Idle and Held count connections, Waiting those in line, now. Held are those of Keeper.Hold, and of TakeApart.
	Conns, Idle, Held, Waiting int
	// Usual is about the median of how long a connection is used that is not held.
	Usual time.Duration
}

// Stats returns the counts.
func (k *Keeper[C]) Stats() Stats {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := k.p.stats
	return Stats{
		Taken: c.taken, Home: c.home, Seen: c.seen, Waited: c.waited, Overdue: c.overdue, Canceled: c.canceled,
		WaitDuration: time.Duration(c.waitTime), Retired: k.retired,
		Conns: k.p.there, Idle: k.p.idle + len(k.apart), Held: k.p.held(), Waiting: k.p.line.n + k.p.late.n,
		Usual: time.Duration(k.p.usual),
	}
}
