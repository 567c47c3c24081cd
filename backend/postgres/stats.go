package postgres

import "time"

// Stats are figures of the connections that a backend's handles share. [database/sql.DB.Stats] of a handle knows nothing
// of them: what it counts are calls.
type Stats struct {
	Max          int           // how many connections there may be
	InUse, Idle  int           // how many there are
	Acquired     int64         // how often one was taken
	Waited       int64         // how often none was idle
	WaitDuration time.Duration // how long it took to take them, in all
	Canceled     int64         // how often a caller gave up waiting
	Opened       int64         // how many were opened
}

// Stats returns the figures of now. It is safe for concurrent use, also after Close.
func (be *Backend) Stats() Stats {
	s := be.pool.Stat()
	return Stats{
		Max: int(s.MaxConns()), InUse: int(s.AcquiredConns()), Idle: int(s.IdleConns()),
		Acquired: s.AcquireCount(), Waited: s.EmptyAcquireCount(), WaitDuration: s.AcquireDuration(),
		Canceled: s.CanceledAcquireCount(), Opened: s.NewConnsCount(),
	}
}
