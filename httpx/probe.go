package httpx

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
)

// probeTimeout bounds what a probe waits for: who asks has a deadline too, and learns more from an answer than from its
// passing.
const probeTimeout = 5 * time.Second

// Readiness answers a load balancer or an orchestrator that asks whether requests may be sent here: 200 when the registry
// answers and the shared set is what this binary needs, 503 otherwise; the reason is for the log. How far the tenants are
// does not matter: each is refused by itself. It has no tenant, so it is mounted outside of the [Gate]. It is not for
// telling whether the process lives: one that has lost its database is not mended by a restart.
func Readiness(app *tenancy.App) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), probeTimeout)
		defer cancel()
		if err := isReady(ctx, app); err != nil {
			if r.Context().Err() == nil {
				slog.WarnContext(ctx, "not ready", "error", err)
			}
			plain(w, http.StatusServiceUnavailable, "not ready")
			return
		}
		plain(w, http.StatusOK, "ready")
	})
}

func isReady(ctx context.Context, app *tenancy.App) error {
	if err := app.Ready(ctx); err != nil {
		return err
	}
	st, err := app.Migrator().Status(ctx)
	if err == nil && !st.Shared.Current {
		return migrate.ErrSharedBehind
	}
	return err
}

// AskTLS answers a server that asks over HTTP whether it may get a certificate for a host, as Caddy does with
// on_demand_tls's ask: GET /?domain=thor.example. It says 200 when [tenancy.App.HostPolicy] allows it, 404 when the host is
// no tenant's, 400 when it cannot be a host and 503 when that cannot be found out at the moment. Mount it outside of the
// [Gate], where only that server reaches it.
func AskTLS(app *tenancy.App) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), probeTimeout)
		defer cancel()
		switch err := app.HostPolicy(ctx, r.URL.Query().Get("domain")); {
		case err == nil:
			plain(w, http.StatusOK, "yes")
		case errors.Is(err, tenancy.ErrMalformedHost):
			plain(w, http.StatusBadRequest, "not a host name")
		case errors.Is(err, tenancy.ErrNotFound), errors.Is(err, tenancy.ErrNotActive):
			plain(w, http.StatusNotFound, "no")
		default:
			if r.Context().Err() == nil {
				slog.ErrorContext(ctx, "certificate cannot be decided on", "error", err)
			}
			plain(w, http.StatusServiceUnavailable, "not known at the moment")
		}
	})
}

// plain writes an answer that is of the moment.
func plain(w http.ResponseWriter, status int, text string) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text+"\n")
}
