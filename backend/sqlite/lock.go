package sqlite

import (
	"context"
	"errors"
	"io/fs"
	"os"
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

// errLocked is what tryLockFile returns when another process (or another Backend of this one) has the lock.
var errLocked = errors.New("locked by another process")

// Lock implements [backend.Locker]. Callers of this process are served in order of arrival; other processes ask again
// every few milliseconds.
func (b *Backend) Lock(ctx context.Context, key string) (backend.Lock, error) {
	unlock, err := b.lock(ctx, "user/"+key)
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
	if b.isClosed() {
		return nil, backend.ErrClosed
	}
	unlock, err = b.locks.lock(ctx, key, true)
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

// tryLock is lock without waiting: it returns errLocked when somebody has the key.
func (b *Backend) tryLock(ctx context.Context, key string) (unlock func(), err error) {
	return b.locks.lock(ctx, key, false)
}

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
	if wait {
		return l.queues.Enter(ctx, key)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	leave, ok := l.queues.TryEnter(key)
	if !ok {
		return nil, errLocked
	}
	return leave, nil
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

// remove removes a file; one that is gone already is fine.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
