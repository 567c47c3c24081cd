package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/tenement-go/tenement/backend"
)

var _ backend.Adopter = (*Backend)(nil)

// Adopt implements [backend.Adopter]. The file must be where the store is to be: tenants/NAME.db.
func (b *Backend) Adopt(ctx context.Context, rt backend.Route) error {
	return b.stampFile(ctx, "adopt", rt.Store, rt.Owner, stampSchema+";INSERT INTO main."+stampTable+" (owner) VALUES (x'%x')", func() error {
		switch _, err := b.stat(ctx, rt.Store); {
		case err == nil:
			return backend.ErrStoreExists
		case !errors.Is(err, errUnstamped):
			return err
		}
		return nil
	})
}

// Restamp implements [backend.Adopter].
func (b *Backend) Restamp(ctx context.Context, rt backend.Route, owner string) error {
	return b.stampFile(ctx, "restamp", rt.Store, owner, "UPDATE main."+stampTable+" SET owner = x'%x'", func() error {
		return b.check(ctx, rt)
	})
}

// stampFile writes an owner into a file that nobody has open, if may says so.
func (b *Backend) stampFile(ctx context.Context, op string, s backend.Store, owner, sql string, may func() error) error {
	fault := func(err error) error { return &backend.Error{Op: op, Store: s, Err: err} }
	stamp, err := encodeStamp(owner)
	if err != nil {
		return fault(err)
	}
	unlock, err := b.lock(ctx, storeKey(s))
	if err != nil {
		return fault(err)
	}
	defer unlock()
	if err := may(); err != nil {
		return fault(err)
	}
	if _, err := os.Lstat(b.path(s)); errors.Is(err, fs.ErrNotExist) {
		return fault(backend.ErrStoreMissing)
	}
	unblock, err := b.stores.block(ctx, s)
	if err != nil {
		return fault(err)
	}
	defer unblock()
	// What was in a -wal is in the file then, and so is the stamp, which is looked for in the file alone.
	err = b.foldAtDoor(ctx, b.path(s), func() error {
		// Who comes back is not to be told that the store is another one's, since it was stamped after all.
		return execOnce(context.WithoutCancel(ctx), b.path(s), "BEGIN IMMEDIATE;"+fmt.Sprintf(sql, stamp)+";COMMIT")
	})
	if err != nil {
		return fault(err)
	}
	return nil
}
