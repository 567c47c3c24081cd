package migrate_test

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/migrate"
)

// An index made CONCURRENTLY is made as any other in a store that nobody sees yet: with the rest, in one message, and
// without waiting for other tenants' transactions.
func TestConcurrentlyInANewStore(t *testing.T) {
	t.Parallel()
	be := counted(t, postgresSite(t))
	list := []string{
		"1_a.sql", up("CREATE TABLE a (x INTEGER);"),
		"2_index.sql", "-- +goose NO TRANSACTION\n-- +goose Up\nCREATE INDEX CONCURRENTLY a_x ON a (x);\nCREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS \"A y\" ON a (x);\n",
		"3_b.sql", up("SET LOCAL lock_timeout = '1s';\nCREATE TABLE b (x INTEGER);"),
	}
	m := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(3, list...)}))
	provision(t, m, 1)
	// A report of another tenant that takes its time.
	db := be.DBFor(route(0))
	defer func() { require.NoError(t, db.Close()) }()
	report, err := db.BeginTx(t.Context(), &sql.TxOptions{Isolation: sql.LevelRepeatableRead})
	require.NoError(t, err)
	defer func() { _ = report.Rollback() }()
	_, err = report.ExecContext(t.Context(), "SELECT * FROM a")
	require.NoError(t, err)

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // reached only where it waits for the report
	defer cancel()
	before := be.ran
	require.NoError(t, m.Provision(ctx, route(1)))
	assert.Equal(t, before+1, be.ran, "one script, with all of it")
	assert.Equal(t, "0,1,2,3", versions(t, be, route(1), "goose_db_version"))
	assert.Equal(t, "A y,a_x", query(t, be, route(1), `SELECT indexname FROM pg_indexes WHERE schemaname = current_schema() AND tablename = 'a' ORDER BY indexname COLLATE "C"`))
	require.NoError(t, m.Ready(ctx, route(1)))
}

// A bound on a migration's own waiting does not take it off the fast path, and ends with the migration.
func TestSetLocalStaysOnTheFastPath(t *testing.T) {
	t.Parallel()
	be := counted(t, postgresSite(t))
	list := []string{
		"1_a.sql", up("CREATE TABLE a (x TEXT);"),
		"2_b.sql", up("SET LOCAL lock_timeout = '1234ms';\nSET LOCAL app.note = 'from 2';\nINSERT INTO a SELECT 'own ' || current_setting('lock_timeout');"),
		"3_c.sql", up("INSERT INTO a SELECT 'after ' || current_setting('lock_timeout') || coalesce(current_setting('app.note', true), '');"),
	}
	provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, list...)})), 3)
	before := be.ran
	cfg := tenants(migrate.Source{Name: "app", FS: version(3, list...)})
	cfg.LockTimeout = 5 * time.Second
	_, err := migrator(t, be, cfg).Up(t.Context(), migrate.UpOptions{})
	require.NoError(t, err)
	assert.Equal(t, before+3, be.ran)
	for i := range 3 {
		require.Equal(t, "after 5s,own 1234ms", query(t, be, route(i), "SELECT x FROM a ORDER BY x"))
	}
}

// S80: what the tenant set would change outside of its store fails, changes nothing, and is named.
func TestTenantSetChangesItsStoreOnly(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"update": "UPDATE users SET name = 'changed';",
		"alter":  "ALTER TABLE users ADD COLUMN extra TEXT;",
		"insert": "INSERT INTO users (name) VALUES ('another');",
		"create": "CREATE TABLE public.stray (x INTEGER);",
		"drop":   "DROP TABLE users;",
	} {
		roles := []string{"auto", "off"}
		if name == "update" {
			roles = append(roles, "each")
		}
		for _, role := range roles {
			t.Run(name+"/"+role, func(t *testing.T) {
				t.Parallel()
				be := openSite(t, withParam(t, pgtest.Shared(t).Database(t), "tenant_role", role))
				cfg := migrate.Config{
					Shared: []migrate.Source{{Name: "auth", FS: files("1_users.sql", up("CREATE TABLE users (name TEXT);\nINSERT INTO users VALUES ('shared');"))}},
					Tenant: []migrate.Source{{Name: "app", FS: version(1, killed...)}},
				}
				m := migrator(t, be, cfg)
				_, err := m.Up(t.Context(), migrate.UpOptions{})
				require.NoError(t, err)
				provision(t, m, 2)
				cfg.Tenant[0].FS = files("1_a.sql", killed[1], "2_bad.sql", up("INSERT INTO a (x) VALUES (1);\n"+text))
				m = migrator(t, be, cfg)
				_, err = m.Up(t.Context(), migrate.UpOptions{})
				var failure *migrate.StoreError
				require.ErrorAs(t, err, &failure)
				assert.EqualValues(t, 2, failure.Version)
				assert.Equal(t, "2_bad.sql", failure.File)
				require.ErrorIs(t, err, backend.ErrReadOnlyShared)
				if name != "create" && (name != "drop" || role != "off") { // of what was dropped nothing is left but where it was
					assert.Contains(t, err.Error(), "users")
				}
				require.ErrorIs(t, m.Provision(t.Context(), route(2)), backend.ErrReadOnlyShared)
				assert.Equal(t, "shared", query(t, be, backend.Route{}, "SELECT * FROM users"))
				for i := range 2 {
					assert.Equal(t, "0,1", versions(t, be, route(i), "goose_db_version"))
					assert.Empty(t, query(t, be, route(i), "SELECT x FROM a"))
				}
			})
		}
	}
}

