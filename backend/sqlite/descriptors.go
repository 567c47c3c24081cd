package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/tenement-go/tenement/backend"
)

// What the files of stores take of the process's descriptors: a store's first connection has the file, its -wal and its
// -shm open, and the shared file and its -wal once it needs them; each further one has them too, but for the -shm.
const (
	perConn  = 4
	perStore = perConn + 1
)

// maxOpenStores is the default of [Config.MaxOpenStores] where the limit on descriptors allows more.
const maxOpenStores = 2048

// descriptors keeps the files of stores within the process's limit, and leaves a third of that to the application.
type descriptors struct {
	limit int64
	conns atomic.Int64 // connections that are open

	last   atomic.Int64  // when they were last short, in time since Backend.epoch
	scarce chan struct{} // has room for one: who makes room
}

// stores returns how many stores the limit has room for.
func (d *descriptors) stores() int { return int(max(1, (d.limit/3*2-reserved)/perStore)) }

// reserved is for locks, directories, and the shared store's own connections.
const reserved = 32

// short says that connections which nobody needs right now should be closed.
func (d *descriptors) short() bool { return d.conns.Load() > max(1, (d.limit/3*2-reserved)/perConn) }

// scarceFor is how long after a shortage one goes on making sure of descriptors beforehand.
const scarceFor = 2 * time.Second

// withDescriptors runs fn, which opens files, again when it failed for want of a descriptor and some could be had by closing
// what nobody uses. Whether it ends with ctx once it has its turn is for fn.
func (b *Backend) withDescriptors(ctx context.Context, fn func() error) error {
	d := &b.descriptors
	if last := d.last.Load(); last == 0 || b.now()-time.Duration(last) > scarceFor {
		if err := fn(); err == nil || !cannotOpen(err) {
			return err
		}
	}
	// One at a time, and with room made first: those who are short would take from each other what is made free.
	select {
	case d.scarce <- struct{}{}:
		defer func() { <-d.scarce }()
	case <-ctx.Done():
		return ctx.Err()
	}
	for starved() {
		d.last.Store(int64(b.now()))
		if !b.stores.spare() {
			break
		}
	}
	err := fn()
	if err != nil && cannotOpen(err) && starved() {
		return fmt.Errorf("%w: the process has no file descriptor left (its limit is %d), and no store is unused: raise the limit "+
			"(ulimit -n, or LimitNOFILE with systemd), or use fewer connections: %w", backend.ErrBusy, descriptorLimit(), err)
	}
	return err
}

// cannotOpen reports whether an error may have come of the limit on descriptors. SQLite says only that it could not open
// something.
func cannotOpen(err error) bool {
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		return true
	}
	c := code(err) & 0xff
	return c == sqlite3.SQLITE_CANTOPEN || c == sqlite3.SQLITE_IOERR
}

// starved reports whether the process has next to no descriptor left. What it opens to find out is nobody's database.
func starved() bool {
	for range perStore {
		f, err := os.Open(os.DevNull)
		if err != nil {
			return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
		}
		defer f.Close()
	}
	return false
}

// spare closes what nobody uses: idle connections beyond each store's first, and failing that the stores that were unused
// for longest. It returns false when there was nothing.
func (sh *shelf) spare() bool {
	spared := false
	for _, st := range sh.all() {
		spared = st.closeSpare() || spared
	}
	for i := 0; !spared && i < 8; i++ {
		if !sh.closeOldest(false) {
			return i > 0
		}
	}
	return true
}

// all returns the stores that are open.
func (sh *shelf) all() []*store {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return slices.DeleteFunc(sh.stores.Values(), func(st *store) bool { return st.phase != open })
}

// closeSpare closes idle connections but for the store's last. It reports whether there was one.
func (st *store) closeSpare() (closed bool) {
	for {
		c := st.takeSpare()
		if c == nil {
			return closed
		}
		closed = true
		c.mu.Lock()
		_ = c.close()
		c.mu.Unlock()
	}
}

func (st *store) takeSpare() *conn {
	st.mu.Lock()
	defer st.mu.Unlock()
	if len(st.idle) == 0 || len(st.conns) < 2 {
		return nil
	}
	c := st.idle[0]
	st.idle = st.idle[1:]
	st.conns = slices.DeleteFunc(st.conns, func(o *conn) bool { return o == c })
	return c
}
