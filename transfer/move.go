package transfer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/tenancy"
)

// The errors of [Move], to be tested for with [errors.Is].
var (
	// ErrMoveUnfinished: an earlier move into the same target was not finished; see [MoveOptions.Resume].
	ErrMoveUnfinished = errors.New("an earlier move into this target was not finished: resume it")
	// ErrSamePlace: source and target are the same.
	ErrSamePlace = errors.New("the target is the place that the tenants are in")
	// ErrSharedDiffer: the shared tables of the target are not those of the source, and cannot be made them.
	ErrSharedDiffer = errors.New("the shared tables differ")
)

// MoveOptions are the terms of [Move].
type MoveOptions struct {
	// Tenants are those that are moved. Nil means all that there are; those whose creation is not over are left.
	Tenants []tenancy.ID
	// Resume goes on with a move that was interrupted, or ended with Prepare. What has arrived and is still what the source
	// has is left as it is; the rest is copied anew.
	Resume bool
	// Prepare ends the move before the tenants are in service in the target, so that it can be gone on with when
	// nobody writes to the source any more: what was written meanwhile is copied then.
	Prepare bool
	// NoShared leaves the target's shared tables as they are.
	NoShared bool
	// Without are tables that are left out, by name.
	Without []string
	// Parallel is how many tenants are copied at once. Defaults to 4; it is at most half of what the backends' pools allow.
	Parallel int
	// Mappings say what may be lost of values that cannot be moved as they are, in the tenants that have such a table.
	Mappings []Mapping
	// OnEvent is told what has been done, one event at a time; it may be nil. Connections are held meanwhile: it must not
	// wait for the databases.
	OnEvent func(MoveEvent)
}

// MoveEventKind says what happened in a move.
type MoveEventKind string

// The kinds of events.
const (
	MoveStarted  MoveEventKind = "started"  // Total is known
	MoveShared   MoveEventKind = "shared"   // the shared tables are those of the source
	MoveMade     MoveEventKind = "made"     // a tenant's store was made, and is empty
	MoveTable    MoveEventKind = "table"    // a table was loaded; it is not committed before all of its store are
	MoveLoaded   MoveEventKind = "loaded"   // a tenant's rows are there
	MoveVerified MoveEventKind = "verified" // and are what was sent
	MoveDone     MoveEventKind = "done"     // a tenant is done, and may be written to again in the source
	MoveSame     MoveEventKind = "same"     // the same, and there was nothing to do
	MoveFailed   MoveEventKind = "failed"   // a tenant could not be copied; see Err
	MoveEnrolled MoveEventKind = "enrolled" // all are in service in the target
)

// MoveEvent is something that happened in a move.
type MoveEvent struct {
	Kind                MoveEventKind
	Tenant              tenancy.Tenant // zero for what concerns all
	Table               string
	Rows                int64 // of the table, or of the tenant
	Done, Failed, Total int   // tenants
	Elapsed             time.Duration
	ReadOnly            time.Duration // how long the tenant could not be written to
	Err                 error
}

// MoveResult is what came of a move.
type MoveResult struct {
	Tenants []MovedTenant    `json:"tenants"`        // in the order of their creation
	Left    []tenancy.Tenant `json:"left,omitempty"` // their creation is not over
	// Aside are the names of stores that were in the way, and were set aside because an earlier move had handed them over:
	// tenants may have been served from them. See [tenancy.App.AsideStores].
	Aside     []string `json:"aside,omitempty"`
	InService bool     `json:"in_service"` // in the target
}

// MovedTenant is a tenant that is in the target.
type MovedTenant struct {
	Tenant   tenancy.Tenant `json:"tenant"`
	Rows     int64          `json:"rows"`
	Same     bool           `json:"same,omitempty"` // it was there before
	ReadOnly time.Duration  `json:"read_only"`      // how long it could not be written to in the source, in nanoseconds
}

// MoveError lists the tenants that could not be moved. It unwraps to their errors.
type MoveError struct {
	Failures []MoveFailure
	Total    int
}

// MoveFailure is why a tenant could not be moved.
type MoveFailure struct {
	Tenant tenancy.Tenant
	Err    error
}

// Error says how many there are, and what is wrong with the first.
func (e *MoveError) Error() string {
	return fmt.Sprintf("tenement: transfer: %d of %d tenants could not be moved, and none is in service in the target; %s: %v",
		len(e.Failures), e.Total, e.Failures[0].Tenant.Slug, e.Failures[0].Err)
}

// Unwrap returns the errors of all.
func (e *MoveError) Unwrap() (list []error) {
	for _, f := range e.Failures {
		list = append(list, f.Err)
	}
	return list
}