// What would harm goose itself, or the other tenants, is refused with its line before any store is touched.
func TestRefusedFiles(t *testing.T) {
	t.Parallel()
	app := func(fs ...string) []migrate.Source { return []migrate.Source{{Name: "app", FS: files(fs...)}} }
	extension := up("CREATE TABLE a (x INT);\n\nCREATE EXTENSION IF NOT EXISTS pgcrypto;")
	for name, c := range map[string]struct {
		tenant, shared []migrate.Source
		line           int
		reason         string
	}{
		"byte order mark":              {tenant: app("1_a.sql", "\ufeff"+up("SELECT 1;")), line: 1, reason: "byte order mark"},
		"byte order mark, shared":      {shared: app("1_a.sql", "\ufeff"+up("SELECT 1;")), line: 1, reason: "byte order mark"},
		"pg_dump":                      {tenant: app("1_a.sql", up("SET client_encoding = 'UTF8';\nSELECT pg_catalog.set_config('search_path', '', false);\nCREATE TABLE a (x INT);")), line: 3, reason: "search_path"},
		"pg_dump in a block":           {tenant: app("1_a.sql", up("-- +goose StatementBegin\nSELECT 1;\n\nSELECT pg_catalog.set_config('search_path', '', false);\n-- +goose StatementEnd")), line: 5, reason: "search_path"},
		"search_path":                  {shared: app("1_a.sql", up("SET search_path TO app, public;")), line: 2, reason: "search_path"},
		"extension in the tenant set":  {tenant: app("1_a.postgres.sql", extension, "1_a.sqlite.sql", up("SELECT 1;")), line: 4, reason: "shared set"},
		"extension, without a dialect": {tenant: app("1_a.sql", extension), line: 4, reason: "shared set"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, d := range []backend.Dialect{backend.SQLite, backend.Postgres} {
				_, err := migrate.New(untouchable{dialect: d}, migrate.Config{Shared: c.shared, Tenant: c.tenant})
				var fault *migrate.SourceError
				require.ErrorAs(t, err, &fault)
				assert.Equal(t, c.line, fault.Line)
				assert.Contains(t, fault.Reason, c.reason)
				assert.Contains(t, err.Error(), fmt.Sprintf(":%d", c.line))
			}
		})
	}
	_, err := migrate.New(untouchable{dialect: backend.Postgres}, migrate.Config{Shared: app("1_a.sql", extension)})
	require.NoError(t, err, "in the shared set it is welcome")
}

// invalidate leaves an index that cannot be used, as a CREATE INDEX CONCURRENTLY does that fails.
func invalidate(t testing.TB, be *site, rt backend.Route) {
	t.Helper()
	run(t, be, rt, "INSERT INTO a (x) VALUES (1), (1)")
	db := be.Maintenance(rt)
	defer func() { require.NoError(t, db.Close()) }()
	_, err := db.ExecContext(t.Context(), "CREATE UNIQUE INDEX CONCURRENTLY a_x ON a (x)")
	require.Error(t, err)
	require.Equal(t, "a_x", query(t, be, rt, "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE NOT i.indisvalid AND c.relnamespace = current_schema()::regnamespace"))
}

