package migrate_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/migrate"
)

// S67
func TestLongTransactionInOneTenant(t *testing.T) {
	t.Parallel()
	for name, last := range map[string]string{
		"as text":       up("ALTER TABLE a ADD COLUMN z INTEGER;"),
		"through goose": up("SET CONSTRAINTS ALL DEFERRED;\nALTER TABLE a ADD COLUMN z INTEGER;"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			be := postgresSite(t)
			ctx := context.Background()
			provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, killed...)})), 40)
			// A report that takes its time.
			db := be.DBFor(route(20))
			defer func() { require.NoError(t, db.Close()) }()
			report, err := db.BeginTx(ctx, nil)
			require.NoError(t, err)
			defer func() { _ = report.Rollback() }()
			_, err = report.ExecContext(ctx, "SELECT * FROM a")
			require.NoError(t, err)

			cfg := tenants(migrate.Source{Name: "app", FS: files("1_a.sql", killed[1], "2_z.sql", last)})
			cfg.LockTimeout = 300 * time.Millisecond
			m := migrator(t, be, cfg)
			retries := 0
			res, err := tenantsUp(ctx, m, migrate.Fleet{OnEvent: func(e migrate.Event) {
				if e.Kind != migrate.EventRetrying {
					return
				}
				assert.Equal(t, store(20), e.Store)
				retries++
				// The tenant's traffic goes on meanwhile. The deadline is there for the day when it does not.
				soon, cancel := context.WithTimeout(ctx, time.Minute)
				defer cancel()
				_, err := be.DB().ExecContext(backend.WithRoute(soon, route(20)), "SELECT * FROM a")
				assert.NoError(t, err)
				if e.Done == 39 && retries >= 2 { // the others are through
					_ = report.Rollback()
				}
			}})
			require.NoError(t, err)
			assert.Equal(t, 40, res.Applied)
			assert.GreaterOrEqual(t, retries, 2)
			for i := range 40 {
				require.Equal(t, "0,1,2", versions(t, be, route(i), "goose_db_version"))
			}
		})
	}
}

// S67: on SQLite it is whoever writes that keeps others waiting.
func TestLongWriteInOneTenant(t *testing.T) {
	t.Parallel()
	be := sqliteSite(t)
	ctx := context.Background()
	provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, killed...)})), 40)
	for i, other := range []*site{be, openSite(t, be.url)} {
		name, last := []string{"this process", "another process"}[i], i+2
		db := other.DBFor(route(20))
		defer func() { require.NoError(t, db.Close()) }()
		report, err := db.BeginTx(ctx, nil)
		require.NoError(t, err)
		defer func() { _ = report.Rollback() }()
		_, err = report.ExecContext(ctx, "INSERT INTO a (x) VALUES (99)")
		require.NoError(t, err)
		cfg := tenants(migrate.Source{Name: "app", FS: version(last, killed...)})
		cfg.LockTimeout = 100 * time.Millisecond
		retries := 0
		res, err := tenantsUp(ctx, migrator(t, be, cfg), migrate.Fleet{OnEvent: func(e migrate.Event) {
			if e.Kind == migrate.EventRetrying {
				assert.Equal(t, store(20), e.Store)
				retries++
				if e.Done == 39 && retries >= 2 {
					_ = report.Rollback()
				}
			}
		}})
		require.NoError(t, err, name)
		assert.Equal(t, 40, res.Applied, name)
		assert.GreaterOrEqual(t, retries, 2, name)
	}
}

// S67: a store that stays locked fails in the end, and says why.
func TestLockedForGood(t *testing.T) {
	t.Parallel()
	be := postgresSite(t)
	ctx := context.Background()
	provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, killed...)})), 3)
	db := be.DBFor(route(1))
	defer func() { require.NoError(t, db.Close()) }()
	report, err := db.BeginTx(ctx, nil)
	require.NoError(t, err)
	defer func() { _ = report.Rollback() }()
	_, err = report.ExecContext(ctx, "LOCK TABLE a IN ACCESS SHARE MODE")
	require.NoError(t, err)
	cfg := tenants(migrate.Source{Name: "app", FS: version(3, killed...)})
	cfg.LockTimeout, cfg.LockPatience = 20*time.Millisecond, time.Nanosecond
	m := migrator(t, be, cfg)
	res, err := m.Up(ctx, migrate.UpOptions{Scope: migrate.TenantsOnly})
	var failure *migrate.StoreError
	require.ErrorAs(t, err, &failure)
	assert.Equal(t, "55P03", failure.SQLState)
	assert.EqualValues(t, 3, failure.Version)
	assert.Contains(t, failure.Statement, "ALTER TABLE a")
	assert.Equal(t, 2, res.Applied)
	// goose keeps what succeeded before the failure, and the ledger knows.
	assert.Equal(t, "0,1,2", versions(t, be, route(1), "goose_db_version"))
	require.NoError(t, report.Rollback())
	res, err = m.Up(ctx, migrate.UpOptions{Scope: migrate.TenantsOnly})
	require.NoError(t, err)
	assert.Equal(t, 1, res.Applied)
	assert.Equal(t, 1, res.Migrations)
}

