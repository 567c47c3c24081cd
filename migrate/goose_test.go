package migrate_test

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pressly/goose/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/migrate"
)

// S62: what goose did alone is recognised, and not done again.
func TestStoresMigratedByGooseAlone(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := context.Background()
		first := migrator(t, be, tenants(migrate.Source{Name: "polls", FS: version(1, polls...)}))
		provision(t, first, 3)
		byGoose := func(rt backend.Route, n int) {
			db := be.Maintenance(rt)
			defer func() { require.NoError(t, db.Close()) }()
			_, err := plainGoose(t, be, db, version(n, polls...)).Up(ctx)
			require.NoError(t, err)
		}
		byGoose(route(1), 3)                         // known to the ledger, which is wrong now
		require.NoError(t, be.Create(ctx, route(7))) // not known
		byGoose(route(7), 2)

		m := migrator(t, be, tenants(migrate.Source{Name: "polls", FS: version(3, polls...)}))
		res, err := m.Up(ctx, migrate.UpOptions{Scope: migrate.TenantsOnly})
		require.NoError(t, err)
		assert.Equal(t, 2, res.Applied)
		assert.Equal(t, 1, res.Skipped)
		res, err = tenantsUp(ctx, m, migrate.Fleet{Stores: []backend.Store{store(7), store(0)}})
		require.NoError(t, err)
		assert.Equal(t, 1, res.Applied)
		assert.Equal(t, 1, res.Current)
		for _, i := range []int{0, 1, 2, 7} {
			assert.Equal(t, "0,1,2,3", versions(t, be, route(i), "goose_db_version"))
			assert.Equal(t, "1", query(t, be, route(i), "SELECT count(*) FROM polls"), "the row of version 2, once")
			db := be.Maintenance(route(i))
			pending, err := plainGoose(t, be, db, version(3, polls...)).HasPending(ctx)
			require.NoError(t, err)
			assert.False(t, pending)
			require.NoError(t, db.Close())
		}
		st, err := m.Status(ctx)
		require.NoError(t, err)
		assert.Equal(t, migrate.TenantStatus{Total: 4, Current: 4}, st.Tenants)
	})
}

// S62: a migration that would succeed twice is not done twice because the ledger is behind. This is the guard's work alone.
func TestStaleLedgerDoesNotRepeat(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := context.Background()
		list := []string{"1_a.sql", up("CREATE TABLE a (x INTEGER);"), "2_b.sql", up("INSERT INTO a (x) VALUES (2);")}
		provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, list...)})), 2)
		db := be.Maintenance(route(1))
		defer func() { require.NoError(t, db.Close()) }()
		_, err := plainGoose(t, be, db, version(2, list...)).Up(ctx)
		require.NoError(t, err)
		res, err := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(2, list...)})).Up(ctx, migrate.UpOptions{Scope: migrate.TenantsOnly})
		require.NoError(t, err)
		assert.Equal(t, 1, res.Applied)
		assert.Equal(t, 1, res.Skipped)
		for i := range 2 {
			assert.Equal(t, "2", query(t, be, route(i), "SELECT x FROM a"))
			assert.Equal(t, "0,1,2", versions(t, be, route(i), "goose_db_version"))
		}
	})
}

