package migrate

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"

	"github.com/pressly/goose/v3"
)

// options are the terms of one run, however it was asked for.
type options struct {
	Fleet
	set    Set
	source string
	to     int64
	dryRun io.Writer
}

// Up applies what is pending: to the shared store, and then, when that succeeded, to every store of the ledger that
// lacks something, or to those that the options name. The result is the tenant set's; its Shared field has the other.
// With SharedOnly it is the shared set's.
//
// It returns ErrSharedBehind while the shared set is not applied, ErrOutOfOrder when it would apply a migration below one
// that is applied, and ErrUnknownSource when no set in the scope has the source, before anything is changed. A store that
// fails does not stop the others, unless the options say so; the error is then a [*RunError]. A store that is gone by the
// time its turn comes is skipped, and counted as missing. A run that was stopped or cancelled, or killed, is resumed by
// calling Up again, or by [Migrator.Settle]. Two runs at once share the work.
func (m *Migrator) Up(ctx context.Context, opt UpOptions) (*Result, error) {
	return m.upBoth(ctx, opt.Scope, options{Fleet: opt.Fleet, source: opt.Source, dryRun: opt.DryRun})
}

// UpTo is Up for one source, whose newest migration is to be version. The source's name may be empty when the scope has
// only one. It returns ErrUnknownSource when there is no such source or version.
func (m *Migrator) UpTo(ctx context.Context, source string, version int64, opt UpToOptions) (*Result, error) {
	if version <= 0 {
		return nil, fmt.Errorf("tenement: migrate: %w: version %d", ErrUnknownSource, version)
	}
	return m.upBoth(ctx, opt.Scope, options{Fleet: opt.Fleet, source: source, to: version, dryRun: opt.DryRun})
}

func (m *Migrator) upBoth(ctx context.Context, scope Scope, opt options) (*Result, error) {
	withShared := scope != TenantsOnly && (m.shared.has(opt.source) || scope == SharedOnly)
	withTenants := scope != SharedOnly && (m.tenant.has(opt.source) || scope == TenantsOnly || !withShared)
	var shared *Result
	var err error
	if withShared {
		if shared, err = m.upShared(ctx, opt); err != nil || !withTenants {
			return shared, err
		}
	}
	res, err := m.upTenants(ctx, opt)
	if res != nil {
		res.Shared = shared
	}
	return res, err
}

// has reports whether the set has work for a run that is limited to a source, or not limited.
func (s *set) has(source string) bool {
	if source == "" {
		return len(s.sources) > 0
	}
	return s.find(source) != nil
}

// Down undoes the newest migrations of one source, as many as steps says (at least one), newest first, in every store of
// the set or in those that the options name. The source's name may be empty when the set has only one. It returns
// ErrUnknownSource when the set has no such source. Before a store is touched, processes that serve it are told: their
// Ready refuses it within [ReadyBound].
func (m *Migrator) Down(ctx context.Context, source string, steps int, opt SourceOptions) (*Result, error) {
	return m.withSource(ctx, opt.options(source, 0), func(src *series) storeFunc { return m.downSteps(src, max(steps, 1)) })
}

// DownTo is Down for the migrations that are newer than version; 0 undoes everything.
func (m *Migrator) DownTo(ctx context.Context, source string, version int64, opt SourceOptions) (*Result, error) {
	return m.withSource(ctx, opt.options(source, version), func(src *series) storeFunc { return m.downTo(src, version) })
}

// Redo undoes the newest migration of one source and applies it again, as Down does.
func (m *Migrator) Redo(ctx context.Context, source string, opt SourceOptions) (*Result, error) {
	return m.withSource(ctx, opt.options(source, 0), func(src *series) storeFunc {
		return func(ctx context.Context, db *sql.DB, have state) ([]*migration, *StoreError) {
			undone, failure := m.downSteps(src, 1)(ctx, db, have)
			if failure != nil || len(undone) == 0 {
				return undone, failure
			}
			done, failure := m.goose(src, db, func(p *goose.Provider) ([]*goose.MigrationResult, error) {
				return p.UpTo(ctx, undone[0].version)
			})
			return append(undone, done...), failure
		}
	})
}

// Baseline records the migrations of one source up to version (0: all of them) as applied, without running them, in every
// store of the set or in those that the options name. It also accepts, as they are now, the files of migrations that were
// edited after they were applied. The source's name may be empty when the set has only one.
func (m *Migrator) Baseline(ctx context.Context, source string, version int64, opt SourceOptions) (*Result, error) {
	return m.withSource(ctx, opt.options(source, version), func(src *series) storeFunc {
		return func(ctx context.Context, db *sql.DB, have state) (done []*migration, failure *StoreError) {
			err := m.record(ctx, src, db, have, version)
			if err != nil {
				return nil, &StoreError{Source: src.name, SQLState: sqlState(err), Err: err}
			}
			for _, mig := range src.migrations {
				if version == 0 || mig.version <= version {
					done = append(done, mig)
				}
			}
			return done, nil
		}
	})
}

func (o SourceOptions) options(source string, to int64) options {
	return options{Fleet: o.Fleet, set: o.Set, source: source, to: to}
}

// Prepare makes the tables of the ledger and those of Config.System, or brings them to what this binary carries. Every
// method that writes does the same; a library whose own tables these are calls it first.
func (m *Migrator) Prepare(ctx context.Context) error {
	if err := m.ledger.ensure(ctx); err != nil {
		return err
	}
	for _, src := range m.system {
		if err := m.ledger.ensureSource(ctx, src); err != nil {
			return err
		}
	}
	return nil
}

// Settle finishes what runs of Up left undone whose process died, when they were for the migrations that this binary
// carries. It costs one query when there is nothing to do. Call it now and then from a program that runs for long; it
// returns what it did, or nil.
func (m *Migrator) Settle(context.Context) (*Result, error) { return nil, errors.ErrUnsupported }

// Close ends the migrations that Ready began, each after the migration that it is at, and waits for them. Ready migrates
// nothing afterwards. The backend stays the caller's.
func (m *Migrator) Close() error { return nil }
