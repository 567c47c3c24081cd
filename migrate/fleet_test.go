package migrate_test

import (
	"context"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/migrate"
)

var polls = []string{
	"00001_polls.sql", both("CREATE TABLE polls (id INTEGER PRIMARY KEY, title TEXT NOT NULL);", "DROP TABLE polls;"),
	"00002_votes.sql", both("CREATE TABLE votes (id INTEGER PRIMARY KEY, poll INTEGER);\nINSERT INTO polls (id, title) VALUES (1, 'first');", "DELETE FROM polls;\nDROP TABLE votes;"),
	"00003_closed.sql", both("ALTER TABLE polls ADD COLUMN closed INTEGER NOT NULL DEFAULT 0;", "ALTER TABLE polls DROP COLUMN closed;"),
}

// S60
func TestSetsStayApart(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := context.Background()
		plans := migrate.Source{Name: "plans", FS: files("1_plans.sql", up("CREATE TABLE plans (id TEXT);"))}
		auth := migrate.Source{Name: "auth", FS: files("1_users.sql", up("CREATE TABLE users (id TEXT);"))}
		m := migrator(t, be, migrate.Config{
			Shared: []migrate.Source{plans, auth},
			Tenant: []migrate.Source{auth, {Name: "polls", FS: version(3, polls...)}},
		})
		_, err := m.Up(ctx, migrate.UpOptions{})
		require.NoError(t, err)
		provision(t, m, 2)
		assert.Equal(t, []string{"goose_auth", "goose_db_version", "goose_tenement_ledger", "plans", "tenement_ledger", "tenement_ledger_revision", "tenement_ledger_runs", "tenement_ledger_states", "users"},
			tables(t, be, backend.Route{}))
		for i := range 2 {
			assert.Equal(t, []string{"goose_db_version", "goose_polls", "polls", "users", "votes"}, tables(t, be, route(i)))
			assert.Equal(t, "0,1,2,3", versions(t, be, route(i), "goose_polls"))
			assert.Equal(t, "0,1", versions(t, be, route(i), "goose_db_version"))
		}
		st, err := m.Status(ctx)
		require.NoError(t, err)
		assert.True(t, st.Shared.Current)
		assert.Equal(t, migrate.TenantStatus{Total: 2, Current: 2}, st.Tenants)
		assert.Empty(t, st.Drift)
	})
}

func TestFleetIsBroughtUp(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := context.Background()
		source := migrate.Source{Name: "polls", FS: version(1, polls...)}
		m := migrator(t, be, tenants(source))
		provision(t, m, 40)
		source.FS = version(3, polls...)
		m = migrator(t, be, tenants(source))
		st, err := m.Status(ctx)
		require.NoError(t, err)
		assert.Equal(t, migrate.TenantStatus{Total: 40, Pending: 40}, st.Tenants)
		require.ErrorIs(t, m.Ready(ctx, route(7)), migrate.ErrBehind)
		res, err := m.Up(ctx, migrate.UpOptions{})
		require.NoError(t, err)
		assert.Equal(t, 40, res.Applied)
		assert.Equal(t, 80, res.Migrations)
		for i := range 40 {
			require.Equal(t, "0,1,2,3", versions(t, be, route(i), "goose_db_version"))
			require.Equal(t, "0", query(t, be, route(i), "SELECT closed FROM polls"))
		}
		require.NoError(t, m.Ready(ctx, route(7)))
		res, err = m.Up(ctx, migrate.UpOptions{})
		require.NoError(t, err)
		assert.Equal(t, 0, res.Total)
		assert.Equal(t, 40, res.Current)
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

// What is said beforehand of stores that are named is what a run then does: also of a store that the ledger does not have, or of
// whose name it has an earlier one, and of one that is gone or was never there.
func TestDryRunByName(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := context.Background()
		old := migrator(t, be, tenants(migrate.Source{Name: "polls", FS: version(1, polls...)}))
		provision(t, old, 4)
		require.NoError(t, be.Drop(ctx, route(0)))
		require.NoError(t, be.Create(ctx, backend.Route{Store: store(0), Owner: "next"}))
		require.NoError(t, old.Enter(ctx, store(1)))
		run(t, be, backend.Route{}, "DELETE FROM tenement_ledger WHERE store = 't0001'")
		require.NoError(t, be.Drop(ctx, route(3)))
		rows := ledgerRows(t, be)

		m := migrator(t, be, tenants(migrate.Source{Name: "polls", FS: version(3, polls...)}))
		typo := backend.MustParseStore("typo")
		opt := migrate.UpOptions{Scope: migrate.TenantsOnly, Fleet: migrate.Fleet{Stores: []backend.Store{typo, store(3), store(2), store(1), store(0)}}}
		var out strings.Builder
		opt.DryRun = &out
		said, err := m.Up(ctx, opt)
		require.ErrorIs(t, err, backend.ErrStoreMissing)
		assert.Contains(t, out.String(), "1 stores, from t0000 on")
		assert.Contains(t, out.String(), "2 stores, from t0001 on")
		assert.Equal(t, 1, strings.Count(out.String(), "CREATE TABLE polls"))
		assert.Equal(t, 2, strings.Count(out.String(), "CREATE TABLE votes"))
		assert.Equal(t, rows, ledgerRows(t, be))
		assert.Equal(t, "0,1", versions(t, be, route(1), "goose_db_version"))

		opt.DryRun = nil
		did, err := m.Up(ctx, opt)
		require.ErrorIs(t, err, backend.ErrStoreMissing)
		assert.Equal(t, 3, did.Applied)
		assert.Equal(t, did.Applied, said.Left)
		assert.Equal(t, did.Missing, said.Missing)
		assert.Equal(t, did.Failed, said.Failed)
		assert.Equal(t, did.Total, said.Total)
		require.Len(t, said.Failures, 1)
		assert.Equal(t, typo, said.Failures[0].Store)
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

// A name that nothing has counts once against those after which a run stops, and is no canary.
func TestMissingNameIsOneFailure(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		provision(t, migrator(t, be, tenants(migrate.Source{Name: "polls", FS: version(1, polls...)})), 4)
		m := migrator(t, be, tenants(migrate.Source{Name: "polls", FS: version(3, polls...)}))
		res, err := tenantsUp(t.Context(), m, migrate.Fleet{Stores: []backend.Store{store(9), store(0), store(1)}, StopAfter: 2})
		require.ErrorIs(t, err, backend.ErrStoreMissing)
		assert.NotErrorIs(t, err, migrate.ErrStopped)
		assert.Equal(t, 1, res.Failed)
		assert.Equal(t, 2, res.Applied)
		res, err = tenantsUp(t.Context(), m, migrate.Fleet{Stores: []backend.Store{store(9), store(2), store(3)}, Canary: 1})
		require.ErrorIs(t, err, backend.ErrStoreMissing)
		assert.NotErrorIs(t, err, migrate.ErrCanary)
		assert.Equal(t, 1, res.Failed)
		assert.Equal(t, 2, res.Applied)
	})
}
