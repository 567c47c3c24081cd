package migrate

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"time"

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

// Config is what a Migrator applies, and how. It is copied by [New].
type Config struct {
	// Shared and Tenant are the two sets, each in the order in which its sources are applied. A source may be in both.
	Shared, Tenant []Source

	// AllowOutOfOrder applies a migration whose version is lower than one that the store has already. By default a run
	// that would do so is refused with ErrOutOfOrder.
	AllowOutOfOrder bool

	// LockTimeout bounds how long a migration may wait for a lock, and so how long the tenant's own statements may
	// queue behind it. Past it the store is put aside and retried. Defaults to 2 seconds.
	LockTimeout time.Duration

	// LockRetries is how often a store whose tables were locked is tried again, at growing intervals, before it counts
	// as failed. Defaults to 8, which is about half a minute; negative means never.
	LockRetries int

	// Lazy lets [Migrator.Ready] migrate a store that is behind, instead of refusing it.
	Lazy bool

	// LazyWait bounds how long one call of Ready waits for that. The migration itself goes on. Defaults to 10 seconds.
	LazyWait time.Duration

	// Logger gets what is not worth an error: retries, stores that fell back to goose. Defaults to discarding it.
	Logger *slog.Logger
}

// Options are the terms of one run. The zero value means: every store, to the newest version, carry on when one fails.
type Options struct {
	// Stores limits a run over the tenant set to these. They are entered into the ledger when they are not in it.
	Stores []backend.Store

	// Set says which set Down, DownTo, Redo and Baseline work on.
	Set Set

	// Source names the source that To and Steps are about. It may be empty when the set has only one.
	Source string

	// To is the version to stop at (up: it is the last one applied; down: the last one kept). 0 means the newest for
	// up; DownTo takes it as it is: 0 undoes everything.
	To int64

	// Steps is how many migrations Down undoes. Defaults to 1.
	Steps int

	// Parallel is the number of workers. Defaults to 2 on Postgres and to the number of CPUs on SQLite. On Postgres a
	// worker holds one connection, or up to three while it works through goose (only half the workers do, at least one).
	Parallel int

	// Canary is the number of stores that are migrated first. The rest follow only when all of them succeeded.
	Canary int

	// MaxFailures stops the run when more stores than this have failed. 0 means never.
	MaxFailures int

	// FailFast stops the run at the first failure.
	FailFast bool

	// DryRun, when set, gets the SQL that would be run, in the backend's dialect. Nothing is changed.
	DryRun interface{ Write(p []byte) (int, error) }

	// OnEvent is called while the run goes on, from one goroutine at a time. It should return soon.
	OnEvent func(Event)
}

// Migrator applies migrations. It is safe for concurrent use, also by several processes over the same stores.
type Migrator struct {
	be      backend.Backend
	cfg     Config
	log     *slog.Logger
	dialect dialect

	shared, tenant *set
	ledger         *ledger
	gate           gate
	local          keyedLocks // where be is no Locker

	// The optional abilities of be; nil when it has not got them.
	scripts   backend.ScriptRunner
	templates backend.Templater
	locks     backend.Locker
}

// New checks the sources and returns a Migrator over be, which stays the caller's. No store is touched. It returns an
// error that wraps a [*SourceError] (one per fault, joined) for anything that goose would refuse later: it names the
// file, the line and the reason.
func New(be backend.Backend, cfg Config) (*Migrator, error) {
	cfg.LockTimeout = cmp.Or(cfg.LockTimeout, 2*time.Second)
	cfg.LockRetries = cmp.Or(cfg.LockRetries, 8)
	cfg.LazyWait = cmp.Or(cfg.LazyWait, 10*time.Second)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	d, err := dialectOf(be.Dialect(), cfg.LockTimeout)
	if err != nil {
		return nil, err
	}
	m := &Migrator{be: be, cfg: cfg, log: cfg.Logger, dialect: d}
	if m.shared, m.tenant, err = newSets(d, cfg.Shared, cfg.Tenant); err != nil {
		return nil, fmt.Errorf("tenement: migrate: %w", err)
	}
	if m.ledger, err = newLedger(m); err != nil {
		return nil, fmt.Errorf("tenement: migrate: %w", err)
	}
	m.scripts, _ = be.(backend.ScriptRunner)
	m.templates, _ = be.(backend.Templater)
	m.locks, _ = be.(backend.Locker)
	return m, nil
}

// Backend returns the backend that the Migrator works on.
func (m *Migrator) Backend() backend.Backend { return m.be }

// Up applies the shared set and then, when that succeeded, the tenant set. The result is the tenant set's; its Shared
// field has the other.
func (m *Migrator) Up(ctx context.Context, opt Options) (*Result, error) {
	shared, err := m.Shared(ctx, opt)
	if err != nil {
		return shared, err
	}
	res, err := m.Tenants(ctx, opt)
	if res != nil {
		res.Shared = shared
	}
	return res, err
}
