package driver

import "context"

type ownKey struct{}

// OwnStatements returns a context in which a transaction is begun, on a handle of [backend.Backend.Maintenance], that runs nothing but
// the library's own statements, which change rows of the one store: where the server keeps tenants' work from the rest by its
// rights, a backend need not look at what such a transaction did, any more than at what is written on a routed handle.
func OwnStatements(ctx context.Context) context.Context {
	return context.WithValue(ctx, ownKey{}, true)
}

// IsOwn reports whether ctx comes from [OwnStatements].
func IsOwn(ctx context.Context) bool { return ctx.Value(ownKey{}) != nil }
