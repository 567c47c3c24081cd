// Package tenancy knows an application's tenants: who they are, which host leads to which, where their data is, and how
// they come, change and go.
//
// An [App] is opened over a backend. [App.Create] makes tenants, [App.Resolve] finds them, [App.Enter] (which package
// httpx calls for each request) puts one into a context, and [App.DB] is one *sql.DB that sends each call to the store
// of the tenant that the call's context is in:
//
//	app, err := tenancy.Open(ctx, be, tenancy.Config{Tenant: []migrate.Source{{Name: "polls", FS: files}}})
//	thor, err := app.Create(ctx, tenancy.Spec{Slug: "thor", Domains: []string{"thor.polls.example"}})
//	err = app.Run(ctx, thor, tenancy.Policy{}, func(ctx context.Context, t *tenancy.Tenant) error {
//		_, err := app.DB().ExecContext(ctx, "INSERT INTO polls (question) VALUES ($1)", "Hammer?")
//		return err
//	})
//
// Package tenement, at the root of this module, has a whole program.
//
// # Migrations
//
// [Config].Shared and Tenant are goose migrations, as package migrate takes them. [App.Create] makes a tenant with all of them. What a
// later version of the program adds is applied to the tenants that are there by
//
//	result, err := app.Migrator().Up(ctx, migrate.UpOptions{})
//
// which a program does when it starts, or a deployment before that (package manage has it as the command migrate). A tenant
// that is behind is not entered until then, unless [Config].Behind says otherwise. In an empty database the registry and the
// shared tables are made by [Open].
//
// # Who is meant
//
// A tenant's [ID] is for programs: whatever changes a tenant takes it, since it is never another tenant's. A slug is for
// people, who type it; [App.BySlug], [App.ByID], [App.ByDomain] and [App.Tenants] ask the registry. [App.Resolve],
// [App.ResolveSlug] and [App.ResolveID] answer from memory, as requests need it, and may be as old as the bound on
// staleness. What outlives a context, such as a job, carries a [Ref].
//
// # The registry
//
// The registry of tenants is in the shared store, in tables whose names begin with tenement_. They may be read by the
// application; they are written through the App alone, since its caches rely on hearing of each change. What takes
// several steps, such as a creation, is an [Operation] in the registry: whoever runs an App goes on with it when the
// process that began it died.
package tenancy
