package migrate_test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

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

// fillLedger enters n stores that look like the one that is there, without making them.
func fillLedger(t testing.TB, be *site, n int) {
	t.Helper()
	series := `WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < ` + strconv.Itoa(n) + `)`
	run(t, be, backend.Route{}, series+` INSERT INTO tenement_ledger (store, owner, fingerprint, updated_at)
		SELECT 'x' || s.n, 'o' || s.n, l.fingerprint, l.updated_at FROM s, tenement_ledger l WHERE l.store = 't0000'`)
}

// S63
func TestNothingPendingCostsTheSameForAnyNumberOfStores(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := context.Background()
		cfg := migrate.Config{
			Shared: []migrate.Source{{Name: "plans", FS: files("1_plans.sql", up("CREATE TABLE plans (id TEXT);"))}},
			Tenant: []migrate.Source{{Name: "polls", FS: version(3, polls...)}},
		}
		_, err := migrator(t, be, cfg).Up(ctx, migrate.UpOptions{Scope: migrate.SharedOnly})
		require.NoError(t, err)
		provision(t, migrator(t, be, cfg), 1)
		cost := func(op func(*migrate.Migrator) error) int64 {
			counting := countQueries(t, be)
			require.NoError(t, op(migrator(t, counting, cfg)))
			return counting.queries.Load()
		}
		run := func(m *migrate.Migrator) error { _, err := m.Up(ctx, migrate.UpOptions{}); return err }
		status := func(m *migrate.Migrator) error { _, err := m.Status(ctx); return err }
		runOne, statusOne := cost(run), cost(status)
		fillLedger(t, be, 10_000)
		assert.Equal(t, runOne, cost(run))
		assert.Equal(t, statusOne, cost(status))
		assert.LessOrEqual(t, runOne, int64(5))
		assert.LessOrEqual(t, statusOne, int64(5))
		st, err := migrator(t, be, cfg).Status(ctx)
		require.NoError(t, err)
		assert.Equal(t, migrate.TenantStatus{Total: 10_001, Current: 10_001}, st.Tenants)
	})
}

// S64
func TestOneStoreFails(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := context.Background()
		provision(t, migrator(t, be, tenants(migrate.Source{Name: "polls", FS: version(1, polls...)})), 100)
		run(t, be, route(50), "CREATE TABLE votes (x INTEGER)")
		m := migrator(t, be, tenants(migrate.Source{Name: "polls", FS: version(3, polls...)}))
		res, err := m.Up(ctx, migrate.UpOptions{Scope: migrate.TenantsOnly})
		require.Error(t, err)
		assert.Equal(t, 99, res.Applied)
		assert.Equal(t, 1, res.Failed)
		assert.Equal(t, 0, res.Left)
		var all *migrate.RunError
		require.ErrorAs(t, err, &all)
		assert.Same(t, res, all.Result)
		var failure *migrate.StoreError
		require.ErrorAs(t, err, &failure)
		assert.Equal(t, store(50), failure.Store)
		assert.Equal(t, "polls", failure.Source)
		assert.EqualValues(t, 2, failure.Version)
		assert.Equal(t, "00002_votes.sql", failure.File)
		assert.Equal(t, 2, failure.Line)
		assert.Equal(t, "CREATE TABLE votes (id INTEGER PRIMARY KEY, poll INTEGER);", failure.Statement)
		assert.Contains(t, err.Error(), "votes")
		assert.Contains(t, err.Error(), "already exists")
		if be.Dialect() == backend.Postgres {
			assert.Equal(t, "42P07", failure.SQLState)
			var pgErr interface{ SQLState() string }
			assert.ErrorAs(t, err, &pgErr, "the driver's own error is in the chain")
		}
		for i := range 100 {
			want := "0,1,2,3"
			if i == 50 {
				want = "0,1"
			}
			require.Equal(t, want, versions(t, be, route(i), "goose_db_version"))
		}
		st, err := m.Status(ctx)
		require.NoError(t, err)
		assert.Equal(t, migrate.TenantStatus{Total: 100, Current: 99, Pending: 1, Failed: 1}, st.Tenants)
		require.Len(t, st.Failures, 1)
		assert.Equal(t, "t0050", st.Failures[0].Store)
		assert.EqualValues(t, 2, st.Failures[0].Version)

		// The second run does that store alone.
		run(t, be, route(50), "DROP TABLE votes")
		res, err = m.Up(ctx, migrate.UpOptions{Scope: migrate.TenantsOnly})
		require.NoError(t, err)
		assert.Equal(t, 1, res.Total)
		assert.Equal(t, 1, res.Applied)
		st, err = m.Status(ctx)
		require.NoError(t, err)
		assert.Equal(t, migrate.TenantStatus{Total: 100, Current: 100}, st.Tenants)
		assert.Empty(t, st.Failures)
	})
}

