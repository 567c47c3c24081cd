package postgres

import (
	"time"

	"github.com/tenement-go/tenement/backend"
)

// Stats are figures of the connections that a backend's handles share. [database/sql.DB.Stats] of a handle knows nothing
// of them: what it counts are calls. Those without a word about time count since the backend was opened.
type Stats struct {
	Max          int           // how many connections there may be
	InUse, Idle  int           // how many there are now
	Waiting      int           // how many callers wait for one now
	Acquired     int64         // how often one was taken
	Waited       int64         // how often a caller had to wait: for a connection, or for its store's home
	WaitDuration time.Duration // how long they waited, in all
	Canceled     int64         // how often a caller gave up waiting
	Opened       int64         // how many were opened

	// How often a store was served by its home, and by another connection because all of them are to know the store; and how
	// often a caller was given whatever was free, after it had waited for its home in vain or where that was not worth it.
	AtHome, Seen, Overdue int64
	// FirstSights counts pairs of store and text that a connection ran for the first time, up to [Config.FirstSights] of each
	// connection, and none behind a pooler; Retired the connections that were closed because of how many they had run, or of
	// their age.
	FirstSights, Retired int64
}

// Stats returns the figures of now. It is safe for concurrent use, also after Close.
func (be *Backend) Stats() Stats {
	k, s := be.warm.Stats(), be.pool.Stat()
	return Stats{
		Max: be.maxConns, InUse: k.Conns - k.Idle, Idle: k.Idle + int(s.IdleConns()), Waiting: k.Waiting,
		Acquired: int64(k.Taken), Waited: int64(k.Waited), WaitDuration: k.WaitDuration, Canceled: int64(k.Canceled),
		Opened: s.NewConnsCount(),
		AtHome: int64(k.Home), Seen: int64(k.Seen), Overdue: int64(k.Overdue),
		FirstSights: be.firstSights.Load(), Retired: int64(k.Retired),
	}
}

var _ backend.Bounded = (*Backend)(nil)

// Concurrency returns the size of the pool; see [backend.Bounded].
func (be *Backend) Concurrency() int { return int(be.pool.Config().MaxConns) }
