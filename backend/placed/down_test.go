package placed_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/placed"
	"github.com/tenement-go/tenement/backend/sqlite"
	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/internal/wireproxy"
)

// A place that is down takes its own tenants with it, and nobody else's.
func TestPlaceThatIsDown(t *testing.T) {
	t.Parallel()
	home := pgtest.Shared(t).Database(t)
	const gone = "postgres://nobody@127.0.0.1:1/app?sslmode=disable" // where nobody listens
	eu := pgtest.Shared(t).Database(t)
	be := open(t, placed.Place{Name: "home", URL: home}, placed.Place{Name: "eu", URL: eu})
	a, b := route("a"), route("b")
	require.NoError(t, be.Create(backend.WithPlace(t.Context(), "home"), a))
	require.NoError(t, be.Create(backend.WithPlace(t.Context(), "eu"), b))
	require.NoError(t, be.Close())

	be = open(t, placed.Place{Name: "home", URL: home}, placed.Place{Name: "eu", URL: gone})
	ctx := t.Context()
	_, err := be.DB().ExecContext(backend.WithRoute(ctx, a), "CREATE TABLE notes (id int)")
	require.NoError(t, err)
	_, err = be.DB().ExecContext(backend.WithRoute(ctx, b), "CREATE TABLE notes (id int)")
	require.ErrorIs(t, err, backend.ErrUnreachable)
	_, err = be.Stat(ctx, b.Store)
	require.ErrorIs(t, err, backend.ErrUnreachable)
	require.ErrorIs(t, be.Drop(ctx, b), backend.ErrUnreachable)
	// Names that are taken there stay taken; new ones are made elsewhere, but for those that are to be there.
	require.Error(t, be.Create(ctx, b))
	require.NoError(t, be.Create(ctx, route("c")))
	require.NoError(t, be.Create(ctx, route("d")))
	require.ErrorIs(t, be.Create(backend.WithPlace(ctx, "eu"), route("e")), backend.ErrUnreachable)
	errs := be.RunScripts(ctx, []backend.Script{{Route: a, SQL: "CREATE TABLE x (id int)"}, {Route: b, SQL: "CREATE TABLE x (id int)"}}, backend.ScriptOptions{})
	require.NoError(t, errs[0])
	require.ErrorIs(t, errs[1], backend.ErrUnreachable)
	// What goes through all does those that answer, and says so.
	var names []string
	var last error
	for info, err := range be.Stores(ctx) {
		if err != nil {
			last = err
			break
		}
		names = append(names, info.Store.String())
	}
	require.Equal(t, []string{"a", "c", "d"}, names)
	require.ErrorIs(t, last, backend.ErrUnreachable)
	_, err = be.Leftovers(ctx)
	require.ErrorIs(t, err, backend.ErrUnreachable)
	advice, err := be.Advise(ctx)
	require.NoError(t, err)
	require.Len(t, advice, 1)
	require.Contains(t, advice[0].Text, "place eu")
}

// The same for one that goes down while it is used, as far as this package can tell; and a store that is not where the
// directory has it is nobody's.
func TestPlaceThatGoesDown(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) *sqlite.Backend {
		b, err := sqlite.Open(t.Context(), filepath.Join(dir, name), sqlite.Config{})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, b.Close()) })
		return b
	}
	home, eu := at("home"), at("eu")
	be := open(t, placed.Place{Name: "home", Backend: home}, placed.Place{Name: "eu", Backend: eu})
	a, b := route("a"), route("b")
	require.NoError(t, be.Create(backend.WithPlace(t.Context(), "home"), a))
	require.NoError(t, be.Create(backend.WithPlace(t.Context(), "eu"), b))
	require.NoError(t, eu.Create(t.Context(), a))
	var names []string
	for info, err := range be.Stores(t.Context()) {
		require.NoError(t, err)
		names = append(names, info.Store.String())
	}
	require.Equal(t, []string{"a", "b"}, names)
	advice, err := be.Advise(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, advice)
	require.Contains(t, advice[len(advice)-1].Text, "place eu has a store a")

	require.NoError(t, eu.Close())
	_, err = be.DB().ExecContext(backend.WithRoute(t.Context(), b), "CREATE TABLE notes (id int)")
	require.ErrorIs(t, err, backend.ErrClosed)
	_, err = be.DB().ExecContext(backend.WithRoute(t.Context(), a), "CREATE TABLE notes (id int)")
	require.NoError(t, err)
}

// fallible returns a place that goes down when that is called.
func fallible(t *testing.T, p placed.Place) (_ placed.Place, goDown func()) {
	t.Helper()
	if strings.HasPrefix(p.URL, "sqlite:") {
		be, err := backend.Open(t.Context(), p.URL)
		require.NoError(t, err)
		goDown = func() { require.NoError(t, be.Close()) }
		t.Cleanup(goDown)
		return placed.Place{Name: p.Name, Backend: be}, goDown
	}
	proxy, err := wireproxy.NewURL(p.URL)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, proxy.Close()) })
	return placed.Place{Name: p.Name, URL: proxy.URL(p.URL)}, func() {
		proxy.Refuse(true)
		proxy.CutAll()
	}
}