// killed is what the process that is killed applies; each version shows in the schema and in the rows.
var killed = []string{
	"1_a.sql", up("CREATE TABLE a (x INTEGER);"),
	"2_b.sql", up("CREATE TABLE b (x INTEGER);\nINSERT INTO a (x) VALUES (2);"),
	"3_c.sql", up("ALTER TABLE a ADD COLUMN y INTEGER;\nINSERT INTO a (x) VALUES (3);"),
	"4_d.sql", "-- +goose NO TRANSACTION\n-- +goose Up\nINSERT INTO a (x) VALUES (4);\n",
}

// asChild is the test binary run again: it migrates a fleet and says so, line by line.
func asChild(role string) int {
	ctx := context.Background()
	be, err := backend.Open(ctx, os.Getenv("MIGRATE_TEST_URL"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	n, _ := strconv.Atoi(role)
	m, err := migrate.New(be, tenants(migrate.Source{Name: "app", FS: version(n, killed...)}))
	if err == nil {
		_, err = tenantsUp(ctx, m, migrate.Fleet{OnEvent: func(e migrate.Event) { fmt.Println(e.Kind, e.Done) }})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// S65
func TestKilledInTheMiddle(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		const stores = 60
		ctx := context.Background()
		provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, killed...)})), stores)
		for _, at := range []int{1, 20, 45} {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "MIGRATE_TEST_ROLE=3", "MIGRATE_TEST_URL="+be.url)
			cmd.Stderr = os.Stderr
			out, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			lines := bufio.NewScanner(out)
			for n := 0; n < at && lines.Scan(); n++ {
			}
			require.NoError(t, cmd.Process.Kill())
			_ = cmd.Wait() // it was killed, or was faster

			// No store has a migration without its version row or the reverse.
			done := 0
			for i := range stores {
				done += checkWhole(t, be, route(i), 3)
			}
			t.Logf("killed after %d lines: %d stores done", at, done)
		}
		m := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(3, killed...)}))
		res, err := m.Up(ctx, migrate.UpOptions{Scope: migrate.TenantsOnly})
		require.NoError(t, err)
		assert.Zero(t, res.Failed)
		for i := range stores {
			require.Equal(t, 1, checkWhole(t, be, route(i), 3))
		}
		st, err := m.Status(ctx)
		require.NoError(t, err)
		assert.Equal(t, migrate.TenantStatus{Total: stores, Current: stores}, st.Tenants)
		verified, err := m.Verify(ctx, migrate.Fleet{})
		require.NoError(t, err)
		assert.Empty(t, verified.Drift)
	})
}

