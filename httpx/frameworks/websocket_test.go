package frameworks

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/httpx"
	"github.com/tenement-go/tenement/tenancy"
)

// S47: a WebSocket keeps its tenant for the whole connection, and sees it being suspended; another tenant's goes on.
func TestWebSocket(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	cause := make(chan error, 2)
	srv := httptest.NewServer(httpx.Middleware(app)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if !assert.NoError(t, err) {
			return
		}
		defer func() { _ = conn.CloseNow() }()
		for {
			if _, _, err = conn.Read(r.Context()); err != nil {
				cause <- context.Cause(r.Context())
				return
			}
			if err = conn.Write(r.Context(), websocket.MessageText, []byte(look(app.DB(), r).Motto)); err != nil {
				return
			}
		}
	})))
	defer srv.Close()

	dial := func(slug string) *websocket.Conn {
		conn, resp, err := websocket.Dial(t.Context(), srv.URL, &websocket.DialOptions{Host: slug + ".polls.local"})
		require.NoError(t, err)
		require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
		t.Cleanup(func() { _ = conn.CloseNow() })
		return conn
	}
	ask := func(conn *websocket.Conn) (string, error) {
		if err := conn.Write(t.Context(), websocket.MessageText, []byte("?")); err != nil {
			return "", err
		}
		_, text, err := conn.Read(t.Context())
		return string(text), err
	}
	thor, potter := dial("thor"), dial("potter")
	for range 20 {
		got, err := ask(thor)
		require.NoError(t, err)
		require.Equal(t, "of thor", got)
		got, err = ask(potter)
		require.NoError(t, err)
		require.Equal(t, "of potter", got)
	}

	tenant, err := app.BySlug(t.Context(), "thor")
	require.NoError(t, err)
	_, err = app.Suspend(t.Context(), tenant.ID, "unpaid")
	require.NoError(t, err)
	var inactive *tenancy.NotActiveError
	require.ErrorAs(t, <-cause, &inactive, "the context's cause is the suspension")
	assert.Equal(t, tenancy.Suspended, inactive.Status)
	_, err = ask(thor)
	require.Error(t, err, "the handler has ended")

	got, err := ask(potter)
	require.NoError(t, err)
	assert.Equal(t, "of potter", got)

	_, resp, err := websocket.Dial(t.Context(), srv.URL, &websocket.DialOptions{Host: "thor.polls.local"})
	require.Error(t, err)
	assert.Equal(t, http.StatusForbidden, resp.StatusCode)
}
