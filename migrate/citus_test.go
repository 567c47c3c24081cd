package migrate_test

import (
	"fmt"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/migrate"
)

// On Citus stores are made at the first try, each with one colocation ID, which is what spreads them; and migrations are
// texts there as anywhere.
func TestCitusWithoutFallback(t *testing.T) {
	t.Parallel()
	const stores = 20
	be := openSite(t, pgtest.Citus(t).Database(t))
	fell := &fallbacks{}
	all := []string{
		"1_a.sql", both("CREATE TABLE notes (id serial PRIMARY KEY, mark text);\nCREATE INDEX notes_mark ON notes (mark);\nCREATE TABLE more (id int PRIMARY KEY, note int REFERENCES notes);", "DROP TABLE more; DROP TABLE notes;"),
		"2_b.sql", both("ALTER TABLE notes ADD COLUMN size int NOT NULL DEFAULT 7;", "ALTER TABLE notes DROP COLUMN size;"),
		"3_c.sql", both("CREATE INDEX notes_size ON notes (size);\nUPDATE notes SET size = 8;", "DROP INDEX notes_size;"),
		"4_d.sql", both("DROP INDEX notes_size;\nALTER TABLE notes DROP COLUMN size;", "ALTER TABLE notes ADD COLUMN size int;"),
		"5_e.sql", both("CREATE TABLE last (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v int);", "DROP TABLE last;"),
	}
	at := func(n int) *migrate.Migrator {
		cfg := tenants(migrate.Source{Name: "app", FS: version(n, all...)})
		cfg.Logger = slog.New(fell)
		return migrator(t, be, cfg)
	}
	_, err := at(1).Up(t.Context(), migrate.UpOptions{})
	require.NoError(t, err)
	const used = `SELECT last_value - CASE WHEN is_called THEN 0 ELSE 1 END FROM pg_catalog.pg_dist_colocationid_seq`
	require.Equal(t, "0", query(t, be, backend.Route{}, used))
	provision(t, at(1), stores)
	for n := 2; n <= len(all)/2; n++ {
		res, err := tenantsUp(t.Context(), at(n), migrate.Fleet{})
		require.NoError(t, err)
		require.Equal(t, stores, res.Applied)
	}
	assert.Empty(t, fell.lines)
	assert.Equal(t, fmt.Sprint(stores), query(t, be, backend.Route{}, used))
	nodes, err := backend.NodesOf(t.Context(), be.Backend)
	require.NoError(t, err)
	for _, n := range nodes {
		assert.InDelta(t, float64(stores)/float64(len(nodes)), float64(len(n.Stores)), stores/20, n.Name)
	}
}
