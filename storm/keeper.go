package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/tenancy"
	"github.com/tenement-go/tenement/transfer"
)

// keeper lets tenants come, change and go, and gives the slugs of those that went to others.
type keeper struct {
	s   *server
	rng *rand.Rand
}

func (k *keeper) slug() string { return fmt.Sprintf("t%d", k.rng.IntN(2*k.s.Tenants)) }

func (k *keeper) run(ctx context.Context) {
	for ctx.Err() == nil {
		crowd := *k.s.crowd.Load()
		if len(crowd) == 0 || k.rng.IntN(k.s.Tenants) >= len(crowd) {
			k.create(ctx)
			continue
		}
		k.change(ctx, crowd[k.rng.IntN(len(crowd))])
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(k.rng.IntN(60)) * time.Millisecond):
		}
	}
}

const patience = 20 * time.Second

func (k *keeper) create(ctx context.Context) {
	_ = k.s.do(ctx, "create", patience, func(ctx context.Context) error {
		return k.make(ctx, k.slug())
	})
}

func (k *keeper) make(ctx context.Context, slug string) error {
	_, err := k.acknowledged(func() (tenancy.Tenant, error) { return k.s.app.Create(ctx, tenancy.Spec{Slug: slug}) })
	return err
}

// acknowledged journals what a change has made of a tenant, and returns it.
func (k *keeper) acknowledged(change func() (tenancy.Tenant, error)) (tenancy.Tenant, error) {
	began := time.Now()
	t, err := change()
	if err == nil {
		k.s.j.changed(t, began)
	}
	return t, err
}

func (k *keeper) change(ctx context.Context, t tenancy.Tenant) {
	app := k.s.app
	do := func(kind string, fn func(ctx context.Context) error) {
		_ = k.s.do(ctx, kind, patience, fn)
	}
	move := func(kind string, to func(ctx context.Context, id tenancy.ID) (tenancy.Tenant, error)) {
		do(kind, func(ctx context.Context) error {
			_, err := k.acknowledged(func() (tenancy.Tenant, error) { return to(ctx, t.ID) })
			return err
		})
	}
	switch n := k.rng.IntN(100); {
	case t.Status == tenancy.Deleted && n < 70, n < 15:
		do("purge", func(ctx context.Context) error { return k.purge(ctx, t, n%2 == 0) })
	case t.Status == tenancy.Deleted:
		move("restore", app.Restore)
	case t.Status != tenancy.Active:
		move("activate", app.Activate)
	case n < 45:
		do("rename", func(ctx context.Context) error { return k.rename(ctx, t) })
	case n < 55:
		move("delete", app.Delete)
	case n < 65:
		move("suspend", func(ctx context.Context, id tenancy.ID) (tenancy.Tenant, error) { return app.Suspend(ctx, id, "storm") })
	case n < 80:
		do("read-only", func(ctx context.Context) error { return k.readOnly(ctx, t) })
	case n < 88:
		do("clone", func(ctx context.Context) error { return k.clone(ctx, t) })
	default:
		k.create(ctx)
	}
}

func (k *keeper) rename(ctx context.Context, t tenancy.Tenant) error {
	slug := k.slug()
	_, err := k.acknowledged(func() (tenancy.Tenant, error) { return k.s.app.Rename(ctx, t.ID, slug) })
	if err == nil {
		k.stale(backend.WithRoute(ctx, t.Route()), t)
	}
	return err
}

// purge purges a tenant, and gives its name to another at once when somebody wants it.
func (k *keeper) purge(ctx context.Context, t tenancy.Tenant, wanted bool) error {
	app := k.s.app
	inside, entered, leave, err := app.Enter(ctx, t.ID, tenancy.Policy{Operator: true, AnyVersion: true})
	if err == nil {
		defer leave()
		_, _ = readContent(inside, app, entered) // what is kept of the store is known here
	}
	// What this process knows may be from before a clone took up the creation of that tenant; what is deleted is what there is.
	deleted, err := k.acknowledged(func() (tenancy.Tenant, error) { return app.Delete(ctx, t.ID) })
	if err != nil {
		return err
	}
	if entered != nil {
		k.lastReading(inside, &deleted)
	}
	k.s.j.note(linePurging, string(t.ID))
	err = app.Purge(ctx, t.ID)
	k.s.j.asked(t.ID)
	if err != nil {
		return err
	}
	k.s.j.note(lineGone, string(t.ID))
	if wanted {
		err = k.make(ctx, t.Slug)
	}
	k.stale(inside, t)
	return err
}

// lastReading journals what is in a store that is about to go, for the judge, who comes too late. Where it fails what was written
// there is not judged.
func (k *keeper) lastReading(ctx context.Context, t *tenancy.Tenant) {
	s, err := readContent(ctx, k.s.app, t)
	if err == nil {
		s.Purged = true
		err = k.s.j.reading(s)
	}
	if err != nil {
		k.s.tally("last reading", err)
		return
	}
	k.s.ops.Add(1)
}

// stale uses a context of before, whose store has gone or has another name by now.
func (k *keeper) stale(ctx context.Context, t tenancy.Tenant) {
	v := &visit{actor: newActor(k.s, k.rng), t: &t}
	_ = v.readAll(ctx)
	_ = v.insert(ctx)
}

// readOnly makes a tenant read-only for a moment, and tries to write.
func (k *keeper) readOnly(ctx context.Context, t tenancy.Tenant) error {
	app := k.s.app
	frozen, err := k.acknowledged(func() (tenancy.Tenant, error) { return app.SetReadOnly(ctx, t.ID, "storm") })
	if err != nil {
		return err
	}
	v := &visit{actor: newActor(k.s, k.rng)}
	err = app.Run(ctx, t.ID, tenancy.Policy{}, func(ctx context.Context, now *tenancy.Tenant) error {
		if v.t = now; now.Version != frozen.Version {
			return nil // another keeper changed it
		}
		return v.writing(1, func(id uint64) error {
			err := v.put(ctx, v.db(), id, 0)
			if err == nil {
				// Unless another keeper changed it meanwhile: what is done in a tenant follows it.
				if after, err := app.ByID(ctx, now.ID); err == nil && after.Version == frozen.Version {
					k.s.breach("wrong: tenant %s was written to while it was read-only", now.ID)
				}
			} else if errors.Is(err, tenancy.ErrReadOnly) {
				return errNever
			}
			return err
		})
	})
	_, activated := k.acknowledged(func() (tenancy.Tenant, error) { return app.Activate(ctx, t.ID) })
	return errors.Join(err, activated)
}

// clone makes a tenant with all the rows of another; its name says of whom.
func (k *keeper) clone(ctx context.Context, t tenancy.Tenant) error {
	if len(t.Name) > 20 {
		return nil // of a clone, the rows are of two
	}
	spec := tenancy.Spec{Slug: k.slug(), Name: cloneOf + string(t.ID)}
	_, err := k.acknowledged(func() (tenancy.Tenant, error) {
		return transfer.Clone(ctx, k.s.app, t.ID, transfer.CloneOptions{Spec: spec})
	})
	return err
}
