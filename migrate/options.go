package migrate

import (
	"io"

	"github.com/tenement-go/tenement/backend"
)

// Set names one of the two sets of migrations.
type Set uint8

// The sets.
const (
	SetTenant Set = iota // applied to every tenant's store
	SetShared            // applied to the shared store
)

// String returns "tenant" or "shared".
func (s Set) String() string {
	if s == SetShared {
		return "shared"
	}
	return "tenant"
}

// MarshalText returns what String does.
func (s Set) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Scope says which of the two sets an Up is about.
type Scope uint8

// The scopes.
const (
	Everything  Scope = iota // the shared set and then, when it is applied, the tenant set
	SharedOnly               // the shared set
	TenantsOnly              // the tenant set; refused with ErrSharedBehind while the shared set is not applied
)

// Fleet says which tenants' stores a run visits, and how. The zero value means: every store of the ledger, and carry on
// when one fails. Where the shared set is meant, only OnEvent is heeded.
type Fleet struct {
	// Stores limits the run to these. A name that neither the ledger nor the backend has fails with
	// [backend.ErrStoreMissing], and leaves nothing behind in the ledger. One that is still being filled fails with
	// [ErrUnentered] (see [Config].Ahead).
	Stores []backend.Store

	// Parallel is the number of workers. Defaults to 2 on Postgres and to the number of CPUs on SQLite. However many
	// there are, all work of a Migrator together uses no more than half of the backend's connections (see
	// [backend.Bounded]), one for each store that it is at.
	Parallel int

	// Canary is the number of stores that are visited first, in each place. The rest, and other places, follow only when
	// all of them succeeded.
	Canary int

	// StopAfter stops the run when this many stores have failed. 0 means never.
	StopAfter int

	// OnEvent is called while the run goes on, from one goroutine at a time. It should return soon.
	OnEvent func(Event)
}

// UpOptions are the terms of [Migrator.Up].
type UpOptions struct {
	Fleet

	// Scope limits the run to one of the sets.
	Scope Scope

	// Source limits the run to one source, in whichever sets have it.
	Source string

	// DryRun, when set, gets the SQL that would be run, in the backend's dialect. Nothing is changed.
	DryRun io.Writer
}

// UpToOptions are the terms of [Migrator.UpTo].
type UpToOptions struct {
	Fleet

	// Scope limits the run to one of the sets.
	Scope Scope

	// DryRun, when set, gets the SQL that would be run, in the backend's dialect. Nothing is changed.
	DryRun io.Writer
}

// DownOptions are the terms of what undoes migrations of one source of one set: [Migrator.Down], [Migrator.DownTo],
// [Migrator.Redo].
type DownOptions struct {
	Fleet

	// Set is the set that is meant. A source may be in both.
	Set Set

	// Forget allows what goose does with a migration that says nothing of how it is undone: it is recorded as not applied,
	// and what it made stays.
	Forget bool
}

// BaselineOptions are the terms of [Migrator.Baseline].
type BaselineOptions struct {
	Fleet

	// Set is the set that is meant. A source may be in both.
	Set Set
}
