package migrate

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/sqltext"
)

// Provision makes the store that rt names, applies the tenant set to it and enters it into the ledger. Called again it
// finishes what an earlier call, or a process that died, left undone, and does nothing when all is done. It returns an
// error that wraps backend.ErrStoreExists when there is a store of that name that is not rt.Owner's, and a [*StoreError]
// when a migration fails, in which case the store is there, with the migrations before it.
//
// Where the backend can copy a template, the migrations up to the first Go migration, or the first with something random
// in it, are run once and copied.
func (m *Migrator) Provision(ctx context.Context, rt backend.Route) error {
	m, err := m.settled(ctx, rt.Store)
	if err != nil {
		return err
	}
	todo, _ := m.tenant.pending(state{}, limit{})
	made, err := m.provision(ctx, rt, making{todo: todo, rest: m.apply(limit{})})
	if err != nil || made == nil {
		return err
	}
	return made.EnterNow(ctx)
}

// making says how a store is made.
type making struct {
	todo      []*migration
	rest      work // applies those of todo that a store lacks
	later     bool // it need not be on disk yet
	unentered bool // the ledger is not to have it, whichever way it is made
}

// Unentered is a store that was made and that the ledger does not have yet.
type Unentered struct {
	m    *Migrator
	rt   backend.Route
	have state
}

// Enter writes the store's row in tx, a transaction on the shared store. It may be called again when that was undone. The
// row of an earlier store of the name, if one was left, is replaced. Where the store is in another place than home, whose
// ledger is elsewhere, it is written there, at once.
func (u *Unentered) Enter(ctx context.Context, tx Execer) error {
	if u.m.apart {
		tx = u.m.ledger.db
	}
	return u.m.ledger.replace(ctx, tx, u.rt, u.have)
}

// Restamped is the same store, after it was made another owner's.
func (u *Unentered) Restamped(owner string) *Unentered {
	return &Unentered{u.m, backend.Route{Store: u.rt.Store, Owner: owner}, u.have}
}

// Entered is called when the transaction was committed.
func (u *Unentered) Entered() { u.m.gate.forget(u.rt.Store) }

// EnterNow is Enter in a transaction of its own, and Entered.
func (u *Unentered) EnterNow(ctx context.Context) error {
	if err := u.Enter(ctx, u.m.ledger.db); err != nil {
		return err
	}
	u.Entered()
	return nil
}

// Execer is what [Unentered] needs of a [*sql.Tx] or a [*sql.DB].
type Execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// ProvisionUnentered is [Migrator.Provision] for those who write something else about the store in a transaction on the
// shared store: the ledger's row can go with it, rather than have a commit of its own. What it returns is nil when the
// ledger has the row already. A store that is never entered is behind to [Migrator.Ready], and one that no run goes
// through unless it is named; Provision enters it.
//
// With o.Async the store need not be on disk when it returns, as long as that transaction is not: should the server fail
// in between, it was never there.
func (m *Migrator) ProvisionUnentered(ctx context.Context, rt backend.Route, o ProvisionOptions) (*Unentered, error) {
	m, err := m.settled(ctx, rt.Store)
	if err != nil {
		return nil, err
	}
	todo, _ := m.tenant.pending(state{}, limit{})
	return m.provision(ctx, rt, making{todo: todo, rest: m.apply(limit{}), later: o.Async})
}

// ProvisionOptions are those of [Migrator.ProvisionUnentered] and [Migrator.ProvisionAt].
type ProvisionOptions struct {
	// Async is for those who commit a transaction next, in the same database, and do nothing in between that would be
	// missed: on Postgres one wait for the disk is then enough for both.
	Async bool
}

// provision makes a store. It returns nil when the ledger has it.
func (m *Migrator) provision(ctx context.Context, rt backend.Route, how making) (*Unentered, error) {
	if err := m.ensureLedger(ctx); err != nil {
		return nil, err
	}
	free, err := m.slot(ctx)
	if err != nil {
		return nil, fmt.Errorf("tenement: migrate: making %s: %w", storeTitle(rt), err)
	}
	defer free()
	made, entered, err := m.create(ctx, rt, how)
	switch {
	case errors.Is(err, backend.ErrStoreExists):
		info, statErr := m.be.Stat(ctx, rt.Store)
		if statErr != nil {
			return nil, statErr
		}
		if info.Owner != rt.Owner {
			return nil, err
		}
	case err != nil:
		return nil, err
	}
	switch {
	case entered && made != nil:
		made.Entered()
		return nil, nil
	case made == nil:
		if made, err = m.complete(ctx, rt, how); err != nil || made == nil {
			return nil, err
		}
	}
	// What the row refers to is there before it; it is written once for all stores.
	if _, err := m.ledger.publish(ctx, made.have); err != nil {
		return nil, err
	}
	return made, nil
}

