package tenancy

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tenement-go/tenement/backend"
)

// maxOperations is how many operations of one process are under way at once, those apart that another one began within
// OnCreate: on Postgres each holds a connection outside the pool for its lock.
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

// withTenant calls fn while holding the tenant's lock. Within the context that fn gets, changes of stores fail once the
// lock was lost. It returns a *StatusError within fn itself: waiting for oneself would not end.
func (a *App) withTenant(ctx context.Context, op string, id ID, fn func(ctx context.Context, h *held) error) error {
	outer, _ := ctx.Value(heldKey{}).([]ID)
	if slices.Contains(outer, id) {
		return &StatusError{Op: op, Slug: string(id), Status: "being worked on", Remedy: "OnCreate cannot do that to its own tenant"}
	}
	if len(outer) == 0 {
		// Who is inside of an operation already may go on, or eight of them could wait for each other.
		if err := a.operations.Acquire(ctx, 1); err != nil {
			return context.Cause(ctx)
		}
		defer a.operations.Release(1)
	}
	lock, err := a.locker.Lock(ctx, "tenement/tenant/"+string(id))
	if err != nil {
		return err
	}
	defer lock.Unlock()
	ctx = context.WithValue(lock.Fence(ctx), heldKey{}, append(slices.Clip(outer), id))
	return fn(ctx, &held{Lock: lock, id: id})
}

// tryTenant is withTenant for those who do not want to wait. busy says that somebody else has the lock.
func (a *App) tryTenant(ctx context.Context, op string, id ID, fn func(ctx context.Context, h *held) error) (busy bool, err error) {
	short, cancel := context.WithTimeoutCause(ctx, busyAfter, errBusy)
	defer cancel()
	got := false
	err = a.withTenant(short, op, id, func(inside context.Context, h *held) error {
		got = true
		// The deadline was for the lock, not for what is done with it.
		return fn(detach{inside, ctx}, h)
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
