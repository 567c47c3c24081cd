package transfer

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/tenement-go/tenement/backend"
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
	if err := f.sealed(ctx); err != nil {
		return tenancy.Tenant{}, f.fault(err)
	}
	t, err := app.CreateBy(ctx, spec, func(ctx context.Context, t tenancy.Tenant) error {
		return f.fill(ctx, app, own(t), opt)
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
	made, err := app.Migrator().ProvisionAt(ctx, rt, f.Manifest.Sources, beforeLoad)
	if err != nil {
		return err
	}
	outside := tenancy.Leave(ctx)
	if err := f.load(opt).into(outside, app.Backend(), rt); err != nil {
		return err
	}
	if err := made.EnterNow(outside); err != nil {
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
		from: f.reader(), dialect: f.Manifest.Dialect, leave: leave(f.Manifest.Sources, f.Manifest.Without),
		mappings: opt.Mappings, told: opt.OnTable, planned: f.expect,
	}
}
