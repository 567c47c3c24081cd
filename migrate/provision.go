package migrate

import (
	"context"
	"database/sql"
	"errors"

	"github.com/tenement-go/tenement/backend"
)

// Provision makes the store that rt names, applies the tenant set to it and enters it into the ledger. Called again it
// finishes what an earlier call, or a process that died, left undone, and does nothing when all is done. It returns an
// error that wraps backend.ErrStoreExists when there is a store of that name that is not rt.Owner's, and a [*StoreError]
// when a migration fails, in which case the store is there, with the migrations before it.
//
// Where the backend can copy a template, the migrations up to the first Go migration, or the first with something random
// in it, are run once and copied.
func (m *Migrator) Provision(ctx context.Context, rt backend.Route) error {
	if err := m.ledger.ensure(ctx); err != nil {
		return err
	}
	done, err := m.create(ctx, rt)
	switch {
	case err == nil && done:
		m.gate.forget(rt.Store)
		return nil
	case errors.Is(err, backend.ErrStoreExists):
		info, statErr := m.be.Stat(ctx, rt.Store)
		if statErr != nil {
			return statErr
		}
		if info.Owner != rt.Owner {
			return err
		}
	case err != nil:
		return err
	}
	return m.finishProvision(ctx, rt)
}

// create makes the store, with as much of the tenant set in it as can be had at once. done says that this was all.
func (m *Migrator) create(ctx context.Context, rt backend.Route) (done bool, err error) {
	todo, _ := m.tenant.pending(state{}, limit{})
	n := 0
	switch {
	case m.templates != nil:
		for n < len(todo) && !todo[n].varies {
			n++
		}
	case m.scripts != nil && m.dialect.name == backend.Postgres:
		for n < len(todo) && todo[n].text {
			n++
		}
	}
	first := todo[:n]
	have := state{}.with(first)
	switch {
	case n == 0:
		return false, m.be.Create(ctx, rt)
	case m.templates != nil:
		err := m.templates.CreateFrom(ctx, rt, "tenement/migrate/"+have.fingerprint(), func(ctx context.Context, db *sql.DB) error {
			if _, failure := m.gooseUp(ctx, m.tenant, db, first); failure != nil {
				failure.Store, failure.Set = rt.Store, SetTenant
				return failure
			}
			return nil
		})
		if err != nil {
			return false, err
		}
		return n == len(todo), m.ledger.put(ctx, m.ledger.db, rt, have, nil)
	}
	if _, err := m.ledger.publish(ctx, m.ledger.db, have); err != nil {
		return false, err
	}
	script := backend.Script{Route: rt, Create: true, SQL: m.provisionText(rt, have, first)}
	err = m.scripts.RunScripts(ctx, []backend.Script{script}, backend.ScriptOptions{LockTimeout: m.cfg.LockTimeout})[0]
	switch {
	case err == nil:
		return n == len(todo), nil
	case errors.Is(err, backend.ErrStoreExists), sqlState(err) == "" && !errors.Is(err, backend.ErrOutcomeUnknown):
		return false, err
	}
	// goose will say what is wrong, or that nothing is.
	m.log.InfoContext(ctx, "migration text failed; goose takes over", "store", rt.Store.String(), "error", err)
	return false, m.be.Create(ctx, rt)
}

func (m *Migrator) finishProvision(ctx context.Context, rt backend.Route) error {
	out, err := m.insist(ctx, m.tenant, rt, m.up(m.tenant, limit{}))
	if err != nil {
		return err
	}
	if out.failure != nil {
		return out.failure
	}
	return nil
}
