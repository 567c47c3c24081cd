package httpx_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	_ "github.com/tenement-go/tenement/backend/postgres"
	_ "github.com/tenement-go/tenement/backend/sqlite"
	"github.com/tenement-go/tenement/httpx"
	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/internal/wireproxy"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
)

// mottos is a set of migrations; the files after the first are for the tests that have a tenant fall behind.
func mottos(more ...string) []migrate.Source {
	fs := fstest.MapFS{"00001_motto.sql": {Data: []byte("-- +goose Up\nCREATE TABLE motto (text TEXT NOT NULL);\n")}}
	for i, sql := range more {
		fs[fmt.Sprintf("%05d_more.sql", i+2)] = &fstest.MapFile{Data: []byte("-- +goose Up\n" + sql + ";\n")}
	}
	return []migrate.Source{{Name: "motto", FS: fs}}
}

// onEach runs a test on each backend, with stores of its own.
func onEach(t *testing.T, test func(t *testing.T, be backend.Backend)) {
	t.Helper()
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		test(t, openBackend(t, "sqlite:"+t.TempDir()))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, openBackend(t, pgtest.Shared(t).Database(t)))
	})
}

func openBackend(tb testing.TB, url string) backend.Backend {
	tb.Helper()
	be, err := backend.Open(context.Background(), url)
	require.NoError(tb, err)
	tb.Cleanup(func() { assert.NoError(tb, be.Close()) })
	return be
}

func openApp(tb testing.TB, be backend.Backend, tenant []migrate.Source) *tenancy.App {
	tb.Helper()
	app, err := tenancy.Open(context.Background(), be, tenancy.Config{Tenant: tenant})
	require.NoError(tb, err)
	tb.Cleanup(func() { assert.NoError(tb, app.Close()) })
	return app
}

func create(tb testing.TB, app *tenancy.App, slugs ...string) {
	tb.Helper()
	for _, slug := range slugs {
		made, err := app.Create(context.Background(), tenancy.Spec{Slug: slug, Domains: []string{slug + ".polls.local"}})
		require.NoError(tb, err)
		require.NoError(tb, app.Run(context.Background(), made, tenancy.Policy{}, func(ctx context.Context, _ *tenancy.Tenant) error {
			_, err := app.DB().ExecContext(ctx, "INSERT INTO motto VALUES ($1)", "of "+slug)
			return err
		}))
	}
}

// id is that of the tenant of a slug.
func id(tb testing.TB, app *tenancy.App, slug string) tenancy.ID {
	tb.Helper()
	t, err := app.BySlug(context.Background(), slug)
	require.NoError(tb, err)
	return t.ID
}

// motto answers with the motto of the request's tenant.
func motto(app *tenancy.App) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var text string
		if err := app.DB().QueryRowContext(r.Context(), "SELECT text FROM motto").Scan(&text); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_, _ = io.WriteString(w, text)
	})
}

func get(h http.Handler, host string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Host = host
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

var quiet = httpx.WithLogger(slog.New(slog.DiscardHandler))

// S40, S42: hosts lead to their tenant's store and to no other, whoever else asks at the same time.
func TestTenantsByHost(t *testing.T) {
	onEach(t, func(t *testing.T, be backend.Backend) {
		app := openApp(t, be, mottos())
		create(t, app, "thor", "potter", "luna")
		public := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, inTenant := tenancy.From(r.Context())
			_, err := app.DB().ExecContext(r.Context(), "INSERT INTO motto VALUES ('public')")
			_, _ = fmt.Fprint(w, inTenant, " ", errors.Is(err, backend.ErrNoTenant))
		})
		h := httpx.Middleware(app, quiet, httpx.WithPublic(public, "polls.local"))(motto(app))

		var wg sync.WaitGroup
		for i := range 12 {
			wg.Go(func() {
				for j := range 50 {
					slug := []string{"thor", "potter", "luna"}[(i+j)%3]
					w := get(h, strings.ToUpper(slug)+".polls.local:8000")
					assert.Equal(t, http.StatusOK, w.Code)
					assert.Equal(t, "of "+slug, w.Body.String())
				}
			})
		}
		wg.Wait()
		assert.Equal(t, "false true", get(h, "polls.local:8000").Body.String())
		assert.Equal(t, http.StatusNotFound, get(h, "odin.polls.local").Code)
		assert.Equal(t, http.StatusBadRequest, get(h, "thor polls").Code)

		// A context that is in a tenant already: a public handler is out of it, another tenant is refused.
		thor, err := app.BySlug(t.Context(), "thor")
		require.NoError(t, err)
		inside, _, leave, err := app.Enter(t.Context(), thor, tenancy.Policy{})
		require.NoError(t, err)
		defer leave()
		for host, want := range map[string]string{"polls.local": "false true", "thor.polls.local": "of thor", "potter.polls.local": "The request's address is not a proper one.\n"} {
			r := httptest.NewRequest(http.MethodGet, "/", nil).WithContext(inside)
			r.Host = host
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			assert.Equal(t, want, w.Body.String(), host)
		}
	})
}

