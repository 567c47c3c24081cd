package migrate

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"

	"github.com/tenement-go/tenement/backend"
)

// limit says how far a run goes: with a source, that source alone, up to a version; without, everything.
type limit struct {
	source string
	to     int64
}

// source returns the source that opt names, or the only one.
func (s *set) named(opt options) (*series, error) {
	if opt.source == "" {
		if len(s.sources) == 1 {
			return s.sources[0], nil
		}
		return nil, fmt.Errorf("%w: the %s set has %d sources; name one (%s)", ErrUnknownSource, s.kind, len(s.sources), s.names())
	}
	if src := s.find(opt.source); src != nil {
		return src, nil
	}
	return nil, fmt.Errorf("%w: the %s set has no source %q (it has: %s)", ErrUnknownSource, s.kind, opt.source, s.names())
}

func (s *set) names() string {
	names := make([]string, len(s.sources))
	for i, src := range s.sources {
		names[i] = src.name
	}
	return strings.Join(names, ", ")
}

// limit reads the limits of an up run from its options.
func (s *set) limit(opt options) (limit, error) {
	if opt.source == "" && opt.to == 0 {
		return limit{}, nil
	}
	src, err := s.named(opt)
	if err != nil {
		return limit{}, err
	}
	if opt.to != 0 && src.find(opt.to) == nil {
		return limit{}, fmt.Errorf("%w: source %s has no version %d", ErrUnknownSource, src.name, opt.to)
	}
	return limit{source: src.name, to: opt.to}, nil
}

// pending lists what a store with these migrations lacks, in the order in which it is applied. late is the first of them
// that is out of order, or nil.
func (s *set) pending(have state, lim limit) (todo []*migration, late *migration) {
	for _, src := range s.sources {
		if lim.source != "" && lim.source != src.name {
			continue
		}
		list := have[src.name]
		var newest int64
		if len(list) > 0 {
			newest = list[len(list)-1].Version
		}
		for _, m := range src.migrations {
			if lim.to != 0 && m.version > lim.to {
				break
			}
			if have.has(src.name, m.version) {
				continue
			}
			if m.version < newest && late == nil {
				late = m
			}
			todo = append(todo, m)
		}
	}
	return todo, late
}

func outOfOrder(m *migration) error {
	return fmt.Errorf("%w: %s version %d (%s) is missing below versions that are applied; give it a higher number or set AllowOutOfOrder",
		ErrOutOfOrder, m.source.name, m.version, m.file)
}

// readState asks a store which versions it has. Their checksums come from known, what the ledger says, or else from the
// binary's own files.
func (m *Migrator) readState(ctx context.Context, s *set, db *sql.DB, known state) (state, error) {
	have := state{}
	if len(s.sources) == 0 {
		return have, nil
	}
	query := `SELECT name FROM main.sqlite_master WHERE type = 'table' AND name IN (`
	if m.dialect.name == backend.Postgres {
		query = `SELECT tablename FROM pg_catalog.pg_tables WHERE schemaname = current_schema() AND tablename IN (`
	}
	byTable := map[string]*series{}
	for i, src := range s.sources {
		if i > 0 {
			query += ", "
		}
		query += "'" + src.table + "'"
		byTable[src.table] = src
	}
	rows, err := db.QueryContext(ctx, query+")")
	if err != nil {
		return nil, err
	}
	var selects []string
	for rows.Next() {
		var table string
		if err := rows.Scan(&table); err != nil {
			return nil, errors.Join(err, rows.Close())
		}
		src := byTable[table]
		have[src.name] = []applied{}
		selects = append(selects, fmt.Sprintf(`SELECT '%s' AS source, version_id FROM %s WHERE version_id > 0`, src.name, src.table))
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return nil, err
	}
	if len(selects) == 0 {
		return have, nil
	}
	// DISTINCT, because old releases of goose recorded a version anew each time.
	rows, err = db.QueryContext(ctx, `SELECT DISTINCT source, version_id FROM (`+strings.Join(selects, " UNION ALL ")+`) v ORDER BY source, version_id`)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var name string
		var version int64
		if err := rows.Scan(&name, &version); err != nil {
			return nil, err
		}
		a, ok := known.find(name, version)
		if !ok {
			a = applied{Version: version, Sum: "?"}
			if mig := s.find(name).find(version); mig != nil {
				a = mig.applied()
			}
		}
		have[name] = append(have[name], a)
	}
	return have, rows.Err()
}

