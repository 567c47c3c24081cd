package migrate

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
)

// Policy says what becomes of a tenant whose store is behind the binary when it is asked for; see [Migrator.Ready].
type Policy uint8

// The policies.
const (
	Refuse  Policy = iota // Ready says ErrBehind; an HTTP server answers 503
	Migrate               // Ready migrates the store first
	Serve                 // Ready lets it pass: the application copes with older stores
)

// String returns "refuse", "migrate" or "serve".
func (p Policy) String() string { return [...]string{"refuse", "migrate", "serve"}[p] }

// Config is what a Migrator applies, and how. It is copied by [New].
type Config struct {
	// Shared and Tenant are the two sets, each in the order in which its sources are applied. A source may be in both.
	Shared, Tenant []Source

	// System are sources of a library that is built on this package, for tables of its own in the shared store; each has
	// a Table. They are kept at what the binary carries by [Migrator.Prepare] and belong to no set: no option names
	// them, no status counts them, nothing undoes them.
	System []Source

	// Ahead reports whether a store that the ledger does not have is to be left alone until somebody else enters it: it is
	// nobody's yet (see [Migrator.ProvisionAhead]), or still being filled (see [Migrator.ProvisionAt]). [Migrator.Verify] of all
	// stores passes over it, and a run to which it is named fails there with ErrUnentered; [Migrator.Enter] is for who has made
	// it. It may be called without the store's size. Defaults to nil: none is.
	Ahead func(ctx context.Context, s backend.StoreInfo) (bool, error)

	// AllowOutOfOrder applies a migration whose version is lower than one that the store has already. By default a run
	// that would do so is refused with ErrOutOfOrder.
	AllowOutOfOrder bool

	// LockTimeout bounds how long a migration may wait for a lock, and so how long the tenant's own statements may
	// queue behind it. Past it the store is put aside and retried. Defaults to 2 seconds.
	LockTimeout time.Duration

	// LockPatience is for how long a store whose tables are locked, or whose connection was lost, is tried again, at
	// growing intervals, before it counts as failed. A migration without a transaction of which something may have stayed
	// is not tried again. Defaults to 30 seconds.
	LockPatience time.Duration

	// Behind says what Ready does about a store that is behind. Defaults to Refuse.
	Behind Policy

	// BehindWait bounds how long one call of Ready waits for a migration under the policy Migrate. The migration itself
	// goes on. Defaults to 10 seconds.
	BehindWait time.Duration

	// Logger gets what is not worth an error: retries, stores that fell back to goose. Defaults to discarding it.
	Logger *slog.Logger
}

// Migrator applies migrations. It is safe for concurrent use, also by several processes over the same stores.
type Migrator struct {
	be      backend.Backend
	cfg     Config
	log     *slog.Logger
	dialect dialect

	shared, tenant *set
	system         []*series
	ledger         *ledger
	gate           gate
	slots          slots
	runs           ownRuns
	local          driver.Queues // where be is no Locker
	hearing        time.Duration

	// Where be has several places: the Migrators of each, which do it all.
	placer backend.Placer
	parts  []part
	apart  bool // of a place that is not home

	// The optional abilities of be; nil when it has not got them.
	scripts   backend.ScriptRunner
	templates backend.Templater
	locks     backend.Locker
	stamps    backend.Stamper

	births births
	ahead  ahead
}

// New checks the sources and returns a Migrator over be, which stays the caller's. No store is touched. It returns an
// error that wraps a [*SourceError] (one per fault, joined) for anything that goose would refuse later: it names the
// file, the line and the reason.
func New(be backend.Backend, cfg Config) (*Migrator, error) {
	cfg.LockTimeout = cmp.Or(cfg.LockTimeout, 2*time.Second)
	cfg.LockPatience = cmp.Or(cfg.LockPatience, 30*time.Second)
	cfg.BehindWait = cmp.Or(cfg.BehindWait, 10*time.Second)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	d, err := dialectOf(be.Dialect(), cfg.LockTimeout)
	if err != nil {
		return nil, err
	}
	m := &Migrator{be: be, cfg: cfg, log: cfg.Logger, dialect: d, slots: newSlots(be), hearing: hearing}
	m.gate.asking = semaphore.NewWeighted(1)
	m.gate.life, m.gate.end = context.WithCancel(context.Background())
	if m.shared, m.tenant, err = newSets(d, cfg.Shared, cfg.Tenant, cfg.System); err != nil {
		return nil, fmt.Errorf("tenement: migrate: %w", err)
	}
	if m.system, err = newSystem(d, cfg.System); err != nil {
		return nil, fmt.Errorf("tenement: migrate: %w", err)
	}
	if m.ledger, err = newLedger(m); err != nil {
		return nil, fmt.Errorf("tenement: migrate: %w", err)
	}
	m.scripts, _ = be.(backend.ScriptRunner)
	m.templates, _ = be.(backend.Templater)
	m.locks, _ = be.(backend.Locker)
	m.stamps, _ = be.(backend.Stamper)
	m.placer, m.parts, err = newParts(be, cfg)
	return m, err
}

// Backend returns the backend that the Migrator works on.
func (m *Migrator) Backend() backend.Backend { return m.be }

// Close ends the migrations that Ready began, each after the one of its migrations that it is at, and waits for them.
// Afterwards Ready migrates nothing any more. The backend stays the caller's.
func (m *Migrator) Close() error {
	m.gate.close()
	for _, p := range m.parts {
		p.m.gate.close()
	}
	return nil
}
