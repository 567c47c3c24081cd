package migrate_test

import (
	"context"
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/placed"
	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/internal/wireproxy"
	"github.com/tenement-go/tenement/migrate"
)

// A place that is down keeps nobody from the status of the others, and is named.
func TestStatusWithoutAPlace(t *testing.T) {
	t.Parallel()
	home, eu := pgtest.Shared(t).Database(t), pgtest.Shared(t).Database(t)
	gone, err := url.Parse(eu)
	require.NoError(t, err)
	gone.Host = "127.0.0.1:1" // where nobody listens
	two := func(eu string) *migrate.Migrator {
		be, err := backend.Open(t.Context(), "placed:?home="+url.QueryEscape(home)+"&eu="+url.QueryEscape(eu))
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, be.Close()) })
		return migrator(t, be, tenants(migrate.Source{Name: "app", FS: files("1_a.sql", up("CREATE TABLE a (x INTEGER);"))}))
	}
	m := two(eu)
	_, err = m.Up(t.Context(), migrate.UpOptions{})
	require.NoError(t, err)
	for i, place := range []string{"home", "home", "eu"} {
		require.NoError(t, m.Provision(backend.WithPlace(t.Context(), place), route(i)))
	}
	st, err := m.Status(t.Context())
	require.NoError(t, err)
	assert.Equal(t, migrate.TenantStatus{Total: 3, Current: 3}, st.Tenants)

	st, err = two(gone.String()).Status(t.Context())
	require.ErrorIs(t, err, backend.ErrUnreachable)
	require.ErrorContains(t, err, "place eu")
	require.NotContains(t, err.Error(), "place home")
	require.NotNil(t, st)
	assert.Equal(t, migrate.TenantStatus{Total: 2, Current: 2}, st.Tenants)
	assert.True(t, st.Shared.Current)
}

// inTwoPlaces returns a backend of two places.
func inTwoPlaces(t *testing.T) *site {
	t.Helper()
	return openPlaces(t, pgtest.Shared(t).Database(t), pgtest.Shared(t).Database(t))
}

func openPlaces(t *testing.T, home, eu string) *site {
	t.Helper()
	return openSite(t, "placed:?home="+url.QueryEscape(home)+"&eu="+url.QueryEscape(eu))
}

// eachInTwoPlaces is each for backends of two places.
func eachInTwoPlaces(t *testing.T, fn func(t *testing.T, be *site)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		fn(t, openPlaces(t, "sqlite:"+t.TempDir(), "sqlite:"+t.TempDir()))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		fn(t, inTwoPlaces(t))
	})
}

// A store that was moved before its place went down is ready, for a process that remembers it there.
func TestReadyMovedFromAPlaceThatIsDown(t *testing.T) {
	t.Parallel()
	test := func(t *testing.T, home, eu string, there placed.Place, goDown func()) {
		two := func(eu placed.Place) (backend.Backend, *migrate.Migrator) {
			be, err := placed.Open(t.Context(), placed.Config{Places: []placed.Place{{Name: "home", URL: home}, eu}})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, be.Close()) })
			return be, migrator(t, be, tenants(migrate.Source{Name: "app", FS: files("1_a.sql", up("CREATE TABLE a (x INTEGER);"))}))
		}
		be, m := two(placed.Place{Name: "eu", URL: eu})
		other, ready := two(there)
		require.NoError(t, m.Provision(backend.WithPlace(t.Context(), "eu"), route(0)))
		_, err := other.Stat(t.Context(), store(0))
		require.NoError(t, err)
		require.NoError(t, be.Drop(t.Context(), route(0)))
		require.NoError(t, m.Provision(backend.WithPlace(t.Context(), "home"), route(0)))
		goDown()
		require.NoError(t, ready.Ready(t.Context(), route(0)))
	}
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		eu := "sqlite:" + t.TempDir()
		there, err := backend.Open(t.Context(), eu)
		require.NoError(t, err)
		goDown := func() { require.NoError(t, there.Close()) }
		t.Cleanup(goDown)
		test(t, "sqlite:"+t.TempDir(), eu, placed.Place{Name: "eu", Backend: there}, goDown)
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		eu := pgtest.Shared(t).Database(t)
		proxy, err := wireproxy.NewURL(eu)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, proxy.Close()) })
		test(t, pgtest.Shared(t).Database(t), eu, placed.Place{Name: "eu", URL: proxy.URL(eu)}, func() {
			proxy.Refuse(true)
			proxy.CutAll()
		})
	})
}