// S46 with the registry behind it.
func TestTenantsBySlug(t *testing.T) {
	onEach(t, func(t *testing.T, be backend.Backend) {
		app := openApp(t, be, mottos())
		create(t, app, "thor")
		for name, value := range map[string]struct {
			slug string
			want int
		}{
			"a tenant": {"thor", 200}, "unknown": {"odin", 404}, "reserved": {"public", 400}, "empty": {"", 400}, "case": {"THOR", 400},
			"dots": {"..", 400}, "NUL": {"th\x00or", 400}, "quote": {"x' OR '1'='1", 400}, "long": {strings.Repeat("a", 64), 400},
			"hyphen": {"-thor", 400}, "IDN": {"xn--a", 400}, "not UTF-8": {"\xff", 400},
		} {
			h := httpx.Middleware(app, quiet, httpx.WithStrategy(httpx.ByFunc(func(*http.Request) (string, bool) { return value.slug, true })))(motto(app))
			assert.Equal(t, value.want, get(h, "any.local").Code, name)
		}
	})
}

// The life of a tenant, as its visitors see it.
func TestStatuses(t *testing.T) {
	onEach(t, func(t *testing.T, be backend.Backend) {
		app := openApp(t, be, mottos())
		create(t, app, "thor")
		h := httpx.Middleware(app, quiet)(motto(app))
		visit := func(want int) {
			t.Helper()
			w := get(h, "thor.polls.local")
			require.Equal(t, want, w.Code)
			if want != http.StatusOK {
				assert.NotContains(t, w.Body.String(), "unpaid")
			}
		}
		visit(http.StatusOK)
		_, err := app.Suspend(t.Context(), id(t, app, "thor"), "unpaid since May")
		require.NoError(t, err)
		visit(http.StatusForbidden)
		_, err = app.Activate(t.Context(), id(t, app, "thor"))
		require.NoError(t, err)
		visit(http.StatusOK)
		_, err = app.Delete(t.Context(), id(t, app, "thor"))
		require.NoError(t, err)
		visit(http.StatusNotFound)
		_, err = app.Restore(t.Context(), id(t, app, "thor"))
		require.NoError(t, err)
		visit(http.StatusOK)
	})
}

// A tenant is answered 503 for as long as it is being made, and served once it is.
func TestProvisioning(t *testing.T) {
	onEach(t, func(t *testing.T, be backend.Backend) {
		var h http.Handler
		during := make(chan *httptest.ResponseRecorder, 1)
		app, err := tenancy.Open(context.Background(), be, tenancy.Config{Tenant: mottos(), Hooks: tenancy.Hooks{
			OnCreate: func(context.Context, tenancy.Tenant, tenancy.Seed) error {
				during <- get(h, "thor.polls.local")
				return nil
			},
		}})
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, app.Close()) })
		h = httpx.Middleware(app, quiet)(motto(app))
		create(t, app, "thor")
		w := <-during
		assert.Equal(t, http.StatusServiceUnavailable, w.Code)
		assert.Equal(t, "5", w.Header().Get("Retry-After"))
		assert.Equal(t, "of thor", get(h, "thor.polls.local").Body.String())
	})
}

// S69
func TestBehind(t *testing.T) {
	onEach(t, func(t *testing.T, be backend.Backend) {
		before := openApp(t, be, mottos())
		create(t, before, "thor")
		require.NoError(t, before.Close())

		app := openApp(t, be, mottos("UPDATE motto SET text = 'new motto ' || text"))
		h := httpx.Middleware(app, quiet)(motto(app))
		for range 3 {
			w := get(h, "thor.polls.local")
			require.Equal(t, http.StatusServiceUnavailable, w.Code, w.Body.String())
			assert.Equal(t, "5", w.Header().Get("Retry-After"))
			assert.Contains(t, w.Body.String(), "being updated")
		}
		_, err := app.Migrator().Up(t.Context(), migrate.UpOptions{})
		require.NoError(t, err)
		require.Eventually(t, func() bool { return get(h, "thor.polls.local").Code == http.StatusOK }, time.Minute, 20*time.Millisecond)
		assert.Equal(t, "new motto of thor", get(h, "thor.polls.local").Body.String())
	})
}

