// Package tenancy knows an application's tenants: who they are, which host leads to which, where their data is, and how
// they come, change and go.
//
// An [App] is opened over a backend. [App.Create] makes tenants, [App.Resolve] finds them, [App.Serve] (which package
// httpx calls for each request) puts one into a context, and [App.DB] is one *sql.DB that sends each call to the store
// of the tenant that the call's context is in:
//
//	app, err := tenancy.Open(ctx, be, tenancy.Config{Tenant: []migrate.Source{{Name: "polls", FS: files}}})
//	thor, err := app.Create(ctx, tenancy.Spec{Slug: "thor", Domains: []string{"thor.polls.example"}})
//	err = app.Run(ctx, "thor", func(ctx context.Context) error {
//		_, err := app.DB().ExecContext(ctx, "INSERT INTO polls (question) VALUES ($1)", "Hammer?")
//		return err
//	})
//
// The registry of tenants is four tables in the shared store, whose names begin with tenement_. They may be read by
// the application; they are written through the App alone, since its caches rely on hearing of each change.
package tenancy
