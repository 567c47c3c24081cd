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

// store is a file and the connections to it. It has at least one connection, in use or idle, for as long as it is open: an
// open file keeps its identity (its inode) from being given to another one.
type store struct {
	b       *Backend
	name    backend.Store // zero: the shared store, or a template that is being built
	shared  bool
	shelved bool // it came off the shelf: neither the shared store nor a template that is being built
	path    string
	owner   string      // the stamp found when it was opened
	file    os.FileInfo // what path was when it was opened; nil: not checked
	setup   string      // what readies a connection
	seen    *witness    // of what is done in it; nil: nobody asks

	turn  *semaphore.Weighted // the writer's turn, in order of arrival
	slots *semaphore.Weighted // how many may read

	checked atomic.Int64    // when file was last compared, in time since Backend.epoch
	life    context.Context // ends when the store is lost, with the reason as its cause
	end     context.CancelCauseFunc
	fresh   atomic.Bool // no connection of before is to be used again

	// Guarded by the shelf's lock.
	phase  phase
	users  int    // sessions
	opened *event // opening ended
	over   *event // it is closed

	mu    sync.Mutex
	idle  []*conn
	conns []*conn // all of them
}

func (b *Backend) newStore(name backend.Store, path string) *store {
	life, end := context.WithCancelCause(context.Background())
	return &store{
		b: b, name: name, path: path,
		setup:  b.setup,
		life:   life,
		end:    end,
		turn:   semaphore.NewWeighted(1),
		slots:  semaphore.NewWeighted(int64(b.cfg.MaxReaders)),
		opened: newEvent(),
		over:   newEvent(),
	}
}

// fate returns why the store cannot be used any more, or nil.
func (st *store) fate() error {
	if st.life.Err() == nil {
		return nil
	}
	return context.Cause(st.life)
}

// await acquires one unit of sem in order of arrival: at once when it is free, else within patience, if that is not 0, unless
// ctx or the store ends first.
func (st *store) await(ctx context.Context, sem *semaphore.Weighted, patience time.Duration) error {
	if sem.TryAcquire(1) {
		return nil
	}
	alive, die := context.WithCancel(ctx)
	defer die()
	defer context.AfterFunc(st.life, die)()
	limited, cancel := limit(alive, patience)
	defer cancel()
	err := sem.Acquire(limited, 1)
	if fate := st.fate(); err != nil && fate != nil {
		return fate
	}
	return err
}

// errMoving is what open returns when the store is about to be renamed. To wait for that is not the opener's: whoever
// renames waits for those who are opening.
var errMoving = errors.New("the store is being renamed")

// open checks the file and opens the first connection to it.
func (st *store) open(ctx context.Context) error {
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
	c, owner, err := st.dial(ctx, true)
	if err != nil {
		return err
	}
	st.owner = owner
	st.add(c)
	return st.verify()
}

// add puts a new connection among the idle ones.
func (st *store) add(c *conn) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.conns = append(st.conns, c)
	st.idle = append(st.idle, c)
}

// dial opens a connection to the store, readies it for an application's statements and returns the owner that it found.
// first says that the store has no other yet.
func (st *store) dial(ctx context.Context, first bool) (c *conn, owner string, err error) {
	var r raw
	if st.shelved {
		r, err = st.b.enter(ctx, st.path, st.b.ownWait(ctx), func(r raw) (err error) {
			if first && st.b.isMoving(st.name) {
				return errMoving
			}
			owner, err = askOwner(ctx, r, st.setup+"; ")
			return err
		})
	} else {
		r, err = st.b.openFile(ctx, st.path, st.b.cfg.BusyTimeout, func(r raw) error {
			_, err := r.ExecContext(ctx, st.setup, nil)
			return err
		})
	}
	if err != nil {
		return nil, "", err
	}
	c = &conn{st: st, raw: r, stmts: newStatements(st.b.cfg.Statements), tenant: !st.shared}
	if err := r.RegisterAuthorizer(c.authorize); err != nil {
		return nil, "", errors.Join(err, r.Close())
	}
	st.b.descriptors.conns.Add(1)
	return c, owner, nil
}

