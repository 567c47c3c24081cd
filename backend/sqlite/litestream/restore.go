package litestream

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	ls "github.com/benbjohnson/litestream"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/sqlite"
	"github.com/tenement-go/tenement/tenancy"
)

// Restore implements [manage.Backups]: what a tenant was at a moment takes the place of what it is, by
// [tenancy.App.Replace], whose errors it returns. It is checked first, and returns ErrNoBackup when there is nothing from before that
// moment. The tenant may be behind the newest migrations then. Its files, and its place in the registry, stay as they are.
func (b *Backups) Restore(ctx context.Context, app *tenancy.App, id tenancy.ID, at time.Time) (tenancy.AsideStore, error) {
	be, file, remove, err := b.fetch(ctx, app, id, at)
	if err != nil {
		return tenancy.AsideStore{}, err
	}
	defer remove()
	return app.Replace(ctx, id, func(ctx context.Context, _ tenancy.Tenant, rt backend.Route) error {
		return install(tenancy.Leave(ctx), app, be, rt, file)
	})
}

// RestoreAs implements [manage.Backups]: what a tenant was becomes another tenant, with an ID of its own, by
// [tenancy.App.CreateBy], whose errors it returns. The tenant may have been purged. It returns ErrNoBackup when there is nothing from before
// that moment.
func (b *Backups) RestoreAs(ctx context.Context, app *tenancy.App, id tenancy.ID, at time.Time, spec tenancy.Spec) (tenancy.Tenant, error) {
	be, file, remove, err := b.fetch(ctx, app, id, at)
	if err != nil {
		return tenancy.Tenant{}, err
	}
	defer remove()
	return app.CreateBy(ctx, spec, func(ctx context.Context, t tenancy.Tenant) error {
		return install(tenancy.Leave(ctx), app, be, backend.Route{Store: t.Store, Owner: string(t.ID)}, file)
	})
}

// RestoreFile implements [manage.Backups]: what a tenant was, or without an ID the shared store with the registry, is written
// to a file. It returns an error that wraps [os.ErrExist] when there is one, and ErrNoBackup when there is nothing from before that
// moment. What it was can be put in the place of a store's file while no process has that open, without any -wal or -shm.
func (b *Backups) RestoreFile(ctx context.Context, app *tenancy.App, id tenancy.ID, at time.Time, path string) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s: %w", path, os.ErrExist)
	}
	if _, err := directory(app); err != nil {
		return err
	}
	return b.fetchTo(ctx, id, at, path)
}

// install makes a store of a file, and enters it into the migrator's ledger.
func install(ctx context.Context, app *tenancy.App, be *sqlite.Backend, rt backend.Route, file string) error {
	if err := be.Install(ctx, rt, file); err != nil {
		return err
	}
	return app.Migrator().Enter(ctx, rt.Store)
}

// fetch restores to a file beside the stores.
func (b *Backups) fetch(ctx context.Context, app *tenancy.App, id tenancy.ID, at time.Time) (be *sqlite.Backend, file string, remove func(), err error) {
	if id == "" {
		return nil, "", nil, tenancy.ErrNotFound
	}
	if be, err = directory(app); err != nil {
		return nil, "", nil, err
	}
	if err := os.MkdirAll(local(be, ""), 0o700); err != nil {
		return nil, "", nil, err
	}
	dir, err := os.MkdirTemp(local(be, ""), "restore-")
	if err != nil {
		return nil, "", nil, err
	}
	remove = func() { _ = os.RemoveAll(dir) }
	file = filepath.Join(dir, "store.db")
	if err := b.fetchTo(ctx, id, at, file); err != nil {
		remove()
		return nil, "", nil, err
	}
	return be, file, remove, nil
}

func (b *Backups) fetchTo(ctx context.Context, id tenancy.ID, at time.Time, file string) error {
	name := nameOf(id)
	c, err := b.target.client(name)
	if err != nil {
		return err
	}
	db := ls.NewDB(file) // for its log
	db.SetLogger(quiet)
	defer func() { _ = db.Close(ctx) }()
	opt := ls.NewRestoreOptions()
	// The time in a file of a history is that of the copying, cut to milliseconds. One from before this moment, cut as well,
	// has nothing that was committed after it.
	opt.OutputPath, opt.Timestamp, opt.IntegrityCheck = file, at.Truncate(time.Millisecond), ls.IntegrityCheckFull
	err = ls.NewReplicaWithClient(db, c).Restore(ctx, opt)
	if errors.Is(err, ls.ErrTxNotAvailable) || errors.Is(err, ls.ErrNoSnapshots) {
		return fmt.Errorf("tenement: litestream: restore %s as of %s: %w", name, at.Format(time.RFC3339), ErrNoBackup)
	}
	if err == nil {
		err = check(ctx, name, file)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("tenement: litestream: restore %s: %w", name, err), removeFile(file))
	}
	return nil
}

// check returns ErrOtherStore unless the file is the store of that name, and removes what Litestream has put into it. That the
// database is whole, Litestream has checked.
func check(ctx context.Context, name, file string) error {
	if name != sharedName {
		owner, err := sqlite.FileOwner(ctx, file)
		if err != nil {
			return err
		}
		if owner != name {
			return fmt.Errorf("%w, with the ID %q", ErrOtherStore, owner)
		}
	}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: filepath.ToSlash(file), RawQuery: "mode=rw"}).String())
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, "DROP TABLE IF EXISTS _litestream_seq; DROP TABLE IF EXISTS _litestream_lock; PRAGMA journal_mode=DELETE")
	return errors.Join(err, db.Close())
}

func removeFile(file string) error {
	var err error
	for _, ext := range []string{"", "-wal", "-shm", "-journal"} {
		if rerr := os.Remove(file + ext); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	return err
}
