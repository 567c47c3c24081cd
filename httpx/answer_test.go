package httpx

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/tenancy"
)

var quiet = WithLogger(slog.New(slog.NewTextHandler(io.Discard, nil)))

func TestRefuseByAccept(t *testing.T) {
	t.Parallel()
	g := gate(t)
	for accept, wantJSON := range map[string]bool{
		"":                       false,
		"*/*":                    false,
		"text/html":              false,
		"application/json":       true,
		"application/json, */*":  true,
		"application/vnd.a+json": true,
		"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8": false,
		"application/json;q=0.5, text/plain":                              false,
		"application/json, text/plain, */*":                               false,
		"application/json, text/plain;q=0.9":                              true,
		"application/json;q=x":                                            false,
		"application/json;q=0":                                            false,
		";;;,":                                                            false,
	} {
		r := request("odin.polls.local", "/")
		if accept != "" {
			r.Header.Set("Accept", accept)
		}
		w := httptest.NewRecorder()
		g.Wrap(http.NotFoundHandler()).ServeHTTP(w, r)
		assert.Equal(t, http.StatusNotFound, w.Code)
		assert.Equal(t, "nosniff", w.Header().Get("X-Content-Type-Options"))
		if !wantJSON {
			assert.Equal(t, "text/plain; charset=utf-8", w.Header().Get("Content-Type"), accept)
			assert.Equal(t, "There is nothing at this address.\n", w.Body.String())
			continue
		}
		assert.Equal(t, "application/problem+json", w.Header().Get("Content-Type"), accept)
		var got problem
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
		assert.Equal(t, problem{Title: "Not Found", Status: 404, Detail: "There is nothing at this address."}, got)
	}
}

// S42: the application's own handler for a refusal.
func TestOwnRefusal(t *testing.T) {
	t.Parallel()
	var d Decision
	g := gate(t, WithSuspendedCode(http.StatusServiceUnavailable), WithRefusal(Inactive, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var ok bool
		d, ok = DecisionFrom(r.Context())
		assert.True(t, ok)
		assert.Nil(t, r.Context().Value(tenantKey{}), "a refused request is in no tenant")
		w.WriteHeader(d.Code)
		_, _ = io.WriteString(w, "come back to "+d.Tenant.Slug)
	})))
	for host, code := range map[string]int{"new.polls.local": 503, "late.polls.local": 503, "odin.polls.local": 404} {
		w := httptest.NewRecorder()
		g.Wrap(http.NotFoundHandler()).ServeHTTP(w, request(host, "/"))
		assert.Equal(t, code, w.Code, host)
		if code == 503 {
			assert.Equal(t, "come back to "+strings.TrimSuffix(host, ".polls.local"), w.Body.String())
			var inactive *tenancy.NotActiveError
			require.ErrorAs(t, d.Err, &inactive)
			assert.Equal(t, inactive.Status == tenancy.Provisioning, w.Header().Get("Retry-After") == "5", host)
		} else {
			assert.Equal(t, "There is nothing at this address.\n", w.Body.String())
		}
	}

	w := httptest.NewRecorder()
	Refuse(w, request("thor.polls.local", "/"))
	assert.Equal(t, http.StatusNotFound, w.Code, "a request that came through no gate")
}

// Unavailable and behind are faults that someone must hear of; the rest is the clients' doing.
func TestRefusalsAreLogged(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]string{
		"thor.polls.local": "outcome=behind host=thor.polls.local",
		"odin.polls.local": "",
		"late.polls.local": "outcome=behind host=late.polls.local",
	} {
		var log strings.Builder
		reg := newRegistry()
		reg.serve = tenancy.ErrBehind
		g, err := newGate(reg, WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		require.NoError(t, err)
		g.Wrap(http.NotFoundHandler()).ServeHTTP(httptest.NewRecorder(), request(host, "/"))
		if want == "" {
			assert.Empty(t, log.String())
		} else {
			assert.Contains(t, log.String(), want)
		}
	}
}
