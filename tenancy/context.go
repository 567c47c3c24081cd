package tenancy

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/tenement-go/tenement/backend"
)

// Enter returns a context that is in t: what is done with it on the routed handle is done in t's store. It asks no one
// whether t may be entered (see [App.Serve] for that), and the context is not cancelled when t is suspended.
//
// A context that is in another tenant already is refused with [ErrTenantMismatch]; [Leave] first where that is meant.
// Entering the same tenant again is fine.
func Enter(ctx context.Context, t *Tenant) (context.Context, error) {
	inside, err := checkEntry(ctx, t)
	if err != nil || inside {
		return ctx, err
	}
	return backend.WithRouter(ctx, t), nil
}

// checkEntry reports whether ctx is in t already, or the reason why it may not go there.
func checkEntry(ctx context.Context, t *Tenant) (inside bool, err error) {
	rt := t.Route()
	if rt.IsZero() {
		return false, fmt.Errorf("tenement: enter: %w: the tenant given has no store", ErrNoTenant)
	}
	now, ok := backend.RouteFrom(ctx)
	switch {
	case !ok:
		return false, nil
	case now == rt:
		// A bare route would do for the store, but From could not tell the tenant.
		_, known := From(ctx)
		return known, nil
	case now.Owner != "" && now.Owner == rt.Owner:
		return false, nil // the same tenant, renamed since: follow it
	}
	return false, &backend.Error{Op: "enter", Store: rt.Store, Err: ErrTenantMismatch}
}

// From returns the tenant that ctx is in. ok is false when it is in none. It does not allocate. The tenant must not be
// written to.
func From(ctx context.Context) (t *Tenant, ok bool) {
	t, _ = ctx.Value(backend.RouteKey{}).(*Tenant)
	return t, t != nil
}

// Leave returns a context that is in no tenant, so that another may be entered from it. It keeps the deadline, the
// cancellation and the other values of ctx.
func Leave(ctx context.Context) context.Context { return backend.WithoutRoute(ctx) }

// Token returns the tenant of ctx as text, to be put into a job or a message and given to [App.EnterToken] where that
// is worked on. It holds no secret and proves nothing: whoever can write into the queue can name any tenant.
func Token(ctx context.Context) (string, error) {
	t, ok := From(ctx)
	if !ok {
		return "", fmt.Errorf("tenement: token: %w", ErrNoTenant)
	}
	return string(t.ID), nil
}

// EnterToken is [Enter] for the tenant of a [Token]. It returns ErrNotFound when that tenant is gone, ErrNotActive when
// it may not be served and ErrBehind when its store is behind: a job is then to be dropped, or tried again later.
func (a *App) EnterToken(ctx context.Context, token string) (context.Context, error) {
	id, err := ParseID(token)
	if err != nil {
		return ctx, fmt.Errorf("tenement: token %.60q: %w", token, err)
	}
	t, err := a.resolve(ctx, a.ids, string(id))
	if err != nil {
		return ctx, fmt.Errorf("tenement: token of tenant %s: %w", id, err)
	}
	if t, err = a.admit(ctx, t); err != nil {
		return ctx, err
	}
	return Enter(ctx, t)
}

// Serve is [Enter] behind the gate that every request passes: the tenant must be active ([ErrNotActive]) and its store
// as far as this binary's migrations ([ErrBehind]).
//
// The context is cancelled when the tenant stops being active, within the bound on staleness (see [App]), and then
// context.Cause returns the [*NotActiveError]: a handler that streams for hours sees its tenant being suspended. Call
// done when the request has been served; it cancels the context too, and must be called.
func (a *App) Serve(ctx context.Context, t *Tenant) (_ context.Context, done context.CancelFunc, err error) {
	t, err = a.admit(ctx, t)
	if err != nil {
		return ctx, func() {}, err
	}
	inside, err := checkEntry(ctx, t)
	if err != nil || inside {
		return ctx, func() {}, err
	}
	if t.live == nil {
		ctx, done := context.WithCancel(backend.WithRouter(ctx, t))
		return ctx, done, nil
	}
	s := &served{Context: ctx, t: t, era: t.live.era.Load()}
	return s, s.release, nil
}

// admit returns the latest that this process knows about t when t may be served, and says why not otherwise.
func (a *App) admit(ctx context.Context, t *Tenant) (*Tenant, error) {
	if t == nil {
		return nil, fmt.Errorf("tenement: serve: %w", ErrNoTenant)
	}
	if t.live != nil {
		latest := t.live.cur.Load()
		if latest == nil {
			return nil, &NotActiveError{Slug: t.Slug, Status: Deleted}
		}
		t = latest
	}
	if t.Status != Active {
		return nil, &NotActiveError{Slug: t.Slug, Status: t.Status, Reason: t.Reason}
	}
	if a.cfg.SkipVersionGate || (t.live != nil && t.live.ready.Load()) {
		return t, nil
	}
	if err := a.migrator.Ready(ctx, t.Route()); err != nil {
		return nil, opError("serve", t.Slug, err)
	}
	if t.live != nil {
		t.live.ready.Store(true)
	}
	return t, nil
}

// served is the context of a request that is being served: the parent's, in a tenant, and cancelled with it. The
// cancellation is only set up when someone asks for it, since most requests are over before anyone could be suspended.
type served struct {
	context.Context // the parent
	t               *Tenant
	era             *era

	mu     sync.Mutex
	linked atomic.Pointer[link] // set under mu
	over   atomic.Bool          // release was called
}

// link is a context that ends with the parent and with the tenant's era.
type link struct {
	context.Context
	cancel context.CancelCauseFunc
	unhook func() bool
}

func (s *served) link() *link {
	if l := s.linked.Load(); l != nil {
		return l
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.linked.Load(); l != nil {
		return l
	}
	ctx, cancel := context.WithCancelCause(s.Context)
	l := &link{Context: ctx, cancel: cancel, unhook: func() bool { return true }}
	switch {
	case s.over.Load():
		cancel(nil)
	case s.era.Err() != nil:
		cancel(context.Cause(s.era))
	default:
		l.unhook = context.AfterFunc(s.era, func() { cancel(context.Cause(s.era)) })
	}
	s.linked.Store(l)
	return l
}

func (s *served) release() {
	if s.over.Swap(true) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.linked.Load(); l != nil {
		l.unhook()
		l.cancel(nil)
	}
}

func (s *served) Done() <-chan struct{} { return s.link().Done() }

func (s *served) Err() error {
	if s.linked.Load() == nil && !s.over.Load() && s.era.Err() == nil {
		return s.Context.Err()
	}
	return s.link().Err()
}

// Value answers for the tenant itself. Everything else goes through the link once there is one, so that contexts made
// from this one find it to hang on to, and context.Cause its cause.
func (s *served) Value(key any) any {
	if _, ok := key.(backend.RouteKey); ok {
		return s.t
	}
	if l := s.linked.Load(); l != nil {
		return l.Value(key)
	}
	return s.Context.Value(key)
}

// era is a time during which a tenant is active without interruption; it is over when the context is.
type era struct {
	context.Context
	end context.CancelCauseFunc
}

func newEra() *era {
	ctx, end := context.WithCancelCause(context.Background())
	return &era{ctx, end}
}

// Run calls fn in the tenant of that slug, behind the gate of [App.Serve].
func (a *App) Run(ctx context.Context, slug string, fn func(ctx context.Context) error) error {
	t, err := a.ResolveSlug(ctx, slug)
	if err != nil {
		return err
	}
	ctx, done, err := a.Serve(ctx, t)
	if err != nil {
		return err
	}
	defer done()
	return fn(ctx)
}
