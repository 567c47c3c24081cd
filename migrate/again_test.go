package migrate_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/migrate"
)

// A store that gets another name while an Up is at the fleet is brought up all the same, whether its turn comes after that,
// or the ledger has not been told yet what was done in it; and it is counted once.
func TestUpOfWhatIsRenamed(t *testing.T) {
	t.Parallel()
	type when struct {
		stores  int
		renamed func(done backend.Store) backend.Store // at the first event
		to      string
		named   bool
	}
	pending, done := func(backend.Store) backend.Store { return store(39) }, func(done backend.Store) backend.Store { return done }
	for name, c := range map[string]when{
		"before its turn": {40, pending, "aaa", false}, "before its turn, named": {40, pending, "aaa", true},
		"after its turn": {3, done, "aaa", false}, "after its turn, named": {3, done, "aaa", true},
		"after its turn, and met again": {40, done, "zzz", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, be *site) {
				ctx := t.Context()
				provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, killed...)})), c.stores)
				m := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(3, killed...)}))
				var moved backend.Route
				var last migrate.Event
				var names []backend.Store
				for i := range c.stores {
					if c.named {
						names = append(names, store(i))
					}
				}
				res, err := tenantsUp(ctx, m, migrate.Fleet{Parallel: 1, Stores: names, OnEvent: func(e migrate.Event) {
					last = e
					assert.NotEqual(t, migrate.EventMissing, e.Kind)
					if e.Kind != migrate.EventApplied || !moved.IsZero() {
						return
					}
					from := c.renamed(e.Store)
					info, err := be.Stat(ctx, from)
					assert.NoError(t, err)
					moved = backend.Route{Store: backend.MustParseStore(c.to), Owner: info.Owner}
					assert.NoError(t, be.Rename(ctx, backend.Route{Store: from, Owner: info.Owner}, moved.Store))
					assert.NoError(t, migrator(t, be, tenants()).Renamed(ctx, from, moved.Store))
				}})
				require.NoError(t, err)
				require.NoError(t, m.Ready(ctx, moved))
				require.Equal(t, 1, checkWhole(t, be, moved, 3))
				assert.Equal(t, c.stores, res.Total)
				assert.Equal(t, c.stores, res.Applied)
				assert.Equal(t, 2*c.stores, res.Migrations)
				assert.Zero(t, res.Skipped+res.Missing+res.Left)
				assert.Equal(t, c.stores, last.Done)
				noDrift(t, m)
			})
		})
	}
}

// Stores that have one owner are stores of their own.
func TestUpOfStoresOfOneOwner(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		const stores = 5
		ctx := t.Context()
		old := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, killed...)}))
		rt := func(i int) backend.Route { return backend.Route{Store: store(i), Owner: "one"} }
		for i := range stores {
			require.NoError(t, old.Provision(ctx, rt(i)))
		}
		require.NoError(t, be.Drop(ctx, rt(2)))
		m := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(3, killed...)}))
		res, err := tenantsUp(ctx, m, migrate.Fleet{})
		require.NoError(t, err)
		assert.Equal(t, stores-1, res.Applied)
		assert.Equal(t, 2*(stores-1), res.Migrations)
		assert.Equal(t, 1, res.Missing)
		assert.Zero(t, res.Skipped+res.Left)
	})
}

// What a server that crashes takes back, of what an Up has counted, is done again before that says so; and whoever let visitors
// in meanwhile hears of it.
func TestServerCrashesDuringUp(t *testing.T) {
	t.Parallel()
	pgtest.Shared(t) // or there is none
	const stores = 300
	ctx := t.Context()
	server, err := pgtest.Start(ctx, "wal_writer_delay=10s", "wal_writer_flush_after=1GB", "wal_buffers=64MB")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	url, _, err := server.NewDatabase(ctx)
	require.NoError(t, err)
	be := openSite(t, url)
	provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, killed...)})), stores)
	m := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(3, killed...)}))
	old := query(t, be, backend.Route{}, "SELECT fingerprint FROM tenement_ledger WHERE store = 't0000'")
	revision := func() string { return query(t, be, backend.Route{}, "SELECT revision FROM tenement_ledger_revision") }
	before := revision()
	var applied []string
	lost := false
	res, err := tenantsUp(ctx, m, migrate.Fleet{Parallel: 1, OnEvent: func(e migrate.Event) {
		if e.Kind != migrate.EventApplied || lost {
			return
		}
		applied = append(applied, e.Store.String())
		if len(applied)%32 == 0 { // what one message did is on its way to the disk
			assert.NoError(t, server.Kill(ctx))
			assert.NoError(t, server.Revive(ctx))
			now := openSite(t, url).Shared() // whose connections were not cut
			for name := range strings.SplitSeq(column(t, now, "SELECT store FROM tenement_ledger WHERE fingerprint = '"+old+"'"), ",") {
				lost = lost || slices.Contains(applied, name)
			}
		}
	}})
	require.NoError(t, err)
	st, err := m.Status(ctx)
	require.NoError(t, err)
	require.Equal(t, migrate.TenantStatus{Total: stores, Current: stores}, st.Tenants)
	require.True(t, lost, "the crashes have taken nothing back")
	for i := range stores {
		require.Equal(t, 1, checkWhole(t, be, route(i), 3))
	}
	assert.Equal(t, stores, res.Applied)
	assert.Equal(t, 2*stores, res.Migrations)
	assert.Zero(t, res.Skipped+res.Missing+res.Left)
	assert.NotEqual(t, before, revision())
}
