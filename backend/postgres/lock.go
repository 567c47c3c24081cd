package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
)

// locks queues the callers of this process, so that of all that wait for a key only one has a connection open for it.
type locks struct {
	queues driver.Queues

	mu sync.Mutex
	// One connection is kept for a while after its lock was given up: opening one costs the server a process, which is
	// a good part of what making a tenant costs.
	idle   *pgx.Conn
	expiry *time.Timer
	closed bool
}

// lockIdle is how long a connection is kept for the next lock.
const lockIdle = 30 * time.Second

// take returns the connection that was kept, or nil.
func (l *locks) take() *pgx.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.idle
	if c != nil {
		l.idle = nil
		l.expiry.Stop()
	}
	return c
}

// keep keeps c for the next lock, or closes it when there is one already.
func (l *locks) keep(c *pgx.Conn) {
	l.mu.Lock()
	if l.idle != nil || l.closed {
		l.mu.Unlock()
		closeConn(c)
		return
	}
	l.idle = c
	l.expiry = time.AfterFunc(lockIdle, func() {
		l.mu.Lock()
		expired := l.idle == c
		if expired {
			l.idle = nil
		}
		l.mu.Unlock()
		if expired {
			closeConn(c)
		}
	})
	l.mu.Unlock()
}

// close closes the connection that is kept; none is kept any more.
func (l *locks) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	if c := l.take(); c != nil {
		closeConn(c)
	}
}

// lockSpace keeps our advisory locks apart from the application's: the first four bytes of each key.
const lockSpace = 0x74656e74 // "tent"

func lockKey(key string) int64 {
	sum := sha256.Sum256([]byte(key))
	return int64(lockSpace)<<32 | int64(binary.BigEndian.Uint32(sum[:4]))
}

// Lock holds an advisory lock for as long as a transaction is open, on a connection of its own outside the pool: lock
// holders can never use up the connections that they need for their work. See [backend.Locker].
func (be *Backend) Lock(ctx context.Context, key string) (_ backend.Lock, err error) {
	fault := func(err error) error { return &backend.Error{Op: "lock " + key, Err: err} }
	if be.closed.Load() {
		return nil, fault(backend.ErrClosed)
	}
	leave, err := be.locks.queues.Enter(ctx, key)
	if err != nil {
		return nil, fault(err)
	}
	defer func() {
		if err != nil {
			leave()
		}
	}()
	c := be.locks.take()
	if c != nil {
		if err := waitForKey(ctx, c, key); err != nil {
			// It may have been cut while it was idle; a lock it got went with it.
			closeConn(c)
			if c = nil; ctx.Err() != nil {
				return nil, fault(err)
			}
		}
	}
	if c == nil {
		if c, err = be.connect(ctx); err != nil {
			return nil, fault(err)
		}
		if err := waitForKey(ctx, c, key); err != nil {
			closeConn(c)
			return nil, fault(err)
		}
	}
	return &lock{be: be, key: key, c: c, leave: leave}, nil
}

// lock is a key that is held, for as long as the transaction on its connection is open.
type lock struct {
	be    *Backend
	key   string
	c     *pgx.Conn
	leave func() // the queue
	once  sync.Once
}

var _ backend.Lock = (*lock)(nil)

func (l *lock) Fence(ctx context.Context) context.Context { return ctx }

func (l *lock) Check(ctx context.Context) error {
	if err := l.c.Ping(ctx); err != nil {
		return &backend.Error{Op: "lock " + l.key, Err: fmt.Errorf("%w: %w", backend.ErrLockLost, err)}
	}
	return nil
}

func (l *lock) Unlock() {
	l.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), rollbackTimeout)
		defer cancel()
		// Not left to the closing of the connection: behind a pooler that is noticed late.
		if err := l.c.PgConn().Exec(ctx, "commit").Close(); err != nil || l.c.IsClosed() {
			closeConn(l.c)
		} else {
			l.be.locks.keep(l.c)
		}
		l.leave()
	})
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

func closeConn(c *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.Close(ctx)
}