// Move copies tenants, and the shared tables, from one application's place to another's, whatever the backends are: with their
// IDs, slugs, domains, status, metadata and history. The source stays as it was. Each tenant is made by the target's
// migrations at the versions that it has, loaded, and compared with what was sent; while that goes on it is read-only in the
// source ([tenancy.App.Freeze]). When all are there, they are in service in the target: all at once, or none. Until then
// nobody is served from there, and the tenants that one can write to are those of the source. What has arrived is no tenant's
// store before that, by its stamp ([tenancy.ArrivalOwner]).
//
// What is written to the source once a tenant was copied is not in the target: stop the application first or, for a shorter
// stop, move with Prepare, then stop it, and resume. A tenant that is renamed meanwhile is copied anew, and one that is
// purged is not moved; one that is migrated while it is copied may fail, with ErrMigrated, until the move is resumed. Files
// are not moved: their directories are named after the tenants' IDs, which stay. Tenants that are in the target already are
// left as they are there.
//
// It may be repeated after whatever ended it, SIGKILL too, with Resume. One that fails does not keep the others from being
// copied; a [*MoveError] lists those. It returns, before anything is made, ErrMoveUnfinished, ErrSamePlace, ErrSharedDiffer,
// and a [*tenancy.ConflictError] when a slug, a domain or a store is taken in the target.
func Move(ctx context.Context, from, to *tenancy.App, opt MoveOptions) (*MoveResult, error) {
	m := &move{from: from, to: to, opt: opt, started: time.Now()}
	if m.opt.Parallel <= 0 {
		m.opt.Parallel = 4
	}
	for _, app := range []*tenancy.App{from, to} {
		if b, ok := app.Backend().(backend.Bounded); ok {
			m.opt.Parallel = max(1, min(m.opt.Parallel, b.Concurrency()/2)) // the others are the application's
		}
	}
	locker, ok := to.Backend().(backend.Locker)
	if !ok {
		return nil, fmt.Errorf("tenement: transfer: the target: %w: it is no backend.Locker", errors.ErrUnsupported)
	}
	if m.adopter, ok = to.Backend().(backend.Adopter); !ok {
		return nil, fmt.Errorf("tenement: transfer: the target: %w: it is no backend.Adopter", errors.ErrUnsupported)
	}
	ctx = tenancy.Leave(ctx)
	lock, err := locker.Lock(ctx, "tenement/transfer")
	if err != nil {
		return nil, err
	}
	defer lock.Unlock()
	// What is done to the source is not fenced by the target's lock.
	m.lock = lock
	m.later = m.mayBeLater()
	res, err := m.run(ctx)
	if err != nil {
		var many *MoveError
		if !errors.As(err, &many) {
			err = fmt.Errorf("tenement: transfer: %w", err)
		}
	}
	return res, err
}

// move is one that is under way.
type move struct {
	from, to *tenancy.App
	opt      MoveOptions
	lock     backend.Lock         // of the target
	adopter  backend.Adopter      // the target's
	later    backend.ScriptRunner // has settle make durable what is loaded; nil: each commit waits for the disk
	started  time.Time
	claims   claims
	order    map[tenancy.ID]int // of the tenants in the result
	arrived  arrivals

	mu            sync.Mutex // of what follows, and of OnEvent
	total, failed int
	failures      []MoveFailure
	res           MoveResult
}

func (m *move) run(ctx context.Context) (*MoveResult, error) {
	if err := m.from.FinishOperations(ctx); err != nil {
		return nil, err
	}
	todo, err := m.begin(ctx)
	if err != nil {
		if m.claims.db != nil {
			err = errors.Join(err, m.claims.close(ctx))
		}
		return nil, err
	}
	m.total, m.order = len(todo), map[tenancy.ID]int{}
	for i, t := range todo {
		m.order[t.ID] = i
	}
	m.tell(MoveEvent{Kind: MoveStarted})
	if err := m.shared(ctx); err != nil {
		return nil, err
	}
	m.tell(MoveEvent{Kind: MoveShared})
	if _, err := m.removeStale(ctx); err != nil {
		return nil, err
	}
	for again := todo; len(again) > 0; {
		if err := m.all(ctx, again); err != nil {
			return nil, err
		}
		if again, err = m.removeStale(ctx); err != nil {
			return nil, err
		}
	}
	if err := m.settle(ctx); err != nil {
		return nil, err
	}
	slices.SortFunc(m.res.Tenants, func(a, b MovedTenant) int { return m.order[a.Tenant.ID] - m.order[b.Tenant.ID] })
	switch {
	case len(m.failures) > 0:
		return &m.res, &MoveError{m.failures, m.total}
	case m.opt.Prepare:
		return &m.res, nil
	}
	return &m.res, m.finish(ctx)
}

// all moves tenants, several at once.
func (m *move) all(ctx context.Context, todo []tenancy.Tenant) error {
	work, within := errgroup.WithContext(ctx)
	work.SetLimit(m.opt.Parallel)
	for _, t := range todo {
		work.Go(func() error { return m.one(within, ctx, t) })
	}
	return work.Wait()
}

