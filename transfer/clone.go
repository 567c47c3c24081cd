package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/sqltext"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
)

// CloneOptions are the terms of [Clone].
type CloneOptions struct {
	// Spec says what the clone is to be. Its slug is required; name and metadata are those of the tenant, unless they are
	// given. It has the domains that are given, and no others. Its Seed is not used.
	Spec tenancy.Spec
	// Masks say what becomes of columns. When there are any, each column must be that of one.
	Masks []Mask
	// NoFiles leaves the tenant's files out. With masks they are left out in any case: nothing says what is in them.
	NoFiles bool
	// TempDir is where a file is put that a clone with masks goes through on SQLite. Defaults to that of [os.TempDir].
	TempDir string
}

// Clone makes a tenant of its own, with its own ID, of a copy of another one as it is at one moment. Within one backend that takes
// the quickest way: on SQLite the file is copied by SQLite itself; on Postgres the server copies, and no row comes to the client
// (but with a role per tenant, where no role may read both). While it goes on the tenant cannot be renamed or purged.
//
// With masks no row leaves the tenant as it is. It returns an [*UnmaskedError] before anything is made when a column is not
// classified, so that one that a migration adds later does not get out unnoticed, and [ErrMask] when the tables do not take
// what the masks make of the rows. It returns [ErrMigrated] when the tenant is migrated meanwhile, or one of its tables
// rewritten, and otherwise what [tenancy.App.CreateBy] and [Import] do, and like there nothing is left when it fails.
func Clone(ctx context.Context, app *tenancy.App, id tenancy.ID, opt CloneOptions) (clone tenancy.Tenant, err error) {
	err = app.Hold(ctx, id, func(ctx context.Context, t tenancy.Tenant) error {
		c := &cloning{app: app, t: t, opt: opt}
		if err := c.look(ctx); err != nil {
			return err
		}
		spec := opt.Spec
		if spec.Name == "" && t.Name != t.Slug {
			spec.Name = t.Name
		}
		if spec.Meta == nil {
			spec.Meta = t.Meta
		}
		clone, err = app.CreateBy(ctx, spec, c.fill)
		return err
	})
	return clone, err
}

// cloning is a clone that is being made.
type cloning struct {
	app     *tenancy.App
	t       tenancy.Tenant // the one that it is made of
	opt     CloneOptions
	sources []migrate.AppliedSource
	list    []Table
	series  []Sequence
	masks   map[string]map[string]string
	made    *migrate.Unentered // the clone's store, once it is there
}

// look sees what there is to be copied, and refuses what is not classified.
func (c *cloning) look(ctx context.Context) error {
	if _, able := c.app.Backend().(backend.Copier); able && len(c.opt.Masks) == 0 {
		return nil // it is copied as a whole, whatever is in it
	}
	return withSnapshot(ctx, c.app, own(c.t), nil, func(s *snapshot) (err error) {
		c.sources, c.list, c.series = s.sources, s.tables(), s.sequences()
		c.masks, err = masked(c.list, c.opt.Masks)
		return err
	})
}

func (c *cloning) fill(ctx context.Context, t tenancy.Tenant) error {
	to := own(t)
	if err := c.fillStore(tenancy.Leave(ctx), to); err != nil {
		if c.masks != nil && refused(err) {
			return fmt.Errorf("%w: %w", ErrMask, err)
		}
		return err
	}
	if c.opt.NoFiles || c.masks != nil || !c.app.HasFiles() {
		return nil
	}
	return c.copyFiles(ctx)
}

// refused reports whether an error is that of a constraint or a type.
func refused(err error) bool {
	if code, ok := sqliteCode(err); ok {
		return code == sqliteConstraint || code == sqliteMismatch
	}
	state := sqltext.State(err)
	return strings.HasPrefix(state, "23") || strings.HasPrefix(state, "22") // integrity_constraint_violation, data_exception
}

func (c *cloning) fillStore(ctx context.Context, to backend.Route) error {
	from := own(c.t)
	if copier, able := c.app.Backend().(backend.Copier); able && c.masks == nil {
		if err := copier.CopyStore(ctx, from, to); err != nil {
			return err
		}
		return c.app.Migrator().Enter(ctx, to.Store)
	}
	if err := c.copyRowsTo(ctx, to); err != nil {
		return err
	}
	return c.made.EnterNow(ctx)
}

// copyRowsTo makes the store by its migrations and copies the rows.
func (c *cloning) copyRowsTo(ctx context.Context, to backend.Route) error {
	if c.app.Backend().Dialect() == backend.Postgres {
		if err := c.onServer(ctx, to); sqltext.State(err) != "42501" {
			return err
		}
		// insufficient_privilege: each tenant has a role of its own.
	}
	return c.throughFile(ctx, to)
}

// provision makes the store by its migrations, unless it is there.
func (c *cloning) provision(ctx context.Context, to backend.Route) (err error) {
	if c.made == nil {
		c.made, err = c.app.Migrator().ProvisionAt(ctx, to, c.sources, beforeLoad)
	}
	return err
}

// throughFile copies by way of a file, which has the rows as the masks leave them.
func (c *cloning) throughFile(ctx context.Context, to backend.Route) (err error) {
	dir, err := os.MkdirTemp(c.opt.TempDir, "tenement-clone-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	name := filepath.Join(dir, "clone.db")
	// The clone is made at the versions that were seen, and the masks were chosen for their columns.
	masked := func(s *snapshot) error {
		if !sameVersions(c.sources, s.sources) {
			return ErrMigrated
		}
		s.mask(c.masks)
		return nil
	}
	if _, err := export(ctx, c.app, c.t, name, ExportOptions{NoFiles: true}, masked); err != nil {
		return err
	}
	f, err := Open(ctx, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := c.provision(ctx, to); err != nil {
		return err
	}
	return f.load(ImportOptions{}).into(ctx, c.app.Backend(), to)
}

// copyFiles copies the tenant's files to the tenant that ctx is in.
func (c *cloning) copyFiles(ctx context.Context) error {
	from, err := c.app.Dir(backend.WithRouter(ctx, &c.t))
	if errors.Is(err, tenancy.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := c.app.Dir(ctx)
	if err != nil {
		return err
	}
	defer to.Close()
	return eachRegular(ctx, from, func(name string) error { return copyFile(from, to, name) })
}

func copyFile(from, to *os.Root, name string) error {
	in, err := from.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if err := to.MkdirAll(path.Dir(name), 0o750); err != nil {
		return err
	}
	out, err := to.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, info.Mode().Perm()|0o200)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	return to.Chmod(name, info.Mode().Perm())
}
