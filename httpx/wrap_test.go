package httpx

import (
	"bytes"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

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
