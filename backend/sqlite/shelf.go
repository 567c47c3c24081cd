package sqlite

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/sync/semaphore"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/broken"
)

// shelf holds the stores that are open, within bounds: past them those that were unused for longest are closed.
type shelf struct {
	b    *Backend
	most int                 // stores that may be open
	room *semaphore.Weighted // of them, those that are not
	trim chan struct{}       // tells the janitor that the shelf is full

	mu      sync.Mutex
	shut    bool
	stores  *simplelru.LRU[backend.Store, *store] // it bounds nothing: what is in use must stay
	leaving map[*store]struct{}                   // off the shelf, and in use
	count   int                                   // open, leaving or closing
	waiting int                                   // callers who wait for room
}

func newShelf(b *Backend, most int) *shelf {
	stores, _ := simplelru.NewLRU[backend.Store, *store](math.MaxInt, nil) // it fails for a size below 1
	return &shelf{
		b: b, most: most, room: semaphore.NewWeighted(int64(most)), trim: make(chan struct{}, 1), stores: stores,
		leaving: make(map[*store]struct{}),
	}
}

// phase is where a store is in its life. The shelf alone changes it, with its lock held.
//
//	opening ──► open ──► closing ──► closed    nobody used it when its room was wanted, or it was lost
//	   │          └────► leaving ──► closed    it was lost or retired while in use: its last user closes it
//	   └───────────────────────────► closed    it could not be opened
//	blocked ───────────────────────► closed    no store, but the place of one that Drop or Rename is busy with
//
// A store is on the shelf while it is opening, open, closing or blocked. Whoever asks for it then waits in all of these
// but open: two that open a file while its last connection closes run into SQLite's locks, and its waits are longer.
type phase uint8

const (
	opening phase = iota
	open
	leaving
	closing
	blocked
	closed
)

// acquire returns the open store that rt names, opening it if need be. The caller releases it.
func (sh *shelf) acquire(ctx context.Context, rt backend.Route) (*store, error) {
	for {
		st, err := sh.lookup(ctx, rt.Store)
		if err != nil {
			return nil, err
		}
		if sh.b.now()-time.Duration(st.checked.Load()) > noticeWithin {
			if err := st.verify(); err != nil {
				sh.release(st)
				if errors.Is(err, backend.ErrStoreMissing) {
					continue // opening it says whether there is another one of that name
				}
				return nil, err
			}
		}
		if rt.Owner != "" && rt.Owner != st.owner && !broken.Stamp {
			sh.release(st)
			return nil, errOtherOwner
		}
		return st, nil
	}
}

// lookup returns the store from those that are open, or opens it. Concurrent callers open it once.
func (sh *shelf) lookup(ctx context.Context, name backend.Store) (*store, error) {
	st, wait, err := sh.claim(name)
	if err != nil || wait == nil {
		return st, err
	}
	limited, cancel := limit(ctx, sh.b.ownWait(ctx))
	defer cancel()
	for ; err == nil && wait != nil; st, wait, err = sh.claim(name) {
		if st == nil {
			err = sh.await(limited, wait)
		} else if err = sh.open(ctx, st); err == nil { // it was ours to open
			return st, nil
		} else if errors.Is(err, errMoving) {
			err = sh.b.waitForMove(limited, name)
		}
		if err != nil {
			return nil, sh.inTime(ctx, limited, err)
		}
	}
	return st, err
}

// await waits for what others do to a store, and returns what they failed for if the caller would too.
func (sh *shelf) await(ctx context.Context, wait *event) error {
	select {
	case <-wait.done:
		if openersOwn(wait.err) {
			return nil
		}
		return wait.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// inTime returns ErrBusy for an error that says no more than that limited, which ctx goes on without, has ended.
func (sh *shelf) inTime(ctx, limited context.Context, err error) error {
	if over := limited.Err(); over != nil && ctx.Err() == nil && errors.Is(err, over) {
		return fmt.Errorf("%w: whoever opens, closes or moves it has taken longer than %v; try again: %w", ErrBusy, sh.b.cfg.BusyTimeout, err)
	}
	return err
}

// openersOwn reports whether an error is about whoever tried to open a store, and how long he would wait, not about the store:
// another may try.
func openersOwn(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errMoving) ||
		errors.Is(err, backend.ErrBusy)
}

// event is something that others wait for.
type event struct {
	done chan struct{}
	err  error // set before done is closed
}

func newEvent() *event { return &event{done: make(chan struct{})} }

// claim counts the caller as a user of the store when it is open. Else it returns what to wait for, and with it the store
// when the caller is the one to open it.
func (sh *shelf) claim(name backend.Store) (*store, *event, error) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.shut {
		return nil, nil, backend.ErrClosed
	}
	st, ok := sh.stores.Get(name)
	switch {
	case !ok:
		st = sh.b.newStore(name, sh.b.path(name))
		st.shelved, st.users = true, 1
		sh.stores.Add(name, st)
		return st, st.opened, nil
	case st.phase == open:
		st.users++
		return st, nil, nil
	case st.phase == opening:
		return nil, st.opened, nil
	default:
		return nil, st.over, nil
	}
}

