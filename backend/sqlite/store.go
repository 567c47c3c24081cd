package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/tenement-go/tenement/backend"
)

// noticeWithin bounds how long this process goes on reading from a file that another process dropped, renamed or
// replaced. Writes are exact: one that went to such a file is never reported as done.
const noticeWithin = 250 * time.Millisecond

// idleConns is how many connections of one store are kept for the next unit of work.
const idleConns = 8

// store is an open store. It has at least one connection, in use or idle, for as long as it is open: an open file keeps
// its identity (its inode) from being given to another one.
type store struct {
	b     *Backend
	name  backend.Store // zero: the shared store
	path  string
	owner string      // the stamp found when it was opened
	file  os.FileInfo // what path was when it was opened; nil: not checked
	dsn   string
	setup string // what readies a connection

	turn  *semaphore.Weighted // the writer's turn, in order of arrival
	slots *semaphore.Weighted // how many may read

	checked atomic.Int64 // when file was last compared, in time since Backend.epoch

	// ready is closed when opening ended; err is set before.
	ready chan struct{}
	err   error

	// Guarded by Backend.mu.
	counted    bool // among those that Options.MaxOpenStores bounds
	opened     bool // ready is closed and err is nil
	mapped     bool // in Backend.stores
	refs       int  // sessions
	prev, next *store

	// gone says why the store is no more; its connections fail with it. retired only has them closed after use.
	gone    atomic.Pointer[error]
	retired atomic.Bool

	mu    sync.Mutex
	idle  []*conn
	conns []*conn // all of them
}

func (b *Backend) newStore(name backend.Store, path string) *store {
	return &store{
		b: b, name: name, path: path,
		dsn:   dsn(path, "rw"),
		setup: b.setup,
		turn:  semaphore.NewWeighted(1),
		slots: semaphore.NewWeighted(int64(b.opts.MaxReaders)),
		ready: make(chan struct{}),
	}
}

// fate returns why the store cannot be used any more, or nil.
func (st *store) fate() error {
	if p := st.gone.Load(); p != nil {
		return *p
	}
	return nil
}

// dial opens a connection to the store, readies it for an application's statements and returns the owner that it found.
func (st *store) dial(ctx context.Context) (*conn, string, error) {
	r, err := dial(ctx, st.dsn)
	if err != nil {
		if _, serr := os.Lstat(st.path); errors.Is(serr, fs.ErrNotExist) {
			return nil, "", backend.ErrStoreMissing
		}
		return nil, "", err
	}
	c := &conn{st: st, raw: r, stmts: map[string]*stmt{}, tenant: st != st.b.shared, attached: st == st.b.shared}
	// The settings read the schema, and with it open the -wal of the store. The shared store is attached to itself, so that
	// public.x means the same everywhere.
	owner := ""
	if st == st.b.shared {
		_, err = r.ExecContext(ctx, st.setup, nil)
	} else {
		owner, err = c.askOwner(ctx, st.setup+"; ")
	}
	if err == nil {
		err = r.RegisterAuthorizer(c.authorize)
	}
	if err != nil {
		_ = r.Close()
		return nil, "", err
	}
	return c, owner, nil
}

// take returns a connection: an idle one, or a new one.
func (st *store) take(ctx context.Context) (*conn, error) {
	st.mu.Lock()
	if n := len(st.idle); n > 0 {
		c := st.idle[n-1]
		st.idle = st.idle[:n-1]
		st.mu.Unlock()
		return c, nil
	}
	st.mu.Unlock()
	if err := st.fate(); err != nil {
		return nil, err
	}
	c, owner, err := st.dial(ctx)
	if err != nil {
		return nil, err
	}
	// The file and its -wal were opened one after the other, by name: that both belong to the same store is known
	// only if the name still stands for that file. With none of its connections left (a retired store), another file
	// may have been given the same identity; it has another owner.
	if err = st.verify(); err == nil && owner != st.owner {
		err = backend.ErrStoreMissing
	}
	if err != nil {
		_ = c.close()
		return nil, err
	}
	st.mu.Lock()
	st.conns = append(st.conns, c)
	st.mu.Unlock()
	return c, nil
}

// put gives a connection back. It is closed when it may not serve anyone else.
func (st *store) put(c *conn, closeIt bool) {
	c.mu.Lock()
	closeIt = closeIt || c.raw == nil || c.tainted || len(c.open) > 0 || st.fate() != nil || st.retired.Load() || !c.raw.IsValid()
	c.readOnly, c.script, c.vacuum, c.effects, c.denied = false, false, false, 0, notDenied
	c.mu.Unlock()
	st.mu.Lock()
	if closeIt || len(st.idle) >= idleConns || st.retired.Load() || st.gone.Load() != nil {
		if i := slices.Index(st.conns, c); i >= 0 {
			st.conns = slices.Delete(st.conns, i, i+1)
		}
		last := len(st.conns) == 0
		st.mu.Unlock()
		if last && st != st.b.shared {
			st.retire()
		}
		c.mu.Lock()
		_ = c.close()
		c.mu.Unlock()
		return
	}
	st.idle = append(st.idle, c)
	st.mu.Unlock()
}

