package integrations

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun/migrate"

	"github.com/tenement-go/tenement/tenancy"
)

// columns returns the names of a table's columns in the tenant of ctx; none where there is no such table.
func columns(ctx context.Context, t *testing.T, app *tenancy.App, table string) []string {
	t.Helper()
	query := "SELECT name FROM pragma_table_info($1) ORDER BY name"
	if onPostgres(app) {
		query = "SELECT column_name FROM information_schema.columns WHERE table_schema = current_schema() AND table_name = $1 ORDER BY 1"
	}
	rows, err := app.DB().QueryContext(ctx, query, table)
	require.NoError(t, err)
	defer rows.Close()
	var names []string
	for rows.Next() {
		var name string
		require.NoError(t, rows.Scan(&name))
		names = append(names, name)
	}
	require.NoError(t, rows.Err())
	return names
}

// The models of one table, before and after.
type (
	loan struct {
		ID   int64
		Book string
	}
	loanWithDue struct {
		ID   int64
		Book string `gorm:"not null;size:200"`
		Due  *string
	}
	fine struct {
		ID   int64
		Loan loanWithDue
		LoanID,
		Cents int64
	}
)

func (loanWithDue) TableName() string { return "loans" }

// AutoMigrate makes and alters tables in the one tenant, and leaves what is in them.
func TestGormAutoMigrate(t *testing.T) {
	onBoth(t, func(t *testing.T, app *tenancy.App) {
		thor, potter := tenant(t, app, "thor"), tenant(t, app, "potter")
		require.NoError(t, GormMigrate(thor, app, &loan{}))
		require.Equal(t, []string{"book", "id"}, columns(thor, t, app, "loans"))
		_, err := app.DB().ExecContext(thor, "INSERT INTO loans (id, book) VALUES (1, 'Lavinia')")
		require.NoError(t, err)
		require.NoError(t, GormMigrate(thor, app, &loanWithDue{}, &fine{}))
		require.Equal(t, []string{"book", "due", "id"}, columns(thor, t, app, "loans"))
		require.NoError(t, GormMigrate(thor, app, &loanWithDue{}, &fine{}), "again")
		require.Empty(t, columns(potter, t, app, "loans"))
		var book string
		require.NoError(t, app.DB().QueryRowContext(thor, "SELECT book FROM loans").Scan(&book))
		require.Equal(t, "Lavinia", book)
		_, err = app.DB().ExecContext(thor, "INSERT INTO fines (id, loan_id, cents) VALUES (1, 7, 1)")
		require.Error(t, err, "the foreign key holds")
		require.ErrorIs(t, GormMigrate(t.Context(), app, &loan{}), tenancy.ErrNoTenant)
	})
}

// Bun's own migrations, in one tenant; the other has none.
func TestBunMigrations(t *testing.T) {
	onBoth(t, func(t *testing.T, app *tenancy.App) {
		thor, potter := tenant(t, app, "thor"), tenant(t, app, "potter")
		lib := NewBun(app)
		migrations := migrate.NewMigrations()
		migrations.Add(migrate.Migration{
			Name: "20261101000000",
			Up: func(ctx context.Context, _ *migrate.Migrator, _ *migrate.Migration) error {
				_, err := lib.db.ExecContext(ctx, "CREATE TABLE shelves (id bigint PRIMARY KEY)")
				return err
			},
		})
		require.NoError(t, lib.Migrate(thor, migrations))
		require.NoError(t, lib.Migrate(thor, migrations), "again")
		assert.Equal(t, []string{"id"}, columns(thor, t, app, "shelves"))
		assert.NotEmpty(t, columns(thor, t, app, "bun_migrations"))
		assert.Empty(t, columns(potter, t, app, "shelves"))
		assert.Empty(t, columns(potter, t, app, "bun_migrations"))
		require.ErrorIs(t, lib.Migrate(t.Context(), migrations), tenancy.ErrNoTenant)
	})
}

// Ent's Schema.Create, in a tenant whose tables were not there, and in one that has them already.
func TestEntSchemaCreate(t *testing.T) {
	onBoth(t, func(t *testing.T, app *tenancy.App) {
		thor, potter := tenant(t, app, "thor"), tenant(t, app, "potter")
		for _, table := range []string{"books", "authors"} {
			_, err := app.DB().ExecContext(thor, "DROP TABLE "+table)
			require.NoError(t, err)
		}
		require.NoError(t, EntMigrate(thor, app))
		require.NoError(t, EntMigrate(thor, app), "again")
		assert.Equal(t, []string{"author_id", "id", "title"}, columns(thor, t, app, "books"))
		assert.Equal(t, []string{"added", "author_id", "id", "title"}, columns(potter, t, app, "books"))
		lib := NewEnt(app)
		require.NoError(t, lib.Add(thor, "Ursula", "Lavinia"))
		titles, err := lib.Titles(thor, "Ursula")
		require.NoError(t, err)
		assert.Equal(t, []string{"Lavinia"}, titles)
		require.ErrorIs(t, EntMigrate(t.Context(), app), tenancy.ErrNoTenant)
	})
}