// checkWhole fails unless the store is at version 1 or at the last one, in tables and rows as in versions. It looks at all
// of them at one moment: the server may still be at what a killed process sent.
func checkWhole(t testing.TB, be *site, rt backend.Route, last int) (done int) {
	t.Helper()
	db := be.Maintenance(rt)
	defer func() { require.NoError(t, db.Close()) }()
	tx, err := db.BeginTx(t.Context(), &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
	if be.Dialect() == backend.SQLite {
		tx, err = db.BeginTx(t.Context(), &sql.TxOptions{ReadOnly: true})
	}
	require.NoError(t, err)
	defer func() { _ = tx.Rollback() }()
	v := column(t, tx, `SELECT version_id FROM goose_db_version ORDER BY id`)
	rows := column(t, tx, `SELECT x FROM a ORDER BY x`)
	hasB := slices.Contains(strings.Split(column(t, tx, tablesQuery(be)), ","), "b")
	switch v {
	case "0,1":
		require.Empty(t, rows)
		require.False(t, hasB)
		return 0
	case "0,1,2": // goose's way: one migration at a time
		require.Equal(t, "2", rows)
		return 0
	}
	require.Equal(t, []string{"0", "1", "2", "3", "4"}[:last+1], strings.Split(v, ","))
	require.Equal(t, []string{"2", "3", "4"}[:last-1], strings.Split(rows, ","))
	require.True(t, hasB)
	return 1
}

// S66
func TestTwoMigratorsAtOnce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		const stores = 96
		ctx := context.Background()
		provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, killed...)})), stores)
		for last := 3; last <= 4; last++ { // as text, and through goose
			var wg sync.WaitGroup
			var applied, skipped atomic.Int64
			for range 3 {
				other := openSite(t, be.url) // as another process has it
				m := migrator(t, other, tenants(migrate.Source{Name: "app", FS: version(last, killed...)}))
				wg.Go(func() {
					res, err := m.Up(ctx, migrate.UpOptions{Scope: migrate.TenantsOnly})
					assert.NoError(t, err)
					applied.Add(int64(res.Applied))
					skipped.Add(int64(res.Skipped))
				})
			}
			wg.Wait()
			assert.EqualValues(t, stores, applied.Load(), "skipped: %d", skipped.Load())
			for i := range stores {
				require.Equal(t, 1, checkWhole(t, be, route(i), last))
			}
			t.Logf("version %d: %d skipped", last, skipped.Load())
		}
		st, err := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(4, killed...)})).Status(ctx)
		require.NoError(t, err)
		assert.Equal(t, migrate.TenantStatus{Total: stores, Current: stores}, st.Tenants)
	})
}

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
				soon, cancel := context.WithTimeout(ctx, 30*time.Second)
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

