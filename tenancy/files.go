package tenancy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// HasFiles reports whether tenants have directories: whether [Config.FilesDir] is set.
func (a *App) HasFiles() bool { return a.files != nil }

// Dir opens the directory of the tenant that ctx is in, below [Config.FilesDir], and makes it if it is not there. What
// is done through the [os.Root] stays inside, whatever the file names. The directory is named after the tenant's ID; it
// stays when the tenant is renamed and goes when it is purged. The caller closes it. It returns ErrNoTenant when ctx is
// in no tenant and ErrNotFound when the tenant is gone.
func (a *App) Dir(ctx context.Context) (*os.Root, error) {
	t, ok := From(ctx)
	switch {
	case !ok:
		return nil, fmt.Errorf("tenement: directory: %w", ErrNoTenant)
	case a.files == nil:
		return nil, errors.New("tenement: directory: there are none; set Config.FilesDir")
	case t.live != nil && t.live.cur.Load() == nil:
		return nil, fmt.Errorf("tenement: directory of tenant %s: %w", t.Slug, ErrNotFound)
	}
	// The ID of a tenant made by hand could be anything; the root keeps it inside, and this keeps it from being ".".
	if _, err := ParseID(string(t.ID)); err != nil {
		return nil, fmt.Errorf("tenement: directory: %w", err)
	}
	root, err := a.files.OpenRoot(string(t.ID))
	if errors.Is(err, fs.ErrNotExist) {
		root, err = a.makeDir(ctx, t)
	}
	if err != nil {
		return nil, fmt.Errorf("tenement: directory of tenant %s: %w", t.Slug, err)
	}
	return root, nil
}

// makeDir makes a tenant's directory. What this process believes may be older than the tenant's purge, so the registry
// is asked, and asked when the directory is there: a purge that comes after the answer removes it.
func (a *App) makeDir(ctx context.Context, t *Tenant) (*os.Root, error) {
	if err := a.files.Mkdir(string(t.ID), 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	now, err := one(Leave(ctx), a.reg.db, selectByID, string(t.ID))
	if err == nil && now.Status == Deleted {
		err = ErrNotFound
	}
	if err != nil {
		// Only what is empty is removed by that.
		_ = a.files.Remove(string(t.ID))
		return nil, err
	}
	return a.files.OpenRoot(string(t.ID))
}