// What ends a run in one place ends it in those after it, and says so.
func TestRunsEndInAllPlaces(t *testing.T) {
	t.Parallel()
	be := inTwoPlaces(t)
	list := []string{
		"1_a.sql", up("CREATE TABLE a (x INTEGER);"), "2_b.sql", up("ALTER TABLE a ADD COLUMN y INTEGER;"),
		"3_c.sql", up("ALTER TABLE a ADD COLUMN z INTEGER;"),
	}
	at := func(n int) *migrate.Migrator {
		return migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(n, list...)}))
	}
	first := at(1)
	for i, place := range []string{"home", "home", "eu", "eu"} {
		require.NoError(t, first.Provision(backend.WithPlace(t.Context(), place), route(i)))
	}
	untouched := func(want string) {
		t.Helper()
		for _, i := range []int{2, 3} {
			assert.Equal(t, want, versions(t, be, route(i), "goose_db_version"), "eu")
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	_, err := at(2).Up(ctx, migrate.UpOptions{Fleet: migrate.Fleet{OnEvent: func(e migrate.Event) {
		if e.Kind == migrate.EventDone && e.Set == migrate.SetTenant {
			cancel()
		}
	}}})
	require.ErrorIs(t, err, context.Canceled, "not all of it was done")
	untouched("0,1")
	_, err = at(2).Up(t.Context(), migrate.UpOptions{})
	require.NoError(t, err)

	for i := range 2 {
		run(t, be, route(i), "ALTER TABLE a ADD COLUMN z INTEGER") // in the way, at home
	}
	for name, fleet := range map[string]migrate.Fleet{"canary": {Canary: 1}, "stop after": {StopAfter: 1}} {
		_, err = at(3).Up(t.Context(), migrate.UpOptions{Fleet: fleet})
		var res *migrate.RunError
		require.ErrorAs(t, err, &res, name)
		untouched("0,1,2")
	}
	_, err = at(3).Up(t.Context(), migrate.UpOptions{Fleet: migrate.Fleet{StopAfter: 3}})
	require.Error(t, err)
	untouched("0,1,2,3")
}

// The shared set that failed in one place is none of the tenants after which a run is to stop in the next.
func TestStopAfterBesideAFailedSharedSet(t *testing.T) {
	t.Parallel()
	eachInTwoPlaces(t, func(t *testing.T, be *site) {
		config := func(n int) migrate.Config {
			return migrate.Config{
				Shared: []migrate.Source{{Name: "plans", FS: version(n, "1_p.sql", up("CREATE TABLE p (x INTEGER);"), "2_q.sql", up("CREATE TABLE q (x INTEGER);"))}},
				Tenant: []migrate.Source{{Name: "app", FS: version(n, "1_a.sql", up("CREATE TABLE a (x INTEGER);"), "2_b.sql", up("CREATE TABLE b (x INTEGER);"))}},
			}
		}
		old := migrator(t, be, config(1))
		_, err := old.Up(t.Context(), migrate.UpOptions{})
		require.NoError(t, err)
		for i := range 3 {
			require.NoError(t, old.Provision(backend.WithPlace(t.Context(), "eu"), route(i)))
			run(t, be, route(i), "CREATE TABLE b (x INTEGER)") // in the way
		}
		run(t, be, backend.Route{}, "CREATE TABLE q (x INTEGER)") // at home
		res, err := migrator(t, be, config(2)).Up(t.Context(), migrate.UpOptions{Fleet: migrate.Fleet{StopAfter: 1, Parallel: 1}})
		require.ErrorIs(t, err, migrate.ErrStopped)
		assert.Equal(t, migrate.SetTenant, res.Set)
		assert.Equal(t, 1, res.Failed)
		assert.Equal(t, 2, res.Left)
		require.NotNil(t, res.Shared)
		assert.Equal(t, 1, res.Shared.Failed)
	})
}

// What nothing undoes in one place keeps it from being undone in any.
func TestDownWithoutADownInPlaces(t *testing.T) {
	t.Parallel()
	be := inTwoPlaces(t)
	list := []string{"1_a.sql", both("CREATE TABLE a (x INTEGER);", "DROP TABLE a;"), "2_b.sql", up("CREATE TABLE b (x INTEGER);")}
	m := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(2, list...)}))
	require.NoError(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, list...)})).
		Provision(backend.WithPlace(t.Context(), "home"), route(0)))
	require.NoError(t, m.Provision(backend.WithPlace(t.Context(), "eu"), route(1)))
	_, err := m.Down(t.Context(), "", 1, migrate.DownOptions{})
	require.ErrorIs(t, err, migrate.ErrNoDown)
	assert.Equal(t, "0,1", versions(t, be, route(0), "goose_db_version"), "nothing was undone anywhere")
}
