package tenancy

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/tenement-go/tenement/backend"
)

// From returns the tenant that ctx is in, as far as this process knows it by now: renamed, it has its new slug. ok is
// false when ctx is in none. It does not allocate. The tenant must not be written to.
func From(ctx context.Context) (t *Tenant, ok bool) {
	switch v := ctx.Value(backend.RouteKey{}).(type) {
	case *Tenant:
		t = v
	case *operated:
		t = v.t
	}
	if t == nil {
		return nil, false
	}
	return t.latest(), true
}

// Leave returns a context that is in no tenant, so that another may be entered from it. It keeps the deadline, the
// cancellation and the other values of ctx.
func Leave(ctx context.Context) context.Context { return backend.WithoutRoute(ctx) }

type actorKey struct{}

// WithActor returns a context that says who it is that changes a tenant, such as a user's name or address: it is kept
// with each change in the registry; see [App.History]. At most 200 bytes are kept.
func WithActor(ctx context.Context, actor string) context.Context {
	return context.WithValue(ctx, actorKey{}, actor)
}

// ActorFrom returns who [WithActor] named, or "".
func ActorFrom(ctx context.Context) string {
	actor, _ := ctx.Value(actorKey{}).(string)
	return actor
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
