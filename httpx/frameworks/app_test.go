package frameworks

import (
	"context"
	"database/sql"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	_ "github.com/tenement-go/tenement/backend/sqlite"
	"github.com/tenement-go/tenement/httpx"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
)

const motto = "-- +goose Up\nCREATE TABLE motto (text TEXT NOT NULL);\n"

// newApp returns an application with the tenants thor and potter, whose mottos are in their stores.
func newApp(t *testing.T) *tenancy.App {
	t.Helper()
	ctx := context.Background() // the tenants' stores outlive t.Context in clean-ups
	be, err := backend.Open(ctx, "sqlite:"+t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, be.Close()) })
	app, err := tenancy.Open(ctx, be, tenancy.Config{Tenant: []migrate.Source{{
		Name: "motto", FS: fstest.MapFS{"00001_motto.sql": {Data: []byte(motto)}},
	}}})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, app.Close()) })
	for _, slug := range []string{"thor", "potter"} {
		made, err := app.Create(ctx, tenancy.Spec{Slug: slug, Domains: []string{slug + ".polls.local"}})
		require.NoError(t, err)
		require.NoError(t, app.Run(ctx, made, tenancy.Policy{}, func(ctx context.Context, _ *tenancy.Tenant) error {
			_, err := app.DB().ExecContext(ctx, "INSERT INTO motto VALUES (?)", "of "+slug)
			return err
		}))
	}
	return app
}

// report is what a handler found in its request.
type report struct {
	Tenant string `json:"tenant"` // of the context
	Motto  string `json:"motto"`  // of the tenant's store
	Path   string `json:"path"`   // as the handler sees it
	ID     string `json:"id"`     // the route's parameter
	Route  string `json:"route"`  // a value that the router or its middleware put into the request
	Link   string `json:"link"`   // URL of /x
}

type routeKey struct{}

// look fills in what does not depend on the router.
func look(db *sql.DB, r *http.Request) report {
	rep := report{Path: r.URL.Path, Link: httpx.URL(r.Context(), "/x")}
	if t, ok := tenancy.From(r.Context()); ok {
		rep.Tenant = t.Slug
	}
	rep.Route, _ = r.Context().Value(routeKey{}).(string)
	if err := db.QueryRowContext(r.Context(), "SELECT text FROM motto").Scan(&rep.Motto); err != nil {
		rep.Motto = "error: " + err.Error()
	}
	return rep
}

// withRoute puts a value into the request's context, as any middleware may.
func withRoute(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), routeKey{}, "own value")))
	})
}

// site is a way to mount the middleware under a router, whose route is /polls/{id}.
type site struct {
	handler http.Handler
	prefix  bool // the strategy is ByPathPrefix("/t/"), else it is ByHost
}

// check asks for both tenants' polls, by turns, and for those of nobody.
func (s site) check(t *testing.T) {
	t.Helper()
	ask := func(slug string) (int, report, string) {
		host, path, link := slug+".polls.local", "/polls/7", "/x"
		if s.prefix {
			host, path, link = "any.local", "/t/"+slug+path, "/t/"+slug+link
		}
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.Host = host
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, r)
		var rep report
		if w.Code == http.StatusOK {
			require.NoError(t, json.Unmarshal(w.Body.Bytes(), &rep), w.Body.String())
		}
		return w.Code, rep, link
	}
	for _, slug := range []string{"thor", "potter", "thor"} {
		code, rep, link := ask(slug)
		require.Equal(t, http.StatusOK, code)
		assert.Equal(t, report{Tenant: slug, Motto: "of " + slug, Path: "/polls/7", ID: "7", Route: "own value", Link: link}, rep)
	}
	for slug, want := range map[string]int{"odin": http.StatusNotFound, "-": http.StatusBadRequest} {
		code, _, _ := ask(slug)
		assert.Equal(t, want, code, slug)
	}
}

func writeJSON(w io.Writer, rep report) { _ = json.NewEncoder(w).Encode(rep) }
