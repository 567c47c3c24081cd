package backend

import "context"

// Route says where a unit of work belongs: to which store and, when Owner is set, to which owner's store.
//
// Owner is the identity stamped into the store when it was made (for tenancy, the tenant's ID, which is never reused).
// A route whose owner is not the store's gets [ErrStoreMissing]: a context that outlived its tenant never reaches the
// new tenant that was given the same name. An empty Owner skips that check. Routes are comparable.
type Route struct {
	Store Store
	Owner string
}

// IsZero reports whether r names no store.
func (r Route) IsZero() bool { return r.Store.IsZero() }

type routeKey struct{}

// WithRoute returns a context whose calls on a routed handle go to r. It replaces the route of a context that has one;
// package tenancy refuses that, see tenancy.Enter.
func WithRoute(ctx context.Context, r Route) context.Context {
	return context.WithValue(ctx, routeKey{}, &r)
}

// WithStore is [WithRoute] for a store whose owner is not checked.
func WithStore(ctx context.Context, s Store) context.Context {
	return WithRoute(ctx, Route{Store: s})
}

// RouteFrom returns the route in ctx. ok is false when there is none, or when it names no store. It does not allocate.
func RouteFrom(ctx context.Context) (r Route, ok bool) {
	p, _ := ctx.Value(routeKey{}).(*Route)
	if p == nil || p.IsZero() {
		return Route{}, false
	}
	return *p, true
}

// WithoutRoute returns a context that names no store, whatever ctx names: calls on a routed handle fail with
// [ErrNoTenant] again.
func WithoutRoute(ctx context.Context) context.Context {
	return context.WithValue(ctx, routeKey{}, (*Route)(nil))
}
