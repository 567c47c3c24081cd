package sqlite

import (
	"context"
	"fmt"

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
	return b.makeFile(ctx, to, func(temp string, stamp []byte) error {
		if err := b.copyStore(ctx, st, temp); err != nil {
			return err
		}
		return b.giveFile(ctx, temp, stamp)
	})
}

// giveFile has a file that nobody has open carry an owner, and be on disk.
func (b *Backend) giveFile(ctx context.Context, path string, stamp []byte) error {
	if err := b.restamp(ctx, path, stamp); err != nil {
		return err
	}
	return b.finishTemplate(ctx, path)
}

// restamp writes an owner into a file that nobody has open.
func (b *Backend) restamp(ctx context.Context, path string, stamp []byte) error {
	return execOnce(ctx, path, fmt.Sprintf("UPDATE main."+stampTable+" SET owner = x'%x'", stamp))
}
