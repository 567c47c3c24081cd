package migrate

import (
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tenement-go/tenement/backend"
)

const (
	ledgerTable      = "tenement_ledger"
	statesTable      = "tenement_ledger_states"
	ledgerVersions   = "goose_tenement_ledger"
	ledgerSourceName = "tenement_ledger"
)

//go:embed ledger/*.sql
var ledgerFiles embed.FS

// applied is a version that a store has, with the checksum of the file that was applied.
type applied struct {
	Version int64
	Sum     string
}

// MarshalJSON keeps states short: there is one for each fingerprint, and each is read by every run.
func (a applied) MarshalJSON() ([]byte, error) { return json.Marshal([]any{a.Version, a.Sum}) }

// UnmarshalJSON is the reverse of MarshalJSON.
func (a *applied) UnmarshalJSON(text []byte) error {
	return json.Unmarshal(text, &[]any{&a.Version, &a.Sum})
}

// state is all that is applied in a store, by source, versions ascending. A source that is there with no versions has
// its version table; one that is absent has none yet. A nil state is one that is not known.
type state map[string][]applied

// encode returns the canonical text of a state.
func (s state) encode() string {
	text, err := json.Marshal(s) // sorts by source
	if err != nil {
		panic(err) // strings and numbers only
	}
	return string(text)
}

func (s state) fingerprint() string {
	if s == nil {
		return ""
	}
	sum := sha256.Sum256([]byte(s.encode()))
	return hex.EncodeToString(sum[:12])
}

func (s state) has(source string, version int64) bool {
	_, ok := s.find(source, version)
	return ok
}

func (s state) find(source string, version int64) (applied, bool) {
	i, ok := slices.BinarySearchFunc(s[source], version, func(a applied, v int64) int { return cmp.Compare(a.Version, v) })
	if !ok {
		return applied{}, false
	}
	return s[source][i], true
}

// with returns a copy of s in which the migrations are applied too.
func (s state) with(migrations []*migration) state {
	next := make(state, len(s)+1)
	for name, list := range s {
		next[name] = slices.Clone(list)
	}
	for _, m := range migrations {
		list := next[m.source.name]
		i, there := slices.BinarySearchFunc(list, m.version, func(a applied, v int64) int { return cmp.Compare(a.Version, v) })
		if there {
			list[i] = m.applied()
		} else {
			list = slices.Insert(list, i, m.applied())
		}
		next[m.source.name] = list
	}
	return next
}

// ledger is the table that says which store is where. Its queries take the shared store's handle.
type ledger struct {
	db      *sql.DB
	dialect dialect
	source  *series
	lock    func(context.Context, string) (func(), error)
	there   atomic.Bool

	mu    sync.Mutex
	known map[string]bool // fingerprints whose states are known to be written
}

func newLedger(m *Migrator) (*ledger, error) {
	files, err := fs.Sub(ledgerFiles, "ledger")
	if err != nil {
		return nil, err
	}
	var faults []error
	src := &series{name: ledgerSourceName, table: ledgerVersions}
	src.load(m.dialect, Source{Name: ledgerSourceName, FS: files}, func(e SourceError) { faults = append(faults, &e) })
	return &ledger{db: m.be.Shared(), dialect: m.dialect, source: src, lock: m.lock, known: map[string]bool{}}, errors.Join(faults...)
}

// exists reports whether the ledger was made.
func (l *ledger) exists(ctx context.Context) (bool, error) {
	if l.there.Load() {
		return true, nil
	}
	var exists bool
	if err := l.db.QueryRowContext(ctx, l.dialect.hasTable(), statesTable).Scan(&exists); err != nil {
		return false, fmt.Errorf("tenement: migrate: looking for the ledger: %w", err)
	}
	if exists {
		l.there.Store(true)
	}
	return exists, nil
}

// ensure makes the ledger when it is not there.
func (l *ledger) ensure(ctx context.Context) error {
	if exists, err := l.exists(ctx); err != nil || exists {
		return err
	}
	if err := l.ensureSource(ctx, l.source); err != nil {
		return err
	}
	l.there.Store(true)
	return nil
}

