package httpx

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/tenancy"
)

// S41: whatever stands in the Host header of a request to a real server, the answer is a refusal or the tenant whose
// host it is: never 5xx, never a tenant for what is no host.
func FuzzHost(f *testing.F) {
	for _, host := range []string{
		"thor.polls.local", "THOR.polls.local:8000", "thor.polls.local.", "potter.polls.local", "odin.polls.local", "",
		" ", "..", "a..b", "user@thor.polls.local", "thor.polls.local\x00", "[::1]:8000", "[::1", "xn--bcher-kva.example",
		"bücher.example", "thor.polls.local:http", "thor.polls.local/", "thor.polls.local, potter.polls.local", "%74hor.polls.local",
		strings.Repeat("a", 300), "-thor.polls.local", "thor.polls.local\t", "\"thor.polls.local\"", "thor。polls。local", "１２７.0.0.1",
	} {
		f.Add(host)
	}
	g, err := newGate(newRegistry(), WithPublic(nil, "polls.local"))
	require.NoError(f, err)
	srv := httptest.NewServer(g.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if t, ok := r.Context().Value(tenantKey{}).(*tenancy.Tenant); ok {
			w.Header().Set("Tenant", t.Slug)
		}
	})))
	f.Cleanup(srv.Close)
	domains := map[string]string{
		"thor.polls.local": "thor", "potter.polls.local": "potter", "xn--bcher-kva.example": "thor", "[::1]": "thor",
	}

	f.Fuzz(func(t *testing.T, host string) {
		if strings.ContainsAny(host, "\r\n") {
			t.Skip("that would be another header")
		}
		conn, err := net.Dial("tcp", srv.Listener.Addr().String())
		require.NoError(t, err)
		defer func() { _ = conn.Close() }()
		_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n")
		require.NoError(t, err)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		_ = resp.Body.Close()

		// What the server is to make of it, told by other means: the fields of a header are trimmed, the port and one
		// trailing dot cut, and case does not matter.
		name := strings.ToLower(strings.Trim(host, " \t"))
		if addr, err := netip.ParseAddr(name); err == nil && addr.Is6() { // without brackets it can have no port
			name = "[" + name + "]"
		}
		if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, ']') && strings.Trim(name[i+1:], "0123456789") == "" {
			name = name[:i]
		}
		want := domains[strings.TrimSuffix(name, ".")]
		if got := resp.Header.Get("Tenant"); got != "" {
			require.Equal(t, want, got, "%q reached a tenant", host)
			require.Equal(t, http.StatusOK, resp.StatusCode)
			return
		}
		if name == "polls.local" || strings.TrimSuffix(name, ".") == "polls.local" {
			return // public
		}
		require.Contains(t, []int{http.StatusBadRequest, http.StatusNotFound, http.StatusForbidden, http.StatusServiceUnavailable}, resp.StatusCode, "%q", host)
		if resp.StatusCode >= 500 || resp.StatusCode == http.StatusForbidden {
			require.Contains(t, []string{"new.polls.local", "failed.polls.local", "late.polls.local"}, strings.TrimSuffix(name, "."), "%q", host)
		}
	})
}

// FuzzPath holds the two spellings of a path together: what ByPathPrefix leaves of Path and RawPath are the same path,
// and with the prefix put back it is the one that came.
func FuzzPath(f *testing.F) {
	for _, path := range []string{
		"/t/thor/polls/1", "/t/thor", "/t/thor/", "/t/thor/a%2Fb", "/t/th%6Fr/x", "/t/thor%2Fx/y", "/%74/thor/a%2Fb", "/t/thor//x",
		"/t/../thor", "/t/thor/../potter/%2e%2e", "/", "//", "/t/thor/%", "/t/potter/%C3%BC%2F",
	} {
		f.Add(path)
	}
	g, err := newGate(newRegistry(), WithStrategy(ByPathPrefix("/t/")))
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, path string) {
		r, err := http.NewRequest(http.MethodGet, "http://polls.local", nil)
		require.NoError(t, err)
		u, err := r.URL.Parse(path)
		if err != nil || u.Host != "polls.local" {
			t.Skip("no path")
		}
		r.URL = u
		came := u.EscapedPath()
		reached := false
		g.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, in *http.Request) {
			reached = true
			d, _ := DecisionFrom(in.Context())
			assert.Contains(t, []string{"/t/thor", "/t/potter"}, d.Prefix)
			assert.Equal(t, "/t/"+d.Tenant.Slug, d.Prefix)
			assert.True(t, strings.HasPrefix(in.URL.Path, "/"))
			back := d.Prefix + in.URL.EscapedPath()
			assert.Equal(t, strings.TrimSuffix(came, "/"), strings.TrimSuffix(back, "/"))
		})).ServeHTTP(httptest.NewRecorder(), r)
		if !reached {
			require.NotEqual(t, Admitted, g.Check(r).Outcome)
		}
	})
}
