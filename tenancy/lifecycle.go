package tenancy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tenement-go/tenement/backend"
)

// keyedLocks excludes operations on one key: in this process by itself, then in others by the backend's lock. So a
// process never waits for the backend's lock more than once per key, whatever it has to wait with.
type keyedLocks struct {
	mu sync.Mutex
	m  map[string]*keyedLock
}

type keyedLock struct {
	turn    chan struct{} // holds one value while the lock is taken
	waiters int           // under keyedLocks.mu
}

func (k *keyedLocks) lock(ctx context.Context, key string) (unlock func(), err error) {
	k.mu.Lock()
	if k.m == nil {
		k.m = map[string]*keyedLock{}
	}
	l := k.m[key]
	if l == nil {
		l = &keyedLock{turn: make(chan struct{}, 1)}
		k.m[key] = l
	}
	l.waiters++
	k.mu.Unlock()
	leave := func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.waiters--; l.waiters == 0 {
			delete(k.m, key)
		}
	}
	select {
	case l.turn <- struct{}{}:
		return func() { <-l.turn; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, context.Cause(ctx)
	}
}

// maxLocks is how many operations of one process hold the backend's locks at once: on Postgres each costs a connection.
const maxLocks = 8

// lock excludes other lifecycle operations on these slugs, in all processes. It dies with the process, so who gets it
// and finds an operation begun knows that nobody is working on that.
func (a *App) lock(ctx context.Context, slugs ...string) (unlock func(), err error) {
	slugs = slices.Clone(slugs)
	slices.Sort(slugs) // one order for all, or two renames could wait for each other
	slugs = slices.Compact(slugs)
	var held []func()
	release := func() {
		for _, u := range slices.Backward(held) {
			u()
		}
	}
	defer func() {
		if err != nil {
			release()
		}
	}()
	for _, slug := range slugs {
		u, err := a.locks.lock(ctx, slug)
		if err != nil {
			return nil, err
		}
		held = append(held, u)
	}
	locker, ok := a.be.(backend.Locker)
	if !ok {
		return release, nil
	}
	select {
	case a.lockSlots <- struct{}{}:
		held = append(held, func() { <-a.lockSlots })
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	for _, slug := range slugs {
		u, err := locker.Lock(ctx, "tenement/tenant/"+slug)
		if err != nil {
			return nil, err
		}
		held = append(held, u.Unlock)
	}
	return release, nil
}

// write changes the registry and makes this process act on it. fn returns the tenants as they are after the change.
func (a *App) write(ctx context.Context, kind EventKind, fn func(ctx context.Context, tx *registryTx) ([]*Tenant, error)) error {
	var changed []*Tenant
	first, last, err := a.reg.change(ctx, func(ctx context.Context, tx *registryTx) (err error) {
		changed, err = fn(ctx, tx)
		return err
	})
	if err != nil || len(changed) == 0 {
		return err
	}
	a.ownMu.Lock()
	for r := first; r <= last; r++ {
		a.own[r] = struct{}{}
	}
	a.ownMu.Unlock()
	a.gen.Add(1)
	for _, t := range changed {
		if kind == EventPurged {
			if l := a.lives.find(t.ID); l != nil {
				l.forget()
			}
		} else {
			a.learned(t)
		}
	}
	if a.cfg.Hooks.OnChange != nil {
		for _, t := range changed {
			a.cfg.Hooks.OnChange(ctx, Event{Kind: kind, Tenant: *t})
		}
	}
	return nil
}

// Create makes a tenant: it claims slug, store and domains, makes the store, brings it to the newest version, calls
// OnCreate in the tenant's context, and only then is the tenant active and served.
//
// Called again for a tenant whose creation failed or was interrupted, it starts over, with the new spec and the ID it
// had; nothing of what was half made stays. It returns a [*FieldError] for a spec that is wrong and a [*ConflictError]
// when slug, store or a domain is another tenant's, in both cases having changed nothing. A creation of the same slug
// that is under way elsewhere is waited for, and then is such a conflict. When making the store or OnCreate fails the
// tenant is Failed, and the original error is in the chain of the one returned.
func (a *App) Create(ctx context.Context, spec Spec) (Tenant, error) {
	p, err := spec.check(a.cfg.IgnoreWWW)
	if err == nil && !spec.Reserved {
		err = a.CheckSlug(spec.Slug)
	}
	if err != nil {
		return Tenant{}, err
	}
	ctx = Leave(ctx)
	unlock, err := a.lock(ctx, p.slug)
	if err != nil {
		return Tenant{}, opError("create", p.slug, err)
	}
	defer unlock()
	t, resumed, err := a.claim(ctx, p)
	if err != nil {
		return Tenant{}, opError("create", p.slug, err)
	}
	a.step("create: claimed")
	if t, err = a.provision(ctx, t, resumed); err != nil {
		return *t, opError("create", p.slug, err)
	}
	a.step("create: done")
	return *t, nil
}

// claim enters the tenant into the registry, or takes up one that was not finished.
func (a *App) claim(ctx context.Context, p plan) (t *Tenant, resumed bool, err error) {
	id, err := newID()
	if err != nil {
		return nil, false, err
	}
	err = a.write(ctx, EventClaimed, func(ctx context.Context, tx *registryTx) ([]*Tenant, error) {
		t, resumed = &Tenant{
			ID: id, Slug: p.slug, Name: p.name, Status: Provisioning, Store: p.store, Meta: p.meta, Version: 1,
			Created: parseTime(tx.at), Updated: parseTime(tx.at),
		}, false
		res, err := tx.ExecContext(ctx, `INSERT INTO tenement_tenants (id, slug, name, status, store, meta, created_at, updated_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $7) ON CONFLICT DO NOTHING`,
			string(t.ID), t.Slug, t.Name, string(t.Status), t.Store.String(), string(t.Meta), tx.at)
		if err != nil {
			return nil, err
		}
		if n, err := res.RowsAffected(); err != nil {
			return nil, err
		} else if n == 0 {
			resumed = true
			if t, err = tx.reclaim(ctx, p); err != nil {
				return nil, err
			}
		} else {
			tx.touch(t.ID, EventClaimed)
		}
		if err := tx.setDomains(ctx, t.ID, p.domains); err != nil {
			return nil, err
		}
		t.Domains = nil
		for i, h := range p.domains {
			t.Domains = append(t.Domains, Domain{Host: h, Primary: i == 0})
		}
		slices.SortFunc(t.Domains, func(a, b Domain) int { return strings.Compare(a.Host, b.Host) })
		return []*Tenant{t}, nil
	})
	return t, resumed, err
}

// reclaim takes up the unfinished tenant of that slug, without its domains, or says what stands in the way.
func (tx *registryTx) reclaim(ctx context.Context, p plan) (*Tenant, error) {
	t, err := one(ctx, tx, selectBySlug, p.slug)
	if errors.Is(err, ErrNotFound) {
		if err := tx.conflict(ctx, "", p.slug, p.store, nil); err != nil {
			return nil, err
		}
		return nil, errRetry // what was in the way is gone
	}
	if err != nil {
		return nil, err
	}
	if t.Status != Provisioning && t.Status != Failed {
		return nil, &ConflictError{Field: "slug", Value: p.slug, By: t.Slug}
	}
	if err := tx.conflict(ctx, t.ID, p.slug, p.store, p.domains); err != nil {
		return nil, err
	}
	if p.store != t.Store {
		// The other store is this tenant's own and never was served; whoever finishes the creation removes it.
		return nil, &ConflictError{Field: "slug", Value: p.slug, By: t.Slug}
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM tenement_domains WHERE tenant_id = $1`, string(t.ID)); err != nil {
		return nil, err
	}
	err = tx.update(ctx, t, EventClaimed, `name = $4, status = $5, reason = '', meta = $6`, p.name, string(Provisioning), string(p.meta))
	if err != nil {
		return nil, err
	}
	t.Name, t.Status, t.Reason, t.Meta = p.name, Provisioning, "", p.meta
	t.changed(tx)
	return t, nil
}

// changed notes on a copy what [registryTx.update] did besides.
func (t *Tenant) changed(tx *registryTx) {
	t.Version++
	t.Updated = parseTime(tx.at)
}

func parseTime(text string) time.Time {
	at, err := time.Parse(timeFormat, text)
	if err != nil {
		panic(err) // it was formatted by now
	}
	return at
}

// provision makes the store of a claimed tenant and makes the tenant active. It returns the tenant as it is after
// that, also with an error.
func (a *App) provision(ctx context.Context, t *Tenant, resumed bool) (*Tenant, error) {
	err := a.makeStore(ctx, t, resumed)
	if errors.Is(err, backend.ErrStoreExists) {
		// Another owner's: the claim was wrong, nothing of it may stay.
		if err := a.unclaim(ctx, t); err != nil {
			return t, err
		}
		return t, &ConflictError{Field: "store", Value: t.Store.String()}
	}
	if err != nil {
		return a.fail(ctx, t, err)
	}
	if resumed {
		if err := a.tidy(ctx, t.Store); err != nil {
			return a.fail(ctx, t, err)
		}
	}
	active, err := a.setStatus(ctx, t, Active, "", EventCreated)
	if err != nil {
		return t, err
	}
	return active, nil
}

func (a *App) makeStore(ctx context.Context, t *Tenant, resumed bool) error {
	if resumed {
		// It was never served, so what is in it is the rest of a creation. An OnCreate that got half-way would
		// stumble over its own rows.
		if err := a.be.Drop(ctx, t.route()); err != nil && !errors.Is(err, backend.ErrStoreMissing) {
			return err
		}
		a.step("create: dropped")
	}
	if err := a.migrator.Provision(ctx, t.route()); err != nil {
		return err
	}
	a.step("create: provisioned")
	if a.cfg.Hooks.OnCreate != nil {
		if err := a.cfg.Hooks.OnCreate(backend.WithRouter(ctx, t), *t, nil); err != nil {
			return fmt.Errorf("OnCreate: %w", err)
		}
	}
	a.step("create: filled")
	return nil
}

// tidy removes what an interrupted operation left beside stores that are the caller's to change.
func (a *App) tidy(ctx context.Context, stores ...backend.Store) error {
	sweeper, ok := a.be.(backend.Sweeper)
	if !ok {
		return nil
	}
	leftovers, err := sweeper.Leftovers(ctx)
	if err != nil {
		return err
	}
	for _, l := range leftovers {
		if !l.Store.IsZero() && slices.Contains(stores, l.Store) {
			if err := sweeper.Sweep(ctx, l); err != nil {
				return err
			}
		}
	}
	return nil
}

// cleanupTimeout bounds what is done about a failure after the caller's context is over.
const cleanupTimeout = 10 * time.Second

func (a *App) fail(ctx context.Context, t *Tenant, cause error) (*Tenant, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	reason := strings.ToValidUTF8(cause.Error(), "")
	if len(reason) > maxReason {
		reason = strings.ToValidUTF8(reason[:maxReason], "") + "…"
	}
	failed, err := a.setStatus(ctx, t, Failed, strings.ReplaceAll(reason, "\x00", ""), EventFailed)
	if err != nil {
		// It stays "provisioning", from which it is resumed just as well.
		return t, errors.Join(cause, err)
	}
	return failed, cause
}

func (a *App) unclaim(ctx context.Context, t *Tenant) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	return a.erase(ctx, t)
}

// erase removes the tenant from the registry.
func (a *App) erase(ctx context.Context, t *Tenant) error {
	return a.write(ctx, EventPurged, func(ctx context.Context, tx *registryTx) ([]*Tenant, error) {
		if _, err := tx.ExecContext(ctx, `DELETE FROM tenement_domains WHERE tenant_id = $1`, string(t.ID)); err != nil {
			return nil, err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM tenement_tenants WHERE id = $1`, string(t.ID)); err != nil {
			return nil, err
		}
		tx.touch(t.ID, EventPurged)
		return []*Tenant{t}, nil
	})
}

