package integrations

import (
	"context"
	"database/sql"
	"errors"

	"gorm.io/driver/postgres"
	"gorm.io/driver/sqlite"
	"gorm.io/gorm"

	"github.com/tenement-go/tenement/tenancy"
)

type (
	// Author is a model of GORM's.
	Author struct {
		ID    int64
		Name  string
		Books []Book
	}
	// Book is one of them too.
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
	db, err := gorm.Open(gormDialector(app, app.DBOrNowhere()), cfg)
	return &Gorm{db}, err
}

func gormDialector(app *tenancy.App, db *sql.DB) gorm.Dialector {
	if onPostgres(app) {
		return postgres.New(postgres.Config{Conn: db})
	}
	return gormSQLite{&sqlite.Dialector{Conn: db}}
}

// gormSQLite is GORM's dialector with one method of its own. The driver that GORM's SQLite package brings along needs cgo
// and is not used here; but [gorm.Config.TranslateError] knows that driver's errors only.
type gormSQLite struct{ *sqlite.Dialector }

// Translate implements [gorm.ErrorTranslator].
func (gormSQLite) Translate(err error) error {
	var coded interface{ Code() int } // SQLite's extended result code
	if errors.As(err, &coded) {
		switch coded.Code() {
		case 1555, 2067: // SQLITE_CONSTRAINT_PRIMARYKEY, _UNIQUE
			return gorm.ErrDuplicatedKey
		case 787: // _FOREIGNKEY
			return gorm.ErrForeignKeyViolated
		case 275: // _CHECK
			return gorm.ErrCheckConstraintViolated
		}
	}
	return err
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
	g, err := gorm.Open(gormDialector(app, db), &gorm.Config{})
	if err != nil {
		return err
	}
	return g.WithContext(ctx).AutoMigrate(models...)
}
