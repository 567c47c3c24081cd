package frameworks

import (
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/alexedwards/scs/postgresstore"
	"github.com/alexedwards/scs/sqlite3store"
	"github.com/alexedwards/scs/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	_ "github.com/tenement-go/tenement/backend/postgres"
	"github.com/tenement-go/tenement/httpx"
	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
)

// The tables as scs's documentation has them.
var sessionTables = fstest.MapFS{
	"00001_sessions.sqlite.sql":   {Data: []byte("-- +goose Up\nCREATE TABLE sessions (token TEXT PRIMARY KEY, data BLOB NOT NULL, expiry REAL NOT NULL);\n")},
	"00001_sessions.postgres.sql": {Data: []byte("-- +goose Up\nCREATE TABLE sessions (token TEXT PRIMARY KEY, data BYTEA NOT NULL, expiry TIMESTAMPTZ NOT NULL);\n")},
}

// scs keeps each tenant's sessions in that tenant's store: a cookie is worth nothing at another one.
func TestSessions(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		database func(t *testing.T) string
		open     func(*sql.DB) scs.Store
	}{
		"sqlite": {
			func(t *testing.T) string { return "sqlite:" + t.TempDir() },
			func(db *sql.DB) scs.Store { return sqlite3store.NewWithCleanupInterval(db, 0) },
		},
		"postgres": {
			func(t *testing.T) string { return pgtest.Shared(t).Database(t) },
			func(db *sql.DB) scs.Store { return postgresstore.NewWithCleanupInterval(db, 0) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			be, err := backend.Open(ctx, c.database(t))
			require.NoError(t, err)
			t.Cleanup(func() { assert.NoError(t, be.Close()) })
			app, err := tenancy.Open(ctx, be, tenancy.Config{Tenant: []migrate.Source{{Name: "sessions", FS: sessionTables}}})
			require.NoError(t, err)
			t.Cleanup(func() { assert.NoError(t, app.Close()) })
			for _, slug := range []string{"thor", "potter"} {
				_, err := app.Create(ctx, tenancy.Spec{Slug: slug, Domains: []string{slug + ".polls.local"}})
				require.NoError(t, err)
			}

			manager := scs.New()
			manager.Store = sessions{app, c.open}
			handler := httpx.Middleware(app)(manager.LoadAndSave(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				n := manager.GetInt(r.Context(), "visits") + 1
				manager.Put(r.Context(), "visits", n)
				fmt.Fprint(w, n)
			})))
			var cookie *http.Cookie
			visit := func(slug string) string {
				r := httptest.NewRequest(http.MethodGet, "/", nil)
				r.Host = slug + ".polls.local"
				if cookie != nil {
					r.AddCookie(cookie)
				}
				w := httptest.NewRecorder()
				handler.ServeHTTP(w, r)
				require.Equal(t, http.StatusOK, w.Code, w.Body.String())
				if slug == "thor" {
					cookie = w.Result().Cookies()[0]
				}
				return w.Body.String()
			}
			assert.Equal(t, "1", visit("thor"))
			assert.Equal(t, "2", visit("thor"))
			assert.Equal(t, "1", visit("potter"), "thor's cookie opens nothing there")
			assert.Equal(t, "3", visit("thor"))
		})
	}
}

// What the docs show is what was tested here.
func TestSessionsAsInTheDocs(t *testing.T) {
	t.Parallel()
	code, err := os.ReadFile("sessions.go")
	require.NoError(t, err)
	page, err := os.ReadFile("../../docs/integrations.md")
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(page), "// sessions is the scs.CtxStore")
	require.True(t, found)
	snippet, _, found := strings.Cut(rest, "```")
	require.True(t, found)
	assert.Contains(t, string(code), "// sessions is the scs.CtxStore"+snippet)
}