// S67: what has no transaction is tried again only where nothing of it has stayed.
func TestLockedWithoutATransaction(t *testing.T) {
	t.Parallel()
	database := withParam(t, pgtest.Shared(t).Database(t), "lock_timeout", "50ms")
	be := openSite(t, database)
	provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, killed...)})), 1)
	db := be.DBFor(route(0))
	defer func() { require.NoError(t, db.Close()) }()
	report, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	defer func() { _ = report.Rollback() }()
	_, err = report.ExecContext(t.Context(), "SELECT * FROM a")
	require.NoError(t, err)
	m := migrator(t, be, tenants(migrate.Source{Name: "app", FS: files("1_a.sql", killed[1],
		"2_z.sql", "-- +goose NO TRANSACTION\n-- +goose Up\nCREATE TABLE b (x INTEGER);\nALTER TABLE a ADD COLUMN z INTEGER;\n")}))
	retries := 0
	_, err = m.Up(t.Context(), migrate.UpOptions{Fleet: migrate.Fleet{OnEvent: func(e migrate.Event) {
		if e.Kind == migrate.EventRetrying {
			retries++
		}
	}}})
	var failure *migrate.StoreError
	require.ErrorAs(t, err, &failure)
	assert.Equal(t, "55P03", failure.SQLState, "the reason, and not what comes of trying again")
	assert.Zero(t, retries)
}

// S67: what has no transaction and was done is not done again when what came after it was locked.
func TestLockedBehindWhatWasDone(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, lock string }{
		"its version": {"INSERT INTO a (x) VALUES (2);", "goose_db_version"},
		"a block":     {"-- +goose StatementBegin\nDO $$ BEGIN INSERT INTO a (x) VALUES (2); COMMIT; LOCK TABLE b; END $$;\n-- +goose StatementEnd", "b"},
		"a procedure": {"CALL step();", "b"},
		"its like":    {"SELECT twice();\nSELECT twice();", "b"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			be := openSite(t, withParam(t, pgtest.Shared(t).Database(t), "lock_timeout", "50ms"))
			list := []string{
				"1_a.sql", up("CREATE TABLE a (x INTEGER);\nCREATE TABLE b (x INTEGER);\n-- +goose StatementBegin\n" +
					"CREATE PROCEDURE step() LANGUAGE plpgsql AS $$ BEGIN INSERT INTO a (x) VALUES (2); COMMIT; LOCK TABLE b; END $$;\n" +
					"CREATE FUNCTION twice() RETURNS void LANGUAGE plpgsql AS $$ BEGIN IF EXISTS (SELECT FROM a) THEN LOCK TABLE b; END IF; " +
					"INSERT INTO a (x) VALUES (2); END $$;\n-- +goose StatementEnd"),
				"2_b.sql", noTx + c.text + "\n",
			}
			provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, list...)})), 1)
			db := be.Maintenance(route(0))
			defer func() { require.NoError(t, db.Close()) }()
			other, err := db.BeginTx(t.Context(), nil)
			require.NoError(t, err)
			defer func() { _ = other.Rollback() }()
			_, err = other.ExecContext(t.Context(), "LOCK TABLE "+c.lock+" IN ROW EXCLUSIVE MODE")
			require.NoError(t, err)
			retries := 0
			_, err = migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(2, list...)})).
				Up(t.Context(), migrate.UpOptions{Fleet: migrate.Fleet{OnEvent: func(e migrate.Event) {
					if e.Kind == migrate.EventRetrying {
						retries++
						_ = other.Rollback()
					}
				}}})
			assert.Equal(t, "2", query(t, be, route(0), "SELECT x FROM a"))
			assert.Zero(t, retries)
			var failure *migrate.StoreError
			require.ErrorAs(t, err, &failure)
			assert.Equal(t, "55P03", failure.SQLState)
			assert.Contains(t, failure.Error(), `baseline source "app" at version 2`)
		})
	}
}

