package migrate

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/tenement-go/tenement/backend"
)

// Stores that are made before there is anyone to own them. The ledger does not have them, so that no run goes through them
// and no status counts them, until whoever gives one to an owner enters it.

// Fingerprint stands for the migrations that a new store gets: sources, versions and checksums.
func (m *Migrator) Fingerprint() string {
	m.newest()
	return m.ahead.print
}

// ahead is what a new store gets, worked out once.
type ahead struct {
	once  sync.Once
	state state
	print string
}

func (m *Migrator) newest() state {
	m.ahead.once.Do(func() {
		todo, _ := m.tenant.pending(state{}, limit{})
		m.ahead.state = state{}.with(todo)
		m.ahead.print = m.ahead.state.fingerprint()
	})
	return m.ahead.state
}

// Newer reports whether a store at that fingerprint has something that this binary does not know, and so was made by a later
// one. Of a fingerprint that nobody wrote down it is false.
func (m *Migrator) Newer(ctx context.Context, fingerprint string) (bool, error) {
	if err := m.ensureLedger(ctx); err != nil {
		return false, err
	}
	var text sql.NullString
	err := m.ledger.db.QueryRowContext(ctx, m.dialect.bind(`SELECT applied FROM tenement_ledger_states WHERE fingerprint = ?`), fingerprint).Scan(&text)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("tenement: migrate: reading the ledger: %w", err)
	}
	s, err := decodeState(text)
	return s.without(m.newest()), err
}

// aheadTogether is how many stores are made in one transaction, which locks all that is in them: 20 tables with two indexes
// each are 80 locks, of 6,400 as Postgres is shipped.
const aheadTogether = 8

// ProvisionAhead makes stores as [Migrator.Provision] does and does not enter them into the ledger; see [Migrator.Made]. On Postgres
// it makes several in one transaction, because every connection to the database plans its statements anew after each
// that makes a schema. It returns one error per route, nil for those that are there, at [Migrator.Fingerprint].
func (m *Migrator) ProvisionAhead(ctx context.Context, routes []backend.Route) []error {
	faults := make([]error, len(routes))
	for from := 0; from < len(routes); from += aheadTogether {
		lot := routes[from:min(from+aheadTogether, len(routes))]
		if len(lot) > 1 && m.aheadAtOnce(ctx, lot) == nil {
			continue
		}
		// One by one, then, which also says what is wrong.
		for i, rt := range lot {
			faults[from+i] = m.aheadOne(ctx, rt)
		}
	}
	return faults
}

var errNotAsText = errors.New("it cannot be made by one text")

// aheadAtOnce makes stores in one transaction, or none of them.
func (m *Migrator) aheadAtOnce(ctx context.Context, routes []backend.Route) error {
	todo, _ := m.tenant.pending(state{}, limit{})
	if m.scripts == nil || m.templates != nil || m.parts != nil || len(todo) == 0 ||
		slices.ContainsFunc(todo, func(mig *migration) bool { return mig.fresh == nil }) {
		return errNotAsText
	}
	if err := m.ensureLedger(ctx); err != nil {
		return err
	}
	print, err := m.ledger.publish(ctx, m.newest())
	if err != nil {
		return err
	}
	text, ok := m.births.text(m.dialect, print, todo)
	if !ok {
		return errNotAsText
	}
	free, err := m.slot(ctx)
	if err != nil {
		return err
	}
	defer free()
	script := backend.Script{Route: routes[0], Create: true, Also: routes[1:], SQL: text}
	return m.scripts.RunScripts(backend.Apart(ctx), []backend.Script{script}, backend.ScriptOptions{LockTimeout: m.cfg.LockTimeout})[0]
}

func (m *Migrator) aheadOne(ctx context.Context, rt backend.Route) error {
	made, err := m.ProvisionUnentered(ctx, rt, ProvisionOptions{})
	if err != nil || made != nil {
		return err
	}
	// goose had a part in it, or a script whose head wrote the row.
	_, err = m.ledger.remove(ctx, rt, m.Fingerprint())
	return err
}

// Made is a store that ProvisionAhead made, at [Migrator.Fingerprint], and that is rt.Owner's by now.
func (m *Migrator) Made(rt backend.Route) *Unentered { return &Unentered{m, rt, m.newest()} }

// EnterSQL is [Unentered.Enter] for a statement of the caller's on Postgres: the rows of a query whose columns are store and
// owner are entered by it. arg adds a value to the statement and returns its placeholder.
func (m *Migrator) EnterSQL(arg func(v any) string, from string) string {
	return `INSERT INTO tenement_ledger (store, owner, fingerprint, updated_at) SELECT n.store, n.owner, ` + arg(m.Fingerprint()) +
		`::text, (extract(epoch FROM clock_timestamp()) * 1000)::bigint FROM (` + from + `) n (store, owner)
		ON CONFLICT (store) DO UPDATE SET owner = excluded.owner, fingerprint = excluded.fingerprint, updated_at = excluded.updated_at,
		failed_source = '', failed_version = 0, failed_state = '', failed_error = ''`
}

// Given has this process ask the ledger about a store that was entered by the caller.
func (m *Migrator) Given(s backend.Store) { m.gate.forget(s) }