// open makes st, which is on the shelf and has its opener for a user, ready for use; failing that it takes it off again.
func (sh *shelf) open(ctx context.Context, st *store) error {
	err := sh.makeRoom(ctx)
	if err == nil {
		if err = st.open(ctx); err != nil {
			st.closeIdle()
			sh.room.Release(1)
		}
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if err == nil && sh.shut {
		err = backend.ErrClosed
		st.closeIdle()
		sh.room.Release(1)
	}
	if err != nil {
		st.phase = closed
		sh.forget(st)
		st.users = 0
		st.opened.err = err
		close(st.over.done)
	} else {
		st.phase = open
		sh.count++
		if sh.count >= sh.most {
			sh.askToTrim()
		}
	}
	close(st.opened.done)
	return err
}

// forget takes the store off the shelf. The caller holds sh.mu.
func (sh *shelf) forget(st *store) {
	if on, _ := sh.stores.Peek(st.name); on == st {
		sh.stores.Remove(st.name)
	}
}

// makeRoom gets leave to open one more store, closing those that were unused for longest if need be.
func (sh *shelf) makeRoom(ctx context.Context) error {
	for !sh.room.TryAcquire(1) {
		if !sh.closeOldest(true) {
			return sh.waitForRoom(ctx)
		}
	}
	return nil
}

// waitForRoom waits until a store is let go of: whoever does that closes it.
func (sh *shelf) waitForRoom(ctx context.Context) error {
	limited, cancel := limit(ctx, sh.b.ownWait(ctx))
	defer cancel()
	err := sh.room.Acquire(limited, 1)
	sh.mu.Lock()
	sh.waiting--
	sh.mu.Unlock()
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w: all of the %d stores that may be open are in use; raise max_open", ErrBusy, sh.most)
	}
	return err
}

// closeOldest closes the store that was unused for longest. It returns false when all are in use; with wait the caller
// then counts among those who wait for room.
func (sh *shelf) closeOldest(wait bool) bool {
	st := sh.oldest(wait)
	if st == nil {
		return false
	}
	sh.dispose(st)
	return true
}

func (sh *shelf) oldest(wait bool) *store {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for range sh.stores.Len() {
		name, st, _ := sh.stores.GetOldest()
		if st.phase == open && st.users == 0 {
			st.phase = closing
			return st
		}
		sh.stores.Get(name) // in use: it is not the oldest
	}
	if wait {
		sh.waiting++
	}
	return nil
}

// release takes a user off an open store.
func (sh *shelf) release(st *store) {
	if st.shelved && sh.leave(st) {
		sh.dispose(st)
	}
}

// leave reports whether the store is to be closed, since its last user left and nobody wants it any more.
func (sh *shelf) leave(st *store) bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	st.users--
	if st.users > 0 {
		return false
	}
	if st.phase == open && (sh.waiting > 0 || sh.shut) {
		st.phase = closing
	}
	return st.phase != open
}

// retire takes an open store off the shelf: those who have it finish with it, whoever comes next opens the file afresh.
func (sh *shelf) retire(st *store) {
	if sh.part(st) {
		sh.dispose(st)
	}
}

// part reports whether the store is to be closed, since nobody has it.
func (sh *shelf) part(st *store) bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if st.phase != open {
		return false
	}
	if st.users > 0 {
		st.phase = leaving
		sh.leaving[st] = struct{}{}
		sh.forget(st)
		return false
	}
	st.phase = closing
	return true
}

// retireName is retire for whatever store has the name.
func (sh *shelf) retireName(name backend.Store) {
	if st := sh.peek(name); st != nil {
		sh.retire(st)
	}
}

// peek returns the store of a name when it is open.
func (sh *shelf) peek(name backend.Store) *store {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if st, ok := sh.stores.Peek(name); ok && st.phase == open {
		return st
	}
	return nil
}

// use is peek, with the caller counted as a user.
func (sh *shelf) use(name backend.Store) *store {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	st, ok := sh.stores.Peek(name)
	if !ok || st.phase != open {
		return nil
	}
	st.users++
	return st
}

// dispose closes a store that is closing or leaving and has no user.
func (sh *shelf) dispose(st *store) {
	st.closeIdle()
	sh.mu.Lock()
	st.phase = closed
	sh.forget(st)
	delete(sh.leaving, st)
	sh.count--
	close(st.over.done)
	sh.mu.Unlock()
	sh.room.Release(1)
}

// block keeps this process from opening the store, and ends what it has open; those who want it wait until unblock.
func (sh *shelf) block(ctx context.Context, name backend.Store) (unblock func(), err error) {
	barrier := &store{name: name, phase: blocked, over: newEvent()}
	limited, cancel := limit(ctx, sh.b.ownWait(ctx))
	defer cancel()
	for {
		lost, wait := sh.replace(name, barrier)
		if wait == nil {
			for _, st := range lost {
				st.lose(backend.ErrStoreMissing)
			}
			break
		}
		select {
		case <-wait.done:
		case <-limited.Done():
			return nil, sh.inTime(ctx, limited, limited.Err())
		}
	}
	return func() {
		sh.mu.Lock()
		defer sh.mu.Unlock()
		barrier.phase = closed
		sh.forget(barrier)
		close(barrier.over.done)
	}, nil
}

// replace puts barrier in the store's place, and returns the stores of that name that somebody may have open, or what to wait
// for first.
func (sh *shelf) replace(name backend.Store, barrier *store) (inUse []*store, wait *event) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if st, ok := sh.stores.Peek(name); ok {
		switch st.phase {
		case open:
			sh.stores.Remove(name)
			inUse = append(inUse, st)
		case opening:
			return nil, st.opened
		default:
			return nil, st.over
		}
	}
	sh.stores.Add(name, barrier)
	for st := range sh.leaving {
		if st.name == name {
			inUse = append(inUse, st)
		}
	}
	return inUse, nil
}

// shutDown ends all stores. Those that are being opened are closed by their openers.
func (sh *shelf) shutDown() (first bool) {
	sh.mu.Lock()
	first = !sh.shut
	sh.shut = true
	inUse := slices.Collect(maps.Keys(sh.leaving))
	sh.mu.Unlock()
	for _, st := range append(inUse, sh.all()...) {
		st.lose(backend.ErrClosed)
	}
	return first
}

func (sh *shelf) isShut() bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.shut
}
