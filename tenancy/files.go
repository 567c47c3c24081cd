package tenancy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
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

// asideDirPrefix begins the names of directories that were set aside. They end with something that makes them unique.
const asideDirPrefix = "aside-"

// idLen is the length of an ID.
const idLen = len("00000000-0000-0000-0000-000000000000")

// AsideDir is a directory of a tenant's files that was set aside: nobody is served from it.
type AsideDir struct {
	Name   string // its name in [Config.FilesDir]
	Tenant ID     // whose it was
}

// asideDir returns what was set aside under a name, if it is the name of such a directory.
func asideDir(name string) (dir AsideDir, ok bool) {
	rest, ok := strings.CutPrefix(name, asideDirPrefix)
	if !ok || len(rest) < idLen {
		return AsideDir{}, false
	}
	id, err := ParseID(rest[:idLen])
	return AsideDir{Name: name, Tenant: id}, err == nil && (len(rest) == idLen || rest[idLen] == '-')
}

// setFilesAside renames the directory of a tenant, so that nothing in it is lost or served. The name is "" when there is none.
func (a *App) setFilesAside(id ID) (name string, err error) {
	if a.files == nil {
		return "", nil
	}
	name = asideDirPrefix + string(id) + "-" + asideSuffix()
	err = a.files.Rename(string(id), name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return name, err
}

// AsideDirs lists the directories of files that were set aside, in order of name. A tenant that is to have one again has it under
// its ID in [Config.FilesDir]. There are none without that.
func (a *App) AsideDirs(_ context.Context) ([]AsideDir, error) {
	if a.files == nil {
		return nil, nil
	}
	entries, err := fs.ReadDir(a.files.FS(), ".")
	if err != nil {
		return nil, fmt.Errorf("tenement: list directories that were set aside: %w", err)
	}
	var dirs []AsideDir
	for _, e := range entries {
		if dir, ok := asideDir(e.Name()); ok {
			dirs = append(dirs, dir)
		}
	}
	return dirs, nil
}

// PurgeAsideDir removes a directory that was set aside, with all that is in it. It returns an error that wraps [fs.ErrNotExist]
// when there is none of that name among those.
func (a *App) PurgeAsideDir(ctx context.Context, name string) error {
	dirs, err := a.AsideDirs(ctx)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(dirs, func(d AsideDir) bool { return d.Name == name }) {
		return fmt.Errorf("tenement: purge directory %q: it was not set aside: %w", name, fs.ErrNotExist)
	}
	return a.files.RemoveAll(name)
}
