package httpx

import (
	"bytes"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A cache is told what decides between tenants, in every answer: also of those that did not bring the header.
func TestVary(t *testing.T) {
	t.Parallel()
	proxies := netip.MustParsePrefix("192.0.2.0/24")
	own := WithRefusal(Unknown, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
	}))
	both := WithStrategy(First(ByHeader("x-tenant"), ByCookie("tenant"), ByCookie("site"), ByHeader("X-Tenant")))
	for name, c := range map[string]struct {
		opts []Option
		want []string
	}{
		"host":                         {nil, nil},
		"subdomain":                    {[]Option{WithStrategy(BySubdomain("polls.local"))}, nil},
		"path":                         {[]Option{WithStrategy(ByPathPrefix("/t/"))}, nil},
		"function":                     {[]Option{WithStrategy(ByFunc(func(*http.Request) (string, bool) { return "thor", true }))}, nil},
		"header":                       {[]Option{WithStrategy(ByHeader("X-Tenant"))}, []string{"X-Tenant"}},
		"cookie":                       {[]Option{WithStrategy(ByCookie("tenant"))}, []string{"Cookie"}},
		"both, each once":              {[]Option{both}, []string{"Cookie, X-Tenant"}},
		"both, public":                 {[]Option{both, WithPublic(nil)}, []string{"Cookie, X-Tenant"}},
		"both, a handler for refusals": {[]Option{both, own}, []string{"Cookie, X-Tenant"}},
		"host, forwarded":              {[]Option{WithForwarded(Forwarded, proxies)}, []string{"Forwarded"}},
		"header, forwarded":            {[]Option{WithStrategy(ByHeader("X-Tenant")), WithForwarded(XForwardedHost, proxies)}, []string{"X-Tenant"}},
		"header, forwarded public host": {
			[]Option{WithStrategy(ByHeader("X-Tenant")), WithForwarded(XForwardedHost, proxies), WithPublic(nil, "polls.local")},
			[]string{"X-Forwarded-Host, X-Tenant"},
		},
	} {
		h := gate(t, c.opts...).Wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Add("Vary", "Accept")
		}))
		for _, r := range []*http.Request{
			request("polls.local", "/"),
			request("thor.polls.local", "/", "X-Tenant", "thor"),
			request("any.local", "/", "X-Tenant", "odin"),
			request("any.local", "/", "X-Tenant", "../thor"),
		} {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			got := w.Result().Header.Values("Vary")
			if n := len(got); n > 0 && got[n-1] == "Accept" { // the handler's, which adds its own
				got = got[:n-1]
			}
			assert.ElementsMatch(t, c.want, got, "%s: %s %v: %d", name, r.Host, r.Header, w.Code)
		}
	}
}

// What a handler has net/http put into files is removed after it, as it is without a gate. Not parallel: the files are
// where the process has its temporary ones.
func TestUploadsAreRemoved(t *testing.T) {
	files := func() []string {
		found, err := filepath.Glob(filepath.Join(os.TempDir(), "multipart-*"))
		assert.NoError(t, err)
		return found
	}
	upload := func(w http.ResponseWriter, r *http.Request) {
		assert.NoError(t, r.ParseMultipartForm(1))
		assert.Len(t, files(), 1, "so that there is something to remove")
		w.WriteHeader(http.StatusAccepted)
	}
	handler := http.HandlerFunc(upload)
	panics := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		upload(w, r)
		panic(http.ErrAbortHandler)
	})
	byPath := gate(t, WithStrategy(ByPathPrefix("/t/")))
	for name, c := range map[string]struct {
		handler http.Handler
		h2      bool
		aborts  bool
	}{
		"no gate":               {handler: handler},
		"admitted":              {handler: byPath.Wrap(handler)},
		"admitted, HTTP/2":      {handler: byPath.Wrap(handler), h2: true},
		"a panic, HTTP/2":       {handler: byPath.Wrap(panics), h2: true, aborts: true}, // HTTP/1 leaves them, without a gate too
		"public":                {handler: gate(t, WithStrategy(ByCookie("tenant")), WithPublic(handler)).Wrap(http.NotFoundHandler())},
		"refused":               {handler: gate(t, WithRefusal(Malformed, handler), WithRefusal(Unknown, handler)).Wrap(http.NotFoundHandler())},
		"a gate within another": {handler: gate(t, WithStrategy(ByCookie("tenant")), WithPublic(byPath.Wrap(handler))).Wrap(http.NotFoundHandler())},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("TMPDIR", dir)
			t.Setenv("TMP", dir) // Windows
			srv := httptest.NewUnstartedServer(c.handler)
			srv.EnableHTTP2 = c.h2
			if c.h2 {
				srv.StartTLS()
			} else {
				srv.Start()
			}
			defer srv.Close()
			var body bytes.Buffer
			form := multipart.NewWriter(&body)
			part, err := form.CreateFormFile("picture", "hammer.png")
			require.NoError(t, err)
			_, err = part.Write(make([]byte, 1<<20))
			require.NoError(t, err)
			require.NoError(t, form.Close())

			resp, err := srv.Client().Post(srv.URL+"/t/thor/pictures", form.FormDataContentType(), &body)
			if c.aborts {
				require.Error(t, err)
			} else {
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				assert.Equal(t, http.StatusAccepted, resp.StatusCode)
				assert.Equal(t, c.h2, resp.ProtoMajor == 2)
			}
			srv.Close() // waits for the server to be done with the request, which is after the answer
			assert.Empty(t, files())
		})
	}
}
