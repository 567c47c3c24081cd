package tenancy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/migrate"
)

// Policy says on which terms the door to a tenant opens. The zero Policy is that of a request or a job: the tenant must be
// in service, its store as far as this binary's migrations, and the context ends when the tenant goes out of service.
type Policy struct {
	// Operator lets an operator in, whatever the tenant's status, and lets them write while it is read-only. Only
	// a tenant that is gone is refused. It implies KeepGoing.
	Operator bool
	// AnyVersion does not ask how far the store is migrated.
	AnyVersion bool
	// KeepGoing does not cancel the context when the tenant goes out of service: what was begun is finished.
	KeepGoing bool
}

// Enter is the door into a tenant: it returns a context that is in the tenant, so that what is done with it on the
// routed handle is done in the tenant's store, and the tenant as it was let in. leave must be called when the work is
// done; it cancels the context. With an error, leave does nothing.
//
// Who is meant is said by a *[Tenant], as the Resolve methods return it and without a look-up, or by a [Tenant], a [Ref]
// or an [ID], which are looked up as [App.ResolveID] does. It returns ErrNotFound when the tenant is gone,
// a [*NotActiveError] (ErrNotActive) when it is not in service, ErrBehind when its store is behind, ErrUnavailable when
// that cannot be found out, and ErrTenantMismatch when ctx is in another tenant already: [Leave] first where that is
// meant. Entering the same tenant again is fine.
//
// When the tenant goes out of service the context is cancelled within the bound on staleness (see [App]), and
// context.Cause returns the [*NotActiveError]: a handler that streams for hours sees its tenant being suspended. When the
// tenant is renamed the context follows it.
func (a *App) Enter(ctx context.Context, who Referrer, p Policy) (inside context.Context, t *Tenant, leave context.CancelFunc, err error) {
	if err = a.announce(ctx); err != nil {
		return ctx, nil, func() {}, err
	}
	if err = a.catchUp(ctx); err != nil {
		return ctx, nil, func() {}, fmt.Errorf("tenement: enter: %w", err)
	}
	if t, err = a.meant(ctx, who); err != nil {
		return ctx, nil, func() {}, err
	}
	if t, err = a.admit(ctx, t, p); err != nil {
		return ctx, nil, func() {}, err
	}
	within, err := checkEntry(ctx, t, p)
	switch {
	case err != nil:
		return ctx, nil, func() {}, err
	case within:
		return ctx, t, func() {}, nil
	}
	var router backend.Router = t
	if p.Operator {
		router = &operated{t}
	}
	if p.Operator || p.KeepGoing || t.live == nil {
		inside, leave = context.WithCancel(backend.WithRouter(ctx, router))
		return inside, t, leave, nil
	}
	s := &served{Context: ctx, t: t, era: t.live.era.Load()}
	return s, t, s.release, nil
}

// Run calls fn in a tenant; the door is that of [App.Enter].
func (a *App) Run(ctx context.Context, who Referrer, p Policy, fn func(ctx context.Context, t *Tenant) error) error {
	ctx, t, leave, err := a.Enter(ctx, who, p)
	if err != nil {
		return err
	}
	defer leave()
	return fn(ctx, t)
}

// meant returns what is known of the tenant that is meant.
func (a *App) meant(ctx context.Context, who Referrer) (*Tenant, error) {
	switch w := who.(type) {
	case *Tenant:
		if w == nil {
			break
		}
		return w, nil
	case nil:
	default:
		t, err := a.ResolveID(ctx, who.Ref().ID)
		if err != nil {
			return nil, fmt.Errorf("tenement: enter tenant %.60s: %w", who.Ref(), err)
		}
		return t, nil
	}
	return nil, fmt.Errorf("tenement: enter: %w", ErrNoTenant)
}

// admit returns the latest that this process knows about t when the policy lets it in, and says why not otherwise.
func (a *App) admit(ctx context.Context, t *Tenant, p Policy) (*Tenant, error) {
	if t.Store.IsZero() {
		return nil, fmt.Errorf("tenement: enter: %w: the tenant given has no store", ErrNoTenant)
	}
	if t.live != nil {
		latest := t.live.cur.Load()
		if latest == nil {
			return nil, &NotActiveError{Slug: t.Slug, Status: Deleted}
		}
		t = latest
	}
	if !t.Status.Served() && !p.Operator {
		return nil, &NotActiveError{Slug: t.Slug, Status: t.Status, Reason: t.Reason}
	}
	if !p.AnyVersion {
		switch err := a.migrator.Ready(ctx, t.route()); {
		case err == nil:
		case errors.Is(err, migrate.ErrUnentered):
			if moved := a.moved(ctx, t); moved != nil {
				return a.admit(ctx, moved, p)
			}
			fallthrough
		default:
			return nil, opError("enter", t.Slug, err)
		}
	}
	return t, nil
}

// moved returns the tenant when its store is not where t says: somebody renamed it, which this App has not heard of. A
// rename that is under way is waited for. It returns nil when the store did not move, and when that cannot be found out.
func (a *App) moved(ctx context.Context, t *Tenant) *Tenant {
	ctx, cancel := context.WithTimeout(Leave(ctx), a.cfg.LookupTimeout)
	defer cancel()
	for {
		// The operation first: is it over, then the registry has what came of it.
		op, err := operation(ctx, a.reg.db, t.ID)
		if err != nil {
			return nil
		}
		now, err := a.read(ctx, selectByID, string(t.ID))
		switch {
		case err != nil:
			return nil
		case now.Store != t.Store:
			return &now
		case op == nil || op.Kind != OpRename:
			return nil
		}
		timer := time.NewTimer(20 * time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// checkEntry reports whether ctx is in t already, on terms that are at least those of p, or the reason why it may not go
// there.
func checkEntry(ctx context.Context, t *Tenant, p Policy) (within bool, err error) {
	rt := t.Route()
	now, ok := backend.RouteFrom(ctx)
	switch {
	case !ok:
		return false, nil
	case now.Store == rt.Store && now.Owner == rt.Owner:
		// A bare route would do for the store, but From could not tell the tenant.
		_, known := From(ctx)
		_, operated := ctx.Value(backend.RouteKey{}).(*operated)
		return known && (operated || !p.Operator), nil
	case now.Owner != "" && now.Owner == rt.Owner:
		return false, nil // the same tenant, renamed since: follow it
	}
	return false, &backend.Error{Op: "enter", Store: rt.Store, Err: ErrTenantMismatch}
}

// operated is the tenant in the context of an operator.
type operated struct{ t *Tenant }

// Route implements [backend.Router].
func (o *operated) Route() backend.Route { return o.t.latest().route() }
