package migrate

import (
	"context"
	"database/sql"
	"fmt"
	"slices"

	"github.com/tenement-go/tenement/backend"
)

// AppliedSource is what a tenant store has of one source: what a copy of the store made elsewhere has to begin with.
type AppliedSource struct {
	Source   string           `json:"source"`
	Table    string           `json:"table"` // goose's version table in that store
	Versions []AppliedVersion `json:"versions"`
}

// AppliedVersion is a version that a store has.
type AppliedVersion struct {
	Version int64  `json:"version"`
	Sum     string `json:"sum"`            // of the file that was applied; "go" for a Go migration, "?" when it is not known
	File    string `json:"file,omitempty"` // as this binary has it; empty when it has not got it
}

// Querier is what a store is asked with: a [*sql.DB] of it, or a transaction, for an answer as of its snapshot.
type Querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// VersionError says that a store cannot be made at the versions that were asked for. errors.Is(err, [ErrUnknownSource])
// holds for one that this binary has not got.
type VersionError struct {
	Source  string
	Version int64 // 0: the source itself is the matter
	Reason  string
	unknown bool
}

// Error names the source, the version and the reason.
func (e *VersionError) Error() string {
	if e.Version == 0 {
		return fmt.Sprintf("tenement: migrate: source %s: %s", e.Source, e.Reason)
	}
	return fmt.Sprintf("tenement: migrate: source %s version %d: %s", e.Source, e.Version, e.Reason)
}

// Is reports whether target is ErrUnknownSource and the binary has not got the version.
func (e *VersionError) Is(target error) bool { return e.unknown && target == ErrUnknownSource }

// Applied returns what asks the store of rt, through the Querier that it is given, which versions of the tenant set it has.
// Checksums are those that the ledger has, which is asked now (so that who is in a transaction need not wait for another
// connection), or, where it does not know, those of this binary's files.
func (m *Migrator) Applied(ctx context.Context, rt backend.Route) (ask func(ctx context.Context, q Querier) ([]AppliedSource, error), err error) {
	if m, err = m.of(ctx, rt.Store); err != nil {
		return nil, err
	}
	exists, err := m.openLedger(ctx)
	if err != nil {
		return nil, err
	}
	known := state{}
	if exists {
		row, err := m.ledger.entry(ctx, rt.Store.String())
		if err != nil {
			return nil, err
		}
		if row != nil && (rt.Owner == "" || row.owner == rt.Owner) {
			known = row.state
		}
	}
	return func(ctx context.Context, q Querier) ([]AppliedSource, error) {
		have, err := m.readState(ctx, m.tenant, q, known)
		if err != nil {
			return nil, fmt.Errorf("tenement: migrate: asking %s for its versions: %w", storeTitle(rt), err)
		}
		return m.tenant.listed(have), nil
	}, nil
}

// AppliedShared is [Migrator.Applied] of the shared set.
func (m *Migrator) AppliedShared(ctx context.Context) (ask func(ctx context.Context, q Querier) ([]AppliedSource, error), err error) {
	exists, err := m.openLedger(ctx)
	if err != nil {
		return nil, err
	}
	known := state{}
	if exists {
		row, err := m.ledger.entry(ctx, "")
		if err != nil {
			return nil, err
		}
		if row != nil {
			known = row.state
		}
	}
	return func(ctx context.Context, q Querier) ([]AppliedSource, error) {
		have, err := m.readState(ctx, m.shared, q, known)
		if err != nil {
			return nil, fmt.Errorf("tenement: migrate: asking the shared store for its versions: %w", err)
		}
		return m.shared.listed(have), nil
	}, nil
}

// SharedVersionTables are goose's version tables in the shared store, those of the library's own tables among them.
func (m *Migrator) SharedVersionTables() (tables []string) {
	for _, src := range append(slices.Clone(m.shared.sources), m.system...) {
		tables = append(tables, src.table)
	}
	return tables
}

// listed is a state in the order of the sources.
func (s *set) listed(have state) []AppliedSource {
	var list []AppliedSource
	for _, src := range s.sources {
		versions, there := have[src.name]
		if !there {
			continue
		}
		as := AppliedSource{Source: src.name, Table: src.table, Versions: []AppliedVersion{}}
		for _, a := range versions {
			v := AppliedVersion{Version: a.Version, Sum: a.Sum}
			if mig := src.find(a.Version); mig != nil {
				v.File = mig.file
			}
			as.Versions = append(as.Versions, v)
		}
		list = append(list, as)
	}
	return list
}

// CheckApplied returns a [*VersionError] when this binary cannot make a store with exactly those versions: it has not got
// one, or has another text of it. Texts are compared where the file is of the same name, since a version may have a
// file of its own for each dialect.
func (m *Migrator) CheckApplied(at []AppliedSource) error {
	_, err := m.migrationsOf(at)
	return err
}

func (m *Migrator) migrationsOf(at []AppliedSource) (todo []*migration, err error) {
	wanted := map[string]AppliedSource{}
	for _, as := range at {
		if m.tenant.find(as.Source) == nil {
			return nil, &VersionError{
				Source: as.Source, unknown: true,
				Reason: fmt.Sprintf("this program's tenant set has no such source (it has: %s)", m.tenant.names()),
			}
		}
		wanted[as.Source] = as
	}
	for _, src := range m.tenant.sources {
		for _, v := range wanted[src.name].Versions {
			mig := src.find(v.Version)
			switch {
			case mig == nil:
				return nil, &VersionError{
					Source: src.name, Version: v.Version, unknown: true,
					Reason: "this program has no such migration; use the one that the store was migrated with, or a newer one",
				}
			case v.File == mig.file && v.Sum != "?" && v.Sum != mig.sum:
				return nil, &VersionError{
					Source: src.name, Version: v.Version,
					Reason: fmt.Sprintf("%s is not the text that was applied (checksum %s, applied was %s)", mig.file, mig.sum, v.Sum),
				}
			}
			todo = append(todo, mig)
		}
	}
	return todo, nil
}

// ProvisionAt is [Migrator.ProvisionUnentered] with the versions that another store had, rather than the newest, for those
// who load that store's rows next: they enter it once the rows are there, since a migration of all stores that came
// before them would have changed none. It is never nil without an error. It returns what CheckApplied does, before
// anything is made.
func (m *Migrator) ProvisionAt(ctx context.Context, rt backend.Route, at []AppliedSource, o ProvisionOptions) (*Unentered, error) {
	if _, err := m.migrationsOf(at); err != nil {
		return nil, err
	}
	m, err := m.settled(ctx, rt.Store)
	if err != nil {
		return nil, err
	}
	todo, err := m.migrationsOf(at)
	if err != nil {
		return nil, err
	}
	return m.provision(ctx, rt, making{todo: todo, rest: m.applyThese(todo), later: o.Async, unentered: true})
}

// applyThese is the work of applying some migrations, those of them that a store has not got.
func (m *Migrator) applyThese(todo []*migration) work {
	return work{do: func(ctx context.Context, w *workplace) ([]*migration, *StoreError) {
		var missing []*migration
		for _, mig := range todo {
			if !w.have.has(mig.source.name, mig.version) {
				missing = append(missing, mig)
			}
		}
		done, failure := m.run(ctx, w.db, missing)
		if failure == nil {
			failure = w.invalidIndexes(ctx)
		}
		return done, failure
	}}
}
