package migrate

import (
	"context"
	"runtime"

	"golang.org/x/sync/semaphore"

	"github.com/tenement-go/tenement/backend"
)

// slots bound what a Migrator does at once: whoever works on a store holds one, be it a fleet run, a lazy migration or a
// Provision. Who holds one uses a single connection of the pool at a time, and waits for locks of stores, never for another
// slot; who holds a store's lock has a slot. So nobody waits in a circle, whatever the size of the pool.
type slots struct {
	*semaphore.Weighted
	size int
}

func newSlots(be backend.Backend) slots {
	// Files have connections of their own.
	n := 2 * runtime.GOMAXPROCS(0)
	if b, ok := be.(backend.Bounded); ok {
		// The other half is for those who serve requests meanwhile.
		n = b.Concurrency() / 2
	}
	n = max(n, 1)
	return slots{Weighted: semaphore.NewWeighted(int64(n)), size: n}
}

// slot waits for a slot. free gives it back, once.
func (m *Migrator) slot(ctx context.Context) (free func(), err error) {
	if err := m.slots.Acquire(ctx, 1); err != nil {
		return nil, context.Cause(ctx)
	}
	return func() { m.slots.Release(1) }, nil
}

// lock excludes other migrators, in this process and in others. Callers hold a slot.
func (m *Migrator) lock(ctx context.Context, key string) (backend.Lock, error) {
	if m.locks != nil {
		return m.locks.Lock(ctx, "tenement/migrate/"+key)
	}
	leave, err := m.local.Enter(ctx, key)
	if err != nil {
		return nil, err
	}
	return localLock{leave}, nil
}

// tryLock is lock without waiting: it returns an error that wraps backend.ErrBusy when somebody has the key.
func (m *Migrator) tryLock(ctx context.Context, key string) (backend.Lock, error) {
	if m.locks != nil {
		return m.locks.TryLock(ctx, "tenement/migrate/"+key)
	}
	leave, ok := m.local.TryEnter(key)
	if !ok {
		return nil, backend.ErrBusy
	}
	return localLock{leave}, nil
}

// localLock is for a backend that cannot exclude other processes.
type localLock struct{ leave func() }

var _ backend.Lock = localLock{}

// Fence implements backend.Lock: a lock of this process is not lost.
func (localLock) Fence(ctx context.Context) context.Context { return ctx }

// Check implements backend.Lock.
func (localLock) Check(context.Context) error { return nil }

// Unlock implements backend.Lock.
func (l localLock) Unlock() { l.leave() }
