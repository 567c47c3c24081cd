package placed

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/tenement-go/tenement/backend"
)

// Lock is home's; see [backend.Locker] and the package's documentation.
func (b *Backend) Lock(ctx context.Context, key string) (backend.Lock, error) {
	return b.lock(ctx, key, backend.Locker.Lock)
}

// TryLock is home's, as is Lock.
func (b *Backend) TryLock(ctx context.Context, key string) (backend.Lock, error) {
	return b.lock(ctx, key, backend.Locker.TryLock)
}

func (b *Backend) lock(ctx context.Context, key string, take func(backend.Locker, context.Context, string) (backend.Lock, error)) (backend.Lock, error) {
	if b.closed.Load() {
		return nil, &backend.Error{Op: "lock", Err: backend.ErrClosed}
	}
	held, err := take(b.home.be.(backend.Locker), ctx, key)
	if err != nil {
		return nil, err
	}
	return &lock{home: held, key: key}, nil
}

// lock is a key that is held at home and, once something was done there, in other places too.
type lock struct {
	home backend.Lock
	key  string

	mu   sync.Mutex
	at   map[*opened]backend.Lock
	over bool
}

var _ backend.Lock = (*lock)(nil)

type fenceKey struct{}

// Fence returns a context that home's own operations understand, and those of the other places by way of enter.
func (l *lock) Fence(ctx context.Context) context.Context {
	return context.WithValue(l.home.Fence(ctx), fenceKey{}, l)
}

func (l *lock) Check(ctx context.Context) error { return l.home.Check(ctx) }

// Unlock gives up the places first: who gets home's lock then need not wait there.
func (l *lock) Unlock() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	for _, there := range l.at {
		there.Unlock()
	}
	l.at = nil
	l.home.Unlock()
}

// in returns the place's lock of the key. Home's is looked at again once that is held: had it been lost before, then
// somebody else could have been in the place meanwhile; and whoever gets home's after that waits for the place's, once he
// changes something there. Who only looks (Stat) does not wait.
func (l *lock) in(ctx context.Context, o *opened) (backend.Lock, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	there := l.at[o]
	if there == nil && !l.over {
		var err error
		if there, err = o.be.(backend.Locker).Lock(ctx, l.key); err != nil {
			return nil, err
		}
		if l.at == nil {
			l.at = map[*opened]backend.Lock{}
		}
		l.at[o] = there
	}
	// Asked each time: it also says so once the lock was given up.
	return there, l.home.Check(ctx)
}

// lostCheck is how often somebody who waits for a name looks whether his own lock is held.
const lostCheck = 250 * time.Millisecond

// lockName waits for a name, but no longer than the lock is held that fences ctx. Locks of home can be lost while a place's is
// not: then whoever got home's may have the name, and wait for that one.
func (b *Backend) lockName(ctx context.Context, s backend.Store) (backend.Lock, error) {
	home := b.home.be.(backend.Locker)
	l, fenced := ctx.Value(fenceKey{}).(*lock)
	if !fenced {
		return home.Lock(ctx, nameKey(s))
	}
	ctx, stop := l.whileHeld(ctx)
	defer stop()
	name, err := home.Lock(ctx, nameKey(s))
	if lost := context.Cause(ctx); err != nil && errors.Is(lost, backend.ErrLockLost) {
		err = lost
	}
	return name, err
}

// whileHeld returns a context that ends when the lock is lost, with that as its cause. Callers call stop.
func (l *lock) whileHeld(ctx context.Context) (_ context.Context, stop func()) {
	ctx, end := context.WithCancelCause(ctx)
	go func() {
		ticker := time.NewTicker(lostCheck)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			}
			if err := l.Check(ctx); errors.Is(err, backend.ErrLockLost) {
				end(err)
			}
		}
	}()
	return ctx, func() { end(nil) }
}

// enter opens a place, for what is done there in ctx; see fence.
func (b *Backend) enter(ctx context.Context, p *place) (*opened, context.Context, error) {
	o, err := p.open(ctx)
	if err != nil {
		return nil, nil, err
	}
	ctx, err = b.fence(ctx, o)
	return o, ctx, err
}

// fence makes of a context that a lock fences one that a place's backend understands.
func (b *Backend) fence(ctx context.Context, o *opened) (context.Context, error) {
	l, fenced := ctx.Value(fenceKey{}).(*lock)
	if !fenced || o == b.home {
		return ctx, nil
	}
	there, err := l.in(ctx, o)
	if err != nil {
		return nil, err
	}
	return there.Fence(ctx), nil
}
