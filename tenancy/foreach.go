package tenancy

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/tenement-go/tenement/backend"
)

// ForEachOption changes how [App.ForEach] goes about it.
type ForEachOption func(*forEach)

type forEach struct {
	parallel int
	stop     bool
	filter   Filter
	policy   Policy
}

// Parallel sets how many tenants are worked on at once. Defaults to the number of CPUs, at most 8: each needs a
// connection.
func Parallel(n int) ForEachOption { return func(f *forEach) { f.parallel = max(1, n) } }

// StopOnError makes the first failure end the run: nothing more is begun, and the contexts of what was begun are
// cancelled.
func StopOnError() ForEachOption { return func(f *forEach) { f.stop = true } }

// Where limits the run to the tenants that the filter chooses. A filter without statuses means those in service.
func Where(filter Filter) ForEachOption { return func(f *forEach) { f.filter = filter } }

// With sets the terms on which the tenants are entered. Defaults to those of a request: one that is behind counts as
// failed.
func With(p Policy) ForEachOption { return func(f *forEach) { f.policy = p } }

// TenantError is the failure of one tenant.
type TenantError struct {
	ID   ID
	Slug string
	Err  error
}

// Error names the tenant and the cause.
func (e *TenantError) Error() string { return "tenant " + e.Slug + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *TenantError) Unwrap() error { return e.Err }

// ForEachError is what [App.ForEach] returns when it was not done for every tenant.
type ForEachError struct {
	Done   int            // tenants for which it was done
	Failed []*TenantError // those for which it failed, in order of slug
	Err    error          // what ended the run early: cancellation, or the registry; nil when it got to the end
}

// Error names the tenants that failed, the first ten at least.
func (e *ForEachError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "tenement: for each tenant: %d done, %d failed", e.Done, len(e.Failed))
	if e.Err != nil {
		fmt.Fprintf(&b, ", ended early: %v", e.Err)
	}
	for i, f := range e.Failed {
		if i == 10 {
			fmt.Fprintf(&b, "; and %d more", len(e.Failed)-i)
			break
		}
		b.WriteString("; ")
		b.WriteString(f.Error())
	}
	return b.String()
}

// Unwrap returns the failures and what ended the run.
func (e *ForEachError) Unwrap() []error {
	errs := make([]error, 0, len(e.Failed)+1)
	for _, f := range e.Failed {
		errs = append(errs, f)
	}
	if e.Err != nil {
		errs = append(errs, e.Err)
	}
	return errs
}

// ForEach calls fn in the context of each tenant in service, several at once, in no certain order. Tenants are read page by
// page while it goes on; one that is made meanwhile may or may not be among them. A tenant for which fn fails does not
// stop the others. It returns nil when all were done, and a [*ForEachError] otherwise. When ctx is done nothing more is
// begun, and ForEach returns when what was begun has returned. It is done apart from what is served meanwhile; see
// [backend.Apart].
func (a *App) ForEach(ctx context.Context, fn func(ctx context.Context, t Tenant) error, opts ...ForEachOption) error {
	run := forEach{parallel: min(8, runtime.GOMAXPROCS(0))}
	for _, opt := range opts {
		opt(&run)
	}
	if len(run.filter.Status) == 0 {
		run.filter.Status = []Status{Active, ReadOnly}
	}
	if t, inside := From(ctx); inside {
		return fmt.Errorf("tenement: for each tenant: the context is in tenant %s already; Leave it first: %w", t.Slug, ErrTenantMismatch)
	}
	// What goes through all tenants does not push out what requests live on.
	ctx, cancel := context.WithCancelCause(backend.Apart(ctx))
	defer cancel(nil)

	var (
		mu     sync.Mutex
		result ForEachError
		group  errgroup.Group
	)
	group.SetLimit(run.parallel)
	for t, err := range a.Tenants(ctx, run.filter) {
		if err != nil {
			result.Err = err
			break
		}
		// Go waits for a free worker, so look at the context after it too.
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			if ctx.Err() != nil {
				return nil
			}
			err := a.Run(ctx, &t, run.policy, func(ctx context.Context, t *Tenant) error { return fn(ctx, *t) })
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				result.Done++
				return nil
			}
			failure := &TenantError{ID: t.ID, Slug: t.Slug, Err: err}
			result.Failed = append(result.Failed, failure)
			if run.stop {
				cancel(failure)
			}
			return nil
		})
	}
	_ = group.Wait() // failures are in result
	if result.Err == nil || ctx.Err() != nil {
		result.Err = context.Cause(ctx)
	}
	if result.Err == nil && len(result.Failed) == 0 {
		return nil
	}
	slices.SortFunc(result.Failed, func(a, b *TenantError) int { return strings.Compare(a.Slug, b.Slug) })
	return &result
}

// Value is what [Collect] found for a tenant.
type Value[T any] struct {
	Tenant Tenant
	Value  T
}

// Collect is [App.ForEach] for a function that has a result: it returns the values in order of slug. With an error it
// returns those of the tenants for which it was done.
func Collect[T any](ctx context.Context, a *App, fn func(ctx context.Context, t Tenant) (T, error), opts ...ForEachOption) ([]Value[T], error) {
	var (
		mu     sync.Mutex
		values []Value[T]
	)
	err := a.ForEach(ctx, func(ctx context.Context, t Tenant) error {
		v, err := fn(ctx, t)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		values = append(values, Value[T]{t, v})
		return nil
	}, opts...)
	slices.SortFunc(values, func(a, b Value[T]) int { return strings.Compare(a.Tenant.Slug, b.Tenant.Slug) })
	return values, err
}