// take returns a connection: an idle one, or a new one.
func (st *store) take(ctx context.Context) (*conn, error) {
	if c := st.takeIdle(); c != nil {
		return c, nil
	}
	if err := st.fate(); err != nil {
		return nil, err
	}
	c, owner, err := st.dial(ctx, false)
	if err != nil {
		return nil, err
	}
	// The name may stand for another file by now. With none of the store's connections left, one may have been given the
	// same identity; it has another owner.
	if err = st.verify(); err == nil && owner != st.owner {
		err = backend.ErrStoreMissing
	}
	if err != nil {
		_ = c.close()
		return nil, err
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.conns = append(st.conns, c)
	return c, nil
}

func (st *store) takeIdle() *conn {
	st.mu.Lock()
	defer st.mu.Unlock()
	n := len(st.idle)
	if n == 0 {
		return nil
	}
	c := st.idle[n-1]
	st.idle = st.idle[:n-1]
	return c
}

// put gives a connection back. It is closed when it may not serve anyone else.
func (st *store) put(c *conn, spent bool) {
	if !spent && c.reset() && st.keep(c) {
		return
	}
	if last := st.drop(c); last {
		st.retire() // before the file's identity is free
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.close()
}

// reset readies the connection for the next unit of work. It returns false when it is not fit for one.
func (c *conn) reset() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readOnly, c.script, c.vacuum, c.effects, c.denied = false, false, false, 0, notDenied
	return c.raw != nil && !c.tainted && len(c.open) == 0 && c.raw.IsValid()
}

// keep puts the connection among the idle ones when there is room for it.
func (st *store) keep(c *conn) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	if len(st.idle) >= idleConns || st.fresh.Load() || st.fate() != nil || len(st.conns) > 1 && st.b.descriptors.short() {
		return false
	}
	st.idle = append(st.idle, c)
	return true
}

// drop takes the connection off the list. last says that there is no other.
func (st *store) drop(c *conn) (last bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if i := slices.Index(st.conns, c); i >= 0 {
		st.conns = slices.Delete(st.conns, i, i+1)
	}
	return len(st.conns) == 0
}

// verify reports that path is not the file that was opened: with ErrStoreMissing, or as the shared store's fault. That one
// has no other place to be opened from, so nothing is lost for good: put back, it is the same.
func (st *store) verify() error {
	if st.file == nil {
		return nil
	}
	now, err := os.Lstat(st.path)
	if err == nil && os.SameFile(now, st.file) {
		st.checked.Store(int64(st.b.now()))
		return nil
	}
	if st.shared {
		return sharedGone(st.path, err)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	st.lose(backend.ErrStoreMissing)
	return backend.ErrStoreMissing
}

// sharedGone says that the shared store cannot be looked at (err), or is not the file that was opened. It is never
// ErrStoreMissing, which is said of a tenant.
func sharedGone(path string, err error) error {
	if err != nil {
		return fmt.Errorf("the shared store is gone; put it back: %w", err)
	}
	return fmt.Errorf("%s is another file than the one that was opened; start the process again", path)
}

// stillThere is called after a write: a file that is gone from its name took the write with it.
func (st *store) stillThere(op string) error {
	if err := st.verify(); err != nil {
		return &backend.Error{Op: op, Store: st.name, Err: err}
	}
	return nil
}

// noteFault has the store opened afresh by whoever comes next when an error puts its connections in doubt.
func (st *store) noteFault(err error) {
	switch code(err) & 0xff {
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL:
		st.retire()
	}
}

// retire takes the store out of use: those who have it finish with it, whoever comes next opens the file afresh. One that
// is not of the shelf stays where it is; only its idle connections go.
func (st *store) retire() {
	if !st.shelved {
		st.closeIdle()
		return
	}
	st.fresh.Store(true)
	st.b.stores.retire(st)
}

// lose ends the store with a reason: idle connections are closed, and those in use are as soon as the call under way
// on them, if any, ends. Whoever waits for one, or for the writer's turn, is told the reason.
func (st *store) lose(reason error) {
	st.end(reason)
	st.mu.Lock()
	conns := slices.Clone(st.conns)
	st.mu.Unlock()
	for _, c := range conns {
		if c.mu.TryLock() {
			_ = c.close()
			c.mu.Unlock()
		}
	}
	st.retire()
}

// closeIdle closes the connections that nobody uses.
func (st *store) closeIdle() {
	for c := st.takeIdle(); c != nil; c = st.takeIdle() {
		st.drop(c)
		c.mu.Lock()
		_ = c.close()
		c.mu.Unlock()
	}
}
