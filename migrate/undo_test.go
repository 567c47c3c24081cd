package migrate_test

import (
	"context"
	"database/sql"
	"testing"

	"github.com/pressly/goose/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/migrate"
)

// A migration that does not say how it is undone is not, before anything is, unless it may be forgotten. goose forgets it
// without a word, and what it made is in the way of the next Up.
func TestDownWithoutADown(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := context.Background()
		list := []string{
			"1_polls.sql", both("CREATE TABLE polls (id TEXT);", "DROP TABLE polls;"),
			"2_votes.sql", both("CREATE TABLE votes (id TEXT);", "-- nobody knows"),
			"3_users.sql", both("CREATE TABLE users (id TEXT);", "DROP TABLE users;"),
		}
		one := files("1_plans.sql", up("CREATE TABLE plans (id TEXT);"))
		m := migrator(t, be, migrate.Config{
			Shared: []migrate.Source{{Name: "plans", FS: one}}, Tenant: []migrate.Source{{Name: "app", FS: version(3, list...)}},
		})
		_, err := m.Up(ctx, migrate.UpOptions{})
		require.NoError(t, err)
		provision(t, m, 2)
		first := migrate.Fleet{Stores: []backend.Store{store(0)}}

		refused := func(name string, do func() (*migrate.Result, error)) {
			t.Helper()
			before := versions(t, be, route(0), "goose_db_version")
			_, err := do()
			require.ErrorIs(t, err, migrate.ErrNoDown, name)
			require.Equal(t, before, versions(t, be, route(0), "goose_db_version"), "%s: nothing was undone", name)
			st, err := m.Status(ctx)
			require.NoError(t, err)
			for _, g := range st.Groups {
				require.Zero(t, g.Failed, "%s: it is no store's fault", name)
			}
		}
		refused("two steps", func() (*migrate.Result, error) { return m.Down(ctx, "", 2, migrate.DownOptions{}) })
		refused("down to", func() (*migrate.Result, error) { return m.DownTo(ctx, "", 1, migrate.DownOptions{Fleet: first}) })
		refused("shared", func() (*migrate.Result, error) {
			return m.Down(ctx, "", 1, migrate.DownOptions{Set: migrate.SetShared})
		})
		_, err = m.Down(ctx, "", 1, migrate.DownOptions{})
		require.NoError(t, err, "the one above says how")
		refused("redo", func() (*migrate.Result, error) { return m.Redo(ctx, "", migrate.DownOptions{}) })

		res, err := m.Down(ctx, "", 1, migrate.DownOptions{Fleet: first, Forget: true})
		require.NoError(t, err)
		assert.Equal(t, 1, res.Applied)
		assert.Equal(t, "0,1", versions(t, be, route(0), "goose_db_version"))
		assert.Contains(t, tables(t, be, route(0)), "votes", "it is only forgotten")
		refused("the other has it", func() (*migrate.Result, error) { return m.Down(ctx, "", 1, migrate.DownOptions{}) })
		_, err = m.Down(ctx, "", 1, migrate.DownOptions{Fleet: first})
		require.NoError(t, err, "this one has it not, so it is in nobody's way")
	})
}

// What the ledger has not heard of is found in the store; and functions are no other than files.
func TestDownWithoutADownUnheard(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := context.Background()
		source := migrate.Source{Name: "app", Go: func() []*goose.Migration {
			return []*goose.Migration{
				goose.NewGoMigration(1, inTx("CREATE TABLE polls (id TEXT)"), inTx("DROP TABLE polls")),
				goose.NewGoMigration(2, inTx("CREATE TABLE votes (id TEXT)"), nil),
			}
		}}
		m := migrator(t, be, tenants(source))
		provision(t, m, 2)
		_, err := m.Down(ctx, "", 1, migrate.DownOptions{})
		require.ErrorIs(t, err, migrate.ErrNoDown)
		_, err = m.Down(ctx, "", 1, migrate.DownOptions{Forget: true})
		require.NoError(t, err)

		run(t, be, route(0), "INSERT INTO goose_db_version (version_id, is_applied) VALUES (2, true)") // as goose by itself does
		res, err := m.Down(ctx, "", 1, migrate.DownOptions{})
		require.ErrorIs(t, err, migrate.ErrNoDown)
		require.NotNil(t, res)
		assert.Equal(t, 1, res.Failed)
		assert.Equal(t, 1, res.Applied, "the other store goes on")
		assert.Equal(t, "0,1,2", versions(t, be, route(0), "goose_db_version"))
		assert.Equal(t, "0", versions(t, be, route(1), "goose_db_version"))
	})
}

// Whether a named store has something that nothing undoes is found out before anything is undone, by the store that is there: not
// by what the ledger has of an earlier one of its name.
func TestDownWithoutADownByName(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := context.Background()
		list := []string{
			"1_polls.sql", both("CREATE TABLE polls (id TEXT);", "DROP TABLE polls;"),
			"2_votes.sql", both("CREATE TABLE votes (id TEXT);", "-- nobody knows"),
		}
		old := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, list...)}))
		m := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(2, list...)}))
		provision(t, old, 1)
		for _, i := range []int{1, 2} {
			require.NoError(t, m.Provision(ctx, route(i)))
		}
		run(t, be, backend.Route{}, "DELETE FROM tenement_ledger WHERE store = 't0001'")
		next := backend.Route{Store: store(2), Owner: "next"}
		require.NoError(t, be.Drop(ctx, route(2)))
		require.NoError(t, be.Create(ctx, next))
		db := be.Maintenance(next)
		_, err := plainGoose(t, be, db, version(1, list...)).Up(ctx)
		require.NoError(t, err)
		require.NoError(t, db.Close())

		down := func(stores ...backend.Store) (*migrate.Result, error) {
			return m.Down(ctx, "", 1, migrate.DownOptions{Fleet: migrate.Fleet{Stores: stores}})
		}
		_, err = down(store(0), store(1))
		require.ErrorIs(t, err, migrate.ErrNoDown)
		assert.Equal(t, "0,1", versions(t, be, route(0), "goose_db_version"), "nothing was undone")
		res, err := down(store(0), store(2))
		require.NoError(t, err)
		assert.Equal(t, 2, res.Applied)
		assert.Equal(t, "0", versions(t, be, next, "goose_db_version"))
	})
}

func inTx(statement string) *goose.GoFunc {
	return &goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, statement)
		return err
	}}
}
