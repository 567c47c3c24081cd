package httpx_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/httpx"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
)

// A server is ready when its registry answers and the shared set is current; where a tenant is does not matter.
func TestReadiness(t *testing.T) {
	onEach(t, func(t *testing.T, be backend.Backend) {
		ask := func(app *tenancy.App) int {
			w := httptest.NewRecorder()
			httpx.Readiness(app).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
			assert.Equal(t, "no-store", w.Header().Get("Cache-Control"))
			return w.Code
		}
		old, err := tenancy.Open(t.Context(), be, tenancy.Config{Shared: mottos()})
		require.NoError(t, err)
		assert.Equal(t, http.StatusOK, ask(old))
		require.NoError(t, old.Close())
		assert.Equal(t, http.StatusServiceUnavailable, ask(old), "closed")

		app, err := tenancy.Open(t.Context(), be, tenancy.Config{Shared: mottos("UPDATE motto SET text = text"), Tenant: mottos()})
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, app.Close()) })
		assert.Equal(t, http.StatusServiceUnavailable, ask(app), "the shared set is behind")
		_, err = app.Migrator().Up(t.Context(), migrate.UpOptions{Scope: migrate.SharedOnly})
		require.NoError(t, err)
		assert.Equal(t, http.StatusOK, ask(app))
	})
}

// A certificate is got for the hosts of tenants, and for no others.
func TestAskTLS(t *testing.T) {
	onEach(t, func(t *testing.T, be backend.Backend) {
		app := openApp(t, be, mottos())
		create(t, app, "thor", "potter", "luna")
		byID := func(slug string) tenancy.ID {
			tenant, err := app.BySlug(t.Context(), slug)
			require.NoError(t, err)
			return tenant.ID
		}
		_, err := app.Suspend(t.Context(), byID("potter"), "unpaid")
		require.NoError(t, err)
		_, err = app.Delete(t.Context(), byID("luna"))
		require.NoError(t, err)
		h := httpx.AskTLS(app)
		for domain, want := range map[string]int{
			"thor.polls.local":   http.StatusOK,
			"THOR.polls.local.":  http.StatusOK,
			"potter.polls.local": http.StatusOK, // its visitors are told that it is suspended, by TLS
			"luna.polls.local":   http.StatusNotFound,
			"odin.polls.local":   http.StatusNotFound,
			"thor polls":         http.StatusBadRequest,
			"":                   http.StatusBadRequest,
		} {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/ask?domain="+url.QueryEscape(domain), nil))
			assert.Equal(t, want, w.Code, domain)
		}
		require.NoError(t, app.Close())
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/ask?domain=loki.polls.local", nil))
		assert.Equal(t, http.StatusServiceUnavailable, w.Code)
	})
}
