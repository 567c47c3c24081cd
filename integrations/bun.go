package integrations

import (
	"context"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"github.com/uptrace/bun/dialect/sqlitedialect"
	"github.com/uptrace/bun/migrate"

	"github.com/tenement-go/tenement/tenancy"
)

type bunAuthor struct {
	bun.BaseModel `bun:"table:authors"`

	ID    int64      `bun:"id,pk,autoincrement"`
	Name  string     `bun:"name"`
	Books []*bunBook `bun:"rel:has-many,join:id=author_id"`
}

type bunBook struct {
	bun.BaseModel `bun:"table:books"`

	ID       int64  `bun:"id,pk,autoincrement"`
	AuthorID int64  `bun:"author_id"`
	Title    string `bun:"title"`
}

// Bun is the library by Bun.
type Bun struct{ db *bun.DB }

// NewBun returns it over the routed handle. Do not close a bun.DB: it closes the handle that it was given.
func NewBun(app *tenancy.App) *Bun {
	if onPostgres(app) {
		return &Bun{bun.NewDB(app.DB(), pgdialect.New())}
	}
	return &Bun{bun.NewDB(app.DB(), sqlitedialect.New())}
}

// Add implements [Library].
func (b *Bun) Add(ctx context.Context, author string, titles ...string) error {
	return b.db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		a := &bunAuthor{Name: author}
		if _, err := tx.NewInsert().Model(a).Returning("id").Exec(ctx); err != nil {
			return err
		}
		for _, title := range titles {
			if _, err := tx.NewInsert().Model(&bunBook{AuthorID: a.ID, Title: title}).Exec(ctx); err != nil {
				return err
			}
		}
		return nil
	})
}

// Titles implements [Library].
func (b *Bun) Titles(ctx context.Context, author string) (titles []string, err error) {
	var authors []bunAuthor
	err = b.db.NewSelect().Model(&authors).Where("name = ?", author).
		Relation("Books", func(q *bun.SelectQuery) *bun.SelectQuery { return q.Order("title") }).Scan(ctx)
	for _, a := range authors {
		for _, book := range a.Books {
			titles = append(titles, book.Title)
		}
	}
	return titles, err
}

// Rename implements [Library].
func (b *Bun) Rename(ctx context.Context, from, to string) error {
	_, err := b.db.NewUpdate().Model((*bunAuthor)(nil)).Set("name = ?", to).Where("name = ?", from).Exec(ctx)
	return err
}

// Remove implements [Library].
func (b *Bun) Remove(ctx context.Context, author string) error {
	_, err := b.db.NewDelete().Model((*bunAuthor)(nil)).Where("name = ?", author).Exec(ctx)
	return err
}

// Migrate applies Bun's own migrations to the tenant that ctx is in. Its tables are then the tenant's too.
func (b *Bun) Migrate(ctx context.Context, migrations *migrate.Migrations) error {
	m := migrate.NewMigrator(b.db, migrations)
	if err := m.Init(ctx); err != nil {
		return err
	}
	_, err := m.Migrate(ctx)
	return err
}
