package sqlite

import (
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/durable"
)

// What lies in the directory of the tenants. Names that begin with a dot cannot be a store's.
const (
	storeExt     = ".db"
	tempExt      = ".tmp"     // .STORE.RANDOM.tmp: a store that is being made
	tombstoneExt = ".dropped" // .STORE.RANDOM.dropped: one that was dropped, until it is removed
)

// sideExts are what SQLite puts behind a file's name. A -wal that is left behind would be taken for the next file's of
// that name: its readers would see the old tenant's rows.
var sideExts = []string{"-wal", "-shm", "-journal"}

func removeSideFiles(path string) error {
	for _, ext := range sideExts {
		if err := remove(path + ext); err != nil {
			return err
		}
	}
	return nil
}

func storeKey(s backend.Store) string { return "store/" + s.String() }

// hidden returns a new path for a file that belongs to store and is none.
func (b *Backend) hidden(s backend.Store, ext string) string {
	return filepath.Join(b.tenants(), "."+s.String()+"."+strings.ToLower(rand.Text()[:12])+ext)
}

// Create implements [backend.Backend].
func (b *Backend) Create(ctx context.Context, rt backend.Route) error {
	return b.create(ctx, rt, emptyTemplate, nil)
}

// CreateFrom implements [backend.Templater].
func (b *Backend) CreateFrom(ctx context.Context, rt backend.Route, key string, build func(ctx context.Context, db *sql.DB) error) error {
	return b.create(ctx, rt, "t/"+key, build)
}

func (b *Backend) create(ctx context.Context, rt backend.Route, key string, build buildFunc) error {
	if rt.IsZero() {
		return &backend.Error{Op: "create", Err: backend.ErrNoTenant}
	}
	if err := b.createFile(ctx, rt, key, build, nil); err != nil {
		return &backend.Error{Op: "create", Store: rt.Store, Err: err}
	}
	return nil
}

// createFile makes a store of a template. fill, when it is given, changes the file before that gets the store's name.
func (b *Backend) createFile(ctx context.Context, rt backend.Route, key string, build buildFunc, fill func(temp string) error) error {
	return b.makeFile(ctx, rt, func(temp string, stamp []byte) error {
		if err := b.plant(ctx, key, build, temp, stamp); err != nil || fill == nil {
			return err
		}
		return fill(temp)
	})
}

// makeFile is moveIn of a file that fill makes; nothing is left of it when that fails.
func (b *Backend) makeFile(ctx context.Context, rt backend.Route, fill func(temp string, stamp []byte) error) error {
	temp := b.hidden(rt.Store, tempExt)
	return b.moveIn(ctx, rt, temp, func(stamp []byte) error { return fill(temp, stamp) }, b.clearBuild)
}

// moveIn gives a file the name of a store that is not there yet. ready has it carry the stamp and sees to it that it is on
// disk, while the name is held; undo, when it is given, is called with the file when that or what comes after it fails.
func (b *Backend) moveIn(ctx context.Context, rt backend.Route, file string, ready func(stamp []byte) error, undo func(file string)) error {
	stamp, err := encodeStamp(rt.Owner)
	if err != nil {
		return err
	}
	unlock, err := b.lock(ctx, storeKey(rt.Store))
	if err != nil {
		return err
	}
	defer unlock()
	path := b.path(rt.Store)
	if err := absent(path); err != nil {
		return err
	}
	if err = ready(stamp); err == nil {
		err = errors.Join(ctx.Err(), removeSideFiles(path))
	}
	if err == nil {
		err = os.Rename(file, path)
	}
	if err != nil {
		if undo != nil {
			undo(file)
		}
		return err
	}
	return durable.SyncDir(b.tenants())
}

// absent returns ErrStoreExists when there is something at path. The caller holds the store's lock, so it stays so.
func absent(path string) error {
	switch _, err := os.Lstat(path); {
	case err == nil:
		return backend.ErrStoreExists
	case errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		return err
	}
}

// check returns ErrStoreMissing unless there is a store at path that rt may have meant.
func (b *Backend) check(ctx context.Context, rt backend.Route) error {
	info, err := b.stat(ctx, rt.Store)
	if err != nil {
		return err
	}
	if rt.Owner != "" && rt.Owner != info.Owner {
		return errOtherOwner
	}
	return nil
}

// Drop implements [backend.Backend].
func (b *Backend) Drop(ctx context.Context, rt backend.Route) error {
	if rt.IsZero() {
		return &backend.Error{Op: "drop", Err: backend.ErrNoTenant}
	}
	if err := b.drop(ctx, rt); err != nil {
		return &backend.Error{Op: "drop", Store: rt.Store, Err: err}
	}
	return nil
}

