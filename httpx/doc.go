// Package httpx puts the tenant that a request is meant for into the request's context, for any router that speaks
// net/http.
//
//	app, err := tenancy.Open(ctx, be, cfg)
//	http.ListenAndServe(addr, httpx.Middleware(app)(handler))
//
// Every handler inside then finds its tenant with tenancy.From, and app.DB() goes to that tenant's store. Which tenant a
// request is meant for is told by a [Strategy]: its host (the default:
// one of the domains that the tenant was registered with, whatever the port), a subdomain, a path prefix, a header, a cookie
// or a function. A request that is not for a tenant in service never reaches the handler: it is refused (see [Outcome]).
//
// # What is believed
//
// A host is what the client sent: anyone may send any host to any server, so it selects a tenant and proves nothing. Where
// the strategy does not go by hosts, it does not matter what the host is.
// The same is true, more so, of a header or a cookie: see [ByHeader] and [ByCookie]. Whether a user may act in the
// tenant is for the application to check, inside the tenant. A forwarded host is ignored unless [WithForwarded] says
// which proxies may set it.
//
// # Caches
//
// Where a header or a cookie names the tenant, one URL has a page in each tenant, and a browser or a cache on the way
// would take one for the other. So the gate puts the headers that it goes by into Vary, in every answer: those of
// [ByHeader], Cookie for [ByCookie], and the forwarded one where it is believed for the host. A handler adds to Vary
// (Header.Add); one that sets it takes them away. What a [ByFunc] goes by is for the application to say. A URL that names
// its tenant by itself, with its host or its path, needs nothing.
//
// # Where to mount it
//
// The middleware goes around the whole router (httpx.Middleware(app)(mux)): routers that match on a path before their
// middleware runs (Gin, Echo, ServeMux) then see the path without its tenant prefix. With the other strategies it may be
// mounted inside as well, where the route's own values stay. What comes without a tenant belongs outside: health checks
// ([Readiness]), and servers that ask whether they may get a certificate ([AskTLS]; with
// golang.org/x/crypto/acme/autocert, app.HostPolicy is the manager's HostPolicy). Middleware that changes
// Request.RemoteAddr belongs inside, since [WithForwarded] relies on the true one.
//
// The ResponseWriter is handed on as it is, so flushing, hijacking and http.ResponseController keep working.
package httpx