// A registry that cannot be reached: who is known goes on being let in, and nobody is told that a site does not exist.
func TestRegistryUnavailable(t *testing.T) {
	t.Parallel()
	check := func(t *testing.T, url string, cut, mend func(be backend.Backend)) {
		be := openBackend(t, url)
		app := openApp(t, be, mottos())
		create(t, app, "thor")
		h := httpx.Middleware(app, quiet, httpx.WithRetryAfter(time.Minute))(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		require.Equal(t, http.StatusOK, get(h, "thor.polls.local").Code)
		cut(be)
		assert.Equal(t, http.StatusOK, get(h, "thor.polls.local").Code)
		for _, host := range []string{"potter.polls.local", "loki.polls.local"} {
			w := get(h, host)
			assert.Equal(t, http.StatusServiceUnavailable, w.Code)
			assert.Equal(t, "60", w.Header().Get("Retry-After"))
		}
		if mend != nil {
			mend(be)
			require.Eventually(t, func() bool { return get(h, "loki.polls.local").Code == http.StatusNotFound }, time.Minute, 20*time.Millisecond)
		}
	}
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		check(t, "sqlite:"+t.TempDir(), func(be backend.Backend) { require.NoError(t, be.Close()) }, nil)
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		url := pgtest.Shared(t).Database(t)
		proxy, err := wireproxy.NewURL(url)
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, proxy.Close()) })
		check(t, proxy.URL(url), func(backend.Backend) {
			proxy.Refuse(true)
			proxy.CutAll()
		}, func(backend.Backend) {
			proxy.Refuse(false)
		})
	})
}

// S47: a stream keeps its tenant and sees it being suspended. The ResponseWriter is the server's own.
func TestStream(t *testing.T) {
	onEach(t, func(t *testing.T, be backend.Backend) {
		app := openApp(t, be, mottos())
		create(t, app, "thor")
		cause := make(chan error, 1)
		srv := httptest.NewServer(httpx.Middleware(app)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, flushes := w.(http.Flusher)
			_, hijacks := w.(http.Hijacker)
			assert.True(t, flushes && hijacks)
			rc := http.NewResponseController(w)
			assert.NoError(t, rc.SetWriteDeadline(time.Time{}))
			for range 2 {
				motto(app).ServeHTTP(w, r)
				_, _ = io.WriteString(w, "\n")
				assert.NoError(t, rc.Flush())
			}
			<-r.Context().Done()
			cause <- context.Cause(r.Context())
		})))
		defer srv.Close()

		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL, nil)
		require.NoError(t, err)
		req.Host = "thor.polls.local"
		resp, err := srv.Client().Do(req)
		require.NoError(t, err)
		defer func() { _ = resp.Body.Close() }()
		lines := bufio.NewScanner(resp.Body)
		for range 2 {
			require.True(t, lines.Scan())
			require.Equal(t, "of thor", lines.Text())
		}
		_, err = app.Suspend(t.Context(), id(t, app, "thor"), "unpaid")
		require.NoError(t, err)
		var inactive *tenancy.NotActiveError
		require.ErrorAs(t, <-cause, &inactive)
		assert.Equal(t, tenancy.Suspended, inactive.Status)
		assert.False(t, lines.Scan(), "the stream has ended")
	})
}

// S47: so does a connection that the handler took over.
func TestHijack(t *testing.T) {
	onEach(t, func(t *testing.T, be backend.Backend) {
		app := openApp(t, be, mottos())
		create(t, app, "thor")
		srv := httptest.NewServer(httpx.Middleware(app)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, rw, err := http.NewResponseController(w).Hijack()
			if !assert.NoError(t, err) {
				return
			}
			defer func() { _ = conn.Close() }()
			stop := context.AfterFunc(r.Context(), func() { _ = conn.Close() })
			defer stop()
			for {
				if _, err = rw.ReadString('\n'); err != nil {
					return
				}
				var text string
				if err = app.DB().QueryRowContext(r.Context(), "SELECT text FROM motto").Scan(&text); err != nil {
					return
				}
				_, _ = rw.WriteString(text + "\n")
				_ = rw.Flush()
			}
		})))
		defer srv.Close()
		conn, err := net.Dial("tcp", srv.Listener.Addr().String())
		require.NoError(t, err)
		defer func() { _ = conn.Close() }()
		_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: thor.polls.local\r\n\r\n")
		require.NoError(t, err)
		from := bufio.NewReader(conn)
		for range 3 {
			_, err = io.WriteString(conn, "?\n")
			require.NoError(t, err)
			line, err := from.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, "of thor\n", line)
		}
		_, err = app.Suspend(t.Context(), id(t, app, "thor"), "")
		require.NoError(t, err)
		_, err = from.ReadString('\n')
		require.Error(t, err)
	})
}

