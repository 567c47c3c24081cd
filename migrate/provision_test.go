package migrate_test

import (
	"context"
	"testing"

	"github.com/pressly/goose/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/migrate"
)

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
		// S85: who is late with what others have undone, or done again for the next store of that name, changes nothing.
		require.NoError(t, m.Renamed(ctx, store(2), store(1)), "it was named back since")
		require.NoError(t, m.Provision(ctx, backend.Route{Store: store(1), Owner: "next"}))
		require.NoError(t, m.Renamed(ctx, store(1), store(2)), "another store has the old name")
		require.NoError(t, m.Ready(ctx, backend.Route{Store: store(1), Owner: "next"}))
		require.NoError(t, be.Drop(ctx, backend.Route{Store: store(1), Owner: "next"}))
		require.NoError(t, m.Forget(ctx, store(1)))
		require.NoError(t, m.Ready(ctx, backend.Route{Store: store(2), Owner: "owner-1"}))
		require.NoError(t, m.Forget(ctx, store(2)), "it is there")
		require.NoError(t, m.Ready(ctx, backend.Route{Store: store(2), Owner: "owner-1"}))
		require.NoError(t, be.Drop(ctx, backend.Route{Store: store(2), Owner: "owner-1"}))
		require.NoError(t, m.Forget(ctx, store(2)))
		require.NoError(t, m.Forget(ctx, store(2)), "again")
		assert.Equal(t, "t0000", query(t, be, backend.Route{}, "SELECT store FROM tenement_ledger WHERE store <> ''"))
	})
}

// lateStat is a backend for one who looks at a store, and comes to act on that after others have done something.
type lateStat struct {
	backend.Backend
	store     backend.Store
	meanwhile func()
}

func (b *lateStat) Stat(ctx context.Context, s backend.Store) (backend.StoreInfo, error) {
	info, err := b.Backend.Stat(ctx, s)
	if do := b.meanwhile; s == b.store && do != nil {
		b.meanwhile = nil
		do()
	}
	return info, err
}

// S85: who is late with a rename leaves the rows of what others have made of it since.
func TestRenamedLate(t *testing.T) {
	t.Parallel()
	a, b, c := store(0), store(1), store(2)
	for name, test := range map[string]struct {
		others func(rename func(rt backend.Route, to backend.Store), provision func(rt backend.Route))
		want   string
	}{
		"renamed on": {func(rename func(backend.Route, backend.Store), provision func(backend.Route)) {
			rename(backend.Route{Store: b, Owner: "owner-0"}, c)
			provision(backend.Route{Store: b, Owner: "second"})
			provision(backend.Route{Store: a, Owner: "third"})
		}, "t0000 third,t0001 second,t0002 owner-0"},
		"renamed back": {func(rename func(backend.Route, backend.Store), _ func(backend.Route)) {
			rename(backend.Route{Store: b, Owner: "owner-0"}, a)
		}, "t0000 owner-0"},
		"renamed, and the name is another's": {func(rename func(backend.Route, backend.Store), provision func(backend.Route)) {
			rename(backend.Route{Store: b, Owner: "owner-0"}, c)
			provision(backend.Route{Store: a, Owner: "third"})
			rename(backend.Route{Store: a, Owner: "third"}, b)
		}, "t0001 third,t0002 owner-0"},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, be *site) {
				ctx := t.Context()
				cfg := tenants(migrate.Source{Name: "app", FS: version(1, killed...)})
				m := migrator(t, be, cfg)
				provision(t, m, 1)
				require.NoError(t, be.Rename(ctx, route(0), b))
				late := migrator(t, &lateStat{Backend: be.Backend, store: b, meanwhile: func() {
					require.NoError(t, m.Renamed(ctx, a, b))
					test.others(func(rt backend.Route, to backend.Store) {
						require.NoError(t, be.Rename(ctx, rt, to))
						require.NoError(t, m.Renamed(ctx, rt.Store, to))
					}, func(rt backend.Route) { require.NoError(t, m.Provision(ctx, rt)) })
				}}, cfg)
				require.NoError(t, late.Renamed(ctx, a, b))
				require.Equal(t, test.want, query(t, be, backend.Route{}, "SELECT store || ' ' || owner FROM tenement_ledger WHERE store <> '' ORDER BY store"))
			})
		})
	}
}

// A store that is made to be loaded is in no run, and not ready, before it is entered; whichever way it was made, and when
// that is done again.
func TestProvisionAtDoesNotEnter(t *testing.T) {
	t.Parallel()
	inGo := func() []*goose.Migration {
		return []*goose.Migration{goose.NewGoMigration(2, inTx("CREATE TABLE by_go (x TEXT)"), nil)}
	}
	for name, source := range map[string]migrate.Source{
		"text":  {Name: "polls", FS: version(3, polls...)},
		"goose": {Name: "polls", FS: files(polls[0], polls[1]), Go: inGo},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, be *site) {
				ctx := context.Background()
				m := migrator(t, be, tenants(source))
				at := []migrate.AppliedSource{{Source: "polls", Versions: []migrate.AppliedVersion{{Version: 1, Sum: "?"}, {Version: 2, Sum: "?"}}}}
				var made *migrate.Unentered
				for range 2 {
					var err error
					made, err = m.ProvisionAt(ctx, route(0), at, migrate.ProvisionOptions{})
					require.NoError(t, err)
					assert.Equal(t, "0,1,2", versions(t, be, route(0), "goose_db_version"))
					entered, err := m.Stores(ctx)
					require.NoError(t, err)
					assert.Empty(t, entered)
					require.ErrorIs(t, m.Ready(ctx, route(0)), migrate.ErrUnentered)
				}
				require.NoError(t, made.EnterNow(ctx))
				_, err := m.Up(ctx, migrate.UpOptions{})
				require.NoError(t, err)
				require.NoError(t, m.Ready(ctx, route(0)))
			})
		})
	}
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
