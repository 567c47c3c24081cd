package migrate

import (
	"context"
	"database/sql"
	"math"

	"github.com/pressly/goose/v3/database"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/sqltext"
)

// The kinds of work.

// apply is the work of an up: whatever is pending.
func (m *Migrator) apply(lim limit) work {
	return work{do: func(ctx context.Context, w *workplace) ([]*migration, *StoreError) {
		p := w.set.plan(w.have, lim)
		if p.late != nil && !m.cfg.AllowOutOfOrder {
			return nil, &StoreError{Source: p.late.source.name, Version: p.late.version, File: p.late.file, Err: outOfOrder(p.late)}
		}
		done, failure := m.run(ctx, w.db, p.todo)
		if failure == nil {
			failure = w.invalidIndexes(ctx)
		}
		return done, failure
	}}
}

// run applies migrations through goose, each of which may turn out to have been applied by another migrator.
func (m *Migrator) run(ctx context.Context, db *sql.DB, todo []*migration) (done []*migration, failure *StoreError) {
	var g *gooseRun
	for _, mig := range todo {
		if g == nil || g.src != mig.source {
			var err error
			if g, err = m.goose(mig.source, db); err != nil {
				return done, &StoreError{Source: mig.source.name, Err: err}
			}
		}
		if err := context.Cause(ctx); err != nil {
			return done, &StoreError{Source: mig.source.name, Version: mig.version, File: mig.file, Err: err}
		}
		applied, failure := g.up(ctx, mig)
		if failure != nil {
			return done, failure
		}
		if applied {
			done = append(done, mig)
		}
	}
	return done, nil
}

// record is the work of a baseline: versions up to one, as if they had been applied.
func (m *Migrator) record(src *series, upTo int64) work {
	if upTo == 0 {
		upTo = math.MaxInt64
	}
	return work{do: func(ctx context.Context, w *workplace) (done []*migration, failure *StoreError) {
		if err := m.recordIn(ctx, w, src, upTo); err != nil {
			return nil, &StoreError{Source: src.name, SQLState: sqltext.State(err), Err: err}
		}
		for _, mig := range src.migrations {
			if mig.version <= upTo {
				done = append(done, mig)
			}
		}
		return done, nil
	}}
}

func (m *Migrator) recordIn(ctx context.Context, w *workplace, src *series, upTo int64) error {
	table, err := m.dialect.versionTable(src)
	if err != nil {
		return err
	}
	tx, err := w.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if _, there := w.have[src.name]; !there {
		if err := table.CreateVersionTable(ctx, tx); err != nil {
			return err
		}
		if err := table.Insert(ctx, tx, database.InsertRequest{Version: 0}); err != nil {
			return err
		}
	}
	for _, mig := range src.migrations {
		if mig.version <= upTo && !w.have.has(src.name, mig.version) {
			if err := table.Insert(ctx, tx, database.InsertRequest{Version: mig.version}); err != nil {
				return err
			}
		}
	}
	return tx.Commit()
}

// look is the work of a verification: nothing is changed, but an index that is invalid is a failure.
func (m *Migrator) look() work {
	return work{do: func(ctx context.Context, w *workplace) ([]*migration, *StoreError) {
		return nil, w.invalidIndexes(ctx)
	}}
}

// invalidIndexes is the failure of a store in which a migration that is applied made an index that is invalid; nil of
// another.
func (w *workplace) invalidIndexes(ctx context.Context) *StoreError {
	if w.m.dialect.name != backend.Postgres {
		return nil
	}
	for _, src := range w.set.sources {
		for _, a := range w.have[src.name] {
			mig := src.find(a.Version)
			if mig == nil || len(mig.indexes) == 0 {
				continue
			}
			if err := invalidIndex(ctx, w.db, mig.indexes); err != nil {
				return &StoreError{Source: src.name, Version: mig.version, File: mig.file, SQLState: sqltext.State(err), Err: err}
			}
		}
	}
	return nil
}