// An index that a failed attempt left behind does not count as made, whoever passed over it with IF NOT EXISTS.
func TestInvalidIndex(t *testing.T) {
	t.Parallel()
	be := postgresSite(t)
	ctx := t.Context()
	list := []string{
		"1_a.sql", up("CREATE TABLE a (x INTEGER);"),
		"2_index.sql", "-- +goose NO TRANSACTION\n-- +goose Up\nCREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS a_x ON a (x);\n",
	}
	provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, list...)})), 4)
	invalidate(t, be, route(1))
	m := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(2, list...)}))
	res, err := m.Up(ctx, migrate.UpOptions{})
	require.ErrorIs(t, err, migrate.ErrInvalidIndex)
	assert.Equal(t, 3, res.Applied)
	assert.Contains(t, err.Error(), "2_index.sql")
	assert.Contains(t, err.Error(), "a_x")
	assert.Equal(t, "0,1", versions(t, be, route(1), "goose_db_version"))
	st, err := m.Status(ctx)
	require.NoError(t, err)
	assert.Equal(t, migrate.TenantStatus{Total: 4, Current: 3, Pending: 1, Failed: 1}, st.Tenants)

	// goose alone passes over it. Whoever looks into the store sees it, and status says so from then on.
	db := be.Maintenance(route(1))
	_, err = plainGoose(t, be, db, version(2, list...)).Up(ctx)
	require.NoError(t, err)
	require.NoError(t, db.Close())
	_, err = m.Verify(ctx, migrate.Fleet{})
	require.ErrorIs(t, err, migrate.ErrInvalidIndex)
	for range 2 {
		st, err = m.Status(ctx)
		require.NoError(t, err)
		assert.Equal(t, migrate.TenantStatus{Total: 4, Current: 3, Pending: 1, Failed: 1}, st.Tenants)
		assert.Equal(t, []migrate.Drift{{Kind: migrate.DriftInvalid, Set: migrate.SetTenant, Source: "app", Version: 2, Stores: 1, First: "t0001"}}, st.Drift)
		_, err = m.Up(ctx, migrate.UpOptions{})
		require.ErrorIs(t, err, migrate.ErrInvalidIndex, "it does not count as current")
	}
	// Once it is mended, a run sees that too.
	run(t, be, route(1), "DROP INDEX a_x")
	run(t, be, route(1), "DELETE FROM a")
	run(t, be, route(1), "CREATE UNIQUE INDEX a_x ON a (x)")
	_, err = m.Up(ctx, migrate.UpOptions{})
	require.NoError(t, err)
	st, err = m.Status(ctx)
	require.NoError(t, err)
	assert.Equal(t, migrate.TenantStatus{Total: 4, Current: 4}, st.Tenants)
	assert.Empty(t, st.Drift)
}

// S86: names that a language sorts otherwise than bytes do are all visited, once, and listed as Go has them.
func TestCollation(t *testing.T) {
	t.Parallel()
	be := openSite(t, pgtest.Shared(t).CollatedDatabase(t, "en-US"))
	ctx := t.Context()
	require.Equal(t, "true", query(t, be, backend.Route{}, "SELECT 'a_1' < 'a1'"), "or the test shows nothing")
	m := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, killed...)}))
	var names []backend.Store
	for i := range 40 {
		for _, name := range []string{"a-%d", "a%d", "a_%d", "b-a%d"} {
			names = append(names, backend.MustParseStore(fmt.Sprintf(name, i)))
		}
	}
	for _, s := range names {
		require.NoError(t, m.Provision(ctx, backend.Route{Store: s, Owner: "o" + s.String()}))
	}
	seen := map[backend.Store]int{}
	res, err := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(3, killed...)})).Up(ctx, migrate.UpOptions{
		Fleet: migrate.Fleet{OnEvent: func(e migrate.Event) {
			if e.Kind == migrate.EventApplied {
				seen[e.Store]++
			}
		}},
	})
	require.NoError(t, err)
	assert.Equal(t, len(names), res.Applied)
	assert.Len(t, seen, len(names))
	list, err := m.Stores(ctx)
	require.NoError(t, err)
	require.Len(t, list, len(names))
	for i := range list[1:] {
		require.Less(t, list[i].String(), list[i+1].String())
	}
	st, err := m.Status(ctx)
	require.NoError(t, err)
	assert.Equal(t, list[0].String(), st.Groups[0].First)
}

