package polls_test

import (
	"testing"

	"github.com/pressly/goose/v3"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/examples/polls/migrations"
)

func TestMigrationsGoDownAndUpAgain(t *testing.T) {
	t.Parallel()
	for name, dialect := range map[string]goose.Dialect{"sqlite": goose.DialectSQLite3, "postgres": goose.DialectPostgres} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			open := openSQLite
			if name == "postgres" {
				open = openPostgres
			}
			db := open(t)
			_, err := up(t, db, dialect, name, "goose_polls", migrations.Polls()).DownTo(t.Context(), 0)
			require.NoError(t, err)
			_, err = up(t, db, dialect, name, "goose_db_version", migrations.Auth()).DownTo(t.Context(), 0)
			require.NoError(t, err)
			_, err = up(t, db, dialect, name, "goose_plans", migrations.Shared()).DownTo(t.Context(), 0)
			require.NoError(t, err)
			migrate(t, db, dialect, name)
		})
	}
}

func TestEveryMigrationIsForEveryDatabase(t *testing.T) {
	t.Parallel()
	_, err := migrations.ForDialect(migrations.Auth(), "mysql")
	require.Error(t, err)
}
