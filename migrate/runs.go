package migrate

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/tenement-go/tenement/backend"
)

// A run over the tenants has a row in the ledger and holds a lock of its name for as long as it lasts. A row whose lock is
// free is that of a run whose process died.

// The limits of runs with which nobody goes on whose process died: whoever finds one has the ledger know what became of the
// stores.
var (
	lookOnly   = limit{to: -1} // something was undone, of which everybody was told before: the ledger says where
	lookBehind = limit{to: -2} // something may have been applied in stores that the ledger calls behind
)

// looks reports whether a run is one with which nobody goes on.
func (l limit) looks() bool { return l == lookOnly || l == lookBehind }

// entered does a run that others finish, as far as a limit, should its process die.
func (m *Migrator) entered(ctx context.Context, f *fleet, lim limit) (*Result, error) {
	if f.opt.unlisted {
		return m.unlisted(ctx, f)
	}
	over, err := m.begin(ctx, f, lim)
	if err != nil {
		return nil, err
	}
	res, err := f.do(ctx)
	known := m.known(ctx, f, lim)
	return res, errors.Join(err, over(ctx, known))
}

// unlisted does a run that others do not finish for its own sake. The error is, or wraps, errUnsettled when the ledger does not
// know of all stores what became of them.
func (m *Migrator) unlisted(ctx context.Context, f *fleet) (*Result, error) {
	res, err := f.do(ctx)
	if !m.known(ctx, f, f.opt.limit) {
		err = errors.Join(err, errUnsettled)
	}
	return res, err
}

var errUnsettled = errors.New("the ledger could not be told what became of all stores")

// known reports whether the ledger knows what became of all stores of a run, and has it know if that can be.
func (m *Migrator) known(ctx context.Context, f *fleet, lim limit) bool {
	if !f.unsettled.Load() {
		return true
	}
	ctx, cancel := outlasting(ctx)
	defer cancel()
	_, err := m.findOut(ctx, lim)
	return !unfinished(err)
}

// unfinished reports whether a run ended for another reason than that all of its stores were visited.
func unfinished(err error) bool {
	var run *RunError
	return err != nil && (!errors.As(err, &run) || run.Err != nil)
}

// begin enters a run that has something to do. over ends it, whatever came of it: who stopped a run meant it. Unless it is
// forgotten, whoever settles runs finds out what became of its stores.
func (m *Migrator) begin(ctx context.Context, f *fleet, lim limit) (over func(ctx context.Context, forget bool) error, err error) {
	if f.res.Total == 0 {
		return func(context.Context, bool) error { return nil }, nil
	}
	id := uuid.NewString()
	lock, err := m.lock(ctx, runKey(id)) // nobody else can be waiting for it, so it needs no slot
	if err != nil {
		return nil, fmt.Errorf("tenement: migrate: beginning a run: %w", err)
	}
	m.runs.add(id)
	err = m.persist(ctx, func() error {
		_, err := m.ledger.db.ExecContext(ctx, m.dialect.bind(
			`INSERT INTO tenement_ledger_runs (id, target, source, to_version, started_at) VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING`),
			id, m.tenant.target.fingerprint(), lim.source, lim.to, time.Now().UnixMilli())
		return err
	})
	if err != nil {
		m.runs.remove(id)
		lock.Unlock()
		return nil, fmt.Errorf("tenement: migrate: beginning a run: %w", err)
	}
	return func(ctx context.Context, forget bool) error {
		defer lock.Unlock()
		defer m.runs.remove(id)
		ctx, cancel := outlasting(ctx)
		defer cancel()
		switch {
		case forget:
			return m.persist(ctx, func() error { return m.ledger.endRun(ctx, id) })
		case lim.looks():
			return nil
		}
		return m.persist(ctx, func() error { return m.ledger.stopRun(ctx, id) })
	}, nil
}

func runKey(id string) string { return "run/" + id }

// ownRuns are the runs of this Migrator that are under way.
type ownRuns struct {
	mu  sync.Mutex
	ids map[string]bool
}

func (r *ownRuns) add(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ids == nil {
		r.ids = map[string]bool{}
	}
	r.ids[id] = true
}

func (r *ownRuns) remove(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.ids, id)
}

func (r *ownRuns) has(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ids[id]
}

func (l *ledger) endRun(ctx context.Context, id string) error {
	if _, err := l.db.ExecContext(ctx, l.dialect.bind(`DELETE FROM tenement_ledger_runs WHERE id = ?`), id); err != nil {
		return fmt.Errorf("tenement: migrate: writing the ledger: %w", err)
	}
	return nil
}

