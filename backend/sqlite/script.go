package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/tenement-go/tenement/backend"
)

var _ backend.ScriptRunner = (*Backend)(nil)

// unsynced are the stores whose -wal asynchronous scripts wrote and left to others to fold in.
type unsynced struct {
	mu    sync.Mutex
	paths map[string]struct{}
}

// RunScripts implements [backend.ScriptRunner]. Each script gets a connection of its own, which leaves the open stores
// alone: a run over thousands of files does not push out the ones that requests use. The shared tables are attached for a
// script that turns out to name what the store has not.
//
// With Async a commit is not synced by itself, only when the file is closed or at the latest by Flush; a power failure
// before that may undo it, never tear it.
func (b *Backend) RunScripts(ctx context.Context, scripts []backend.Script, opt backend.ScriptOptions) []error {
	errs := make([]error, len(scripts))
	for i, s := range scripts {
		err := errors.Join(ctx.Err(), fenced(ctx))
		switch {
		case err != nil:
		case s.Route.IsZero():
			err = backend.ErrNoTenant
		case strings.IndexByte(s.Head+s.Guard+s.SQL, 0) >= 0:
			err = errNUL
		case b.isClosed():
			err = backend.ErrClosed
		case s.Create:
			err = b.scriptInNew(ctx, s, opt)
		default:
			err = b.script(ctx, s, opt)
		}
		if err != nil {
			errs[i] = &backend.Error{Op: "run script in", Store: s.Route.Store, Err: err}
		}
	}
	return errs
}

// script runs a script in a store that is there.
func (b *Backend) script(ctx context.Context, s backend.Script, opt backend.ScriptOptions) error {
	if err := b.waitForMove(ctx, s.Route.Store); err != nil {
		return err
	}
	path := b.path(s.Route.Store)
	file, err := os.Lstat(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return backend.ErrStoreMissing
		}
		return err
	}
	// Where the store is open, the script queues with those who write to it.
	endTurn, err := b.scriptTurn(ctx, s.Route.Store, opt)
	if err != nil {
		return err
	}
	err = b.runScript(ctx, b.enter, path, s, opt)
	endTurn()
	if err != nil {
		return err
	}
	if now, err := os.Lstat(path); err != nil || !os.SameFile(file, now) {
		return fmt.Errorf("%w: it was dropped or replaced meanwhile", backend.ErrStoreMissing)
	}
	if opt.Async {
		if _, err := os.Lstat(path + "-wal"); err == nil { // others have it open; closing did not sync it
			b.unsynced.mu.Lock()
			if b.unsynced.paths == nil {
				b.unsynced.paths = map[string]struct{}{}
			}
			b.unsynced.paths[path] = struct{}{}
			b.unsynced.mu.Unlock()
		}
	}
	return nil
}

// scriptTurn takes the writer's turn of a store that is open in this process.
func (b *Backend) scriptTurn(ctx context.Context, name backend.Store, opt backend.ScriptOptions) (end func(), err error) {
	st := b.stores.use(name)
	if st == nil {
		return func() {}, nil
	}
	if err := st.await(ctx, st.turn, b.lockTimeout(opt)); err != nil {
		defer b.stores.release(st)
		if ctx.Err() == nil && !errors.Is(err, st.fate()) {
			err = fmt.Errorf("%w: no turn to write within %v", ErrBusy, b.lockTimeout(opt))
		}
		return nil, err
	}
	return func() {
		st.turn.Release(1)
		b.stores.release(st)
	}, nil
}

func (b *Backend) lockTimeout(opt backend.ScriptOptions) time.Duration {
	if opt.LockTimeout > 0 {
		return max(opt.LockTimeout, time.Millisecond)
	}
	return b.cfg.BusyTimeout
}

// runScript opens the file, runs the text in a transaction and closes it.
func (b *Backend) runScript(ctx context.Context, open opener, path string, s backend.Script, opt backend.ScriptOptions) error {
	terms := b.cfg
	terms.BusyTimeout = b.lockTimeout(opt)
	if opt.Async && (terms.Synchronous == Full || terms.Synchronous == Extra) {
		terms.Synchronous = Normal
	}
	var owner string
	r, err := open(ctx, path, terms.BusyTimeout, func(r raw) (err error) {
		owner, err = askOwner(ctx, r, terms.settings()+"; PRAGMA foreign_keys=0; ")
		return err
	})
	if err != nil {
		return err
	}
	c := &conn{raw: r, tenant: true}
	if s.Route.Owner != "" && s.Route.Owner != owner {
		err = errOtherOwner
	}
	if err == nil {
		err = r.RegisterAuthorizer(c.authorize)
	}
	if err == nil {
		err = b.inTransaction(ctx, c, path, s.Head+s.Guard+s.SQL)
	}
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	return err
}