// ensureSource brings the tables of a library, the ledger's or another's, to what the binary carries.
func (l *ledger) ensureSource(ctx context.Context, src *series) error {
	unlock, err := l.lock(ctx, src.name)
	if err != nil {
		return fmt.Errorf("tenement: migrate: preparing the tables of %s: %w", src.name, err)
	}
	defer unlock()
	table, err := l.dialect.versionTable(src.table)
	if err != nil {
		return err
	}
	p, err := src.provider(l.db, providerOptions{store: table, files: src.running})
	if err != nil {
		return err
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("tenement: migrate: preparing the tables of %s: %w", src.name, err)
	}
	return nil
}

// execer is a *sql.DB, a *sql.Tx or a *sql.Conn.
type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// group is the stores that have the same migrations applied.
type group struct {
	fingerprint string
	state       state // nil when it is not known
	stores      int
	failed      int    // how many of them failed when they were last tried
	first, last string // the first and the last store
}

// groups returns the groups of tenant stores and the shared store's own row, in one query.
func (l *ledger) groups(ctx context.Context) (tenants []group, shared *group, err error) {
	// The shared store sorts first, and alone: no store has an empty name.
	rows, err := l.db.QueryContext(ctx, `
		SELECT g.shared, g.fingerprint, g.stores, g.failed, g.first, g.last, s.applied
		FROM (
			SELECT CASE WHEN store = '' THEN 1 ELSE 0 END AS shared, fingerprint, count(*) AS stores,
				sum(CASE WHEN failed_error <> '' THEN 1 ELSE 0 END) AS failed, min(store) AS first, max(store) AS last
			FROM tenement_ledger GROUP BY 1, 2
		) g LEFT JOIN tenement_ledger_states s ON s.fingerprint = g.fingerprint
		ORDER BY g.stores DESC, g.fingerprint`)
	if err != nil {
		return nil, nil, fmt.Errorf("tenement: migrate: reading the ledger: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var g group
		var isShared int
		var text sql.NullString
		if err := rows.Scan(&isShared, &g.fingerprint, &g.stores, &g.failed, &g.first, &g.last, &text); err != nil {
			return nil, nil, fmt.Errorf("tenement: migrate: reading the ledger: %w", err)
		}
		if g.state, err = decodeState(text); err != nil {
			return nil, nil, err
		}
		if isShared == 1 {
			shared = &g
		} else {
			tenants = append(tenants, g)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, nil, fmt.Errorf("tenement: migrate: reading the ledger: %w", err)
	}
	return tenants, shared, nil
}

func decodeState(text sql.NullString) (state, error) {
	if !text.Valid {
		return nil, nil
	}
	var s state
	if err := json.Unmarshal([]byte(text.String), &s); err != nil {
		return nil, fmt.Errorf("tenement: migrate: %s has a row that is not JSON: %w", statesTable, err)
	}
	return s, nil
}

// entry is a store's row.
type entry struct {
	store       backend.Store
	owner       string
	fingerprint string
	state       state
	failed      string
}

func (e *entry) route() backend.Route { return backend.Route{Store: e.store, Owner: e.owner} }

// entry reads one row; nil when there is none. name is empty for the shared store.
func (l *ledger) entry(ctx context.Context, db execer, name string) (*entry, error) {
	var e entry
	var text sql.NullString
	err := db.QueryRowContext(ctx, l.dialect.bind(`
		SELECT l.owner, l.fingerprint, l.failed_error, s.applied
		FROM tenement_ledger l LEFT JOIN tenement_ledger_states s ON s.fingerprint = l.fingerprint
		WHERE l.store = ?`), name).Scan(&e.owner, &e.fingerprint, &e.failed, &text)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("tenement: migrate: reading the ledger: %w", err)
	}
	if name != "" {
		if e.store, err = backend.ParseStore(name); err != nil {
			return nil, fmt.Errorf("tenement: migrate: the ledger: %w", err)
		}
	}
	e.state, err = decodeState(text)
	return &e, err
}

// named returns the rows of the stores named, at most a few hundred, in order of name.
func (l *ledger) named(ctx context.Context, stores []backend.Store) ([]entry, error) {
	if len(stores) == 0 {
		return nil, nil
	}
	args := make([]any, len(stores))
	for i, s := range stores {
		args[i] = s.String()
	}
	return l.entries(ctx, `WHERE store IN (?`+strings.Repeat(", ?", len(stores)-1)+`) ORDER BY store`, args...)
}

func (l *ledger) entries(ctx context.Context, where string, args ...any) ([]entry, error) {
	rows, err := l.db.QueryContext(ctx, l.dialect.bind(`SELECT store, owner, fingerprint FROM tenement_ledger `+where), args...)
	if err != nil {
		return nil, fmt.Errorf("tenement: migrate: reading the ledger: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var list []entry
	for rows.Next() {
		var e entry
		var name string
		if err := rows.Scan(&name, &e.owner, &e.fingerprint); err != nil {
			return nil, fmt.Errorf("tenement: migrate: reading the ledger: %w", err)
		}
		if e.store, err = backend.ParseStore(name); err != nil {
			return nil, fmt.Errorf("tenement: migrate: the ledger: %w", err)
		}
		list = append(list, e)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("tenement: migrate: reading the ledger: %w", err)
	}
	return list, nil
}

// publish writes what a fingerprint stands for, so that rows may name it.
func (l *ledger) publish(ctx context.Context, db execer, s state) (fingerprint string, err error) {
	fingerprint = s.fingerprint()
	l.mu.Lock()
	known := l.known[fingerprint]
	l.mu.Unlock()
	if known || s == nil {
		return fingerprint, nil
	}
	_, err = db.ExecContext(ctx, l.dialect.bind(
		`INSERT INTO tenement_ledger_states (fingerprint, applied, created_at) VALUES (?, ?, ?) ON CONFLICT (fingerprint) DO NOTHING`),
		fingerprint, s.encode(), time.Now().UnixMilli())
	if err != nil {
		return "", fmt.Errorf("tenement: migrate: writing the ledger: %w", err)
	}
	if _, isTx := db.(*sql.Tx); !isTx { // it may yet be rolled back
		l.mu.Lock()
		l.known[fingerprint] = true
		l.mu.Unlock()
	}
	return fingerprint, nil
}

// put writes one store's row: what is applied and, when failure is set, what failed. An empty owner leaves the owner.
func (l *ledger) put(ctx context.Context, db execer, rt backend.Route, s state, failure *StoreError) error {
	fingerprint, err := l.publish(ctx, db, s)
	if err != nil {
		return err
	}
	var source, sqlState, text string
	var version int64
	if failure != nil {
		source, version, sqlState, text = failure.Source, failure.Version, failure.SQLState, failure.Err.Error()
		text = strings.ToValidUTF8(strings.ReplaceAll(text[:min(len(text), 2000)], "\x00", ""), "")
	}
	_, err = db.ExecContext(ctx, l.dialect.bind(`
		INSERT INTO tenement_ledger AS l (store, owner, fingerprint, updated_at, failed_source, failed_version, failed_state, failed_error)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (store) DO UPDATE SET owner = CASE WHEN excluded.owner = '' THEN l.owner ELSE excluded.owner END,
			fingerprint = excluded.fingerprint, updated_at = excluded.updated_at, failed_source = excluded.failed_source,
			failed_version = excluded.failed_version, failed_state = excluded.failed_state, failed_error = excluded.failed_error`),
		rt.Store.String(), rt.Owner, fingerprint, time.Now().UnixMilli(), source, version, sqlState, text)
	if err != nil {
		return fmt.Errorf("tenement: migrate: writing the ledger: %w", err)
	}
	return nil
}

// move notes that stores which were at one fingerprint are now at another. A store whose row says something else by now
// is left alone.
func (l *ledger) move(ctx context.Context, from, to string, stores []string) error {
	for chunk := range slices.Chunk(stores, pageSize) {
		args := append([]any{to, time.Now().UnixMilli(), from}, anys(chunk)...)
		_, err := l.db.ExecContext(ctx, l.dialect.bind(
			`UPDATE tenement_ledger SET fingerprint = ?, updated_at = ?, failed_source = '', failed_version = 0, failed_state = '', failed_error = ''
			WHERE fingerprint = ? AND store IN (?`+strings.Repeat(", ?", len(chunk)-1)+`)`), args...)
		if err != nil {
			return fmt.Errorf("tenement: migrate: writing the ledger: %w", err)
		}
	}
	return nil
}

// enter makes rows for stores that have none; what is applied in them is not known.
func (l *ledger) enter(ctx context.Context, routes []backend.Route) error {
	for chunk := range slices.Chunk(routes, 200) {
		args := make([]any, 0, 3*len(chunk))
		for _, rt := range chunk {
			args = append(args, rt.Store.String(), rt.Owner, time.Now().UnixMilli())
		}
		_, err := l.db.ExecContext(ctx, l.dialect.bind(
			`INSERT INTO tenement_ledger (store, owner, updated_at) VALUES (?, ?, ?)`+strings.Repeat(", (?, ?, ?)", len(chunk)-1)+
				` ON CONFLICT (store) DO NOTHING`), args...)
		if err != nil {
			return fmt.Errorf("tenement: migrate: writing the ledger: %w", err)
		}
	}
	return nil
}

// Renamed moves the ledger's row of a store that was renamed. A row of the new name, left by a store that is gone, is
// replaced. It does nothing when there is no row of the old name.
func (m *Migrator) Renamed(ctx context.Context, from, to backend.Store) error {
	if exists, err := m.ledger.exists(ctx); err != nil || !exists {
		return err
	}
	tx, err := m.ledger.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("tenement: migrate: renaming in the ledger: %w", err)
	}
	defer func() { _ = tx.Rollback() }()
	_, err = tx.ExecContext(ctx, m.dialect.bind(
		`DELETE FROM tenement_ledger WHERE store = ? AND EXISTS (SELECT 1 FROM tenement_ledger WHERE store = ?)`), to.String(), from.String())
	if err == nil {
		_, err = tx.ExecContext(ctx, m.dialect.bind(`UPDATE tenement_ledger SET store = ? WHERE store = ?`), to.String(), from.String())
	}
	if err == nil {
		err = tx.Commit()
	}
	if err != nil {
		return fmt.Errorf("tenement: migrate: renaming in the ledger: %w", err)
	}
	m.gate.forget(from)
	m.gate.forget(to)
	return nil
}

// Forget removes the ledger's row of a store that was dropped. It does nothing when there is none.
func (m *Migrator) Forget(ctx context.Context, s backend.Store) error {
	if exists, err := m.ledger.exists(ctx); err != nil || !exists {
		return err
	}
	if _, err := m.ledger.db.ExecContext(ctx, m.dialect.bind(`DELETE FROM tenement_ledger WHERE store = ?`), s.String()); err != nil {
		return fmt.Errorf("tenement: migrate: removing from the ledger: %w", err)
	}
	m.gate.forget(s)
	return nil
}

// Stores lists the stores that the ledger has, in order of name; there need not be one of each name.
func (m *Migrator) Stores(ctx context.Context) ([]backend.Store, error) {
	if exists, err := m.ledger.exists(ctx); err != nil || !exists {
		return nil, err
	}
	fault := func(err error) error { return fmt.Errorf("tenement: migrate: reading the ledger: %w", err) }
	rows, err := m.ledger.db.QueryContext(ctx, `SELECT store FROM tenement_ledger WHERE store <> '' ORDER BY store`)
	if err != nil {
		return nil, fault(err)
	}
	defer func() { _ = rows.Close() }()
	var stores []backend.Store
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, fault(err)
		}
		s, err := backend.ParseStore(name)
		if err != nil {
			return nil, fault(err)
		}
		stores = append(stores, s)
	}
	if err := rows.Err(); err != nil {
		return nil, fault(err)
	}
	return stores, nil
}
