package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
)

// lockSpace keeps our advisory locks apart from the application's: the first four bytes of each key.
const lockSpace = 0x74656e74 // "tent"

func lockKey(key string) int64 {
	sum := sha256.Sum256([]byte(key))
	return int64(lockSpace)<<32 | int64(binary.BigEndian.Uint32(sum[:4]))
}

// Lock holds an advisory lock, on the one connection outside the pool that has all the locks of this process: their holders
// can never use up the connections that they need for their work. Callers of this process are served in order of arrival;
// other processes ask again every few milliseconds. See [backend.Locker].
func (be *Backend) Lock(ctx context.Context, key string) (backend.Lock, error) {
	return be.lock(ctx, key, true)
}

// TryLock asks the server once; see [backend.Locker].
func (be *Backend) TryLock(ctx context.Context, key string) (backend.Lock, error) {
	return be.lock(ctx, key, false)
}

func (be *Backend) lock(ctx context.Context, key string, wait bool) (_ backend.Lock, err error) {
	fault := func(err error) error { return lockFault(key, err) }
	if be.closed.Load() {
		return nil, fault(backend.ErrClosed)
	}
	leave, err := be.locks.enter(ctx, key, wait)
	if err != nil {
		return nil, fault(err)
	}
	l := &lock{key: key, leave: leave}
	if err := l.acquire(ctx, be, wait); err != nil {
		leave()
		return nil, fault(err)
	}
	return l, nil
}

// lock is a key that is held, for as long as the session has it.
type lock struct {
	s     *lockSession
	key   string
	proof uint32 // the second half of another lock, which nobody else ever takes
	leave func() // the queue

	unlocked atomic.Bool
}

var _ backend.Lock = (*lock)(nil)

// How often a lock that another process holds is asked for.
const (
	lockFirstPause = time.Millisecond
	lockMaxPause   = 50 * time.Millisecond
)

// proofSpace is the first half of the locks that prove that another is held.
const proofSpace = "1953394288"

// acquire asks for the lock again and again. It does not wait in the server's queue: whoever waits there has a snapshot
// for as long, and CREATE INDEX CONCURRENTLY waits for all of those to end; with the index's builder in turn waited for,
// that is a circle that the server does not see. Between two statements of a READ COMMITTED transaction there is no
// snapshot; and between two tries of somebody who holds nothing there is no transaction either. Who does not wait takes the
// server's first answer.
func (l *lock) acquire(ctx context.Context, be *Backend, wait bool) error {
	for pause := lockFirstPause; ; pause = min(2*pause, lockMaxPause) {
		l.s, l.proof = be.locks.current(be), rand.Uint32()
		got, err := l.s.say(ctx, askTry, l)
		switch {
		case err == nil && got:
			return nil
		case err == nil && !wait:
			return backend.ErrBusy
		case err == nil:
		case ctx.Err() != nil && !errors.Is(err, ctx.Err()): // the session ended at the same moment
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case ctx.Err() != nil, errors.Is(err, backend.ErrClosed):
			return err
		case l.s.worked.Load(), errors.Is(err, errAbandoned):
			// It may have been cut while it was idle; a lock it got went with it.
		default:
			return err
		}
		timer := time.NewTimer(pause/2 + rand.N(pause/2))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// fenceKey is the key of a context's fence, a *lock.
type fenceKey struct{}

// Fence returns a context whose operations prove that the lock is held, once they have the store's lock, and whose units of
// work do so once they have their share of it.
//
// The proof is a second lock with a number of its own, of the session that holds the first: it ends before that does,
// however that comes about. Whoever can get it knows that they have ended. It is asked for with the store's
// lock held. Should the lock be lost only after that, then whoever gets the key next needs the store's lock as well, to
// drop, rename or make it, and so comes after the operation that is under way, and sees what it did.
func (l *lock) Fence(ctx context.Context) context.Context {
	return context.WithValue(ctx, fenceKey{}, l)
}

// lostSQL is a condition: the lock is not held any more.
func (l *lock) lostSQL() string {
	return fmt.Sprintf("pg_catalog.pg_try_advisory_xact_lock_shared(%s,%d)", proofSpace, int32(l.proof))
}

// fence returns the lock by which work in stores is fenced; nil where there is none of this server's. A standby knows
// nothing of its primary's advisory locks.
func (be *Backend) fence(ctx context.Context, access driver.Access) *lock {
	if access == driver.AccessShared || be.replica {
		return nil
	}
	if l, ok := ctx.Value(fenceKey{}).(*lock); ok && l.s.be == be {
		return l
	}
	return nil
}

// prefixSQL is a column of the prefix that fails (codeFence) when the lock is not held any more. The share of the store that
// the prefix has taken does for it what the store's lock does for fenceSQL.
func (l *lock) prefixSQL() string {
	return ",pg_catalog.substr(''::pg_catalog.text,1,0 operator(pg_catalog.-) " + l.lostSQL() + "::pg_catalog.int4)"
}

// fenceSQL returns the statement that fails (codeLockLost) when the lock by which ctx is fenced is not held any more;
// none when it is not fenced.
func fenceSQL(ctx context.Context) string {
	l, ok := ctx.Value(fenceKey{}).(*lock)
	if !ok {
		return ""
	}
	return "select pg_catalog.ln((not " + l.lostSQL() + ")::pg_catalog.int4::pg_catalog.float8);"
}

// codeLockLost is what fenceSQL fails with: no other statement of ours takes a logarithm.
const codeLockLost = "2201E"

// Check asks the session that holds the lock.
func (l *lock) Check(ctx context.Context) error {
	if l.unlocked.Load() {
		return lockFault(l.key, fmt.Errorf("%w: it was given up", backend.ErrLockLost))
	}
	switch _, err := l.s.say(ctx, askCheck, l); {
	case err == nil:
		return nil
	case ctx.Err() != nil && l.s.ctx.Err() == nil:
		return lockFault(l.key, ctx.Err()) // nobody knows
	default:
		return lockFault(l.key, fmt.Errorf("%w: %w", backend.ErrLockLost, err))
	}
}

func (l *lock) Unlock() {
	if l.unlocked.Swap(true) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), rollbackTimeout)
	defer cancel()
	// Not left to the closing of the connection: behind a pooler that is noticed late. When this is not answered in time it
	// is still done, ahead of whatever is asked later.
	_, _ = l.s.say(ctx, askUnlock, l)
	l.leave()
}

func lockFault(key string, err error) error {
	return &backend.Error{Op: "lock", Err: fmt.Errorf("%q: %w", key, err)}
}

// connect opens a connection outside the pool.
func (be *Backend) connect(ctx context.Context) (*pgx.Conn, error) {
	pc := be.pool.Config()
	if pc.BeforeConnect != nil {
		if err := pc.BeforeConnect(ctx, pc.ConnConfig); err != nil {
			return nil, err
		}
	}
	return pgx.ConnectConfig(ctx, pc.ConnConfig)
}

// closeConn ends a connection politely, without waiting long.
func closeConn(c *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.Close(ctx)
}
