package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
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
// holders can never use up the connections that they need for their work. Callers of this process are served in order of
// arrival; other processes ask again every few milliseconds. See [backend.Locker].
func (be *Backend) Lock(ctx context.Context, key string) (_ backend.Lock, err error) {
	fault := func(err error) error { return lockFault(key, err) }
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
	l := &lock{be: be, key: key, leave: leave, proof: rand.Uint32()}
	if l.c = be.locks.take(); l.c != nil {
		if err := l.acquire(ctx); err == nil {
			return l, nil
		}
		// It may have been cut while it was idle; a lock it got went with it.
		closeConn(l.c)
		if ctx.Err() != nil {
			return nil, fault(ctx.Err())
		}
	}
	if l.c, err = be.connect(ctx); err != nil {
		return nil, fault(err)
	}
	if err := l.acquire(ctx); err != nil {
		closeConn(l.c)
		return nil, fault(err)
	}
	return l, nil
}

// lock is a key that is held, for as long as the transaction on its connection is open.
type lock struct {
	be    *Backend
	key   string
	proof uint32 // the second half of another lock, which nobody else ever takes
	leave func() // the queue

	mu       sync.Mutex
	c        *pgx.Conn
	unlocked bool
}

var _ backend.Lock = (*lock)(nil)

// How often a lock that another process holds is asked for.
const (
	lockFirstPause = time.Millisecond
	lockMaxPause   = 50 * time.Millisecond
)

// proofSpace is the first half of the locks that prove that another is held.
const proofSpace = "1953394288"

// acquire opens the transaction that is to hold the lock, and asks for it again and again. It does not wait in the
// server's queue: whoever waits there has a snapshot for as long, and CREATE INDEX CONCURRENTLY waits for all of those to
// end; with the index's builder in turn waited for, that is a circle that the server does not see. Between two statements
// of a READ COMMITTED transaction there is no snapshot.
func (l *lock) acquire(ctx context.Context) error {
	// The holder may be busy elsewhere for long.
	sql := "begin isolation level read committed;set local statement_timeout=0;set local idle_in_transaction_session_timeout=0;" +
		fmt.Sprintf("select pg_catalog.pg_advisory_xact_lock(%s,%d);", proofSpace, int32(l.proof))
	try := "select pg_catalog.pg_try_advisory_xact_lock(" + formatKey(lockKey(l.key)) + ")"
	for pause := lockFirstPause; ; pause = min(2*pause, lockMaxPause) {
		results, err := l.c.PgConn().Exec(ctx, sql+try).ReadAll()
		if err != nil {
			return err
		}
		if string(results[len(results)-1].Rows[0][0]) == "t" {
			return nil
		}
		sql = ""
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

// Fence returns a context whose operations prove that the lock is held, once they have the store's lock.
//
// The proof is a second lock with a number of its own, taken in the transaction that holds the first, so that both end
// together, however that comes about. Whoever can get it knows that they have ended. It is asked for with the store's
// lock held. Should the lock be lost only after that, then whoever gets the key next needs the store's lock as well, to
// drop, rename or make it, and so comes after the operation that is under way, and sees what it did.
func (l *lock) Fence(ctx context.Context) context.Context {
	return context.WithValue(ctx, fenceKey{}, l)
}

// fenceSQL returns the statement that fails (codeLockLost) when the lock by which ctx is fenced is not held any more;
// none when it is not fenced.
func fenceSQL(ctx context.Context) string {
	l, ok := ctx.Value(fenceKey{}).(*lock)
	if !ok {
		return ""
	}
	return fmt.Sprintf("select pg_catalog.ln((not pg_catalog.pg_try_advisory_xact_lock_shared(%s,%d))::pg_catalog.int4::pg_catalog.float8);", proofSpace, int32(l.proof))
}

// codeLockLost is what fenceSQL fails with: no other statement of ours takes a logarithm.
const codeLockLost = "2201E"

// Check asks the connection that holds the lock.
func (l *lock) Check(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	fault := func(err error) error {
		if err == nil {
			return lockFault(l.key, backend.ErrLockLost)
		}
		return lockFault(l.key, fmt.Errorf("%w: %w", backend.ErrLockLost, err))
	}
	if l.unlocked {
		return fault(errors.New("it was given up"))
	}
	// In the transaction: a pooler could answer by itself, or on another server connection, outside of one.
	if l.c.PgConn().TxStatus() != 'T' {
		return fault(nil)
	}
	if err := l.c.PgConn().Exec(ctx, "select").Close(); err != nil {
		if ctx.Err() != nil {
			// Nobody knows; and the connection does not survive a context that ends.
			return lockFault(l.key, ctx.Err())
		}
		return fault(err)
	}
	return nil
}

func (l *lock) Unlock() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.unlocked {
		return
	}
	l.unlocked = true
	ctx, cancel := context.WithTimeout(context.Background(), rollbackTimeout)
	defer cancel()
	// Not left to the closing of the connection: behind a pooler that is noticed late.
	if err := l.c.PgConn().Exec(ctx, "commit").Close(); err != nil || l.c.IsClosed() {
		closeConn(l.c)
	} else {
		l.be.locks.keep(l.c)
	}
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
