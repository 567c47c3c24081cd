package sqlite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
)

// locks excludes callers in this process, in order of arrival, and other processes by locks of the operating system, which
// ends them when the process ends.
type locks struct {
	dir    string
	keys   keyLocks
	queues driver.Queues
	retry  func(context.Context, func() error) error // when descriptors are short
}

// errLocked is what those get who do not wait, when another caller, in this or another process, has the lock.
var errLocked = fmt.Errorf("%w: locked by another caller", ErrBusy)

// Lock implements [backend.Locker]. Callers of this process are served in order of arrival; other processes ask again
// every few milliseconds.
func (b *Backend) Lock(ctx context.Context, key string) (backend.Lock, error) {
	return b.userLock(ctx, key, true)
}

// TryLock implements [backend.Locker].
func (b *Backend) TryLock(ctx context.Context, key string) (backend.Lock, error) {
	return b.userLock(ctx, key, false)
}

func (b *Backend) userLock(ctx context.Context, key string, wait bool) (backend.Lock, error) {
	unlock, err := b.take(ctx, "user/"+key, wait)
	if errors.Is(err, backend.ErrBusy) && !errors.Is(err, errLocked) {
		err = fmt.Errorf("locks cannot be looked at: %s", err.Error()) // for want of a descriptor: it says nothing of who has the key
	}
	if err != nil {
		return nil, &backend.Error{Op: "lock", Err: err}
	}
	return &lock{key: key, unlock: unlock}, nil
}

// lock is a key that is held. The operating system keeps it for as long as the process lives: it cannot be lost, only
// given up.
type lock struct {
	key    string
	unlock func()
	over   atomic.Bool
}

var _ backend.Lock = (*lock)(nil)

type fenceKey struct{}

func (l *lock) Fence(ctx context.Context) context.Context {
	return context.WithValue(ctx, fenceKey{}, l)
}

func (l *lock) Check(context.Context) error {
	if l.over.Load() {
		return &backend.Error{Op: "lock " + l.key, Err: backend.ErrLockLost}
	}
	return nil
}

func (l *lock) Unlock() {
	l.over.Store(true)
	l.unlock()
}

// fenced returns ErrLockLost when the lock by which ctx is fenced was given up.
func fenced(ctx context.Context) error {
	if l, ok := ctx.Value(fenceKey{}).(*lock); ok && l.over.Load() {
		return backend.ErrLockLost
	}
	return nil
}

func (b *Backend) lock(ctx context.Context, key string) (unlock func(), err error) {
	return b.take(ctx, key, true)
}

// tryLock is lock without waiting: it returns errLocked when somebody has the key.
func (b *Backend) tryLock(ctx context.Context, key string) (unlock func(), err error) {
	return b.take(ctx, key, false)
}

