package sqlite

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/durable"
)

var _ backend.Backuper = (*Backend)(nil)

// backupStep is how many pages are copied between two looks at the context.
const backupStep = 512

// Backup implements [backend.Backuper]. The copy is one SQLite file with nothing beside it, readable by any client; put in
// the place of a store's file while no process has that open, it is that store. It is what the store held at one moment,
// however much is written meanwhile, since the whole of it is read within one transaction: a copy that is made page by
// page by another program (sqlite3's .backup) begins anew after each commit. The -wal grows as long as it takes.
func (b *Backend) Backup(ctx context.Context, rt backend.Route, path string) error {
	if rt.IsZero() {
		return &backend.Error{Op: "back up", Err: backend.ErrNoTenant}
	}
	if err := b.backup(ctx, rt, path); err != nil {
		return &backend.Error{Op: "back up", Store: rt.Store, Err: err}
	}
	return nil
}

func (b *Backend) backup(ctx context.Context, rt backend.Route, path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	st, err := b.stores.acquire(ctx, rt)
	if err != nil {
		return err
	}
	defer b.stores.release(st)
	// The name is taken before the work is done; an empty file is all that a process that dies leaves under it.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	temp := path + "." + strings.ToLower(rand.Text()[:12]) + tempExt
	err = f.Close()
	if err == nil {
		err = b.copyStore(ctx, st, temp)
	}
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		b.clearBuild(temp)
		return errors.Join(err, remove(path))
	}
	return durable.SyncDir(filepath.Dir(path))
}

// copyStore makes a copy of the store, in one file and on disk.
func (b *Backend) copyStore(ctx context.Context, st *store, to string) error {
	r, err := b.enter(ctx, st.path, b.ownWait(ctx), func(r raw) error {
		_, err := r.ExecContext(ctx, b.setup, nil)
		return err
	})
	if err != nil {
		return err
	}
	// The copy is made from this transaction's point of view.
	if _, err := r.ExecContext(ctx, "BEGIN; SELECT count(*) FROM main.sqlite_schema", nil); err != nil {
		return errors.Join(err, r.Close())
	}
	err = copyPages(ctx, r, to)
	if err = errors.Join(err, r.Close()); err != nil {
		return err
	}
	if err := b.fold(ctx, to); err != nil {
		return err
	}
	return st.verify() // what was copied is this store's
}

func copyPages(ctx context.Context, from raw, to string) error {
	copying, err := from.NewBackup(uri(to, "rwc"))
	if err != nil {
		return err
	}
	more := true
	for more && err == nil {
		if err = ctx.Err(); err == nil {
			more, err = copying.Step(backupStep)
		}
	}
	if ferr := copying.Finish(); err == nil {
		err = ferr // else it says the same again
	}
	return err
}