// setStatus moves t, as it was read, to another status.
func (a *App) setStatus(ctx context.Context, t *Tenant, to Status, reason string, kind EventKind) (*Tenant, error) {
	var after *Tenant
	err := a.write(ctx, kind, func(ctx context.Context, tx *registryTx) ([]*Tenant, error) {
		copied := *t
		after = &copied
		if err := tx.update(ctx, t, kind, `status = $4, reason = $5`, string(to), reason); err != nil {
			return nil, err
		}
		after.Status, after.Reason = to, reason
		after.changed(tx)
		return []*Tenant{after}, nil
	})
	if err != nil {
		return nil, err
	}
	return after, nil
}

// Purge removes a deleted tenant for good: its store, its files, its place in the registry. The slug and the domains
// are free then, the ID is not used again. It waits until the tombstone is older than the bound on staleness, so that
// no other process is still serving the tenant. Interrupted, it is finished by the same call.
func (a *App) Purge(ctx context.Context, id ID) error {
	ctx = Leave(ctx)
	t, err := a.ByID(ctx, id)
	if err != nil {
		return opError("purge", string(id), err)
	}
	slug := t.Slug
	unlock, err := a.lock(ctx, slug)
	if err != nil {
		return opError("purge", slug, err)
	}
	defer unlock()
	return opError("purge", slug, a.purge(ctx, slug))
}