// verify reports with ErrStoreMissing that path is not the file that was opened.
func (st *store) verify() error {
	if st.file == nil {
		return nil
	}
	now, err := os.Lstat(st.path)
	if err == nil && os.SameFile(now, st.file) {
		st.checked.Store(int64(st.b.now()))
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	st.seize(backend.ErrStoreMissing)
	return backend.ErrStoreMissing
}

// stillThere is called after a write: a file that is gone from its name took the write with it.
func (st *store) stillThere(op string) error {
	if err := st.verify(); err != nil {
		return &backend.Error{Op: op, Store: st.name, Err: err}
	}
	return nil
}

// fault reports whether an error is the store's fault rather than the statement's.
func (st *store) fault(err error) bool {
	if errors.Is(err, backend.ErrStoreMissing) || errors.Is(err, backend.ErrClosed) {
		return true
	}
	switch code(err) & 0xff {
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL,
		sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM:
		return true
	}
	return false
}

// noteFault has the store opened afresh by whoever comes next when an error puts its connections in doubt.
func (st *store) noteFault(err error) {
	switch code(err) & 0xff {
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL:
		st.retire()
	}
}

// retire takes the store out of use: those who have it finish with it, whoever comes next opens the file afresh.
func (st *store) retire() {
	st.retired.Store(true)
	if st == st.b.shared {
		// The shared store stays mapped; only its idle connections go.
		st.closeIdle()
		st.retired.Store(false)
		return
	}
	st.b.mu.Lock()
	done := st.b.unmap(st)
	st.b.mu.Unlock()
	done()
}

// seize ends the store with a reason: idle connections are closed, and those in use are as soon as the call under way
// on them, if any, ends.
func (st *store) seize(reason error) {
	st.gone.CompareAndSwap(nil, &reason)
	st.mu.Lock()
	conns := slices.Clone(st.conns)
	st.mu.Unlock()
	for _, c := range conns {
		if c.mu.TryLock() {
			_ = c.close()
			c.mu.Unlock()
		}
	}
	if st.b.shared != st {
		st.retire()
	}
}

func (st *store) closeIdle() {
	st.mu.Lock()
	idle := st.idle
	st.idle = nil
	st.conns = slices.DeleteFunc(st.conns, func(c *conn) bool { return slices.Contains(idle, c) })
	st.mu.Unlock()
	for _, c := range idle {
		c.mu.Lock()
		_ = c.close()
		c.mu.Unlock()
	}
}

// now is a monotonic clock.
func (b *Backend) now() time.Duration { return time.Since(b.epoch) }

// acquire returns the open store that rt names, opening it if need be. The caller releases it.
func (b *Backend) acquire(ctx context.Context, rt backend.Route) (*store, error) {
	for {
		st, err := b.lookup(ctx, rt.Store)
		if err != nil {
			return nil, err
		}
		if b.now()-time.Duration(st.checked.Load()) > noticeWithin {
			if err := st.verify(); err != nil {
				b.release(st)
				if errors.Is(err, backend.ErrStoreMissing) {
					continue // opening it says whether there is another one of that name
				}
				return nil, err
			}
		}
		if rt.Owner != "" && rt.Owner != st.owner {
			b.release(st)
			return nil, errOtherOwner
		}
		return st, nil
	}
}

// lookup returns the store from those that are open, or opens it. Concurrent callers open it once.
func (b *Backend) lookup(ctx context.Context, name backend.Store) (*store, error) {
	for {
		b.mu.Lock()
		if b.closed {
			b.mu.Unlock()
			return nil, backend.ErrClosed
		}
		wait := b.blocked[name]
		if wait == nil {
			wait = b.closing[name]
		}
		if wait != nil {
			b.mu.Unlock()
			select {
			case <-wait:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			continue
		}
		st := b.stores[name]
		if st != nil && st.opened {
			b.ref(st)
			b.mu.Unlock()
			return st, nil
		}
		if st == nil {
			st = b.newStore(name, b.path(name))
			st.mapped = true
			st.refs = 1
			b.stores[name] = st
			b.mu.Unlock()
			if err := b.open(ctx, st); err != nil {
				return nil, err
			}
			return st, nil
		}
		b.mu.Unlock()
		select {
		case <-st.ready:
			// An error that came from the opener's own context is not ours.
			if st.err != nil && !errors.Is(st.err, context.Canceled) && !errors.Is(st.err, context.DeadlineExceeded) {
				return nil, st.err
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// open makes st, which is mapped and referenced, ready for use; failing that it takes it back out.
func (b *Backend) open(ctx context.Context, st *store) error {
	err := b.room(ctx)
	if err == nil {
		if err = st.open(ctx); err != nil {
			b.capacity.Release(1)
		}
	}
	b.mu.Lock()
	if err == nil && b.closed {
		err = backend.ErrClosed
		b.capacity.Release(1)
	}
	st.err = err
	st.opened, st.counted = err == nil, err == nil
	full := false
	if err == nil {
		b.count++
		full = b.count >= b.opts.MaxOpenStores
	} else {
		st.refs = 0
		if b.stores[st.name] == st {
			delete(b.stores, st.name)
		}
		st.mapped = false
	}
	close(st.ready)
	b.mu.Unlock()
	if err != nil {
		st.closeIdle()
	}
	if full {
		select {
		case b.trim <- struct{}{}:
		default:
		}
	}
	return err
}

// open checks the file and opens the first connection to it.
func (st *store) open(ctx context.Context) error {
	if err := st.b.waitForMove(ctx, st.name); err != nil {
		return err
	}
	info, err := os.Lstat(st.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return backend.ErrStoreMissing
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file; remove it", st.path)
	}
	st.file = info
	c, owner, err := st.dial(ctx)
	if err != nil {
		return err
	}
	st.owner = owner
	_, err = c.raw.ExecContext(ctx, "PRAGMA main.journal_mode=WAL", nil) // a file that was moved, or restored, is not in it
	st.conns = append(st.conns, c)
	st.idle = append(st.idle, c)
	if err != nil {
		return err
	}
	return st.verify()
}

// room gets leave to open one more store, closing those that were unused for longest if need be.
func (b *Backend) room(ctx context.Context) error {
	for {
		if b.capacity.TryAcquire(1) {
			return nil
		}
		b.mu.Lock()
		victim := b.lru.prev
		if victim == &b.lru {
			b.waiting++ // from here on whoever lets go of a store closes it
			b.mu.Unlock()
			break
		}
		done := b.unmap(victim)
		b.mu.Unlock()
		done()
	}
	limited, cancel := ctx, context.CancelFunc(func() {})
	if _, bounded := ctx.Deadline(); !bounded {
		limited, cancel = context.WithTimeout(ctx, b.opts.BusyTimeout)
	}
	defer cancel()
	err := b.capacity.Acquire(limited, 1)
	b.mu.Lock()
	b.waiting--
	b.mu.Unlock()
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w: all of the %d stores that may be open are in use; raise max_open", ErrBusy, b.opts.MaxOpenStores)
	}
	return err
}

// ref counts a session on an open store. The caller holds b.mu.
func (b *Backend) ref(st *store) {
	if st.refs == 0 {
		st.unlink()
	}
	st.refs++
}

// release takes a session off again.
func (b *Backend) release(st *store) {
	if st == b.shared {
		return
	}
	b.mu.Lock()
	st.refs--
	done := func() {}
	if st.refs == 0 {
		switch {
		case !st.mapped:
			done = b.finish(st)
		case b.waiting > 0 || b.closed:
			done = b.unmap(st)
		default:
			b.lru.link(st)
		}
	}
	b.mu.Unlock()
	done()
}

// unmap takes an open store out of the map and returns what is left to do without the lock: closing it, when nobody uses
// it; else the last one to release it does that. The caller holds b.mu.
func (b *Backend) unmap(st *store) (done func()) {
	if !st.mapped || !st.opened {
		return func() {}
	}
	st.mapped = false
	st.retired.Store(true)
	if b.stores[st.name] == st {
		delete(b.stores, st.name)
	}
	if st.refs > 0 {
		return func() {}
	}
	st.unlink()
	return b.finish(st)
}

// finish returns what closes the connections of a store that nobody uses and makes room for another. Whoever wants the
// same store meanwhile waits: opening a file while its last connection closes runs into SQLite's locks, and its waits are
// longer. The caller holds b.mu.
func (b *Backend) finish(st *store) (done func()) {
	if !st.counted {
		return st.closeIdle
	}
	closed := make(chan struct{})
	b.closing[st.name] = closed
	return func() {
		st.closeIdle()
		b.mu.Lock()
		b.count--
		if b.closing[st.name] == closed {
			delete(b.closing, st.name)
		}
		b.mu.Unlock()
		close(closed)
		b.capacity.Release(1)
	}
}

// The list of open stores that nobody uses, most recently used first. The backend's lru is its head.

func (head *store) link(st *store) {
	st.prev, st.next = head, head.next
	head.next.prev = st
	head.next = st
}

func (st *store) unlink() {
	if st.next == nil {
		return
	}
	st.prev.next, st.next.prev = st.next, st.prev
	st.prev, st.next = nil, nil
}
