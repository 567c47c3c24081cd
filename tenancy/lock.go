package tenancy

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/tenement-go/tenement/backend"
)

// maxOperations is how many operations of one process are under way at once, those apart that another one began within
// OnCreate: more would not be over sooner, and requests would feel them.
const maxOperations = 8

// busyAfter is how long a lock must be held against somebody who only wants to know, for them to take the operation as
// being under way.
const busyAfter = 300 * time.Millisecond

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
	lock, err := a.locker.Lock(ctx, key)
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
	short, cancel := context.WithTimeoutCause(ctx, busyAfter, errBusy)
	defer cancel()
	got := false
	err = a.withLock(short, op, kind, name, func(inside context.Context, lock backend.Lock) error {
		got = true
		// The deadline was for the lock, not for what is done with it.
		return fn(detach{inside, ctx}, lock)
	})
	if !got && short.Err() != nil && ctx.Err() == nil {
		return true, nil
	}
	return false, err
}

var errBusy = fmt.Errorf("somebody else is at work on the tenant")

// detach has the values of one context and the end of another.
type detach struct {
	context.Context
	ends context.Context
}

func (d detach) Deadline() (time.Time, bool) { return d.ends.Deadline() }
func (d detach) Done() <-chan struct{}       { return d.ends.Done() }
func (d detach) Err() error                  { return d.ends.Err() }