// A handler that panics leaves nothing behind in its tenant.
func TestPanic(t *testing.T) {
	t.Parallel()
	app := openApp(t, openBackend(t, "sqlite:"+t.TempDir()), mottos())
	create(t, app, "thor")
	var kept context.Context
	h := httpx.Middleware(app)(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		kept = r.Context()
		panic(http.ErrAbortHandler)
	}))
	assert.PanicsWithValue(t, http.ErrAbortHandler, func() { get(h, "thor.polls.local") })
	assert.ErrorIs(t, kept.Err(), context.Canceled)
}

// costs are the ways to a tenant whose cost counts.
func costs(app *tenancy.App) map[string]struct {
	wrap    func(http.Handler) http.Handler
	request *http.Request
} {
	type cost = struct {
		wrap    func(http.Handler) http.Handler
		request *http.Request
	}
	with := func(s httpx.Strategy, host, target string, header ...string) cost {
		r := httptest.NewRequest(http.MethodGet, target, nil)
		r.Host = host
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		return cost{httpx.Middleware(app, httpx.WithStrategy(s), httpx.WithPublic(nil, "polls.local")), r}
	}
	return map[string]cost{
		"host":      with(httpx.ByHost(), "thor.polls.local:8000", "/polls/"),
		"subdomain": with(httpx.BySubdomain("polls.local"), "thor.polls.local:8000", "/polls/"),
		"path":      with(httpx.ByPathPrefix("/t/"), "any.local", "/t/thor/polls/"),
		"header":    with(httpx.ByHeader("X-Tenant"), "any.local", "/polls/", "X-Tenant", "thor"),
		"cookie":    with(httpx.ByCookie("tenant"), "any.local", "/polls/", "Cookie", "session=0123456789; tenant=thor"),
		"first":     with(httpx.First(httpx.ByHeader("X-Tenant"), httpx.ByPathPrefix("/t/"), httpx.ByHost()), "thor.polls.local:8000", "/polls/"),
	}
}

// The cost in allocations: at most 4 beyond the handler's own.
func TestAllocations(t *testing.T) {
	app := openApp(t, openBackend(t, "sqlite:"+t.TempDir()), mottos())
	create(t, app, "thor")
	empty := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	w := httptest.NewRecorder()
	for name, c := range costs(app) {
		h := c.wrap(empty)
		h.ServeHTTP(w, c.request)
		require.Equal(t, http.StatusOK, w.Code, name)
		got := testing.AllocsPerRun(200, func() {
			clear(w.Header())
			h.ServeHTTP(w, c.request)
		})
		assert.LessOrEqual(t, got, 4.0, name)
		t.Logf("%s: %v allocations", name, got)
	}
}

// BenchmarkMiddleware is the cost in time: subtract "empty", the handler alone. "context" is what any middleware costs
// that puts one value into the context.
func BenchmarkMiddleware(b *testing.B) {
	app := openApp(b, openBackend(b, "sqlite:"+b.TempDir()), mottos())
	create(b, app, "thor")
	type key struct{}
	var kept *http.Request // so that no copy of the request is optimised away
	empty := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { kept = r })
	run := func(name string, h http.Handler, r *http.Request) {
		b.Run(name, func(b *testing.B) {
			w := httptest.NewRecorder()
			b.ReportAllocs()
			for b.Loop() {
				clear(w.Header())
				h.ServeHTTP(w, r)
			}
		})
	}
	r := httptest.NewRequest(http.MethodGet, "/polls/", nil)
	run("empty", empty, r)
	run("context", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		empty.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), key{}, app)))
	}), r)
	for name, c := range costs(app) {
		run("middleware/"+name, c.wrap(empty), c.request)
	}
	_ = kept
}
