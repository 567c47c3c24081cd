package integrations

import (
	"errors"
	"net/http"

	"connectrpc.com/connect"

	"github.com/tenement-go/tenement/httpx"
	"github.com/tenement-go/tenement/tenancy"
)

// ConnectMiddleware is httpx's middleware, whose refusals Connect's clients understand: Connect is net/http, and needs
// nothing else.
func ConnectMiddleware(app *tenancy.App) func(http.Handler) http.Handler {
	writer := connect.NewErrorWriter()
	refuse := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d, _ := httpx.DecisionFrom(r.Context())
		if !writer.IsSupported(r) {
			httpx.Refuse(w, r)
			return
		}
		code := connect.CodeUnavailable
		if d.Code == http.StatusNotFound || d.Code == http.StatusBadRequest {
			code = connect.CodeNotFound
		}
		_ = writer.Write(w, r, connect.NewError(code, errors.New(d.Outcome.String())))
	})
	var options []httpx.Option
	for o := httpx.Unknown; o <= httpx.Unavailable; o++ {
		options = append(options, httpx.WithRefusal(o, refuse))
	}
	return httpx.Middleware(app, options...)
}
