package tenancy

import (
	"context"
	"fmt"
	"runtime/debug"
)

// guard calls a hook and makes its panic an error: hooks are called in goroutines that nobody else recovers, and by each
// process that takes an operation up, so that one panic would end all of them, again and again.
func (a *App) guard(ctx context.Context, hook string, fn func() error) (err error) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		a.log.ErrorContext(ctx, "tenement: a hook panicked", "hook", hook, "panic", p, "stack", string(debug.Stack()))
		if cause, ok := p.(error); ok {
			err = fmt.Errorf("panic: %w", cause)
		} else {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return fn()
}

// tell tells the application of a change that was made. A panic is logged: the change stays, and so does who waits for it.
func (a *App) tell(ctx context.Context, e Event) {
	if a.cfg.Hooks.OnChange != nil {
		_ = a.guard(ctx, "OnChange", func() error { a.cfg.Hooks.OnChange(ctx, e); return nil })
	}
}

// approve asks whether a host may lead to a tenant.
func (a *App) approve(ctx context.Context, t Tenant, d PendingDomain) error {
	return a.guard(ctx, "ApproveDomain", func() error { return a.cfg.Hooks.ApproveDomain(ctx, t, d) })
}
