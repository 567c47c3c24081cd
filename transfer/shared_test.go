package transfer_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
	"github.com/tenement-go/tenement/transfer"
)

// A load locks nothing that other tenants need: foreign keys to shared tables are left where they are.
func TestImportLeavesSharedTables(t *testing.T) {
	t.Parallel()
	source := files("00001_x.sql", "CREATE TABLE a (id int PRIMARY KEY, plan text REFERENCES plans (name)); CREATE TABLE b (a int REFERENCES a (id));")
	p := newPlace(t, backend.Postgres, source, func(c *tenancy.Config) {
		c.Shared = []migrate.Source{{Name: "plans", FS: files("00001_plans.sql", "CREATE TABLE plans (name text PRIMARY KEY); INSERT INTO plans VALUES ('free');")}}
	})
	thor := p.create(t, "thor", `INSERT INTO a VALUES (1, 'free')`, `INSERT INTO b VALUES (1)`)
	path := filepath.Join(t.TempDir(), "thor.db")
	_, err := transfer.Export(t.Context(), p.App, thor.ID, path, transfer.ExportOptions{})
	require.NoError(t, err)
	looked := 0
	moved, err := transfer.Import(t.Context(), p.App, path, transfer.ImportOptions{
		Spec: tenancy.Spec{Slug: "loki"}, NoDomains: true,
		OnTable: func(transfer.Progress) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, err := p.Shared().ExecContext(ctx, `INSERT INTO plans VALUES ('pro') ON CONFLICT DO NOTHING`)
			assert.NoError(t, err)
			var plan string
			err = p.DB().QueryRowContext(backend.WithRouter(ctx, &thor), `SELECT name FROM plans JOIN a ON plan = name`).Scan(&plan)
			assert.NoError(t, err)
			assert.Equal(t, "free", plan)
			looked++
		},
	})
	require.NoError(t, err)
	assert.Equal(t, 2, looked)
	_, err = p.DB().ExecContext(backend.WithRouter(t.Context(), &moved), `INSERT INTO a VALUES (2, 'none')`)
	assert.Error(t, err, "the key to the shared table holds")
	_, err = p.DB().ExecContext(backend.WithRouter(t.Context(), &moved), `INSERT INTO b VALUES (7)`)
	assert.Error(t, err)
}

// A check that a foreign key to a shared table defers is made before the tables are changed again.
func TestDeferredKeyToASharedTable(t *testing.T) {
	t.Parallel()
	source := files("00001_x.sql", `CREATE TABLE a (id int PRIMARY KEY, plan text REFERENCES plans (name) DEFERRABLE INITIALLY DEFERRED, up int REFERENCES a (id));
CREATE TABLE large (id int PRIMARY KEY, plan text REFERENCES plans (name) DEFERRABLE INITIALLY DEFERRED, note text);`)
	p := newPlace(t, backend.Postgres, source, func(c *tenancy.Config) {
		c.Shared = []migrate.Source{{Name: "plans", FS: files("00001_plans.sql", "CREATE TABLE plans (name text PRIMARY KEY); INSERT INTO plans VALUES ('free');")}}
	})
	thor := p.create(t, "thor", `INSERT INTO a VALUES (1, 'free', 1)`, `INSERT INTO large SELECT i, 'free', repeat('x', 1000) FROM generate_series(1, 5000) i`)
	path, _ := p.export(t, thor)
	loki := p.bring(t, path, transfer.ImportOptions{Spec: tenancy.Spec{Slug: "loki"}, NoDomains: true})
	odin, err := transfer.Clone(t.Context(), p.App, thor.ID, transfer.CloneOptions{Spec: tenancy.Spec{Slug: "odin"}})
	require.NoError(t, err)
	for _, made := range []tenancy.Tenant{loki, odin} {
		requireSame(t, transfer.InStore(p.App, thor.ID), transfer.InStore(p.App, made.ID))
		_, err := p.DB().ExecContext(backend.WithRouter(t.Context(), &made), `INSERT INTO a VALUES (2, 'none')`)
		assert.Error(t, err, "the key holds")
	}
}

// Shared tables that refer to each other are replaced whatever a deletion would do, and one that is left out keeps its rows.
func TestMoveIntoSharedTablesWithKeys(t *testing.T) {
	onEach(t, func(t *testing.T, from backend.Dialect) {
		keys := func(c *tenancy.Config) {
			c.Shared = []migrate.Source{{Name: "plans", FS: files("00001_plans.sql", `CREATE TABLE kinds (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE plans (id INTEGER PRIMARY KEY, kind INTEGER NOT NULL REFERENCES kinds (id) ON DELETE RESTRICT);
CREATE TABLE remarks (kind INTEGER REFERENCES kinds (id) ON DELETE CASCADE, plan INTEGER REFERENCES plans (id) ON DELETE SET NULL);
INSERT INTO kinds VALUES (1, 'free'), (2, 'paid'); INSERT INTO plans VALUES (1, 1), (2, 2); INSERT INTO remarks VALUES (1, 1);`)}}
		}
		a := newPlace(t, from, blog, keys)
		a.create(t, "thor", blogRows...)
		a.shared(t, `INSERT INTO kinds VALUES (3, 'dear')`, `INSERT INTO plans VALUES (3, 3)`)
		b := a.elsewhere(t, placeURL(t, backend.SQLite), backend.SQLite)
		shared := func(query string) (found string) {
			require.NoError(t, b.Shared().QueryRowContext(t.Context(), query).Scan(&found))
			return found
		}
		opt := transfer.MoveOptions{Without: []string{"remarks"}, Resume: true}

		// A row that would refer to nothing stops it.
		b.shared(t, `INSERT INTO kinds VALUES (9, 'only here')`, `INSERT INTO remarks VALUES (9, 2)`)
		_, err := transfer.Move(t.Context(), a.App, b.App, opt)
		require.ErrorContains(t, err, "FOREIGN KEY constraint failed")
		assert.Equal(t, "1,2,9", shared(`SELECT group_concat(id ORDER BY id) FROM kinds`))

		b.shared(t, `DELETE FROM remarks WHERE kind = 9`)
		_, err = transfer.Move(t.Context(), a.App, b.App, opt)
		require.NoError(t, err)
		assert.Equal(t, "1,2,3", shared(`SELECT group_concat(id ORDER BY id) FROM kinds`))
		assert.Equal(t, "1,2,3", shared(`SELECT group_concat(kind ORDER BY id) FROM plans`))
		assert.Equal(t, "1 1", shared(`SELECT kind || ' ' || plan FROM remarks`))
		_, err = b.Shared().ExecContext(t.Context(), `DELETE FROM kinds`)
		assert.ErrorContains(t, err, "FOREIGN KEY", "they are enforced again")
	})
}
