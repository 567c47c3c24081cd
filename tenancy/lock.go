package tenancy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/tenement-go/tenement/backend"
)

// maxOperations is how many operations of one process are under way at once, those apart that another one began within
// OnCreate: more would not be over sooner, and requests would feel them.
const maxOperations = 8

// busyAfter is how long a lock must be refused to somebody who only wants to know, for them to take the operation as being
// under way: one whose process died a moment ago, or is nearly over, is not.
const busyAfter = 300 * time.Millisecond

// toldWithin is how long they wait to be told. Who is not told knows nothing of others, and fails.
const toldWithin = 10 * time.Second

// held is a tenant's lock. It excludes others who make, rename or purge that tenant, in all processes. It dies with the
// process, so whoever gets it and finds an operation knows that nobody is at work on that.
type held struct {
	backend.Lock
	id ID
}

type heldKey struct{}

// withTenant calls fn while holding the tenant's lock. Within the context that fn gets, changes of stores and work in them
// fail once the lock was lost. It returns a *StatusError within fn itself: waiting for oneself would not end.
func (a *App) withTenant(ctx context.Context, op string, id ID, fn func(ctx context.Context, h *held) error) error {
	return a.withLock(ctx, op, "tenant", string(id), func(ctx context.Context, lock backend.Lock) error {
		return fn(ctx, &held{Lock: lock, id: id})
	})
}

// withStore calls fn while holding the lock of a store's name: for what is done to stores that are no tenant's, which no
// tenant's lock excludes others from. It is taken before that of a tenant, never after.
func (a *App) withStore(ctx context.Context, op string, s backend.Store, fn func(ctx context.Context, lock backend.Lock) error) error {
	return a.withLock(ctx, op, "store", s.String(), fn)
}

func (a *App) withLock(ctx context.Context, op, kind, name string, fn func(ctx context.Context, lock backend.Lock) error) error {
	return a.underLock(ctx, op, kind, name, a.locker.Lock, fn)
}

// underLock calls fn with the lock that take gets.
func (a *App) underLock(ctx context.Context, op, kind, name string, take func(ctx context.Context, key string) (backend.Lock, error),
	fn func(ctx context.Context, lock backend.Lock) error,
) error {
	key := "tenement/" + kind + "/" + name
	outer, _ := ctx.Value(heldKey{}).([]string)
	if slices.Contains(outer, key) {
		return &StatusError{Op: op, Slug: name, Status: "being worked on", Remedy: "OnCreate cannot do that to its own " + kind}
	}
	if len(outer) == 0 {
		// Who is inside of an operation already may go on, or eight of them could wait for each other.
		if err := a.operations.Acquire(ctx, 1); err != nil {
			return context.Cause(ctx)
		}
		defer a.operations.Release(1)
	}
	lock, err := take(ctx, key)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	inside := &locked{Context: context.WithValue(lock.Fence(ctx), heldKey{}, append(slices.Clip(outer), key)), before: ctx}
	err = fn(inside, lock)
	inside.over.Store(err == nil)
	return err
}

// locked is the context of what is done under a lock. What outlives that, such as a goroutine that OnCreate has begun, goes
// on as if there had never been a lock; but where it did not end well, the lock's fence keeps it from what others make in
// the place of what they found.
type locked struct {
	context.Context
	before context.Context
	over   atomic.Bool // it ended well
}

// Value is looked up without the lock once that is over.
func (l *locked) Value(key any) any {
	if l.over.Load() {
		return l.before.Value(key)
	}
	return l.Context.Value(key)
}

// tryTenant is withTenant for those who do not want to wait. busy says that somebody else has the lock.
func (a *App) tryTenant(ctx context.Context, op string, id ID, fn func(ctx context.Context, h *held) error) (busy bool, err error) {
	return a.tryLock(ctx, op, "tenant", string(id), func(ctx context.Context, lock backend.Lock) error {
		return fn(ctx, &held{Lock: lock, id: id})
	})
}

func (a *App) tryLock(ctx context.Context, op, kind, name string, fn func(ctx context.Context, lock backend.Lock) error) (busy bool, err error) {
	err = a.underLock(ctx, op, kind, name, func(ctx context.Context, key string) (lock backend.Lock, err error) {
		lock, err = a.lockIfFree(ctx, key)
		busy = errors.Is(err, backend.ErrBusy)
		return lock, err
	}, fn)
	if busy {
		return true, nil
	}
	return false, err
}

// lockIfFree takes a lock unless that is refused for longer than busyAfter: then it returns ErrBusy. What comes before the
// first refusal, such as connecting, may take its time.
func (a *App) lockIfFree(ctx context.Context, key string) (backend.Lock, error) {
	asking, cancel := context.WithTimeout(ctx, toldWithin)
	defer cancel()
	const pause = 25 * time.Millisecond
	var patience <-chan time.Time
	for {
		lock, err := a.locker.TryLock(asking, key)
		switch {
		case err == nil:
			return lock, nil
		case errors.Is(err, backend.ErrBusy):
		case asking.Err() != nil && ctx.Err() == nil:
			return nil, fmt.Errorf("whether somebody is at work is not known after %v: %w", toldWithin, err)
		default:
			return nil, err
		}
		if patience == nil {
			patience = time.After(busyAfter)
		}
		select {
		case <-patience:
			return nil, err
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