// inTransaction is BEGIN, the text, COMMIT. What fails is rolled back when the connection is closed.
func (b *Backend) inTransaction(ctx context.Context, c *conn, path, text string) error {
	if err := c.run(ctx, "BEGIN IMMEDIATE"); err != nil {
		if busy(err) {
			return fmt.Errorf("%w: %w", ErrBusy, err)
		}
		return err
	}
	c.script = true
	_, err := c.raw.ExecContext(ctx, text, nil)
	if code(err) == sqlite3.SQLITE_ERROR && !c.attached {
		// What it names may be a shared table.
		if err := c.run(ctx, "ROLLBACK; "+b.attach+"; BEGIN IMMEDIATE"); err != nil {
			return err
		}
		c.attached, c.effects, c.denied = true, 0, 0
		_, err = c.raw.ExecContext(ctx, text, nil)
	}
	if err != nil {
		return explainDenial(c.denied, err)
	}
	c.own = true // the rest is ours
	if err := b.checkKeys(ctx, c.raw, path, c.effects&defines != 0); err != nil {
		return err
	}
	return c.run(context.WithoutCancel(ctx), "COMMIT")
}

// explainDenial says what to do about a script that the authorizer refused.
func explainDenial(why denial, err error) error {
	switch why {
	case deniedInScript:
		return fmt.Errorf("a script runs in a transaction already; take its BEGIN, COMMIT or ROLLBACK out: %w", err)
	case deniedForGood:
		return fmt.Errorf("%w, and what could get around that is refused: %w", backend.ErrReadOnlyShared, err)
	}
	return err
}

// scriptInNew makes a store and runs the script in it before it gets its name: there is a whole store, or none.
func (b *Backend) scriptInNew(ctx context.Context, s backend.Script, opt backend.ScriptOptions) error {
	return b.createFile(ctx, s.Route, emptyTemplate, nil, func(temp string) error {
		opt.Async = false
		if err := b.runScript(ctx, b.openFile, temp, s, opt); err != nil {
			return err
		}
		// Closing folded the -wal in; what is left of it would stay behind under the temporary name.
		return removeSideFiles(temp)
	})
}

// Flush implements [backend.ScriptRunner].
func (b *Backend) Flush(ctx context.Context) error {
	if b.isClosed() {
		return &backend.Error{Op: "flush", Err: backend.ErrClosed}
	}
	b.unsynced.mu.Lock()
	paths := b.unsynced.paths
	b.unsynced.paths = nil
	b.unsynced.mu.Unlock()
	for path := range paths {
		err := ctx.Err()
		if err == nil {
			err = b.syncWAL(ctx, path)
		}
		if err != nil {
			b.unsynced.mu.Lock()
			if b.unsynced.paths == nil {
				b.unsynced.paths = map[string]struct{}{}
			}
			for path := range paths {
				b.unsynced.paths[path] = struct{}{}
			}
			b.unsynced.mu.Unlock()
			return &backend.Error{Op: "flush", Err: err}
		}
		delete(paths, path)
	}
	return nil
}

// syncWAL has SQLite sync what is in the -wal of a store: a commit with synchronous=FULL does, for all before it. There
// is none to sync when the store is gone, or when its last user folded the -wal in, which syncs it too.
func (b *Backend) syncWAL(ctx context.Context, path string) error {
	terms := b.cfg
	terms.Synchronous = Full
	r, err := b.enter(ctx, path, b.ownWait(ctx), func(r raw) error {
		_, err := r.ExecContext(ctx, terms.settings(), nil)
		return err
	})
	if err == nil {
		// Setting a number in the header to what it is writes a page all the same.
		_, err = r.ExecContext(ctx, "BEGIN IMMEDIATE", nil)
		var version int64
		if err == nil {
			version, err = ask(ctx, r, "PRAGMA main.user_version")
		}
		if err == nil {
			_, err = r.ExecContext(ctx, "PRAGMA main.user_version="+strconv.FormatInt(version, 10)+"; COMMIT", nil)
		}
		err = errors.Join(err, r.Close())
	}
	if err != nil && absent(path) == nil {
		return nil
	}
	return err
}