// A connection that is lost while goose is at work in a store costs an attempt, not the run.
func TestConnectionLostInTheSlowPath(t *testing.T) {
	t.Parallel()
	be := postgresSite(t)
	ctx := t.Context()
	provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, killed...)})), 6)
	var once sync.Once
	m := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, killed...), Go: func() []*goose.Migration {
		return []*goose.Migration{goose.NewGoMigration(2, &goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error {
			if _, err := tx.ExecContext(ctx, "INSERT INTO a (x) VALUES (2)"); err != nil {
				return err
			}
			var pid int
			if err := tx.QueryRowContext(ctx, "SELECT pg_backend_pid()").Scan(&pid); err != nil {
				return err
			}
			once.Do(func() {
				_, err := be.Shared().ExecContext(ctx, "SELECT pg_terminate_backend($1, 60000)", pid)
				assert.NoError(t, err)
			})
			return nil
		}}, nil)}
	}}))
	retries := 0
	res, err := m.Up(ctx, migrate.UpOptions{Fleet: migrate.Fleet{OnEvent: func(e migrate.Event) {
		if e.Kind == migrate.EventRetrying {
			retries++
		}
	}}})
	require.NoError(t, err)
	assert.Equal(t, 6, res.Applied)
	assert.Equal(t, 1, retries)
	for i := range 6 {
		require.Equal(t, "2", query(t, be, route(i), "SELECT x FROM a"))
	}
	st, err := m.Status(ctx)
	require.NoError(t, err)
	assert.Equal(t, migrate.TenantStatus{Total: 6, Current: 6}, st.Tenants)
}

// S65: a run whose process was killed is finished by whoever runs, without another call of Up; one that was stopped is not.
func TestSettle(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		const stores = 60
		ctx := t.Context()
		provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, killed...)})), stores)
		m := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(3, killed...)}))
		res, err := m.Settle(ctx)
		require.NoError(t, err)
		require.Nil(t, res, "nobody began anything")

		stopped, cancel := context.WithCancel(ctx)
		_, err = m.Up(stopped, migrate.UpOptions{Fleet: migrate.Fleet{Parallel: 1, OnEvent: func(e migrate.Event) {
			if e.Kind == migrate.EventStarted {
				cancel()
			}
		}}})
		require.ErrorIs(t, err, context.Canceled)
		res, err = m.Settle(ctx)
		require.NoError(t, err)
		require.Nil(t, res, "who stopped it meant it")

		child := startChild(t, be, 3)
		require.True(t, child.lines.Scan(), "it has begun")
		require.NoError(t, child.cmd.Process.Kill())
		_ = child.cmd.Wait()
		older := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, killed...)}))
		res, err = older.Settle(ctx)
		require.NoError(t, err)
		require.Nil(t, res, "it does not have these migrations")
		require.Eventually(t, func() bool { // the server may be at what the killed process sent for a moment
			_, err := m.Settle(ctx)
			require.NoError(t, err)
			st, err := m.Status(ctx)
			require.NoError(t, err)
			return st.Tenants.Current == stores
		}, time.Minute, time.Millisecond)
		for i := range stores {
			require.Equal(t, 1, checkWhole(t, be, route(i), 3))
		}
		res, err = m.Settle(ctx)
		require.NoError(t, err)
		require.Nil(t, res)
		assert.Equal(t, "0", query(t, be, backend.Route{}, "SELECT count(*) FROM tenement_ledger_runs"))
	})
}

// S65: a run that is under way is nobody else's to finish.
func TestSettleLeavesRunsAlone(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := t.Context()
		provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, killed...)})), 3)
		var others atomic.Int64
		cfg := tenants(migrate.Source{Name: "app", FS: version(1, killed...), Go: func() []*goose.Migration {
			return []*goose.Migration{goose.NewGoMigration(2, &goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error {
				_, err := tx.ExecContext(ctx, "INSERT INTO a (x) VALUES (2)")
				return err
			}}, nil)}
		}})
		other := migrator(t, openSite(t, be.url), cfg)
		m := migrator(t, be, cfg)
		_, err := m.Up(ctx, migrate.UpOptions{Fleet: migrate.Fleet{Parallel: 1, OnEvent: func(e migrate.Event) {
			if e.Kind == migrate.EventApplied {
				for _, m := range []*migrate.Migrator{other, m} {
					res, err := m.Settle(ctx)
					assert.NoError(t, err)
					if res != nil {
						others.Add(1)
					}
				}
			}
		}}})
		require.NoError(t, err)
		assert.Zero(t, others.Load())
	})
}

// S68: what is undone is undone by whoever holds the store, and a version that the binary does not have is not guessed at.
func TestDownOfAnUnknownVersion(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		provision(t, migrator(t, be, tenants(migrate.Source{Name: "polls", FS: version(3, polls...)})), 1)
		m := migrator(t, be, tenants(migrate.Source{Name: "polls", FS: version(2, polls...)}))
		_, err := m.Down(t.Context(), "", 1, migrate.DownOptions{})
		require.ErrorIs(t, err, migrate.ErrUnknownSource)
		assert.Equal(t, "0,1,2,3", versions(t, be, route(0), "goose_db_version"))
		require.NoError(t, migrator(t, be, tenants(migrate.Source{Name: "polls", FS: version(3, polls...)})).Ready(t.Context(), route(0)))
	})
}