// S68
func TestDownRedoAndTo(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := context.Background()
		cfg := migrate.Config{
			Shared: []migrate.Source{{Name: "plans", FS: files("1_plans.sql", both("CREATE TABLE plans (id TEXT);", "DROP TABLE plans;"))}},
			Tenant: []migrate.Source{
				{Name: "auth", FS: files("1_users.sql", both("CREATE TABLE users (id TEXT);", "DROP TABLE users;"))},
				{Name: "polls", FS: version(3, polls...)},
			},
		}
		m := migrator(t, be, cfg)
		_, err := m.Up(ctx, migrate.UpOptions{Scope: migrate.SharedOnly})
		require.NoError(t, err)
		provision(t, m, 3)
		all := func(want string) {
			t.Helper()
			for i := range 3 {
				require.Equal(t, want, versions(t, be, route(i), "goose_polls"))
				require.Equal(t, "0,1", versions(t, be, route(i), "goose_db_version"))
			}
			st, err := m.Status(ctx)
			require.NoError(t, err)
			require.Len(t, st.Groups, 1, "the ledger knows")
			require.Len(t, st.Groups[0].Pending, 4-len(strings.Split(want, ",")))
		}
		all("0,1,2,3")
		require.NoError(t, m.Ready(ctx, route(0)))

		_, err = m.Down(ctx, "", 1, migrate.SourceOptions{})
		require.ErrorIs(t, err, migrate.ErrUnknownSource, "which of the two?")
		res, err := m.Down(ctx, "polls", 1, migrate.SourceOptions{})
		require.NoError(t, err)
		assert.Equal(t, 3, res.Applied)
		all("0,1,2")
		require.ErrorIs(t, m.Ready(ctx, route(0)), migrate.ErrBehind)
		_, err = m.Down(ctx, "polls", 2, migrate.SourceOptions{})
		require.NoError(t, err)
		all("0")
		assert.NotContains(t, tables(t, be, route(0)), "polls")
		res, err = m.Down(ctx, "polls", 1, migrate.SourceOptions{})
		require.NoError(t, err, "there is nothing left")
		assert.Equal(t, 3, res.Skipped)

		_, err = m.UpTo(ctx, "polls", 2, migrate.UpToOptions{Scope: migrate.TenantsOnly})
		require.NoError(t, err)
		all("0,1,2")
		_, err = m.Up(ctx, migrate.UpOptions{Scope: migrate.TenantsOnly})
		require.NoError(t, err)
		all("0,1,2,3")
		_, err = m.DownTo(ctx, "polls", 1, migrate.SourceOptions{})
		require.NoError(t, err)
		all("0,1")
		_, err = m.UpTo(ctx, "polls", 2, migrate.UpToOptions{Scope: migrate.TenantsOnly})
		require.NoError(t, err)
		run(t, be, route(1), "UPDATE polls SET title = 'changed'")
		res, err = m.Redo(ctx, "polls", migrate.SourceOptions{Fleet: migrate.Fleet{Stores: []backend.Store{store(1)}}})
		require.NoError(t, err)
		assert.Equal(t, 1, res.Applied)
		assert.Equal(t, "first", query(t, be, route(1), "SELECT title FROM polls"))
		all("0,1,2")
		_, err = m.DownTo(ctx, "polls", 0, migrate.SourceOptions{})
		require.NoError(t, err)
		all("0")

		_, err = m.UpTo(ctx, "polls", 9, migrate.UpToOptions{Scope: migrate.TenantsOnly})
		require.ErrorIs(t, err, migrate.ErrUnknownSource)
		_, err = m.Up(ctx, migrate.UpOptions{Source: "votes"})
		require.ErrorIs(t, err, migrate.ErrUnknownSource)

		// The shared set: while it is behind, tenants are left alone.
		_, err = m.Down(ctx, "", 1, migrate.SourceOptions{Set: migrate.SetShared})
		require.NoError(t, err)
		assert.NotContains(t, tables(t, be, backend.Route{}), "plans")
		_, err = m.Up(ctx, migrate.UpOptions{Scope: migrate.TenantsOnly})
		require.ErrorIs(t, err, migrate.ErrSharedBehind)
		all("0")
		_, err = m.Up(ctx, migrate.UpOptions{})
		require.NoError(t, err)
		all("0,1,2,3")
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
		_, err = m.DownTo(ctx, "", 1, migrate.SourceOptions{})
		require.NoError(t, err)
		assert.Equal(t, "4,5", query(t, be, route(7), "SELECT x FROM a ORDER BY x"))
	})
}

// S68
func TestOutOfOrder(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := context.Background()
		one, three := up("CREATE TABLE a (x INTEGER);"), up("CREATE TABLE c (x INTEGER);")
		provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: files("1_a.sql", one, "3_c.sql", three)})), 3)
		cfg := tenants(migrate.Source{Name: "app", FS: files("1_a.sql", one, "2_b.sql", up("CREATE TABLE b (x INTEGER);"), "3_c.sql", three, "4_d.sql", up("CREATE TABLE d (x INTEGER);"))})
		m := migrator(t, be, cfg)
		for _, opt := range []migrate.Fleet{{}, {Stores: []backend.Store{store(1)}}} {
			_, err := m.Up(ctx, migrate.UpOptions{Fleet: opt})
			require.ErrorIs(t, err, migrate.ErrOutOfOrder)
			assert.Contains(t, err.Error(), "2_b.sql")
		}
		for i := range 3 {
			require.Equal(t, "0,1,3", versions(t, be, route(i), "goose_db_version"), "nothing was done")
		}
		cfg.AllowOutOfOrder = true
		res, err := migrator(t, be, cfg).Up(ctx, migrate.UpOptions{Scope: migrate.TenantsOnly})
		require.NoError(t, err)
		assert.Equal(t, 3, res.Applied)
		for i := range 3 {
			require.Equal(t, "0,1,3,2,4", versions(t, be, route(i), "goose_db_version"))
		}
	})
}