// S67: the first statement of what has no transaction is tried again, on the way down as on the way up.
func TestLockedBeforeAnythingWasDone(t *testing.T) {
	t.Parallel()
	test := func(t *testing.T, be *site) {
		list := []string{
			"1_a.sql", up("CREATE TABLE a (x INTEGER);"),
			"2_b.sql", noTx + "ALTER TABLE a ADD COLUMN y INTEGER;\n-- +goose Down\nALTER TABLE a DROP COLUMN y;\n",
		}
		provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, list...)})), 1)
		cfg := tenants(migrate.Source{Name: "app", FS: version(2, list...)})
		cfg.LockTimeout = 50 * time.Millisecond
		m := migrator(t, be, cfg)
		others := openSite(t, be.url).DBFor(route(0))
		defer func() { require.NoError(t, others.Close()) }()
		insists := func(do func(migrate.Fleet) error) {
			t.Helper()
			other, err := others.BeginTx(t.Context(), nil)
			require.NoError(t, err)
			defer func() { _ = other.Rollback() }()
			_, err = other.ExecContext(t.Context(), "INSERT INTO a (x) VALUES (7)")
			require.NoError(t, err)
			retries := 0
			err = do(migrate.Fleet{OnEvent: func(e migrate.Event) {
				if e.Kind == migrate.EventRetrying {
					retries++
					_ = other.Rollback()
				}
			}})
			require.NoError(t, err)
			assert.NotZero(t, retries)
		}
		insists(func(fleet migrate.Fleet) error {
			_, err := m.Up(t.Context(), migrate.UpOptions{Fleet: fleet})
			return err
		})
		assert.Equal(t, "0,1,2", versions(t, be, route(0), "goose_db_version"))
		insists(func(fleet migrate.Fleet) error {
			_, err := m.Down(t.Context(), "", 1, migrate.DownOptions{Fleet: fleet})
			return err
		})
		assert.Equal(t, "0,1", versions(t, be, route(0), "goose_db_version"))
	}
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		test(t, openSite(t, sqliteURL(t)+"?busy_timeout=100ms"))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, openSite(t, withParam(t, pgtest.Shared(t).Database(t), "lock_timeout", "50ms")))
	})
}

// Two processes open an empty database, and the lock under which the first makes its tables is lost: the second meets
// what the first commits, and goes on with that.
func TestTablesMadeByAnotherMeanwhile(t *testing.T) {
	t.Parallel()
	be := postgresSite(t)
	ctx := context.Background()
	_, err := be.Shared().ExecContext(ctx, `CREATE TABLE goose_tenement_ledger (id integer PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY,
		version_id bigint NOT NULL, is_applied boolean NOT NULL, tstamp timestamp NOT NULL DEFAULT now());
		INSERT INTO goose_tenement_ledger (version_id, is_applied) VALUES (0, true)`)
	require.NoError(t, err)
	file, err := os.ReadFile("ledger/00001_ledger.sql")
	require.NoError(t, err)
	first, _, _ := strings.Cut(string(file), "-- +goose Down")
	other, err := be.Shared().BeginTx(ctx, nil)
	require.NoError(t, err)
	defer func() { _ = other.Rollback() }()
	_, err = other.ExecContext(ctx, first)
	require.NoError(t, err)
	_, err = other.ExecContext(ctx, `INSERT INTO goose_tenement_ledger (version_id, is_applied) VALUES (1, true)`)
	require.NoError(t, err)
	m := migrator(t, be, tenants())
	prepared := make(chan error, 1)
	go func() { prepared <- m.Prepare(ctx) }()
	require.Eventually(t, func() bool { // it waits for the other's transaction
		var n int
		return be.Shared().QueryRowContext(ctx, `SELECT count(*) FROM pg_locks WHERE NOT granted AND database =
			(SELECT oid FROM pg_database WHERE datname = current_database()) OR NOT granted AND locktype = 'transactionid'
			AND pid IN (SELECT pid FROM pg_stat_activity WHERE datname = current_database())`).Scan(&n) == nil && n > 0
	}, time.Minute, 5*time.Millisecond)
	require.NoError(t, other.Commit())
	require.NoError(t, <-prepared)
	require.NoError(t, m.Prepare(ctx))
}
