package transfer

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
)

// ImportOptions are the terms of [Import].
type ImportOptions struct {
	// Spec says what the tenant is to be. What is left empty comes from the file: slug, name, metadata and, unless
	// NoDomains is set, the domains. Its Seed is not used.
	Spec tenancy.Spec
	// NoDomains leaves out the domains that are in the file.
	NoDomains bool
	// NoFiles leaves out the files that are in the file.
	NoFiles bool
	// Mappings say what may be lost of values that cannot be moved as they are.
	Mappings []Mapping
	// OnTable is told of each table that is loaded; it may be nil.
	OnTable func(Progress)
}

// Import makes a tenant of a file that [Export] wrote, on the same backend or on another. Its store is made by app's own
// migrations, at the versions that the file records; what those insert is replaced by the file's rows. The tenant has an ID of
// its own, and is active and served once all is loaded and has been found to be what was written. OnCreate is not called.
//
// Before anything is made it returns a [*FileError], a [*migrate.VersionError] when app's migrations are not those of the
// file, and what [tenancy.App.CreateBy] returns for a slug or a domain that is taken. A [*SchemaError] or a [*ValueError]
// says what cannot be moved: nothing is left then, nor when anything else fails. When the process dies, whoever
// runs an App over the registry removes what was begun; the call can be repeated.
func Import(ctx context.Context, app *tenancy.App, path string, opt ImportOptions) (tenancy.Tenant, error) {
	f, err := Open(ctx, path)
	if err != nil {
		return tenancy.Tenant{}, err
	}
	defer f.Close()
	spec, err := f.spec(opt)
	if err != nil {
		return tenancy.Tenant{}, err
	}
	if err := f.may(app, opt.NoFiles); err != nil {
		return tenancy.Tenant{}, err
	}
	t, err := app.CreateBy(ctx, spec, func(ctx context.Context, t tenancy.Tenant) error {
		return f.fill(ctx, app, backend.Route{Store: t.Store, Owner: string(t.ID)}, opt)
	})
	return t, f.fault(err)
}

// may says what stands in the way of an import into app before anything is made.
func (f *File) may(app *tenancy.App, noFiles bool) error {
	if n := f.Manifest.Files.Count; n > 0 && !noFiles && !app.HasFiles() {
		return fmt.Errorf("tenement: transfer: %s has %d files, and tenants have no directories here: set tenancy.Config.FilesDir, or leave the files out", f.path, n)
	}
	return app.Migrator().CheckApplied(f.Manifest.Sources)
}

// spec is what the tenant is to be.
func (f *File) spec(opt ImportOptions) (tenancy.Spec, error) {
	spec, was := opt.Spec, f.Manifest.Tenant
	if spec.Slug == "" {
		spec.Slug = was.Slug
	}
	if spec.Name == "" && was.Name != was.Slug {
		spec.Name = was.Name
	}
	if spec.Domains == nil && !opt.NoDomains {
		for _, d := range was.Domains {
			if d.Primary {
				spec.Domains = append([]string{d.Host}, spec.Domains...)
			} else {
				spec.Domains = append(spec.Domains, d.Host)
			}
		}
	}
	if spec.Meta == nil && len(was.Meta) > 0 {
		var meta map[string]json.RawMessage
		if err := json.Unmarshal(was.Meta, &meta); err != nil {
			return spec, &FileError{Path: f.path, Err: ErrDamaged, Detail: "the metadata is no JSON object"}
		}
		spec.Meta = was.Meta
	}
	return spec, nil
}

// fill makes the store of rt and loads all of the file into it. ctx is in the tenant.
func (f *File) fill(ctx context.Context, app *tenancy.App, rt backend.Route, opt ImportOptions) error {
	if err := app.Migrator().ProvisionAt(ctx, rt, f.Manifest.Sources); err != nil {
		return err
	}
	if err := f.load(opt).into(tenancy.Leave(ctx), app.Backend(), rt); err != nil {
		return err
	}
	if opt.NoFiles {
		return nil
	}
	return f.restoreFiles(ctx, app)
}

// load is what an import puts into a store.
func (f *File) load(opt ImportOptions) *load {
	return &load{
		from: f.reader(), dialect: f.Manifest.Dialect, sources: f.Manifest.Sources, without: f.Manifest.Without,
		mappings: opt.Mappings, told: opt.OnTable, planned: f.expect,
	}
}

// load is what is put into a store that its migrations have made.
type load struct {
	from     reader
	dialect  backend.Dialect // of what is read
	sources  []migrate.AppliedSource
	without  []string
	mappings []Mapping
	told     func(Progress)
	planned  func(plans []*tablePlan) // may add to the plans; may be nil
}

// closer is a writer that has something to put back.
type closer interface {
	writer
	finish(ctx context.Context) error
}

// into loads all of it in one transaction: the store is as its migrations made it, or whole.
func (l *load) into(ctx context.Context, be backend.Backend, rt backend.Route) error {
	db := be.Maintenance(rt)
	defer db.Close()
	return within(ctx, db, nil, func(conn *sql.Conn, tx *sql.Tx) error {
		set := leave(l.sources, l.without)
		if be.Dialect() == backend.Postgres {
			return l.intoPostgres(ctx, conn, tx, set)
		}
		list, err := sqliteSchema(ctx, tx, set)
		if err != nil {
			return err
		}
		plans, err := l.plan(list)
		if err != nil {
			return err
		}
		w, err := openSQLiteWriter(ctx, tx, list)
		if err != nil {
			return err
		}
		return l.run(ctx, w, plans)
	})
}

func (l *load) intoPostgres(ctx context.Context, conn *sql.Conn, tx *sql.Tx, set map[string]bool) error {
	if _, err := tx.ExecContext(ctx, textSettings); err != nil {
		return err
	}
	list, err := postgresSchema(ctx, tx, set)
	if err != nil {
		return err
	}
	plans, err := l.plan(list)
	if err != nil {
		return err
	}
	w, err := openPostgresWriter(ctx, conn, tx, list)
	if err != nil {
		return err
	}
	if err := l.run(ctx, w, plans); err != nil {
		return err
	}
	if l.dialect == backend.SQLite {
		return w.catchUp(ctx)
	}
	return nil
}

func (l *load) plan(list []Table) ([]*tablePlan, error) {
	plans, err := plan(l.from.tables(), list, l.mappings)
	if err == nil && l.planned != nil {
		l.planned(plans)
	}
	return plans, err
}

func (l *load) run(ctx context.Context, w closer, plans []*tablePlan) error {
	for _, p := range plans {
		sum, err := p.run(ctx, l.from, w)
		if err != nil {
			return err
		}
		if l.told != nil {
			l.told(Progress{Table: p.from.Name, Rows: sum.rows})
		}
	}
	for _, s := range l.from.sequences() {
		if err := w.sequence(ctx, s); err != nil {
			return fmt.Errorf("sequence of table %s: %w", s.Table, err)
		}
	}
	if err := w.finish(ctx); err != nil {
		return errors.Join(errors.New("the rows are there, and do not hold together"), err)
	}
	return nil
}
