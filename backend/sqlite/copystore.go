package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/tenement-go/tenement/backend"
)

var _ backend.Copier = (*Backend)(nil)

// CopyStore implements [backend.Copier], by SQLite's own backup: the file of a live store is opened by nothing else. The copy
// is made under a name that is no store's, and has its owner, and is on disk, before it gets its own.
func (b *Backend) CopyStore(ctx context.Context, from, to backend.Route) error {
	if from.IsZero() || to.IsZero() {
		return &backend.Error{Op: "copy", Err: backend.ErrNoTenant}
	}
	st, err := b.stores.acquire(ctx, from)
	if err != nil {
		return &backend.Error{Op: "copy", Store: from.Store, Err: err}
	}
	defer b.stores.release(st)
	if err := b.createCopy(ctx, st, to); err != nil {
		return &backend.Error{Op: "copy into", Store: to.Store, Err: err}
	}
	return nil
}

func (b *Backend) createCopy(ctx context.Context, st *store, to backend.Route) error {
	stamp, err := encodeStamp(to.Owner)
	if err != nil {
		return err
	}
	unlock, err := b.lock(ctx, storeKey(to.Store))
	if err != nil {
		return err
	}
	defer unlock()
	path := b.path(to.Store)
	if err := absent(path); err != nil {
		return err
	}
	temp := b.hidden(to.Store, tempExt)
	err = b.copyStore(ctx, st, temp)
	if err == nil {
		err = b.restamp(ctx, temp, stamp)
	}
	if err == nil {
		err = b.finishTemplate(ctx, temp)
	}
	if err == nil {
		err = errors.Join(ctx.Err(), removeSideFiles(path))
	}
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		b.clearBuild(temp)
		return err
	}
	return syncDir(b.tenants())
}

// restamp writes an owner into a file that nobody has open.
func (b *Backend) restamp(ctx context.Context, path string, stamp []byte) error {
	r, err := dial(ctx, uri(path, "rw")+"&_error_rc=1")
	if err != nil {
		return err
	}
	_, err = r.ExecContext(ctx, fmt.Sprintf("UPDATE main."+stampTable+" SET owner = x'%x'", stamp), nil)
	return errors.Join(err, r.Close())
}
