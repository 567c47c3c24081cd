package integrations

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/tenement-go/tenement/backend/postgres"
	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/tenancy"
	"github.com/tenement-go/tenement/tenancy/tenancytest"
)

// onBoth runs a test on both backends.
func onBoth(t *testing.T, run func(t *testing.T, app *tenancy.App)) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		run(t, tenancytest.New(t, Config(), tenancytest.WithURL("sqlite:"+t.TempDir())).App)
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		run(t, openPostgres(t))
	})
}

func openPostgres(t *testing.T) *tenancy.App {
	t.Helper()
	return tenancytest.New(t, Config(), tenancytest.WithURL(pgtest.Shared(t).Database(t))).App
}

// tenant returns a context that is in a new tenant, until the test ends.
func tenant(t *testing.T, app *tenancy.App, slug string) context.Context {
	t.Helper()
	made, err := app.Create(t.Context(), tenancy.Spec{Slug: slug, Domains: []string{slug + ".library.local"}})
	require.NoError(t, err)
	ctx, _, leave, err := app.Enter(t.Context(), made, tenancy.Policy{})
	require.NoError(t, err)
	t.Cleanup(leave)
	return ctx
}

// check runs a tool's library in two tenants by turns, and at once.
func check(t *testing.T, app *tenancy.App, lib Library) {
	t.Helper()
	thor, potter := tenant(t, app, "thor"), tenant(t, app, "potter")
	holds := func(ctx context.Context, author string, titles ...string) {
		t.Helper()
		got, err := lib.Titles(ctx, author)
		require.NoError(t, err)
		require.Empty(t, got[min(len(got), len(titles)):])
		require.Equal(t, titles, got)
	}
	for range 3 { // what is prepared and kept meets both tenants
		require.NoError(t, lib.Add(thor, "Ursula", "The Dispossessed", "Rocannon's World"))
		holds(potter, "Ursula")
		require.NoError(t, lib.Add(potter, "Ursula", "Lavinia"))
		holds(thor, "Ursula", "Rocannon's World", "The Dispossessed")
		holds(potter, "Ursula", "Lavinia")

		require.Error(t, lib.Add(thor, "Nobody", "a book", ""), "a title that the table refuses")
		holds(thor, "Nobody")
		require.NoError(t, lib.Add(thor, "Nobody"), "nothing of it was kept")
		require.Error(t, lib.Add(thor, "Nobody"), "names are unique")

		require.NoError(t, lib.Rename(thor, "Ursula", "Le Guin"))
		holds(thor, "Le Guin", "Rocannon's World", "The Dispossessed")
		holds(potter, "Le Guin")
		require.NoError(t, lib.Remove(thor, "Le Guin"))
		require.NoError(t, lib.Remove(thor, "Nobody"))
		holds(thor, "Le Guin")
		holds(potter, "Ursula", "Lavinia")
		require.NoError(t, lib.Remove(potter, "Ursula"))
	}
	var wg sync.WaitGroup
	for worker := range 4 {
		for slug, ctx := range map[string]context.Context{"thor": thor, "potter": potter} {
			wg.Go(func() {
				for i := range 5 {
					author := fmt.Sprintf("%d.%d", worker, i)
					assert.NoError(t, lib.Add(ctx, author, "of "+slug))
					got, err := lib.Titles(ctx, author)
					assert.NoError(t, err)
					assert.Equal(t, []string{"of " + slug}, got)
				}
			})
		}
	}
	wg.Wait()

	_, err := lib.Titles(t.Context(), "Ursula")
	require.ErrorIs(t, err, tenancy.ErrNoTenant)
	require.ErrorIs(t, lib.Add(t.Context(), "Ursula"), tenancy.ErrNoTenant)
	require.ErrorIs(t, lib.Remove(t.Context(), "Ursula"), tenancy.ErrNoTenant)
}

func TestSqlx(t *testing.T) {
	onBoth(t, func(t *testing.T, app *tenancy.App) {
		lib, err := NewSqlx(app)
		require.NoError(t, err)
		check(t, app, lib)
	})
}

func TestSquirrel(t *testing.T) {
	onBoth(t, func(t *testing.T, app *tenancy.App) { check(t, app, NewSquirrel(app)) })
}

func TestBun(t *testing.T) {
	onBoth(t, func(t *testing.T, app *tenancy.App) { check(t, app, NewBun(app)) })
}

func TestGorm(t *testing.T) {
	onBoth(t, func(t *testing.T, app *tenancy.App) {
		lib, err := OpenGorm(app, &gorm.Config{Logger: logger.Discard})
		require.NoError(t, err)
		check(t, app, lib)
	})
}

// With prepared statements, which GORM keeps by their text for all tenants.
func TestGormPrepareStmt(t *testing.T) {
	onBoth(t, func(t *testing.T, app *tenancy.App) {
		lib, err := OpenGorm(app, &gorm.Config{Logger: logger.Discard, PrepareStmt: true})
		require.NoError(t, err)
		check(t, app, lib)
	})
}

// GORM tells its users by errors of its own what the database refused.
func TestGormTranslatesErrors(t *testing.T) {
	onBoth(t, func(t *testing.T, app *tenancy.App) {
		ctx := tenant(t, app, "thor")
		lib, err := OpenGorm(app, &gorm.Config{Logger: logger.Discard, TranslateError: true})
		require.NoError(t, err)
		require.NoError(t, lib.Add(ctx, "Ursula"))
		require.ErrorIs(t, lib.Add(ctx, "Ursula"), gorm.ErrDuplicatedKey)
		require.ErrorIs(t, lib.Add(ctx, "Iain", ""), gorm.ErrCheckConstraintViolated)
		require.ErrorIs(t, lib.db.WithContext(ctx).Create(&Book{AuthorID: 99, Title: "x"}).Error, gorm.ErrForeignKeyViolated)
	})
}

// gorm.Open closes the handle that it was given when it fails, as it does on SQLite when that does not answer without a
// tenant. Whoever asks the App again gets another.
func TestGormOpenThatFails(t *testing.T) {
	t.Parallel()
	app := tenancytest.New(t, Config(), tenancytest.WithURL("sqlite:"+t.TempDir())).App
	ctx := tenant(t, app, "thor")
	before := app.DB()
	_, err := gorm.Open(gormDialector(app, before), &gorm.Config{Logger: logger.Discard})
	require.ErrorIs(t, err, tenancy.ErrNoTenant)
	require.ErrorContains(t, before.PingContext(ctx), "closed")
	require.NoError(t, NewBun(app).Add(ctx, "Ursula"))
}

func TestEnt(t *testing.T) {
	onBoth(t, func(t *testing.T, app *tenancy.App) { check(t, app, NewEnt(app)) })
}

func TestSqlc(t *testing.T) {
	onBoth(t, func(t *testing.T, app *tenancy.App) {
		lib, err := PrepareSqlc(t.Context(), app)
		require.NoError(t, err)
		check(t, app, lib)
	})
}

func TestSqlcPGX(t *testing.T) {
	t.Parallel()
	app := openPostgres(t)
	check(t, app, NewSqlcPGX(app.Backend().(*postgres.Backend)))
}