// choose lists the tenants to be moved: those that are not in the target.
func (m *move) choose(ctx context.Context) (todo []tenancy.Tenant, err error) {
	consider := func(t tenancy.Tenant) error {
		switch _, err := m.to.ByID(ctx, t.ID); {
		case err == nil && !m.opt.Resume:
			return &tenancy.ConflictError{Field: "id", Value: string(t.ID), By: t.Slug}
		case err == nil:
			return nil
		case !errors.Is(err, tenancy.ErrNotFound):
			return err
		case t.Status == tenancy.Provisioning, t.Status == tenancy.Failed:
			m.res.Left = append(m.res.Left, t)
			return nil
		}
		todo = append(todo, t)
		return nil
	}
	if m.opt.Tenants == nil {
		for t, err := range m.from.Tenants(ctx, tenancy.Filter{}) {
			if err == nil {
				err = consider(t)
			}
			if err != nil {
				return nil, err
			}
		}
		return todo, nil
	}
	for _, id := range slices.Compact(slices.Sorted(slices.Values(m.opt.Tenants))) {
		t, err := m.from.ByID(ctx, id)
		if err == nil {
			err = consider(t)
		}
		if err != nil {
			return nil, err
		}
	}
	return todo, nil
}

// begin sees to it that the move can be begun, or gone on with, and says what there is to do.
func (m *move) begin(ctx context.Context) (todo []tenancy.Tenant, err error) {
	if m.from.Backend() == m.to.Backend() {
		return nil, ErrSamePlace
	}
	m.claims.db = m.to.Shared()
	unfinished, err := m.claims.open(m.lock.Fence(ctx))
	if err != nil {
		return nil, err
	}
	switch same, err := m.claims.seenFrom(ctx, m.from); {
	case err != nil:
		return nil, err
	case same:
		return nil, ErrSamePlace
	case unfinished && !m.opt.Resume:
		return nil, ErrMoveUnfinished
	}
	if todo, err = m.choose(ctx); err != nil {
		return nil, err
	}
	return todo, m.to.CheckEnroll(ctx, todo)
}

// finish puts the tenants that were copied into service, all of them or none.
func (m *move) finish(ctx context.Context) error {
	ids := make([]tenancy.ID, len(m.res.Tenants))
	for i, t := range m.res.Tenants {
		ids[i] = t.Tenant.ID
	}
	// They were copied with what the shared tables were then.
	if err := m.sharedStill(ctx); err != nil {
		return err
	}
	if err := m.arrived.handOver(m.lock.Fence(ctx), m.adopter, m.opt.Parallel); err != nil {
		return err
	}
	if err := m.arrived.enter(m.lock.Fence(ctx), m.to); err != nil {
		return err
	}
	if err := m.to.Enroll(m.lock.Fence(ctx), m.from, ids); err != nil {
		return err
	}
	m.res.InService = true
	m.tell(MoveEvent{Kind: MoveEnrolled})
	if err := m.claims.release(ctx, ids...); err != nil {
		return err
	}
	return m.claims.close(ctx)
}

// one moves a tenant, and notes what came of it. It returns an error when the others cannot be moved either.
func (m *move) one(ctx, whole context.Context, t tenancy.Tenant) error {
	begun := time.Now()
	done := MovedTenant{}
	frozen := false
	err := m.from.Freeze(ctx, t.ID, "it is being copied", func(inside context.Context, now tenancy.Tenant) (err error) {
		done.Tenant, frozen = now, now.Status == tenancy.Active
		done.Rows, done.Same, err = m.copy(m.lock.Fence(ctx), inside, now)
		return err
	})
	if frozen {
		done.ReadOnly = time.Since(begun)
	}
	switch {
	case whole.Err() != nil:
		return context.Cause(whole)
	case errors.Is(err, tenancy.ErrNotFound):
		return nil // it was purged meanwhile
	case errors.Is(err, backend.ErrLockLost):
		return err
	case err != nil:
		m.mu.Lock()
		m.failures, m.failed = append(m.failures, MoveFailure{t, err}), m.failed+1
		m.mu.Unlock()
		m.tell(MoveEvent{Kind: MoveFailed, Tenant: t, Err: err})
		return nil
	}
	m.mu.Lock()
	m.res.Tenants = append(m.res.Tenants, done)
	m.mu.Unlock()
	kind := MoveDone
	if done.Same {
		kind = MoveSame
	}
	m.tell(MoveEvent{Kind: kind, Tenant: done.Tenant, Rows: done.Rows, ReadOnly: done.ReadOnly})
	return nil
}

func (m *move) tell(e MoveEvent) {
	if m.opt.OnEvent == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e.Done, e.Failed, e.Total, e.Elapsed = len(m.res.Tenants), m.failed, m.total, time.Since(m.started)
	m.opt.OnEvent(e)
}

// mappings are those for tables that are there: one move has tenants at several versions.
func (m *move) mappings(tables []Table) (list []Mapping) {
	for _, mapping := range m.opt.Mappings {
		if t, ok := tableNamed(tables, mapping.Table); ok {
			if _, ok := t.column(mapping.Column); ok {
				list = append(list, mapping)
			}
		}
	}
	return list
}

// isOwn reports whether a table of the shared store is the library's.
func isOwn(name string) bool { return strings.HasPrefix(strings.ToLower(name), "tenement_") }
