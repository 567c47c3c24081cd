package migrate_test

import (
	"context"
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