func (b *Backend) drop(ctx context.Context, rt backend.Route) error {
	unlock, err := b.lock(ctx, storeKey(rt.Store))
	if err != nil {
		return err
	}
	defer unlock()
	path := b.path(rt.Store)
	if err := b.check(ctx, rt); err != nil {
		if _, lerr := os.Lstat(path); errors.Is(lerr, fs.ErrNotExist) {
			return errors.Join(err, removeSideFiles(path)) // an earlier call died after the store was gone
		}
		return err
	}
	unblock, err := b.stores.block(ctx, rt.Store)
	if err != nil {
		return err
	}
	defer unblock()
	release, err := b.occupy(ctx, path)
	if err != nil {
		return err
	}
	defer release()
	// From here on nobody opens it; those who have it open find, at their next write or within noticeWithin, that the
	// name stands for nothing. The file is kept until its -wal is gone, so that it cannot come back half.
	tombstone := b.hidden(rt.Store, tombstoneExt)
	err = b.untilFree(ctx, b.cfg.BusyTimeout, func(limited context.Context) error {
		return b.atDoor(limited, path, func() error { return os.Rename(path, tombstone) })
	})
	if err != nil {
		return err
	}
	return errors.Join(removeSideFiles(path), durable.SyncDir(b.tenants()), remove(tombstone))
}

// occupy keeps those who close the file's last connection from removing its side files, by having it open until release. They do
// that by name, under a lock that nobody else has the file with, and do not look again whether it is the file of that name by
// then (sqlite3WalClose in wal.c, unixClose in os_unix.c): what they remove could be the next file's. Who is at it is waited for;
// a file that cannot be read has nobody who is.
func (b *Backend) occupy(ctx context.Context, path string) (release func(), err error) {
	var r raw
	err = b.untilFree(ctx, b.cfg.BusyTimeout, func(context.Context) error {
		r, err = b.openFile(ctx, path, 0, func(r raw) error {
			_, err := r.ExecContext(ctx, "BEGIN; SELECT 1 FROM sqlite_schema", nil)
			return err
		})
		return err
	})
	switch {
	case err == nil:
		return func() { _ = r.Close() }, nil
	case ctx.Err() != nil || errors.Is(err, backend.ErrBusy): // the contract's: a log that is stuck is not this package's
		return nil, errors.Join(err, ctx.Err())
	default:
		return func() {}, nil
	}
}

// Rename implements [backend.Backend]. When another process has the store open it is asked to let go, which takes a
// fraction of a second; when a unit of work there goes on for longer than Config.BusyTimeout (or ctx allows), Rename
// fails and nothing is changed.
func (b *Backend) Rename(ctx context.Context, rt backend.Route, to backend.Store) error {
	if rt.IsZero() || to.IsZero() {
		return &backend.Error{Op: "rename", Store: rt.Store, Err: backend.ErrNoTenant}
	}
	if err := b.rename(ctx, rt, to); err != nil {
		return &backend.Error{Op: "rename", Store: rt.Store, Err: err}
	}
	return nil
}

func (b *Backend) rename(ctx context.Context, rt backend.Route, to backend.Store) error {
	names := []backend.Store{rt.Store, to}
	slices.SortFunc(names, func(x, y backend.Store) int { return strings.Compare(x.String(), y.String()) })
	for _, name := range slices.Compact(names) { // in one order, whoever renames what
		unlock, err := b.lock(ctx, storeKey(name))
		if err != nil {
			return err
		}
		defer unlock()
	}
	if err := b.check(ctx, rt); err != nil {
		return err
	}
	from, dest := b.path(rt.Store), b.path(to)
	if err := absent(dest); err != nil {
		return err
	}
	marker := b.marker(rt.Store)
	if err := os.WriteFile(marker, nil, 0o600); err != nil {
		return err
	}
	defer func() { _ = remove(marker) }()
	unblock, err := b.stores.block(ctx, rt.Store)
	if err != nil {
		return err
	}
	defer unblock()
	if err := removeSideFiles(dest); err != nil {
		return err
	}
	err = b.foldAtDoor(ctx, from, func() error { return os.Rename(from, dest) })
	if err != nil {
		return err
	}
	return durable.SyncDir(b.tenants())
}

// fold brings everything that is in the side files of a store into its main file and removes them, which SQLite does
// when it leaves WAL mode. That works once nobody else has the file open; the next one to open it turns WAL on again.
func (b *Backend) fold(ctx context.Context, path string) error {
	return b.untilFree(ctx, b.cfg.BusyTimeout, func(context.Context) error { return foldOnce(ctx, path) })
}

