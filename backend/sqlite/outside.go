package sqlite

import (
	"context"
	"errors"

	"github.com/tenement-go/tenement/backend"
)

// What a program needs that works on the files themselves, beside this package: the module litestream below it.

// Path returns the file of a store, the shared one for the zero Store. Whoever opens it by something else than SQLite
// read "Several processes" in the package's documentation before.
func (b *Backend) Path(s backend.Store) string {
	if s.IsZero() {
		return b.shared.path
	}
	return b.path(s)
}

// Hold keeps everybody, in all processes, from making, dropping and renaming the store of a name until release is called;
// it is served all the while. It does not wait: it returns [ErrBusy] when somebody is at it. So the file that [Backend.Path] says is
// there, or not, for as long as it is held.
func (b *Backend) Hold(ctx context.Context, s backend.Store) (release func(), err error) {
	if b.isClosed() {
		return nil, &backend.Error{Op: "hold", Store: s, Err: backend.ErrClosed}
	}
	release, err = b.tryLock(ctx, storeKey(s))
	if errors.Is(err, errLocked) {
		err = ErrBusy
	}
	if err != nil {
		return nil, &backend.Error{Op: "hold", Store: s, Err: err}
	}
	return release, nil
}

// Moving reports whether somebody is renaming the store of a name, and waits for those who have it open.
func (b *Backend) Moving(s backend.Store) bool { return b.isMoving(s) }

// Install makes the store of rt of a file that nobody has open: a copy of a store, such as [Backend.Backup] makes, on the
// same file system. The file is gone from path then, and carries rt's owner. It returns [backend.ErrStoreExists], and
// [backend.ErrStoreMissing] for a file that was never a store, and leaves both as they were.
func (b *Backend) Install(ctx context.Context, rt backend.Route, path string) error {
	if rt.IsZero() {
		return &backend.Error{Op: "install", Err: backend.ErrNoTenant}
	}
	err := b.moveIn(ctx, rt, path, func(stamp []byte) error {
		if _, err := ownerOf(ctx, path); err != nil {
			return err
		}
		if err := b.fold(ctx, path); err != nil { // what is in a -wal of it is in the file then
			return err
		}
		return b.giveFile(ctx, path, stamp)
	}, nil)
	if err != nil {
		return &backend.Error{Op: "install", Store: rt.Store, Err: err}
	}
	return nil
}

// FileOwner returns the owner that a file carries, which is no store's that is served: a copy, or one that was restored.
// It returns [backend.ErrStoreMissing] when it was never a store.
func FileOwner(ctx context.Context, path string) (owner string, err error) {
	if owner, err = ownerOf(ctx, path); err != nil {
		err = &backend.Error{Op: "look at " + path, Err: err}
	}
	return owner, err
}
