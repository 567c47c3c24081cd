package migrate

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

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
	todo, _ := m.tenant.pending(state{}, limit{})
	return m.provision(ctx, rt, todo, m.apply(limit{}))
}

// provision makes the store with the migrations todo in it; rest is what applies those of them that a store lacks.
func (m *Migrator) provision(ctx context.Context, rt backend.Route, todo []*migration, rest work) error {
	if err := m.ensureLedger(ctx); err != nil {
		return err
	}
	free, err := m.slot(ctx)
	if err != nil {
		return fmt.Errorf("tenement: migrate: making %s: %w", storeTitle(rt), err)
	}
	defer free()
	done, err := m.create(ctx, rt, todo)
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
	out, err := m.insist(ctx, m.tenant, rt, rest)
	switch {
	case err != nil:
		return err
	case out.missing:
		return fmt.Errorf("tenement: migrate: %s: %w: it was dropped meanwhile", storeTitle(rt), backend.ErrStoreMissing)
	case out.failure != nil:
		return out.failure
	}
	return nil
}

// create makes the store, with as many of the migrations in it as can be had at once. done says that these were all.
func (m *Migrator) create(ctx context.Context, rt backend.Route, todo []*migration) (done bool, err error) {
	var first []*migration
	switch {
	case m.templates != nil:
		first = leading(todo, func(mig *migration) bool { return !mig.varies })
	case m.scripts != nil:
		first = leading(todo, func(mig *migration) bool { return mig.fresh != nil })
	}
	if len(first) == 0 {
		return false, m.be.Create(ctx, rt)
	}
	have := state{}.with(first)
	made := true
	if m.templates != nil {
		err = m.createFrom(ctx, rt, have, first)
	} else {
		made, err = m.createBy(ctx, rt, have, first)
	}
	return made && len(first) == len(todo), err
}

func leading(todo []*migration, fits func(*migration) bool) []*migration {
	for n, mig := range todo {
		if !fits(mig) {
			return todo[:n]
		}
	}
	return todo
}

// createFrom makes the store as a copy of a template.
func (m *Migrator) createFrom(ctx context.Context, rt backend.Route, have state, first []*migration) error {
	err := m.templates.CreateFrom(ctx, rt, "tenement/migrate/"+have.fingerprint(), func(ctx context.Context, db *sql.DB) error {
		if _, failure := m.run(ctx, db, first); failure != nil {
			failure.Store, failure.Set = rt.Store, SetTenant
			return failure
		}
		return nil
	})
	if err != nil {
		return err
	}
	return m.ledger.replace(ctx, rt, have)
}

// createBy makes the store by a script, with its migrations. What is CONCURRENTLY elsewhere, so that a store's traffic
// goes on, is not in a store that nobody sees yet: there it would wait for every other tenant's transactions. made is
// false when the store is there, and still empty.
func (m *Migrator) createBy(ctx context.Context, rt backend.Route, have state, first []*migration) (made bool, err error) {
	print, err := m.ledger.publish(ctx, have)
	if err != nil {
		return false, err
	}
	sc, ok := m.dialect.compose(state{}, first, true)
	if !ok {
		return false, m.be.Create(ctx, rt)
	}
	head := m.newLane().birth(rt, print)
	script := backend.Script{Route: rt, Create: true, Head: head, SQL: sc.in(rt.Store)}
	err = m.scripts.RunScripts(ctx, []backend.Script{script}, backend.ScriptOptions{LockTimeout: m.cfg.LockTimeout})[0]
	switch {
	case err == nil && head == "":
		return true, m.ledger.replace(ctx, rt, have)
	case err == nil, errors.Is(err, backend.ErrStoreExists), sqlState(err) == "" && !errors.Is(err, backend.ErrOutcomeUnknown):
		return true, err
	}
	// goose will say what is wrong, or that nothing is.
	m.log.InfoContext(ctx, "migration text failed; goose takes over", "store", rt.Store.String(), "error", err)
	return false, m.be.Create(ctx, rt)
}