// foldAtDoor is fold, and what is to be done before anybody opens the file again, who turns WAL on.
func (b *Backend) foldAtDoor(ctx context.Context, path string, then func() error) error {
	return b.untilFree(ctx, b.cfg.BusyTimeout, func(limited context.Context) error {
		return b.atDoor(limited, path, func() error {
			if err := foldOnce(ctx, path); err != nil {
				return err
			}
			return then()
		})
	})
}

func foldOnce(ctx context.Context, path string) error {
	return execOnce(ctx, path, "PRAGMA main.journal_mode=DELETE")
}

// execOnce executes a text on a connection of its own, which waits for nobody.
func execOnce(ctx context.Context, path, text string) error {
	r, err := dial(ctx, uri(path, "rw")+"&_error_rc=1")
	if err != nil {
		return err
	}
	_, err = r.ExecContext(ctx, text, nil)
	return errors.Join(err, r.Close())
}

// isMoving reports whether somebody is renaming the store, or died while doing so.
func (b *Backend) isMoving(s backend.Store) bool {
	_, err := os.Lstat(b.marker(s))
	return err == nil
}

// waitForMove waits until nobody is renaming the store. A marker without somebody who holds the store's lock was left by
// a process that died. The caller has no place on the shelf that whoever holds that lock could be waiting for.
func (b *Backend) waitForMove(ctx context.Context, s backend.Store) error {
	if !b.isMoving(s) {
		return nil
	}
	unlock, err := b.lock(ctx, storeKey(s))
	if err != nil {
		return err
	}
	defer unlock()
	return remove(b.marker(s))
}

func (b *Backend) stat(ctx context.Context, s backend.Store) (backend.StoreInfo, error) {
	if b.isClosed() {
		return backend.StoreInfo{}, backend.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return backend.StoreInfo{}, err
	}
	path := b.path(s)
	fi, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && !fi.Mode().IsRegular():
		return backend.StoreInfo{}, backend.ErrStoreMissing
	case err != nil:
		return backend.StoreInfo{}, err
	}
	info := backend.StoreInfo{Store: s, Bytes: fi.Size()}
	if wal, err := os.Lstat(path + "-wal"); err == nil {
		info.Bytes += wal.Size()
	}
	if info.Owner, err = b.owner(ctx, s, fi); errors.Is(err, backend.ErrStoreMissing) || absent(path) == nil {
		return backend.StoreInfo{}, cmp.Or(err, backend.ErrStoreMissing) // dropped meanwhile, or no store at all
	}
	return info, err
}

// owner returns the owner of a store, whose file was as described: as it is known where the store is open here.
func (b *Backend) owner(ctx context.Context, s backend.Store, file os.FileInfo) (string, error) {
	if st := b.stores.peek(s); st != nil && os.SameFile(st.file, file) {
		return st.owner, nil
	}
	var owner string
	err := b.untilFree(ctx, b.ownWait(ctx), func(limited context.Context) error {
		return b.atDoor(limited, b.path(s), func() error {
			return b.withDescriptors(ctx, func() (err error) {
				owner, err = ownerOf(ctx, b.path(s))
				return err
			})
		})
	})
	return owner, err
}

// Stores implements [backend.Backend].
func (b *Backend) Stores(ctx context.Context) iter.Seq2[backend.StoreInfo, error] {
	return func(yield func(backend.StoreInfo, error) bool) {
		names, err := b.names()
		if err != nil {
			yield(backend.StoreInfo{}, &backend.Error{Op: "list", Err: err})
			return
		}
		for _, name := range names {
			info, err := b.stat(ctx, name)
			if errors.Is(err, backend.ErrStoreMissing) {
				continue // dropped meanwhile
			}
			if err != nil {
				yield(backend.StoreInfo{}, &backend.Error{Op: "list", Store: name, Err: err})
				return
			}
			if !yield(info, nil) {
				return
			}
		}
	}
}

func (b *Backend) names() ([]backend.Store, error) {
	if b.isClosed() {
		return nil, backend.ErrClosed
	}
	entries, err := os.ReadDir(b.tenants())
	if err != nil {
		return nil, err
	}
	var names []backend.Store
	for _, e := range entries {
		text, ok := strings.CutSuffix(e.Name(), storeExt)
		if !ok || !e.Type().IsRegular() {
			continue
		}
		if name, err := backend.ParseStore(text); err == nil {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(x, y backend.Store) int { return strings.Compare(x.String(), y.String()) })
	return names, nil
}

// copyFile copies a file that does not change. The operating system does it where it can (a clone on file systems that
// have it).
func copyFile(dst *os.File, src string) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	_, err = io.Copy(dst, in)
	return err
}

func hexName(sum []byte) string { return hex.EncodeToString(sum[:16]) }