// complete brings a store that is there on, through goose. It returns nil when the ledger has it.
func (m *Migrator) complete(ctx context.Context, rt backend.Route, how making) (*Unentered, error) {
	do := how.rest
	do.unentered = how.unentered
	out, err := m.insist(ctx, m.tenant, rt, do)
	switch {
	case err != nil:
		return nil, err
	case out.missing:
		return nil, fmt.Errorf("tenement: migrate: %s: %w: it was dropped meanwhile", storeTitle(rt), backend.ErrStoreMissing)
	case out.failure != nil:
		return nil, out.failure
	case how.unentered:
		return &Unentered{m, rt, out.have}, nil
	}
	return nil, nil
}

// create makes the store, with as many of the migrations in it as can be had at once. It returns nil unless this was all,
// and whether the ledger has it.
func (m *Migrator) create(ctx context.Context, rt backend.Route, how making) (made *Unentered, entered bool, err error) {
	todo := how.todo
	var first []*migration
	switch {
	case m.templates != nil:
		first = leading(todo, func(mig *migration) bool { return !mig.varies })
	case m.scripts != nil:
		first = leading(todo, func(mig *migration) bool { return mig.fresh != nil })
	}
	if len(first) == 0 {
		return nil, false, m.be.Create(ctx, rt)
	}
	have := state{}.with(first)
	done := true
	if m.templates != nil {
		err = m.createFrom(ctx, rt, have, first)
	} else {
		done, entered, err = m.createBy(ctx, rt, have, first, how)
	}
	if err != nil || !done || len(first) < len(todo) {
		return nil, entered, err
	}
	return &Unentered{m, rt, have}, entered, nil
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
	return m.templates.CreateFrom(ctx, rt, "tenement/migrate/"+have.fingerprint(), func(ctx context.Context, db *sql.DB) error {
		if _, failure := m.run(ctx, db, first); failure != nil {
			failure.Store, failure.Set = rt.Store, SetTenant
			return failure
		}
		return nil
	})
}

// births keeps the text that fills a new store: it has no guards, and is the same for all of them.
type births struct {
	mu   sync.Mutex
	made string // the fingerprint
	sql  string
}

// text returns what makes the migrations first, whose fingerprint is print; ok is false when they cannot be sent as text.
func (b *births) text(d dialect, print string, first []*migration) (sql string, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.made != print {
		sc, ok := d.compose(state{}, first, true)
		if !ok {
			return "", false
		}
		b.made, b.sql = print, sc.body
	}
	return b.sql, true
}

// createBy makes the store by a script, with its migrations. What is CONCURRENTLY elsewhere, so that a store's traffic
// goes on, is not in a store that nobody sees yet: there it would wait for every other tenant's transactions. made is
// false when the store is there, and still empty.
func (m *Migrator) createBy(ctx context.Context, rt backend.Route, have state, first []*migration, how making) (made, entered bool, err error) {
	print, err := m.ledger.publish(ctx, have)
	if err != nil {
		return false, false, err
	}
	text, ok := m.births.text(m.dialect, print, first)
	if !ok {
		return false, false, m.be.Create(ctx, rt)
	}
	head := ""
	if !how.unentered {
		head = m.newLane().birth(rt, print)
	}
	script := backend.Script{Route: rt, Create: true, Head: head, SQL: text}
	err = m.scripts.RunScripts(ctx, []backend.Script{script}, backend.ScriptOptions{LockTimeout: m.cfg.LockTimeout, Async: how.later})[0]
	switch {
	case err == nil, errors.Is(err, backend.ErrStoreExists), sqltext.State(err) == "" && !errors.Is(err, backend.ErrOutcomeUnknown):
		return true, head != "", err
	}
	// goose will say what is wrong, or that nothing is.
	m.log.InfoContext(ctx, "migration text failed; goose takes over", "store", rt.Store.String(), "error", err)
	return false, false, m.be.Create(ctx, rt)
}