// S68: a Go migration and one without a transaction, in between.
func TestGoAndNoTransaction(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := context.Background()
		concurrently := "CREATE INDEX a_x ON a (x);"
		if be.Dialect() == backend.Postgres {
			concurrently = "CREATE INDEX CONCURRENTLY a_x ON a (x);"
		}
		fail := atomic.Bool{}
		source := migrate.Source{
			Name: "app",
			FS: files("1_a.sql", killed[1], "3_index.sql", "-- +goose NO TRANSACTION\n-- +goose Up\n"+concurrently+"\n-- +goose Down\nDROP INDEX a_x;\n",
				"5_last.sql", up("INSERT INTO a (x) VALUES (5);")),
			Go: func() []*goose.Migration {
				insert := func(ctx context.Context, tx *sql.Tx) error {
					if fail.Load() {
						return errors.New("no luck")
					}
					_, err := tx.ExecContext(ctx, "INSERT INTO a (x) VALUES (2)")
					return err
				}
				undo := func(ctx context.Context, tx *sql.Tx) error {
					_, err := tx.ExecContext(ctx, "DELETE FROM a WHERE x = 2")
					return err
				}
				noTx := func(ctx context.Context, db *sql.DB) error {
					_, err := db.ExecContext(ctx, "INSERT INTO a (x) VALUES (4)")
					return err
				}
				return []*goose.Migration{
					goose.NewGoMigration(2, &goose.GoFunc{RunTx: insert}, &goose.GoFunc{RunTx: undo}),
					goose.NewGoMigration(4, &goose.GoFunc{RunDB: noTx}, nil),
				}
			},
		}
		old := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, killed...)}))
		provision(t, old, 20)
		m := migrator(t, be, tenants(source))
		fail.Store(true)
		res, err := tenantsUp(ctx, m, migrate.Fleet{Stores: []backend.Store{store(3)}})
		var failure *migrate.StoreError
		require.ErrorAs(t, err, &failure)
		assert.EqualValues(t, 2, failure.Version)
		assert.Equal(t, 1, res.Failed)
		fail.Store(false)
		res, err = m.Up(ctx, migrate.UpOptions{Scope: migrate.TenantsOnly})
		require.NoError(t, err)
		assert.Equal(t, 20, res.Applied)
		require.NoError(t, m.Provision(ctx, route(20)), "a new store gets them too")
		for i := range 21 {
			require.Equal(t, "0,1,2,3,4,5", versions(t, be, route(i), "goose_db_version"))
			require.Equal(t, "2,4,5", query(t, be, route(i), "SELECT x FROM a ORDER BY x"))
		}
		_, err = m.DownTo(ctx, "", 1, migrate.DownOptions{Forget: true})
		require.NoError(t, err)
		assert.Equal(t, "4,5", query(t, be, route(7), "SELECT x FROM a ORDER BY x"))
	})
}

// A store whose text fails for what only goose does right (a new value of an enum, used in the next migration).
func TestGooseTakesOver(t *testing.T) {
	t.Parallel()
	be := postgresSite(t)
	ctx := context.Background()
	log := &fallbacks{}
	one := up("CREATE TYPE mood AS ENUM ('a');\nCREATE TABLE m (v mood);")
	provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: files("1_a.sql", one)})), 3)
	cfg := tenants(migrate.Source{Name: "app", FS: files("1_a.sql", one, "2_b.sql", up("ALTER TYPE mood ADD VALUE 'b';"), "3_c.sql", up("INSERT INTO m VALUES ('b');"))})
	cfg.Logger = slog.New(log)
	res, err := migrator(t, be, cfg).Up(ctx, migrate.UpOptions{Scope: migrate.TenantsOnly})
	require.NoError(t, err)
	assert.Equal(t, 3, res.Applied)
	assert.Equal(t, 6, res.Migrations)
	assert.Len(t, log.lines, 3)
	for i := range 3 {
		assert.Equal(t, "b", query(t, be, route(i), "SELECT v::text FROM m"))
	}
}

// A panic in a Go migration is an error of its store, with a transaction and without.
func TestPanicInAGoMigration(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, killed...)})), 1)
		for name, f := range map[string]*goose.GoFunc{
			"with":    {RunTx: func(context.Context, *sql.Tx) error { panic("oops") }},
			"without": {RunDB: func(context.Context, *sql.DB) error { panic("oops") }},
		} {
			m := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, killed...), Go: func() []*goose.Migration {
				return []*goose.Migration{goose.NewGoMigration(2, f, nil)}
			}}))
			_, err := m.Up(t.Context(), migrate.UpOptions{})
			var failure *migrate.StoreError
			require.ErrorAs(t, err, &failure, name)
			assert.Contains(t, strings.ToLower(err.Error()), "oops", name)
			assert.NotErrorIs(t, err, context.Canceled)
		}
	})
}