// S68
func TestDriftIsReported(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := context.Background()
		cfg := func(text string) migrate.Config {
			return tenants(migrate.Source{Name: "app", FS: files("1_a.sql", up(text), "2_b.sql", killed[3])})
		}
		was := "CREATE TABLE a (x INTEGER);"
		provision(t, migrator(t, be, cfg(was)), 3)
		// Other line ends are no edit.
		st, err := migrator(t, be, cfg("CREATE TABLE a (x INTEGER);\r")).Status(ctx)
		require.NoError(t, err)
		assert.Empty(t, st.Drift)

		edited := migrator(t, be, cfg("CREATE TABLE a (x INTEGER, forgotten TEXT);"))
		want := []migrate.Drift{{Kind: migrate.DriftEdited, Set: migrate.SetTenant, Source: "app", Version: 1, File: "1_a.sql", Stores: 3, First: "t0000"}}
		st, err = edited.Status(ctx)
		require.NoError(t, err)
		assert.Equal(t, want, st.Drift)
		assert.Equal(t, migrate.TenantStatus{Total: 3, Current: 3}, st.Tenants, "what was edited is not pending")
		require.NoError(t, edited.Ready(ctx, route(0)))
		res, err := edited.Up(ctx, migrate.UpOptions{Scope: migrate.TenantsOnly})
		require.NoError(t, err)
		assert.Equal(t, 3, res.Current)

		// Accepted as it is now.
		_, err = edited.Baseline(ctx, "", 0, migrate.SourceOptions{})
		require.NoError(t, err)
		st, err = edited.Status(ctx)
		require.NoError(t, err)
		assert.Empty(t, st.Drift)

		// A version that this binary does not have: the store is newer, and may be served.
		older := migrator(t, be, tenants(migrate.Source{Name: "app", FS: files("1_a.sql", up("CREATE TABLE a (x INTEGER, forgotten TEXT);"))}))
		st, err = older.Status(ctx)
		require.NoError(t, err)
		require.Len(t, st.Drift, 1)
		assert.Equal(t, migrate.DriftUnknown, st.Drift[0].Kind)
		assert.EqualValues(t, 2, st.Drift[0].Version)
		require.NoError(t, older.Ready(ctx, route(0)))

		// Ledger and store disagree.
		run(t, be, route(1), "DELETE FROM goose_db_version WHERE version_id = 2")
		res, err = edited.Verify(ctx, migrate.Fleet{})
		require.NoError(t, err)
		assert.Equal(t, []migrate.Drift{{Kind: migrate.DriftLedger, Set: migrate.SetTenant, Source: "app", Version: 2, Stores: 1, First: "t0001"}}, res.Drift)
		st, err = edited.Status(ctx)
		require.NoError(t, err)
		assert.Equal(t, migrate.TenantStatus{Total: 3, Current: 2, Pending: 1}, st.Tenants, "the ledger was corrected")
	})
}

// S69
func TestReady(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := context.Background()
		old := migrator(t, be, tenants(migrate.Source{Name: "polls", FS: version(1, polls...)}))
		require.ErrorIs(t, old.Ready(ctx, route(0)), migrate.ErrBehind, "there is not even a ledger")
		provision(t, old, 2)
		counting := countQueries(t, be)
		m := migrator(t, counting, tenants(migrate.Source{Name: "polls", FS: version(3, polls...)}))
		require.ErrorIs(t, m.Ready(ctx, route(0)), migrate.ErrBehind)
		before := counting.queries.Load()
		require.ErrorIs(t, m.Ready(ctx, route(0)), migrate.ErrBehind)
		assert.Equal(t, before, counting.queries.Load(), "a refusal is kept for a moment")

		// Another process migrates it; this one notices without a restart.
		_, err := migrator(t, be, tenants(migrate.Source{Name: "polls", FS: version(3, polls...)})).Up(ctx, migrate.UpOptions{Scope: migrate.TenantsOnly})
		require.NoError(t, err)
		require.Eventually(t, func() bool { return m.Ready(ctx, route(0)) == nil }, time.Minute, 10*time.Millisecond)
		before = counting.queries.Load()
		for range 100 {
			require.NoError(t, m.Ready(ctx, route(0)))
		}
		assert.Equal(t, before, counting.queries.Load())
		require.NoError(t, old.Ready(ctx, route(1)), "newer than needed is fine")
	})
}

