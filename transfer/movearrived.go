package transfer

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
)

// arrivals are the stores that have arrived in the target. Its ledger has none of them before all have: a migration of all
// stores leaves them as they are in the source, with which they are compared when the move is gone on with.
type arrivals struct {
	mu     sync.Mutex
	stores map[tenancy.ID]arrival
}

type arrival struct {
	rt   backend.Route
	made *migrate.Unentered // nil when it was there already
}

func (l *arrivals) add(id tenancy.ID, a arrival) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stores == nil {
		l.stores = map[tenancy.ID]arrival{}
	}
	l.stores[id] = a
}

func (l *arrivals) remove(id tenancy.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.stores, id)
}

// handOver makes the stores their tenants', several at once. They are in service right after, or are found to be theirs when the
// move is gone on with.
func (l *arrivals) handOver(ctx context.Context, adopter backend.Adopter, parallel int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	work, within := errgroup.WithContext(ctx)
	work.SetLimit(parallel)
	for id, a := range l.stores {
		if a.rt.Owner == string(id) {
			continue
		}
		arrived := a.rt
		work.Go(func() error { return adopter.Restamp(within, arrived, string(id)) })
		a.rt.Owner = string(id)
		if a.made != nil {
			a.made = a.made.Restamped(string(id))
		}
		l.stores[id] = a
	}
	return work.Wait()
}

// enter has the target's ledger know of all of them, in one transaction; those that were there already are asked what they
// have. It is done ahead of their being in service, when whoever is let in has to find them ready.
func (l *arrivals) enter(ctx context.Context, to *tenancy.App) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var made []*migrate.Unentered
	var there []backend.Store
	for _, a := range l.stores {
		if a.made != nil {
			made = append(made, a.made)
		} else {
			there = append(there, a.rt.Store)
		}
	}
	if err := to.Migrator().Enter(ctx, there...); err != nil {
		return err
	}
	tx, err := to.Shared().BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // it was committed, or the error is the one that is returned
	for _, u := range made {
		if err := u.Enter(ctx, tx); err != nil {
			return err
		}
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	for _, u := range made {
		u.Entered()
	}
	return nil
}