// stopRun leaves of a run what nobody goes on with.
func (l *ledger) stopRun(ctx context.Context, id string) error {
	_, err := l.db.ExecContext(ctx, l.dialect.bind(`UPDATE tenement_ledger_runs SET source = ?, to_version = ? WHERE id = ?`), lookBehind.source, lookBehind.to, id)
	if err != nil {
		return fmt.Errorf("tenement: migrate: writing the ledger: %w", err)
	}
	return nil
}

// openRun is a run as the ledger has it.
type openRun struct {
	id string
	limit
}

// openRuns returns the runs that are not over, for the migrations that a binary of this target carries, and those that any
// can finish.
func (l *ledger) openRuns(ctx context.Context, target string) ([]openRun, error) {
	fault := func(err error) error { return fmt.Errorf("tenement: migrate: reading the ledger: %w", err) }
	rows, err := l.db.QueryContext(ctx, l.dialect.bind(
		`SELECT id, source, to_version FROM tenement_ledger_runs WHERE target = ? OR to_version = ? ORDER BY started_at, id`), target, lookOnly.to)
	if err != nil {
		return nil, fault(err)
	}
	defer func() { _ = rows.Close() }()
	var list []openRun
	for rows.Next() {
		var r openRun
		if err := rows.Scan(&r.id, &r.source, &r.to); err != nil {
			return nil, fault(err)
		}
		list = append(list, r)
	}
	if err := rows.Err(); err != nil {
		return nil, fault(err)
	}
	return list, nil
}

// findOut asks the stores of which the ledger does not know what they have, or does not know for certain, after a run of that
// limit.
func (m *Migrator) findOut(ctx context.Context, lim limit) (*Result, error) {
	if m.scripts != nil { // what is not on disk yet is nothing for the ledger
		if err := flush(ctx, m.scripts); err != nil {
			return nil, err
		}
	}
	groups, _, err := m.ledger.groups(ctx)
	if err != nil {
		return nil, err
	}
	f := m.newFleet(options{}, m.look())
	sel, total := rowsOf(groups, func(g group) bool {
		return g.state == nil || lim != lookOnly && f.planFor(g.fingerprint, g.state).behind()
	})
	f.over(sel, total, nil)
	return f.do(backend.Apart(ctx))
}

// Settle finishes what runs over the tenants left undone whose process died, when they were for the migrations that this
// binary carries. Of a run that was given its stores by name it finds out what was done, and does no more. A run that was
// stopped, by its context or its options, or that is under way elsewhere, is left alone. One that cannot be finished does not
// keep it from the next. It costs one query when there is nothing to do: call it now and then from a program that runs for
// long. It returns what it did, nil when there was nothing, and the errors of [Migrator.Up].
func (m *Migrator) Settle(ctx context.Context) (*Result, error) {
	if m.parts != nil {
		return m.inPlaces(ctx, Fleet{}, func(m *Migrator, _ Fleet) (*Result, error) { return m.Settle(ctx) })
	}
	exists, err := m.openLedger(ctx)
	if err != nil || !exists {
		return nil, err
	}
	open, err := m.ledger.openRuns(ctx, m.tenant.target.fingerprint())
	if err != nil {
		return nil, err
	}
	var faults []error // one that cannot be finished is not in the way of the others
	for _, r := range open {
		if m.runs.has(r.id) {
			continue
		}
		res, err := m.adopt(ctx, r)
		if err != nil {
			faults = append(faults, err)
		}
		if res != nil && err == nil || ctx.Err() != nil {
			return res, errors.Join(faults...)
		}
	}
	return nil, errors.Join(faults...)
}

// adopt finishes a run if nobody is at it.
func (m *Migrator) adopt(ctx context.Context, r openRun) (*Result, error) {
	lock, err := m.tryLock(ctx, runKey(r.id))
	switch {
	case errors.Is(err, backend.ErrBusy):
		return nil, nil // it is under way
	case err != nil:
		return nil, err
	}
	defer lock.Unlock()
	open, err := m.ledger.openRuns(ctx, m.tenant.target.fingerprint())
	if err != nil {
		return nil, err
	}
	for _, still := range open {
		if still.id != r.id {
			continue
		}
		m.log.InfoContext(ctx, "a run over the tenants was left undone; going on with it")
		var res *Result
		if r.looks() {
			res, err = m.findOut(ctx, r.limit)
		} else {
			res, err = m.upTenants(ctx, options{limit: r.limit, unlisted: true})
		}
		switch {
		case ctx.Err() != nil, unfinished(err) && (r.looks() || passing(err, m.dialect)):
			return res, err // whoever calls next goes on
		case errors.Is(err, errUnsettled):
			return res, errors.Join(err, m.ledger.stopRun(ctx, r.id))
		}
		return res, errors.Join(err, m.ledger.endRun(ctx, r.id))
	}
	return nil, nil // it came to its end meanwhile
}