func TestReadyDoesNotAllocate(t *testing.T) { //nolint:paralleltest // counts allocations
	be := sqliteSite(t)
	m := migrator(t, be, tenants(migrate.Source{Name: "polls", FS: version(3, polls...)}))
	provision(t, m, 1)
	ctx, rt := context.Background(), route(0)
	require.NoError(t, m.Ready(ctx, rt))
	assert.Zero(t, testing.AllocsPerRun(100, func() { _ = m.Ready(ctx, rt) }))
}

// S69: lazy mode.
func TestLazy(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := context.Background()
		provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, killed...)})), 2)
		entered, proceed := make(chan struct{}, 10), make(chan struct{})
		cfg := tenants(migrate.Source{Name: "app", FS: version(1, killed...), Go: func() []*goose.Migration {
			return []*goose.Migration{goose.NewGoMigration(2, &goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error {
				entered <- struct{}{}
				<-proceed
				_, err := tx.ExecContext(ctx, "INSERT INTO a (x) VALUES (2)")
				return err
			}}, nil)}
		}})
		cfg.Behind, cfg.BehindWait = migrate.Migrate, time.Minute
		m := migrator(t, be, cfg)
		results := make(chan error, 8)
		for range 8 {
			go func() { results <- m.Ready(ctx, route(0)) }()
		}
		<-entered
		// Whoever has no time gets an answer.
		short, cancel := context.WithTimeout(ctx, time.Second) // enough to read the ledger
		defer cancel()
		err := m.Ready(short, route(0))
		require.ErrorIs(t, err, migrate.ErrBehind)
		close(proceed)
		for range 8 {
			require.NoError(t, <-results)
		}
		assert.Empty(t, entered, "it was done once")
		assert.Equal(t, "2", query(t, be, route(0), "SELECT x FROM a"))
		assert.Equal(t, "0,1", versions(t, be, route(1), "goose_db_version"), "the other one was not asked for")
		require.NoError(t, m.Ready(ctx, route(0)))

		run(t, be, route(1), "DROP TABLE a")
		err = m.Ready(ctx, route(1))
		require.ErrorIs(t, err, migrate.ErrBehind)
		var failure *migrate.StoreError
		require.ErrorAs(t, err, &failure)
		assert.Equal(t, store(1), failure.Store)
	})
}

// S70
func TestProgress(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := context.Background()
		provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, killed...)})), 50)
		run(t, be, route(9), "CREATE TABLE b (x INTEGER)")
		m := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(3, killed...)}))
		var events []migrate.Event
		_, err := tenantsUp(ctx, m, migrate.Fleet{OnEvent: func(e migrate.Event) { events = append(events, e) }})
		require.Error(t, err)
		require.Len(t, events, 52)
		assert.Equal(t, migrate.EventStarted, events[0].Kind)
		assert.Equal(t, 50, events[0].Total)
		for i, e := range events[1:51] {
			assert.Equal(t, i+1, e.Done)
			assert.Equal(t, 50, e.Total)
			if e.Store == store(9) {
				assert.Equal(t, migrate.EventFailed, e.Kind)
				var failure *migrate.StoreError
				require.ErrorAs(t, e.Err, &failure)
				assert.Contains(t, failure.Statement, "CREATE TABLE b")
			} else {
				assert.Equal(t, migrate.EventApplied, e.Kind)
			}
		}
		last := events[51]
		assert.Equal(t, migrate.EventDone, last.Kind)
		assert.Equal(t, 50, last.Done)
		assert.Equal(t, 1, last.Failed)
		assert.Positive(t, last.Elapsed)
	})
}

