package migrate

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/sqltext"
)

const (
	ledgerVersions   = "goose_tenement_ledger"
	ledgerSourceName = "tenement_ledger"
)

// ledgerTables are the tables that the ledger consists of.
var ledgerTables = []string{"tenement_ledger", "tenement_ledger_states", "tenement_ledger_revision", "tenement_ledger_runs"}

//go:embed ledger/*.sql
var ledgerFiles embed.FS

func newLedger(m *Migrator) (*ledger, error) {
	files, err := fs.Sub(ledgerFiles, "ledger")
	if err != nil {
		return nil, err
	}
	var faults []error
	src := &series{name: ledgerSourceName, table: ledgerVersions}
	src.load(m.dialect, SetShared, Source{Name: ledgerSourceName, FS: files}, func(e SourceError) { faults = append(faults, &e) })
	return &ledger{db: m.be.Shared(), dialect: m.dialect, source: src, known: map[string]bool{}}, errors.Join(faults...)
}

// Prepare makes the tables of the ledger and those of Config.System, or brings them to what this binary carries. The
// Migrator's other methods do the same for the ledger's; a library whose own tables these are calls it first. Tables that
// a newer binary made are left as they are.
func (m *Migrator) Prepare(ctx context.Context) error {
	if m.parts != nil {
		return m.parts[0].m.Prepare(ctx)
	}
	if err := m.ensureLedger(ctx); err != nil {
		return err
	}
	for _, src := range m.system {
		version, err := m.ledger.versionOf(ctx, src)
		if err != nil {
			return err
		}
		if err := m.upgrade(ctx, src, version); err != nil {
			return err
		}
	}
	return nil
}

// ensureLedger makes the ledger when it is not there, and upgrades one that an older binary made.
func (m *Migrator) ensureLedger(ctx context.Context) error {
	if m.ledger.ready.Load() {
		return nil
	}
	version, err := m.ledger.versionOf(ctx, m.ledger.source)
	if err != nil {
		return err
	}
	return m.upgradeLedger(ctx, version)
}

// openLedger is ensureLedger for whoever only reads: where there is no ledger it makes none, and says so.
func (m *Migrator) openLedger(ctx context.Context) (exists bool, err error) {
	if m.ledger.ready.Load() {
		return true, nil
	}
	version, err := m.ledger.versionOf(ctx, m.ledger.source)
	if err != nil || version == 0 {
		return false, err
	}
	return true, m.upgradeLedger(ctx, version)
}

func (m *Migrator) upgradeLedger(ctx context.Context, version int64) error {
	if err := m.upgrade(ctx, m.ledger.source, version); err != nil {
		return err
	}
	m.ledger.ready.Store(true)
	return nil
}

// versionOf returns the newest version that a source of the library's has in the shared store; 0 when it has none.
func (l *ledger) versionOf(ctx context.Context, src *series) (version int64, err error) {
	var there bool
	if err = l.db.QueryRowContext(ctx, l.dialect.hasTable(), src.table).Scan(&there); err == nil && there {
		var newest sql.NullInt64
		err = l.db.QueryRowContext(ctx, `SELECT max(version_id) FROM `+src.table).Scan(&newest)
		version = newest.Int64
	}
	if err != nil {
		return 0, fmt.Errorf("tenement: migrate: looking for the tables of %s: %w", src.name, err)
	}
	return version, nil
}

// upgrade brings the tables of a library, the ledger's or another's, from a version to what the binary carries.
func (m *Migrator) upgrade(ctx context.Context, src *series, version int64) error {
	if version >= src.migrations[len(src.migrations)-1].version {
		return nil
	}
	fault := func(err error) error {
		return fmt.Errorf("tenement: migrate: preparing the tables of %s: %w", src.name, err)
	}
	free, err := m.slot(ctx)
	if err != nil {
		return fault(err)
	}
	defer free()
	lock, err := m.lock(ctx, "tables/"+src.name)
	if err != nil {
		return fault(err)
	}
	defer lock.Unlock()
	collisions := 0
	return m.persist(ctx, func() error {
		g, err := m.goose(src, m.ledger.db)
		if err != nil {
			return fault(err)
		}
		for _, mig := range src.migrations {
			if mig.version <= version {
				continue
			}
			_, failure := g.up(ctx, mig)
			if failure != nil && collided(failure) && collisions < maxCollisions {
				// Somebody whose lock was lost, or ours, is at the same. He is over when this fails: the server has waited for him.
				collisions++
				return fault(fmt.Errorf("%w: %w", backend.ErrBusy, failure))
			}
			if failure != nil {
				return fault(failure)
			}
		}
		return nil
	})
}

// maxCollisions is how often what stands in the way is taken for another's who makes the same tables; after that it is a
// table of the application's.
const maxCollisions = 3

// collided reports whether a failure was for something of that name that is there: a table, a function, a row of the
// catalog's that another transaction has just committed.
func collided(err error) bool {
	switch sqltext.State(err) {
	case "23505", "42P07", "42710", "42723":
		return true
	}
	return false
}
