// Package integrations shows the tools that people use with a database over the handles of this library: one small example
// each, a library of authors and their books, tested on both backends with two tenants by turns. What is different from a
// single-tenant application is only where a tool is opened; docs/integrations.md tells it.
//
// It is a module of its own, so that whoever imports the library does not get the tools.
package integrations

import (
	"context"
	"embed"
	"io/fs"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
)

//go:embed migrations
var files embed.FS

// Config is the application's: its tenants' migrations.
func Config() tenancy.Config {
	migrations, err := fs.Sub(files, "migrations")
	if err != nil {
		panic(err) // the pattern above has it
	}
	return tenancy.Config{Tenant: []migrate.Source{{Name: "library", FS: migrations}}}
}

// Library is what each tool has an implementation of. The context says whose library it is.
type Library interface {
	// Add adds an author and their books in one transaction.
	Add(ctx context.Context, author string, titles ...string) error
	// Titles returns the titles of an author's books in order, by way of the relation.
	Titles(ctx context.Context, author string) ([]string, error)
	// Rename gives an author another name.
	Rename(ctx context.Context, from, to string) error
	// Remove removes an author, and so their books.
	Remove(ctx context.Context, author string) error
}

// onPostgres reports which of the two databases the application runs on.
func onPostgres(app *tenancy.App) bool { return app.Backend().Dialect() == backend.Postgres }
