package migrate_test

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/migrate"
)

const noTx = "-- +goose NO TRANSACTION\n-- +goose Up\n"

// A version of a migration without a transaction that does not stay recorded is a failure, and nothing is applied over the
// gap. In the tenant set and in the shared one.
func TestUnrecordedVersion(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		list := []string{
			"1_a.sql", up("CREATE TABLE a (x INTEGER);"),
			"2_b.sql", noTx + "INSERT INTO a (x) VALUES (2);\n",
			"3_c.sql", up("CREATE TABLE c (x INTEGER);"),
		}
		lose := "CREATE TRIGGER lose BEFORE INSERT ON goose_db_version WHEN new.version_id = 2 BEGIN SELECT RAISE(IGNORE); END"
		mend := "DROP TRIGGER lose"
		if be.Dialect() == backend.Postgres {
			lose = "CREATE RULE lose AS ON INSERT TO goose_db_version WHERE new.version_id = 2 DO INSTEAD NOTHING"
			mend = "DROP RULE lose ON goose_db_version"
		}
		config := func(n int) migrate.Config {
			src := []migrate.Source{{Name: "app", FS: version(n, list...)}}
			return migrate.Config{Shared: src, Tenant: src}
		}
		old := migrator(t, be, config(1))
		_, err := old.Up(t.Context(), migrate.UpOptions{})
		require.NoError(t, err)
		provision(t, old, 2)
		m := migrator(t, be, config(3))
		check := func(rt backend.Route) {
			run(t, be, rt, lose)
			_, err := m.Up(t.Context(), migrate.UpOptions{})
			var failure *migrate.StoreError
			require.ErrorAs(t, err, &failure)
			assert.Equal(t, rt.Store, failure.Store)
			assert.Equal(t, "2_b.sql", failure.File)
			assert.Contains(t, failure.Error(), "COMMIT")
			assert.Equal(t, "0,1", versions(t, be, rt, "goose_db_version"))
			assert.NotContains(t, tables(t, be, rt), "c", "nothing is applied over the gap")
			run(t, be, rt, mend)
			run(t, be, rt, "DELETE FROM a")
		}
		check(backend.Route{})
		_, err = m.Up(t.Context(), migrate.UpOptions{Scope: migrate.SharedOnly})
		require.NoError(t, err)
		if nodes, _ := backend.NodesOf(t.Context(), be.Backend); len(nodes) == 0 { // Citus asks no rule of a table on a node
			check(route(1))
		}
		_, err = m.Up(t.Context(), migrate.UpOptions{})
		require.NoError(t, err)
		for i := range 2 {
			assert.Equal(t, "0,1,2,3", versions(t, be, route(i), "goose_db_version"))
			assert.Equal(t, "2", query(t, be, route(i), "SELECT x FROM a"))
		}
	})
}

// A process that is killed between a migration without a transaction and its version's row leaves a store in which it
// fails from then on. The error names the way out, and it is one.
func TestDoneAndNotRecorded(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		for _, text := range []string{
			"CREATE INDEX a_x ON a (x);",
			"ALTER TABLE a ADD COLUMN y INTEGER;",
			"ALTER TABLE a DROP COLUMN z;",
			"INSERT INTO a (x) VALUES (7);",
			"DROP TABLE b;",
		} {
			list := []string{
				"1_a.sql", up("CREATE TABLE a (x INTEGER UNIQUE, z INTEGER);\nCREATE TABLE b (x INTEGER);"),
				"2_b.sql", noTx + text + "\n",
				"3_c.sql", up("CREATE TABLE c (x INTEGER);"),
			}
			provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, list...)})), 2)
			run(t, be, route(1), text)
			m := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(3, list...)}))
			res, err := m.Up(t.Context(), migrate.UpOptions{})
			require.Error(t, err, text)
			assert.Equal(t, 1, res.Applied)
			assert.Contains(t, err.Error(), `baseline source "app" at version 2`, text)
			assert.Contains(t, err.Error(), "undo that by hand")
			_, err = m.Baseline(t.Context(), "app", 2, migrate.BaselineOptions{Fleet: migrate.Fleet{Stores: []backend.Store{store(1)}}})
			require.NoError(t, err)
			_, err = m.Up(t.Context(), migrate.UpOptions{})
			require.NoError(t, err)
			assert.Equal(t, "0,1,2,3", versions(t, be, route(1), "goose_db_version"))
			st, err := m.Status(t.Context())
			require.NoError(t, err)
			assert.Empty(t, st.Failures)
			for i := range 2 {
				require.NoError(t, be.Drop(t.Context(), route(i)))
				require.NoError(t, m.Forget(t.Context(), store(i)))
			}
		}
	})
}

// The same with an index that is invalid: it says so, and so does status, though the version is not recorded.
func TestInvalidIndexNotRecorded(t *testing.T) {
	t.Parallel()
	be := postgresSite(t)
	list := []string{
		"1_a.sql", up("CREATE TABLE a (x INTEGER);"),
		"2_index.sql", noTx + "CREATE UNIQUE INDEX CONCURRENTLY a_x ON a (x);\n",
	}
	provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, list...)})), 3)
	invalidate(t, be, route(1))                           // an earlier run was killed
	run(t, be, route(2), "INSERT INTO a VALUES (1), (1)") // this one makes it
	m := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(2, list...)}))
	for range 2 {
		_, err := m.Up(t.Context(), migrate.UpOptions{})
		require.ErrorIs(t, err, migrate.ErrInvalidIndex)
		assert.Contains(t, err.Error(), "a_x; drop it, then migrate again")
		st, err := m.Status(t.Context())
		require.NoError(t, err)
		assert.Equal(t, []migrate.Drift{{Kind: migrate.DriftInvalid, Set: migrate.SetTenant, Source: "app", Version: 2, Stores: 2, First: "t0001"}}, st.Drift)
	}
	for i := 1; i < 3; i++ {
		run(t, be, route(i), "DROP INDEX a_x")
		run(t, be, route(i), "DELETE FROM a")
	}
	_, err := m.Up(t.Context(), migrate.UpOptions{})
	require.NoError(t, err)
	st, err := m.Status(t.Context())
	require.NoError(t, err)
	assert.Empty(t, st.Drift)
}

