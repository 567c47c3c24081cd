package backend

import "context"

// Route says where a unit of work belongs: to which store and, when Owner is set, to which owner's store.
//
// Owner is the identity stamped into the store when it was made (for tenancy, the tenant's ID, which is never reused).
// A route whose owner is not the store's gets [ErrStoreMissing]: a context that outlived its tenant never reaches the
// new tenant that was given the same name. An empty Owner skips that check. Routes are comparable.
//
// ReadOnly makes the database refuse what would change the store, with [ErrReadOnly]: on routed handles, and on bound ones
// when the route that they are bound to or the context's has it. A unit of work keeps what it began with. It is for a
// store that is to stay as it is for a while, not against SQL that means to get around it. It does not hold for
// Maintenance handles and RunScripts, which are there to change the store.
type Route struct {
	Store    Store
	Owner    string
	ReadOnly bool
}

// IsZero reports whether r names no store.
func (r Route) IsZero() bool { return r.Store.IsZero() }

// RouteKey is the key under which a context holds its route, as a *[Route] or a [Router]. It is exported for context
// types that answer it themselves, without a context.WithValue; everyone else uses the functions of this package.
type RouteKey struct{}

// Router is a value that knows its route, such as a *tenancy.Tenant. Route is called for every unit of work, from many
// goroutines at once.
type Router interface{ Route() Route }

// WithRoute returns a context whose calls on a routed handle go to r. It replaces the route of a context that has one;
// package tenancy refuses that, see tenancy.App.Enter.
func WithRoute(ctx context.Context, r Route) context.Context {
	return context.WithValue(ctx, RouteKey{}, &r)
}

// WithRouter is [WithRoute] for a value that carries more than its route: it is what ctx.Value([RouteKey]{}) returns.
func WithRouter(ctx context.Context, r Router) context.Context {
	return context.WithValue(ctx, RouteKey{}, r)
}

// WithStore is [WithRoute] for a store whose owner is not checked.
func WithStore(ctx context.Context, s Store) context.Context {
	return WithRoute(ctx, Route{Store: s})
}

// RouteFrom returns the route in ctx. ok is false when there is none, or when it names no store. It does not allocate.
func RouteFrom(ctx context.Context) (r Route, ok bool) {
	switch v := ctx.Value(RouteKey{}).(type) {
	case *Route:
		if v != nil {
			r = *v
		}
	case Router:
		r = v.Route()
	}
	if r.IsZero() {
		return Route{}, false
	}
	return r, true
}

// WithoutRoute returns a context that names no store, whatever ctx names: calls on a routed handle fail with
// [ErrNoTenant] again.
func WithoutRoute(ctx context.Context) context.Context {
	return context.WithValue(ctx, RouteKey{}, (*Route)(nil))
}
