package integrations

import (
	"context"

	"gorm.io/driver/postgres"
	"gorm.io/driver/sqlite"
	"gorm.io/gorm"

	"github.com/tenement-go/tenement/tenancy"
)

// Author and Book are GORM's models.
type (
	Author struct {
		ID    int64
		Name  string
		Books []Book
	}
	Book struct {
		ID       int64
		AuthorID int64
		Title    string
	}
)

// Gorm is the library by GORM.
type Gorm struct{ db *gorm.DB }

// OpenGorm opens GORM once for all tenants.
func OpenGorm(app *tenancy.App, cfg *gorm.Config) (*Gorm, error) {
	// On SQLite gorm.Open asks for the version, and not with a context of ours: hence the handle that answers such
	// questions from nowhere.
	var dialector gorm.Dialector = sqlite.New(sqlite.Config{Conn: app.DBOrNowhere()})
	if onPostgres(app) {
		dialector = postgres.New(postgres.Config{Conn: app.DB()})
	}
	db, err := gorm.Open(dialector, cfg)
	return &Gorm{db}, err
}

// Add implements [Library].
func (g *Gorm) Add(ctx context.Context, author string, titles ...string) error {
	return g.db.WithContext(ctx).Transaction(func(tx *gorm.DB) error {
		a := Author{Name: author}
		if err := tx.Create(&a).Error; err != nil {
			return err
		}
		for _, title := range titles {
			if err := tx.Create(&Book{AuthorID: a.ID, Title: title}).Error; err != nil {
				return err
			}
		}
		return nil
	})
}

// Titles implements [Library].
func (g *Gorm) Titles(ctx context.Context, author string) (titles []string, err error) {
	var a []Author
	err = g.db.WithContext(ctx).
		Preload("Books", func(db *gorm.DB) *gorm.DB { return db.Order("title") }).
		Where("name = ?", author).Find(&a).Error
	for _, a := range a {
		for _, b := range a.Books {
			titles = append(titles, b.Title)
		}
	}
	return titles, err
}

// Rename implements [Library].
func (g *Gorm) Rename(ctx context.Context, from, to string) error {
	return g.db.WithContext(ctx).Model(&Author{}).Where("name = ?", from).Update("name", to).Error
}

// Remove implements [Library].
func (g *Gorm) Remove(ctx context.Context, author string) error {
	return g.db.WithContext(ctx).Where("name = ?", author).Delete(&Author{}).Error
}

// GormMigrate has GORM make the tables of models in the tenant that ctx is in. It asks the catalog and alters tables, on SQLite
// with PRAGMA foreign_keys=OFF in a call of its own, so it gets a handle that is bound to the tenant.
func GormMigrate(ctx context.Context, app *tenancy.App, models ...any) error {
	t, ok := tenancy.From(ctx)
	if !ok {
		return tenancy.ErrNoTenant
	}
	db := app.Backend().DBFor(t.Route())
	defer db.Close()
	var dialector gorm.Dialector = sqlite.New(sqlite.Config{Conn: db})
	if onPostgres(app) {
		dialector = postgres.New(postgres.Config{Conn: db})
	}
	g, err := gorm.Open(dialector, &gorm.Config{})
	if err != nil {
		return err
	}
	return g.WithContext(ctx).AutoMigrate(models...)
}