// A transaction left open that the text does not show when it is loaded.
func TestTransactionLeftOpenByTheEnvironment(t *testing.T) {
	for _, be := range []*site{sqliteSite(t), postgresSite(t)} {
		list := []string{
			"1_a.sql", up("CREATE TABLE a (x INTEGER);"),
			"2_b.sql", "-- +goose ENVSUB ON\n" + noTx + "${TENEMENT_TEST_STATEMENT};\nINSERT INTO a (x) VALUES (2);\n",
			"3_c.sql", up("CREATE TABLE c (x INTEGER);"),
		}
		statements := []string{"BEGIN"}
		if be.Dialect() == backend.SQLite {
			statements = append(statements, "SAVEPOINT s")
		}
		t.Setenv("TENEMENT_TEST_STATEMENT", "SELECT 1")
		provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, list...)})), 1)
		m := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(3, list...)}))
		for _, statement := range statements {
			t.Setenv("TENEMENT_TEST_STATEMENT", statement)
			_, err := m.Up(t.Context(), migrate.UpOptions{})
			require.ErrorContains(t, err, "end it with COMMIT")
			assert.Equal(t, "0,1", versions(t, be, route(0), "goose_db_version"))
			assert.Empty(t, query(t, be, route(0), "SELECT x FROM a"))
		}
		t.Setenv("TENEMENT_TEST_STATEMENT", "SELECT 1")
		_, err := m.Up(t.Context(), migrate.UpOptions{})
		require.NoError(t, err)
		assert.Equal(t, "0,1,2,3", versions(t, be, route(0), "goose_db_version"))
	}
}

// Outside of a transaction the version is recorded once too, when two migrators are at it: one of them has lost the store's
// lock, with the connection that held it, and does not know yet.
func TestRecordedOnceByTwo(t *testing.T) {
	t.Parallel()
	be := postgresSite(t)
	list := []string{"1_a.sql", up("CREATE TABLE a (x INTEGER);"), "2_b.sql", noTx + "CREATE INDEX IF NOT EXISTS a_x ON a (x);\n"}
	provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, list...)})), 1)
	m := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(2, list...)}))

	db := be.Maintenance(route(0))
	defer db.Close()
	first, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	defer func() { _ = first.Rollback() }()
	_, err = first.ExecContext(t.Context(), "INSERT INTO goose_db_version (version_id, is_applied) VALUES (2, true)")
	require.NoError(t, err)

	second := make(chan error, 1)
	go func() {
		_, err := m.Up(t.Context(), migrate.UpOptions{})
		second <- err
	}()
	require.Eventually(t, func() bool {
		return len(second) > 0 || query(t, be, backend.Route{}, `SELECT count(*) FROM pg_catalog.pg_locks WHERE NOT granted`+
			` AND relation = 't0000.goose_db_version'::regclass`) == "1"
	}, time.Minute, 5*time.Millisecond)
	require.NoError(t, first.Commit())
	require.NoError(t, <-second)
	assert.Equal(t, "0,1,2", versions(t, be, route(0), "goose_db_version"))
}

// What is asked of the store when a migration is over ends a moment after the run's context, whatever it waits for.
func TestAskingBehindAMigrationEnds(t *testing.T) {
	t.Parallel()
	be := postgresSite(t)
	list := []string{"1_a.sql", up("CREATE TABLE a (x INTEGER);"), "2_b.sql", noTx + "INSERT INTO a (x) VALUES (2);\n"}
	provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, list...)})), 1)
	m := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(2, list...)}))
	others := openSite(t, be.url).Maintenance(route(0))
	defer func() { require.NoError(t, others.Close()) }()
	begin := func() *sql.Tx {
		tx, err := others.BeginTx(t.Context(), nil)
		require.NoError(t, err)
		return tx
	}
	waiting := func(n string) {
		require.Eventually(t, func() bool {
			return query(t, be, backend.Route{}, `SELECT count(*) FROM pg_catalog.pg_locks WHERE NOT granted`+
				` AND relation = 't0000.goose_db_version'::regclass`) == n
		}, time.Minute, 5*time.Millisecond)
	}
	// The migration's version row waits for the first, the second for that, and the question for the second.
	first, second := begin(), begin()
	defer func() { require.NoError(t, second.Rollback()) }()
	_, err := first.ExecContext(t.Context(), "LOCK TABLE goose_db_version IN SHARE MODE")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	migrated, locked := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := m.Up(ctx, migrate.UpOptions{})
		migrated <- err
	}()
	waiting("1")
	go func() {
		_, err := second.ExecContext(t.Context(), "LOCK TABLE goose_db_version IN ACCESS EXCLUSIVE MODE")
		locked <- err
	}()
	waiting("2")
	require.NoError(t, first.Commit())
	require.NoError(t, <-locked)
	waiting("1")
	cancel()
	select {
	case err := <-migrated:
		require.ErrorIs(t, err, context.Canceled)
	case <-time.After(time.Minute):
		t.Error("it goes on without end")
		require.NoError(t, second.Rollback())
		require.Error(t, <-migrated)
		second = begin()
	}
}