func (b *Backend) take(ctx context.Context, key string, wait bool) (unlock func(), err error) {
	if b.isClosed() {
		return nil, backend.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	unlock, err = b.locks.lock(ctx, key, wait)
	if err == nil {
		if err = fenced(ctx); err != nil {
			unlock()
		}
	}
	if err != nil {
		return nil, err
	}
	return unlock, nil
}

// lock is had in any case when nobody has the key: ctx is for the wait.
func (l *locks) lock(ctx context.Context, key string, wait bool) (unlock func(), err error) {
	leave, err := l.enter(ctx, key, wait)
	if err != nil {
		return nil, err
	}
	free, err := l.lockFile(ctx, key, wait)
	if err != nil {
		leave()
		return nil, err
	}
	return sync.OnceFunc(func() {
		free()
		leave()
	}), nil
}

func (l *locks) enter(ctx context.Context, key string, wait bool) (leave func(), err error) {
	leave, free := l.queues.TryEnter(key)
	switch {
	case free:
		return leave, nil
	case wait:
		return l.queues.Enter(ctx, key)
	default:
		return nil, errLocked
	}
}

// lockFile keeps other processes from the key.
func (l *locks) lockFile(ctx context.Context, key string, wait bool) (unlock func(), err error) {
	pause := time.Millisecond
	retry := func(fn func() error) error { return l.retry(ctx, fn) }
	for {
		unlock, err := l.keys.try(l.dir, key, retry)
		if err == nil {
			return unlock, nil
		}
		if !errors.Is(err, errLocked) || !wait {
			return nil, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
			pause = min(2*pause, 20*time.Millisecond)
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
	}
}

// atDoor runs fn while nobody else is at the door of a store's file: between opening it and holding it, or taking it away from
// its name. SQLite opens the main file first, and its -wal and -shm, by name, as it begins to read; by then the name could stand
// for another store, whose log would be read, and written, as if it were the first one's. fn waits for nobody, since he could be
// on his way to the door.
func (b *Backend) atDoor(ctx context.Context, path string, fn func() error) error {
	leave, err := b.locks.lock(ctx, "door/"+filepath.Base(path), true)
	if err != nil {
		return err
	}
	defer leave()
	return fn()
}

// opener is [Backend.enter], or [Backend.openFile] for a file that stays where it is.
type opener func(ctx context.Context, path string, patience time.Duration, look func(raw) error) (raw, error)

// enter opens a connection to the file of a store, has look read it, and holds the file: it is neither moved nor folded as long as
// the connection is open. For that it has to be in WAL mode, which the file of a store that was moved, restored or stamped is not:
// in that mode a connection that has read keeps a lock on the file, in any other one it has none between two transactions, and
// looks for a -wal of the file's name at the next. Locks of others are waited for as ctx allows, and no longer than patience, if that
// is not 0; not at the door. It returns ErrStoreMissing when it failed and there is no such file by then: what SQLite says of one
// that went away meanwhile depends on the moment.
func (b *Backend) enter(ctx context.Context, path string, patience time.Duration, look func(raw) error) (r raw, err error) {
	hold := "PRAGMA main.journal_mode=WAL; " + schemaVersion + "; " + busyTimeout(cmp.Or(patience, b.cfg.BusyTimeout))
	err = b.untilFree(ctx, patience, func(limited context.Context) error {
		return b.atDoor(limited, path, func() error {
			r, err = b.openFile(ctx, path, 0, func(r raw) error {
				if err := look(r); err != nil {
					return err
				}
				_, err := r.ExecContext(ctx, hold, nil)
				return err
			})
			return err
		})
	})
	if err != nil && absent(path) == nil {
		err = backend.ErrStoreMissing
	}
	return r, err
}

// openFile opens a connection to a file and has look read it; the connection waits for locks of others for patience.
func (b *Backend) openFile(ctx context.Context, path string, patience time.Duration, look func(raw) error) (r raw, err error) {
	err = b.withDescriptors(ctx, func() error {
		if r, err = dial(ctx, dsn(path, "rw")); err != nil {
			return err
		}
		if patience > 0 {
			_, err = r.ExecContext(ctx, busyTimeout(patience), nil)
		}
		if err == nil {
			err = look(r)
		}
		if err != nil {
			_ = r.Close()
		}
		return err
	})
	return r, err
}

// ownWait is how long a call waits that says nothing else: as long as its context allows (0), or BusyTimeout if that has no
// deadline.
func (b *Backend) ownWait(ctx context.Context) time.Duration {
	if _, bounded := ctx.Deadline(); bounded {
		return 0
	}
	return b.cfg.BusyTimeout
}

// limit returns a context that ends with ctx, or after a time, if that is not 0.
func limit(ctx context.Context, after time.Duration) (context.Context, context.CancelFunc) {
	if after == 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, after)
}

// untilFree calls fn until it does not fail because others use the file. It returns ErrBusy when that has taken longer than after, if
// that is not 0. The context that fn gets ends then; it is for waits. What is done is not cut short, nor said to have failed, because
// it takes longer than one waits for others.
func (b *Backend) untilFree(ctx context.Context, after time.Duration, fn func(limited context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	limited, cancel := limit(ctx, after)
	defer cancel()
	var inUse error
	for {
		err := fn(limited)
		if busy(err) {
			inUse = err
		} else if err == nil || limited.Err() == nil || !errors.Is(err, limited.Err()) {
			return err
		}
		select {
		case <-time.After(5 * time.Millisecond):
			continue
		case <-limited.Done():
		}
		if ctx.Err() == nil {
			return fmt.Errorf("%w: a transaction or another process has been using it for longer than %v; try again: %w", ErrBusy, after, err)
		}
		if inUse != nil {
			return fmt.Errorf("%w: it is in use: %w", ErrBusy, ctx.Err())
		}
		return err
	}
}

// remove removes a file; one that is gone already is fine.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