// A store that was moved before its place went down is found by a process that remembers it there. Where it was not moved
// home is not asked each time.
func TestMovedFromAPlaceThatIsDown(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, home, eu placed.Place) {
		one, h := open(t, home, eu), newAskedHome(t, home)
		there, goDown := fallible(t, eu)
		other := open(t, placed.Place{Name: "home", Backend: h}, there)
		a, b, stays := route("a"), route("b"), route("stays")
		for _, rt := range []backend.Route{a, b, stays} {
			require.NoError(t, one.Create(backend.WithPlace(t.Context(), "eu"), rt))
			_, err := other.Stat(t.Context(), rt.Store)
			require.NoError(t, err)
		}
		move(t, one, a, "home")
		move(t, one, b, "home")
		goDown()

		// What is cut off within a statement is not run again, elsewhere neither.
		require.Eventually(t, func() bool {
			_, err := other.DB().ExecContext(backend.WithRoute(t.Context(), a), "CREATE TABLE notes (id int)")
			return err == nil
		}, time.Minute, time.Millisecond)
		_, err := other.Stat(t.Context(), b.Store)
		require.NoError(t, err)

		asked, since := 0, time.Now()
		h.first = func() { asked++ }
		for range 50 {
			_, err := other.Stat(t.Context(), stays.Store)
			require.Error(t, err)
			require.NotErrorIs(t, err, backend.ErrStoreMissing)
		}
		require.Positive(t, asked)
		require.LessOrEqual(t, asked, 1+int(time.Since(since)/time.Second))
	})
}

// hungPlace does not even refuse.
type hungPlace struct{ *askedHome }

func (hungPlace) Stat(ctx context.Context, _ backend.Store) (backend.StoreInfo, error) {
	<-ctx.Done()
	return backend.StoreInfo{}, ctx.Err()
}

// The next one finds it where the place lets callers wait until they give up.
func TestMovedFromAPlaceThatHangs(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, home, eu placed.Place) {
		one, other := open(t, home, eu), open(t, home, placed.Place{Name: "eu", Backend: hungPlace{newAskedHome(t, eu)}})
		a := route("a")
		require.NoError(t, one.Create(backend.WithPlace(t.Context(), "eu"), a))
		at, err := other.PlaceOf(t.Context(), a.Store)
		require.NoError(t, err)
		require.Equal(t, "eu", at)
		move(t, one, a, "home")
		patience := 10 * time.Millisecond
		stat := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			_, err := other.Stat(ctx, a.Store)
			return err
		}
		require.ErrorIs(t, stat(), context.DeadlineExceeded)
		require.Eventually(t, func() bool { // once home has answered
			patience *= 2 // a busy machine takes long for what does not hang
			return stat() == nil
		}, time.Minute, time.Millisecond)
	})
}

// An application that has a database already makes it home.
func TestHomeThatWasThere(t *testing.T) {
	t.Parallel()
	url := pgtest.Shared(t).Database(t)
	before, err := backend.Open(t.Context(), url)
	require.NoError(t, err)
	for _, name := range []string{"a", "b"} {
		require.NoError(t, before.Create(t.Context(), route(name)))
	}
	require.NoError(t, before.Close())
	be := open(t, placed.Place{Name: "home", URL: url}, placed.Place{Name: "eu", URL: pgtest.Shared(t).Database(t)})
	for _, name := range []string{"c", "d"} {
		require.NoError(t, be.Create(t.Context(), route(name)))
	}
	for name, want := range map[string]string{"a": "home", "b": "home", "c": "eu", "d": "eu"} {
		place, err := be.PlaceOf(t.Context(), route(name).Store)
		require.NoError(t, err)
		require.Equal(t, want, place, name)
	}
	require.ErrorIs(t, be.Create(backend.WithPlace(t.Context(), "eu"), route("a")), backend.ErrStoreExists)
}

// S12: no error of a URL shows what is in it.
func TestURL(t *testing.T) {
	t.Parallel()
	for _, url := range []string{
		"placed:", "placed:?", "placed:?home=", "placed:?home=sqlite%3A.&home=sqlite%3A.", "placed:?Home=sqlite%3A.",
		"placed:?home=postgres%3A%2F%2Fu%3Asecret%40h%2Fapp&eu=%zzsecret", "placed:?home=nothing%3Asecret",
	} {
		_, err := backend.Open(t.Context(), url)
		require.ErrorIs(t, err, backend.ErrInvalidURL, url)
		require.NotContains(t, err.Error(), "secret")
	}
}

func route(name string) backend.Route {
	return backend.Route{Store: backend.MustParseStore(name), Owner: "owner-of-" + name}
}