func TestWhenToStop(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := context.Background()
		provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, killed...)})), 40)
		for i := range 40 {
			if i%2 == 0 {
				run(t, be, route(i), "CREATE TABLE b (x INTEGER)")
			}
		}
		m := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(3, killed...)}))
		sum := func(r *migrate.Result) int { return r.Applied + r.Skipped + r.Failed + r.Left }

		res, err := tenantsUp(ctx, m, migrate.Fleet{Canary: 2, Stores: []backend.Store{store(1), store(3), store(2), store(5)}})
		require.ErrorIs(t, err, migrate.ErrCanary)
		assert.Equal(t, 2, res.Left)
		assert.Equal(t, 4, sum(res))

		res, err = tenantsUp(ctx, m, migrate.Fleet{StopAfter: 1, Parallel: 1})
		require.ErrorIs(t, err, migrate.ErrStopped)
		assert.Equal(t, 1, res.Failed)
		assert.Positive(t, res.Left)
		assert.Equal(t, res.Total, sum(res))

		res, err = tenantsUp(ctx, m, migrate.Fleet{StopAfter: 4, Parallel: 1})
		require.ErrorIs(t, err, migrate.ErrStopped)
		assert.Equal(t, 4, res.Failed)
		assert.Equal(t, res.Total, sum(res))

		// Cancelled between stores; what is left is said, and a second call does it.
		cancelled, cancel := context.WithCancel(ctx)
		res, err = tenantsUp(cancelled, m, migrate.Fleet{Parallel: 1, OnEvent: func(e migrate.Event) {
			if e.Kind == migrate.EventFailed {
				cancel()
			}
		}})
		require.ErrorIs(t, err, context.Canceled)
		assert.Positive(t, res.Left)
		assert.Equal(t, res.Total, sum(res))
		for i := range 40 {
			if i%2 == 0 {
				run(t, be, route(i), "DROP TABLE b")
			}
		}
		_, err = tenantsUp(ctx, m, migrate.Fleet{Canary: 5})
		require.NoError(t, err)
		for i := range 40 {
			require.Equal(t, 1, checkWhole(t, be, route(i), 3))
		}
	})
}

func TestDryRunChangesNothing(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := context.Background()
		cfg := migrate.Config{
			Shared: []migrate.Source{{Name: "plans", FS: files("1_plans.sqlite.sql", up("CREATE TABLE plans (id TEXT); -- sqlite"), "1_plans.postgres.sql", up("CREATE TABLE plans (id TEXT); -- postgres"))}},
			Tenant: []migrate.Source{{Name: "polls", FS: version(3, polls...)}},
		}
		var out strings.Builder
		_, err := migrator(t, be, cfg).Up(ctx, migrate.UpOptions{DryRun: &out})
		require.NoError(t, err)
		assert.Contains(t, out.String(), "CREATE TABLE plans (id TEXT); -- "+string(be.Dialect()))
		assert.Empty(t, tables(t, be, backend.Route{}))

		provision(t, migrator(t, be, tenants(migrate.Source{Name: "polls", FS: version(1, polls...)})), 5)
		out.Reset()
		_, err = migrator(t, be, cfg).Up(ctx, migrate.UpOptions{DryRun: &out})
		require.NoError(t, err)
		assert.Contains(t, out.String(), "CREATE TABLE plans")
		assert.Contains(t, out.String(), "5 stores")
		assert.Equal(t, 1, strings.Count(out.String(), "ALTER TABLE polls ADD COLUMN closed"))
		assert.Equal(t, "0,1", versions(t, be, route(0), "goose_db_version"))
	})
}

func TestBaseline(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := context.Background()
		require.NoError(t, be.Create(ctx, route(0)))
		run(t, be, route(0), "CREATE TABLE polls (id INTEGER PRIMARY KEY, title TEXT NOT NULL)")
		m := migrator(t, be, tenants(migrate.Source{Name: "polls", FS: version(3, polls...)}))
		_, err := m.Baseline(ctx, "", 1, migrate.SourceOptions{Fleet: migrate.Fleet{Stores: []backend.Store{store(0)}}})
		require.NoError(t, err)
		assert.Equal(t, "0,1", versions(t, be, route(0), "goose_db_version"))
		res, err := m.Up(ctx, migrate.UpOptions{Scope: migrate.TenantsOnly})
		require.NoError(t, err)
		assert.Equal(t, 1, res.Applied)
		assert.Equal(t, "0,1,2,3", versions(t, be, route(0), "goose_db_version"))
	})
}