// lock excludes other migrators, in this process and in others.
func (m *Migrator) lock(ctx context.Context, key string) (unlock func(), err error) {
	if m.locks != nil {
		held, err := m.locks.Lock(ctx, "tenement/migrate/"+key)
		if err != nil {
			return nil, err
		}
		return held.Unlock, nil
	}
	return m.local.lock(ctx, key)
}

// keyedLocks is for a backend that cannot exclude other processes.
type keyedLocks struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed on release
}

func (k *keyedLocks) lock(ctx context.Context, key string) (func(), error) {
	for {
		k.mu.Lock()
		held := k.held[key]
		if held == nil {
			if k.held == nil {
				k.held = map[string]chan struct{}{}
			}
			released := make(chan struct{})
			k.held[key] = released
			k.mu.Unlock()
			return func() {
				k.mu.Lock()
				delete(k.held, key)
				k.mu.Unlock()
				close(released)
			}, nil
		}
		k.mu.Unlock()
		select {
		case <-held:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// hold is the right to change one store.
type hold struct {
	ledger *ledger
	db     execer // for the ledger
	tx     *sql.Tx
	unlock func()
}

// hold waits until no other migrator changes the store. On Postgres it locks the store's row in the ledger, which is
// what the fast path waits for too; on SQLite, where a row cannot be locked, it takes a lock beside the ledger, and the
// fast path relies on its guard.
func (m *Migrator) hold(ctx context.Context, rt backend.Route) (*hold, error) {
	h := &hold{ledger: m.ledger, db: m.ledger.db}
	if m.dialect.name != backend.Postgres {
		key := "store/" + rt.Store.String()
		if rt.IsZero() {
			key = "shared"
		}
		unlock, err := m.lock(ctx, key)
		h.unlock = unlock
		return h, err
	}
	for {
		// The transaction is what holds the lock: it must not end because the caller's context does.
		tx, err := m.ledger.db.BeginTx(context.WithoutCancel(ctx), nil)
		if err != nil {
			return nil, err
		}
		var one int
		err = tx.QueryRowContext(ctx, `SELECT 1 FROM tenement_ledger WHERE store = $1 FOR UPDATE`, rt.Store.String()).Scan(&one)
		if err == nil {
			h.db, h.tx = tx, tx
			return h, nil
		}
		_ = tx.Rollback()
		if !errors.Is(err, sql.ErrNoRows) {
			return nil, err
		}
		if err := m.ledger.enter(ctx, []backend.Route{rt}); err != nil {
			return nil, err
		}
	}
}

// rest readies the transaction to stay open while the store is worked on. A query leaves its snapshot behind in the
// session, for which CREATE INDEX CONCURRENTLY would wait for as long as the transaction lasts; this leaves none.
func (h *hold) rest(ctx context.Context) error {
	if h.tx == nil {
		return nil
	}
	_, err := h.tx.ExecContext(ctx, `SET LOCAL idle_in_transaction_session_timeout = 0`)
	return err
}

// put writes the store's row and gives the right back.
func (h *hold) put(ctx context.Context, rt backend.Route, s state, failure *StoreError) error {
	err := h.ledger.put(ctx, h.db, rt, s, failure)
	if h.tx != nil {
		if err == nil {
			err = h.tx.Commit()
		} else {
			_ = h.tx.Rollback()
		}
		h.tx = nil
	}
	h.release()
	return err
}

// release gives the right back. It does nothing after put.
func (h *hold) release() {
	if h.tx != nil {
		_ = h.tx.Rollback()
		h.tx = nil
	}
	if h.unlock != nil {
		h.unlock()
		h.unlock = nil
	}
}

// outcome is what became of a store.
type outcome struct {
	touched []*migration // applied, or undone
	ledger  state        // what the ledger said before
	have    state        // afterwards; nil when it could not be read
	failure *StoreError
}

// storeFunc changes a store that has the migrations in have. It returns those that it applied or undid.
type storeFunc func(ctx context.Context, db *sql.DB, have state) (touched []*migration, failure *StoreError)

// inStore runs fn in one store, alone, and corrects the ledger. rt is zero for the shared store. An error is one of the
// ledger: what fn did stands, and the next run will correct the ledger.
func (m *Migrator) inStore(ctx context.Context, s *set, rt backend.Route, fn storeFunc) (*outcome, error) {
	h, err := m.hold(ctx, rt)
	if err != nil {
		return nil, fmt.Errorf("tenement: migrate: locking %s: %w", storeTitle(rt), err)
	}
	defer h.release()
	known, err := m.ledger.entry(ctx, h.db, rt.Store.String())
	if err != nil {
		return nil, err
	}
	if known == nil {
		known = &entry{}
	}
	if err := h.rest(ctx); err != nil {
		return nil, fmt.Errorf("tenement: migrate: locking %s: %w", storeTitle(rt), err)
	}

	db := m.ledger.db
	if !rt.IsZero() {
		db = m.be.Maintenance(rt)
		defer func() { _ = db.Close() }()
	}
	out := &outcome{ledger: known.state}
	fail := func(err error) *StoreError {
		return &StoreError{Store: rt.Store, Set: s.kind, SQLState: sqlState(err), Err: err}
	}
	have, err := m.readState(ctx, s, db, known.state)
	if err != nil {
		out.failure = fail(err)
	} else {
		// A migration that was begun is brought to its end, which a cancelled context would cut off at any point.
		out.touched, out.failure = fn(context.WithoutCancel(ctx), db, have)
	}
	if out.failure != nil {
		out.failure.Store, out.failure.Set = rt.Store, s.kind
	}
	if errors.Is(err, backend.ErrStoreMissing) {
		return out, nil // what the ledger says about it is not this run's to change
	}

	// What was done must be written down even when the caller has had enough.
	ctx = context.WithoutCancel(ctx)
	if out.have, err = m.readState(ctx, s, db, known.state.with(out.touched)); err != nil && out.failure == nil {
		out.failure = fail(err)
	}
	if err != nil {
		out.have = nil
	}
	m.gate.forget(rt.Store)
	return out, h.put(ctx, rt, out.have, out.failure)
}

// insist is inStore, again at growing intervals while the store's tables are locked.
func (m *Migrator) insist(ctx context.Context, s *set, rt backend.Route, fn storeFunc) (*outcome, error) {
	var done []*migration
	began := time.Now()
	for tries := 0; ; tries++ {
		out, err := m.inStore(ctx, s, rt, fn)
		if err != nil {
			return nil, err
		}
		done = append(done, out.touched...)
		out.touched = done
		if out.failure == nil || !worthAnotherTry(out.failure) || time.Since(began) > m.cfg.LockPatience {
			return out, nil
		}
		m.log.InfoContext(ctx, "tables are locked; trying again", "store", rt.Store.String(), "error", out.failure.Err)
		select {
		case <-time.After(retryPause(tries)):
		case <-ctx.Done():
			return out, nil
		}
	}
}

// retryPause is how long to wait after having failed for a lock for the nth time, counted from 0.
func retryPause(n int) time.Duration {
	pause := min(200*time.Millisecond<<min(n, 8), 5*time.Second)
	return pause/2 + rand.N(pause/2)
}

func storeTitle(rt backend.Route) string {
	if rt.IsZero() {
		return "the shared store"
	}
	return "store " + rt.Store.String()
}

// up returns the storeFunc that applies what is pending, through goose.
func (m *Migrator) up(s *set, lim limit) storeFunc {
	return func(ctx context.Context, db *sql.DB, have state) ([]*migration, *StoreError) {
		var done []*migration
		for attempt := 0; ; attempt++ {
			todo, late := s.pending(have, lim)
			if late != nil && !m.cfg.AllowOutOfOrder {
				return done, &StoreError{Source: late.source.name, Version: late.version, File: late.file, Err: outOfOrder(late)}
			}
			touched, failure := m.gooseUp(ctx, s, db, todo)
			done = append(done, touched...)
			if failure == nil || attempt == 3 {
				return done, failure
			}
			// Another migrator's fast path may have been faster, in which case there is less to do now.
			now, err := m.readState(context.WithoutCancel(ctx), s, db, have)
			if err != nil || !now.has(failure.Source, failure.Version) {
				return done, failure
			}
			have = now
		}
	}
}

// gooseUp applies the migrations in todo, which are all that are pending up to the last one of each source.
func (m *Migrator) gooseUp(ctx context.Context, s *set, db *sql.DB, todo []*migration) (done []*migration, failure *StoreError) {
	for _, src := range s.sources {
		var last int64
		for _, mig := range todo {
			if mig.source == src {
				last = max(last, mig.version)
			}
		}
		if last == 0 {
			continue
		}
		touched, failure := m.goose(src, db, func(p *goose.Provider) ([]*goose.MigrationResult, error) { return p.UpTo(ctx, last) })
		done = append(done, touched...)
		if failure != nil {
			return done, failure
		}
	}
	return done, nil
}

// goose runs fn on a provider of the source.
func (m *Migrator) goose(src *series, db *sql.DB, fn func(*goose.Provider) ([]*goose.MigrationResult, error)) (done []*migration, failure *StoreError) {
	var at statementLog
	failed := func(err error) *StoreError {
		f := &StoreError{Source: src.name, SQLState: sqlState(err), Err: err}
		var partial *goose.PartialError
		if errors.As(err, &partial) {
			f.Version, f.File, f.Err = partial.Failed.Source.Version, partial.Failed.Source.Path, partial.Err
			if mig := src.find(f.Version); mig != nil && mig.sql && at.version == f.Version {
				f.Statement = at.statement
				f.Line = lineOf(src.files[mig.file], at.statement)
			}
			done = append(done, src.results(partial.Applied)...)
		}
		return f
	}
	table, err := m.dialect.versionTable(src.table)
	if err != nil {
		return nil, failed(err)
	}
	p, err := src.provider(db, providerOptions{
		store: table, files: src.running, log: slog.New(&at), outOfOrder: m.cfg.AllowOutOfOrder, begin: m.dialect.begin,
	})
	if err != nil {
		return nil, failed(err)
	}
	results, err := fn(p)
	if err != nil {
		failure = failed(err)
		return done, failure
	}
	return src.results(results), nil
}

func (s *series) results(results []*goose.MigrationResult) []*migration {
	var list []*migration
	for _, r := range results {
		if m := s.find(r.Source.Version); m != nil {
			list = append(list, m)
		}
	}
	return list
}

// lineOf returns the line on which a statement begins in a file, or 0.
func lineOf(text []byte, statement string) int {
	first, _, _ := strings.Cut(statement, "\n")
	if first == "" {
		return 0
	}
	at := strings.Index(string(text), statement)
	if at < 0 { // other line ends
		if at = strings.Index(string(text), strings.TrimRight(first, "\r")); at < 0 {
			return 0
		}
	}
	return 1 + strings.Count(string(text[:at]), "\n")
}

func (m *Migrator) downSteps(src *series, steps int) storeFunc {
	return func(ctx context.Context, db *sql.DB, have state) (done []*migration, failure *StoreError) {
		for range min(steps, len(have[src.name])) {
			touched, failure := m.goose(src, db, func(p *goose.Provider) ([]*goose.MigrationResult, error) {
				r, err := p.Down(ctx)
				if err != nil {
					return nil, err
				}
				return []*goose.MigrationResult{r}, nil
			})
			done = append(done, touched...)
			if failure != nil {
				return done, failure
			}
		}
		return done, nil
	}
}

func (m *Migrator) downTo(src *series, to int64) storeFunc {
	return func(ctx context.Context, db *sql.DB, have state) ([]*migration, *StoreError) {
		if list := have[src.name]; len(list) == 0 || list[len(list)-1].Version <= to {
			return nil, nil
		}
		return m.goose(src, db, func(p *goose.Provider) ([]*goose.MigrationResult, error) { return p.DownTo(ctx, to) })
	}
}

func (m *Migrator) record(ctx context.Context, src *series, db *sql.DB, have state, to int64) error {
	table, err := m.dialect.versionTable(src.table)
	if err != nil {
		return err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if _, there := have[src.name]; !there {
		if err := table.CreateVersionTable(ctx, tx); err != nil {
			return err
		}
		if err := table.Insert(ctx, tx, database.InsertRequest{Version: 0}); err != nil {
			return err
		}
	}
	if to == 0 {
		to = math.MaxInt64
	}
	for _, mig := range src.migrations {
		if mig.version <= to && !have.has(src.name, mig.version) {
			if err := table.Insert(ctx, tx, database.InsertRequest{Version: mig.version}); err != nil {
				return err
			}
		}
	}
	return tx.Commit()
}
