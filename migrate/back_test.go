package migrate_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/migrate"
)

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

		_, err = m.Down(ctx, "", 1, migrate.DownOptions{})
		require.ErrorIs(t, err, migrate.ErrUnknownSource, "which of the two?")
		res, err := m.Down(ctx, "polls", 1, migrate.DownOptions{})
		require.NoError(t, err)
		assert.Equal(t, 3, res.Applied)
		all("0,1,2")
		require.ErrorIs(t, m.Ready(ctx, route(0)), migrate.ErrBehind)
		_, err = m.Down(ctx, "polls", 2, migrate.DownOptions{})
		require.NoError(t, err)
		all("0")
		assert.NotContains(t, tables(t, be, route(0)), "polls")
		res, err = m.Down(ctx, "polls", 1, migrate.DownOptions{})
		require.NoError(t, err, "there is nothing left")
		assert.Equal(t, 3, res.Skipped)

		_, err = m.UpTo(ctx, "polls", 2, migrate.UpToOptions{Scope: migrate.TenantsOnly})
		require.NoError(t, err)
		all("0,1,2")
		_, err = m.Up(ctx, migrate.UpOptions{Scope: migrate.TenantsOnly})
		require.NoError(t, err)
		all("0,1,2,3")
		_, err = m.DownTo(ctx, "polls", 1, migrate.DownOptions{})
		require.NoError(t, err)
		all("0,1")
		_, err = m.UpTo(ctx, "polls", 2, migrate.UpToOptions{Scope: migrate.TenantsOnly})
		require.NoError(t, err)
		run(t, be, route(1), "UPDATE polls SET title = 'changed'")
		res, err = m.Redo(ctx, "polls", migrate.DownOptions{Fleet: migrate.Fleet{Stores: []backend.Store{store(1)}}})
		require.NoError(t, err)
		assert.Equal(t, 1, res.Applied)
		assert.Equal(t, "first", query(t, be, route(1), "SELECT title FROM polls"))
		all("0,1,2")
		_, err = m.DownTo(ctx, "polls", 0, migrate.DownOptions{})
		require.NoError(t, err)
		all("0")

		_, err = m.UpTo(ctx, "polls", 9, migrate.UpToOptions{Scope: migrate.TenantsOnly})
		require.ErrorIs(t, err, migrate.ErrUnknownSource)
		_, err = m.Up(ctx, migrate.UpOptions{Source: "votes"})
		require.ErrorIs(t, err, migrate.ErrUnknownSource)

		// The shared set: while it is behind, tenants are left alone.
		_, err = m.Down(ctx, "", 1, migrate.DownOptions{Set: migrate.SetShared})
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
		_, err = edited.Baseline(ctx, "", 0, migrate.BaselineOptions{})
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

func TestBaseline(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := context.Background()
		require.NoError(t, be.Create(ctx, route(0)))
		run(t, be, route(0), "CREATE TABLE polls (id INTEGER PRIMARY KEY, title TEXT NOT NULL)")
		m := migrator(t, be, tenants(migrate.Source{Name: "polls", FS: version(3, polls...)}))
		_, err := m.Baseline(ctx, "", 1, migrate.BaselineOptions{Fleet: migrate.Fleet{Stores: []backend.Store{store(0)}}})
		require.NoError(t, err)
		assert.Equal(t, "0,1", versions(t, be, route(0), "goose_db_version"))
		res, err := m.Up(ctx, migrate.UpOptions{Scope: migrate.TenantsOnly})
		require.NoError(t, err)
		assert.Equal(t, 1, res.Applied)
		assert.Equal(t, "0,1,2,3", versions(t, be, route(0), "goose_db_version"))
	})
}