func TestProvisionFinishes(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := context.Background()
		m := migrator(t, be, tenants(migrate.Source{Name: "polls", FS: version(3, polls...)}))
		// S23: died after the store was made; died before the ledger knew.
		require.NoError(t, be.Create(ctx, route(0)))
		for range 2 {
			require.NoError(t, m.Provision(ctx, route(0)))
			assert.Equal(t, "0,1,2,3", versions(t, be, route(0), "goose_db_version"))
			require.NoError(t, m.Ready(ctx, route(0)))
		}
		run(t, be, backend.Route{}, "DELETE FROM tenement_ledger")
		require.NoError(t, m.Provision(ctx, route(0)))
		assert.Equal(t, "owner-0", query(t, be, backend.Route{}, "SELECT owner FROM tenement_ledger WHERE store = 't0000'"))

		err := m.Provision(ctx, backend.Route{Store: store(0), Owner: "somebody else"})
		require.ErrorIs(t, err, backend.ErrStoreExists)

		// S22: the migration's own error, and the same call finishes once it is mended.
		bad := migrator(t, be, tenants(migrate.Source{Name: "polls", FS: files("00001_polls.sql", polls[1], "00002_votes.sql", up("CREATE TABLE polls (again INTEGER);"))}))
		err = bad.Provision(ctx, route(1))
		var failure *migrate.StoreError
		require.ErrorAs(t, err, &failure)
		assert.EqualValues(t, 2, failure.Version)
		assert.Contains(t, failure.Statement, "again")
		require.ErrorIs(t, bad.Ready(ctx, route(1)), migrate.ErrBehind)
		require.NoError(t, m.Provision(ctx, route(1)))
		require.NoError(t, m.Ready(ctx, route(1)))

		// A row that was left by a store of the same name says nothing about the new one.
		require.NoError(t, be.Drop(ctx, route(0)))
		require.NoError(t, m.Provision(ctx, backend.Route{Store: store(0), Owner: "next"}))
		assert.Equal(t, "next", query(t, be, backend.Route{}, "SELECT owner FROM tenement_ledger WHERE store = 't0000'"))

		require.NoError(t, be.Rename(ctx, route(1), store(2)))
		require.NoError(t, m.Renamed(ctx, store(1), store(2)))
		require.NoError(t, m.Renamed(ctx, store(1), store(2)), "again")
		require.NoError(t, m.Ready(ctx, backend.Route{Store: store(2), Owner: "owner-1"}))
		require.ErrorIs(t, m.Ready(ctx, route(1)), migrate.ErrBehind)
		require.NoError(t, m.Forget(ctx, store(2)))
		require.NoError(t, m.Forget(ctx, store(2)), "again")
		assert.Equal(t, "t0000", query(t, be, backend.Route{}, "SELECT store FROM tenement_ledger WHERE store <> ''"))
	})
}

// What is random must not be copied from one store to the next.
func TestSecretsAreNotShared(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := context.Background()
		random := "lower(hex(randomblob(16)))"
		if be.Dialect() == backend.Postgres {
			random = "gen_random_uuid()::text"
		}
		m := migrator(t, be, tenants(migrate.Source{Name: "app", FS: files(
			"1_a.sql", up("CREATE TABLE a (x TEXT);"),
			"2_secret.sql", up("INSERT INTO a (x) VALUES ("+random+");"),
			"3_c.sql", up("CREATE TABLE c (x TEXT);"),
		)}))
		require.NoError(t, m.Provision(ctx, route(0)))
		require.NoError(t, m.Provision(ctx, route(1)))
		first, second := query(t, be, route(0), "SELECT x FROM a"), query(t, be, route(1), "SELECT x FROM a")
		assert.NotEmpty(t, first)
		assert.NotEqual(t, first, second)
		assert.Equal(t, "0,1,2,3", versions(t, be, route(1), "goose_db_version"))
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