func (a *App) purge(ctx context.Context, slug string) error {
	t, err := one(ctx, a.reg.db, selectBySlug, slug)
	if err != nil {
		return err
	}
	if t.Status != Deleted {
		return &StatusError{Op: "purge", Slug: slug, Status: t.Status, Remedy: "delete it first"}
	}
	if t.pending.kind == opRename {
		if t, err = a.finishRename(ctx, t, true); err != nil {
			return err
		}
	}
	if t.pending.kind != opPurge {
		if err := a.waitStale(ctx, t.Updated); err != nil {
			return err
		}
		err = a.write(ctx, EventDeleted, func(ctx context.Context, tx *registryTx) ([]*Tenant, error) {
			if err := tx.update(ctx, t, EventDeleted, `op = $4`, opPurge); err != nil {
				return nil, err
			}
			copied := *t
			copied.changed(tx)
			copied.pending = pendingOp{kind: opPurge}
			return []*Tenant{&copied}, nil
		})
		if err != nil {
			return err
		}
		t.pending.kind = opPurge
		return a.finishPurge(ctx, t, false)
	}
	return a.finishPurge(ctx, t, true)
}

func (a *App) finishPurge(ctx context.Context, t *Tenant, resumed bool) error {
	a.step("purge: marked")
	if err := a.be.Drop(ctx, t.route()); err != nil && !errors.Is(err, backend.ErrStoreMissing) {
		return err
	}
	if resumed {
		if err := a.tidy(ctx, t.Store); err != nil {
			return err
		}
	}
	a.step("purge: dropped")
	if err := a.migrator.Forget(ctx, t.Store); err != nil {
		return err
	}
	a.step("purge: forgotten")
	if a.files != nil {
		if err := a.files.RemoveAll(string(t.ID)); err != nil {
			return err
		}
	}
	a.step("purge: files removed")
	if err := a.erase(ctx, t); err != nil {
		return err
	}
	a.step("purge: erased")
	return nil
}

