package integrations

import (
	"context"
	"errors"

	"entgo.io/ent/dialect"
	entsql "entgo.io/ent/dialect/sql"

	"github.com/tenement-go/tenement/integrations/ent"
	"github.com/tenement-go/tenement/integrations/ent/author"
	"github.com/tenement-go/tenement/integrations/ent/book"
	"github.com/tenement-go/tenement/tenancy"
)

// Ent is the library by Ent.
type Ent struct{ client *ent.Client }

// NewEnt returns it over the routed handle. Do not close an ent.Client: it closes the handle that it was given.
func NewEnt(app *tenancy.App) *Ent {
	return &Ent{ent.NewClient(ent.Driver(entsql.OpenDB(entDialect(app), app.DB())))}
}

func entDialect(app *tenancy.App) string {
	if onPostgres(app) {
		return dialect.Postgres
	}
	return dialect.SQLite
}

// Add implements [Library].
func (e *Ent) Add(ctx context.Context, name string, titles ...string) error {
	tx, err := e.client.Tx(ctx)
	if err != nil {
		return err
	}
	a, err := tx.Author.Create().SetName(name).Save(ctx)
	if err != nil {
		return errors.Join(err, tx.Rollback())
	}
	for _, title := range titles {
		if err := tx.Book.Create().SetTitle(title).SetAuthor(a).Exec(ctx); err != nil {
			return errors.Join(err, tx.Rollback())
		}
	}
	return tx.Commit()
}

// Titles implements [Library].
func (e *Ent) Titles(ctx context.Context, name string) (titles []string, err error) {
	authors, err := e.client.Author.Query().Where(author.Name(name)).
		WithBooks(func(q *ent.BookQuery) { q.Order(book.ByTitle()) }).All(ctx)
	for _, a := range authors {
		for _, b := range a.Edges.Books {
			titles = append(titles, b.Title)
		}
	}
	return titles, err
}

// Rename implements [Library].
func (e *Ent) Rename(ctx context.Context, from, to string) error {
	return e.client.Author.Update().Where(author.Name(from)).SetName(to).Exec(ctx)
}

// Remove implements [Library].
func (e *Ent) Remove(ctx context.Context, name string) error {
	_, err := e.client.Author.Delete().Where(author.Name(name)).Exec(ctx)
	return err
}

// EntMigrate has Ent make its tables in the tenant that ctx is in. It looks at the server and the catalog without the context,
// so it gets a handle that is bound to the tenant.
func EntMigrate(ctx context.Context, app *tenancy.App) error {
	t, ok := tenancy.From(ctx)
	if !ok {
		return tenancy.ErrNoTenant
	}
	db := app.Backend().DBFor(t.Route())
	defer db.Close()
	return ent.NewClient(ent.Driver(entsql.OpenDB(entDialect(app), db))).Schema.Create(ctx)
}
