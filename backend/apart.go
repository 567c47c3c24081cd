package backend

import "context"

type apartKey struct{}

// Apart returns a context for work that goes through every store, such as a migration of all of them or a check. A backend
// does it so that it does not push what requests live on out of its caches: Postgres on connections of its own, which are
// closed afterwards. It changes nothing else about the work.
func Apart(ctx context.Context) context.Context {
	if IsApart(ctx) {
		return ctx
	}
	return context.WithValue(ctx, apartKey{}, true)
}

// IsApart reports whether ctx comes from [Apart].
func IsApart(ctx context.Context) bool { return ctx.Value(apartKey{}) != nil }