// waitStale waits until a change made at that time, by another machine's clock perhaps, has reached every process.
func (a *App) waitStale(ctx context.Context, at time.Time) error {
	bound := a.StalenessBound()
	if bound > time.Minute {
		return nil
	}
	wait := bound - time.Since(at)
	if wait <= 0 {
		return nil
	}
	timer := time.NewTimer(min(wait, bound))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Rename gives a tenant another slug. A store that is named after the slug is renamed with it; ID, data and domains
// stay. While the store is being moved calls on it fail with backend.ErrStoreMissing, in other processes until they
// have heard of it. Interrupted, it is finished by the same call. It returns a [*ConflictError] when the slug or the
// store is taken, having changed nothing.
func (a *App) Rename(ctx context.Context, id ID, newSlug string) (Tenant, error) {
	if err := a.CheckSlug(newSlug); err != nil {
		return Tenant{}, err
	}
	ctx = Leave(ctx)
	before, err := a.ByID(ctx, id)
	if err != nil {
		return Tenant{}, opError("rename", string(id), err)
	}
	slug := before.Slug
	if before.pending.kind == opRename {
		slug = before.pending.slug
	}
	unlock, err := a.lock(ctx, slug, newSlug)
	if err != nil {
		return Tenant{}, opError("rename", slug, err)
	}
	defer unlock()
	t, err := a.rename(ctx, slug, newSlug)
	if err != nil {
		return Tenant{}, opError("rename", slug, err)
	}
	return *t, nil
}

func (a *App) rename(ctx context.Context, slug, newSlug string) (*Tenant, error) {
	t, err := one(ctx, a.reg.db, selectBySlug, slug)
	if errors.Is(err, ErrNotFound) {
		// Begun before, and interrupted?
		if t, err := one(ctx, a.reg.db, selectBySlug, newSlug); err == nil && t.pending.kind == opRename && t.pending.slug == slug {
			return a.finishRename(ctx, t, true)
		}
	}
	if err != nil {
		return nil, err
	}
	if t.pending.kind == opRename {
		if t, err = a.finishRename(ctx, t, true); err != nil {
			return nil, err
		}
	}
	if t.Status != Active && t.Status != Suspended {
		return nil, &StatusError{Op: "rename", Slug: slug, Status: t.Status, Remedy: "only an active or suspended tenant can be renamed"}
	}
	if slug == newSlug {
		return t, nil
	}
	var moveTo backend.Store
	if t.Store.String() == slug {
		if moveTo, err = backend.ParseStore(newSlug); err != nil {
			return nil, err
		}
	}
	err = a.write(ctx, EventRenamed, func(ctx context.Context, tx *registryTx) ([]*Tenant, error) {
		if err := tx.conflict(ctx, t.ID, newSlug, moveTo, nil); err != nil {
			return nil, err
		}
		var opStore any
		copied := *t
		copied.Slug = newSlug
		set := `slug = $4, op_slug = $5, op_store = $6, op = $7`
		if !moveTo.IsZero() {
			opStore = moveTo.String()
			copied.pending = pendingOp{kind: opRename, slug: slug, store: moveTo}
		}
		if err := tx.update(ctx, t, EventRenamed, set, newSlug, copied.pending.slug, opStore, copied.pending.kind); err != nil {
			return nil, err
		}
		copied.changed(tx)
		t = &copied
		return []*Tenant{t}, nil
	})
	if err != nil {
		return nil, err
	}
	if moveTo.IsZero() {
		return t, nil
	}
	a.step("rename: slug changed")
	return a.finishRename(ctx, t, false)
}

// finishRename moves the store of a tenant whose slug was changed already.
func (a *App) finishRename(ctx context.Context, t *Tenant, resumed bool) (*Tenant, error) {
	to := t.pending.store
	switch err := a.be.Rename(ctx, t.route(), to); {
	case errors.Is(err, backend.ErrStoreMissing):
		info, statErr := a.be.Stat(ctx, to)
		if statErr != nil {
			return nil, errors.Join(err, statErr)
		}
		if info.Owner != string(t.ID) {
			return nil, err
		}
		// Moved before the interruption.
	case errors.Is(err, backend.ErrStoreExists):
		return nil, errors.Join(&ConflictError{Field: "store", Value: to.String()}, a.undoRename(ctx, t))
	case err != nil:
		return nil, err
	}
	if resumed {
		if err := a.tidy(ctx, t.Store, to); err != nil {
			return nil, err
		}
	}
	a.step("rename: store moved")
	if err := a.migrator.Renamed(ctx, t.Store, to); err != nil {
		return nil, err
	}
	a.step("rename: ledger follows")
	var after *Tenant
	err := a.write(ctx, EventRenamed, func(ctx context.Context, tx *registryTx) ([]*Tenant, error) {
		current, err := one(ctx, tx, selectByID, string(t.ID))
		if err != nil {
			return nil, err
		}
		if err := tx.update(ctx, current, EventRenamed, `store = $4, op = '', op_slug = '', op_store = NULL`, to.String()); err != nil {
			return nil, err
		}
		current.Store, current.pending = to, pendingOp{}
		current.changed(tx)
		after = current
		return []*Tenant{current}, nil
	})
	if err != nil {
		return nil, err
	}
	a.step("rename: done")
	return after, nil
}

// undoRename gives a tenant its old slug back when its store cannot be moved.
func (a *App) undoRename(ctx context.Context, t *Tenant) error {
	return a.write(ctx, EventRenamed, func(ctx context.Context, tx *registryTx) ([]*Tenant, error) {
		current, err := one(ctx, tx, selectByID, string(t.ID))
		if err != nil {
			return nil, err
		}
		if err := tx.conflict(ctx, t.ID, t.pending.slug, t.Store, nil); err != nil {
			return nil, err
		}
		if err := tx.update(ctx, current, EventRenamed, `slug = $4, op = '', op_slug = '', op_store = NULL`, t.pending.slug); err != nil {
			return nil, err
		}
		current.Slug, current.pending = t.pending.slug, pendingOp{}
		current.changed(tx)
		return []*Tenant{current}, nil
	})
}
