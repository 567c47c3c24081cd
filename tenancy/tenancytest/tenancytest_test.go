package tenancytest_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/httpx"
	"github.com/tenement-go/tenement/internal/leak"
	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
	"github.com/tenement-go/tenement/tenancy/tenancytest"
)

func TestMain(m *testing.M) { leak.Main(m) }

func config(tables int) tenancy.Config {
	var text strings.Builder
	text.WriteString("-- +goose Up\nCREATE TABLE polls (question TEXT PRIMARY KEY);\n")
	for i := 1; i < tables; i++ {
		fmt.Fprintf(&text, "CREATE TABLE t%d (id INTEGER PRIMARY KEY, a TEXT, b TEXT);\nCREATE INDEX t%d_a ON t%d (a);\nCREATE INDEX t%d_b ON t%d (b);\n", i, i, i, i, i)
	}
	return tenancy.Config{Tenant: []migrate.Source{{Name: "polls", FS: fstest.MapFS{"00001_polls.sql": {Data: []byte(text.String())}}}}}
}

// handler writes down what is asked, and who was asked before.
func handler(app *tenancy.App) http.Handler {
	return httpx.Middleware(app)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t, _ := tenancy.From(r.Context())
		if r.Method == http.MethodPost {
			if _, err := app.DB().ExecContext(r.Context(), "INSERT INTO polls (question) VALUES ($1)", r.FormValue("q")); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			http.SetCookie(w, &http.Cookie{Name: "voted", Value: "yes"})
			http.Redirect(w, r, "/done", http.StatusSeeOther)
			return
		}
		var n int
		if err := app.DB().QueryRowContext(r.Context(), "SELECT count(*) FROM polls").Scan(&n); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		cookie, _ := r.Cookie("voted")
		fmt.Fprintf(w, "%s %s %d %t", t.Slug, r.URL.Path, n, cookie != nil)
	}))
}

func TestTenantPerTest(t *testing.T) {
	t.Parallel()
	t.Run("default", func(t *testing.T) {
		t.Parallel()
		test(t, tenancytest.New(t, config(2)))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, tenancytest.New(t, config(2), tenancytest.WithURL(pgtest.Shared(t).Database(t))))
	})
	t.Run("lent backend", func(t *testing.T) {
		t.Parallel()
		be, err := backend.Open(t.Context(), "sqlite:"+t.TempDir())
		require.NoError(t, err)
		defer be.Close()
		t.Run("inner", func(t *testing.T) { test(t, tenancytest.New(t, config(2), tenancytest.WithBackend(be))) })
		for info, err := range be.Stores(t.Context()) {
			t.Error("tenants are purged at the end of their test", info.Store, err)
		}
	})
}

func test(t *testing.T, tt *tenancytest.Tenants) {
	thor, odin := tt.Tenant(t), tt.Tenant(t, func(s *tenancy.Spec) { s.Name = "Odin" })
	require.Equal(t, "Odin", odin.Name)
	h := handler(tt.App)
	client := thor.Client(h)
	res, err := client.PostForm(thor.URL("/polls"), url.Values{"q": {"Hammer?"}})
	require.NoError(t, err)
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, thor.Slug+" /done 1 true", string(body), "redirects are followed and cookies kept")
	require.IsType(t, &cookiejar.Jar{}, client.Jar)

	w := httptest.NewRecorder()
	h.ServeHTTP(w, odin.Request(http.MethodGet, "/x?y=z", nil))
	require.Equal(t, odin.Slug+" /x 0 false", w.Body.String())

	var n int
	require.NoError(t, tt.DB().QueryRowContext(thor.Context(), "SELECT count(*) FROM polls").Scan(&n))
	require.Equal(t, 1, n)
}

func BenchmarkTenant(b *testing.B) {
	tt := tenancytest.New(b, config(20))
	tt.Tenant(b) // makes the template
	for b.Loop() {
		tt.Tenant(b)
	}
}
