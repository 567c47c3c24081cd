package migrate

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/tenement-go/tenement/backend"
)

// ledger is the tables that say which store is where. Its queries take the shared store's handle.
type ledger struct {
	db      *sql.DB
	dialect dialect
	source  *series
	ready   atomic.Bool // the tables are there, as this binary has them

	mu    sync.Mutex
	known map[string]bool // fingerprints whose states are known to be written
}

// group is the stores that have the same migrations applied.
type group struct {
	fingerprint string
	state       state // nil when it is not known
	stores      int
	failed      int    // how many of them failed when they were last tried
	first, last string // the first and the last store
}

// stateOf returns the state of a group; nil of none.
func (g *group) stateOf() state {
	if g == nil {
		return nil
	}
	return g.state
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
		return nil, fmt.Errorf("tenement: migrate: %s has a row that is not JSON: %w", "tenement_ledger_states", err)
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
	updated     int64 // when it was written, in milliseconds; of the rows of a list
	gone        bool  // nothing has the name
}

func (e *entry) route() backend.Route { return backend.Route{Store: e.store, Owner: e.owner} }

// entry reads one row; nil when there is none. name is empty for the shared store.
func (l *ledger) entry(ctx context.Context, name string) (*entry, error) {
	var e entry
	var text sql.NullString
	err := l.db.QueryRowContext(ctx, l.dialect.bind(`
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

// named returns the rows of the stores named, at most a few hundred, with their states.
func (l *ledger) named(ctx context.Context, stores []backend.Store) ([]entry, error) {
	if len(stores) == 0 {
		return nil, nil
	}
	args := make([]any, len(stores))
	for i, s := range stores {
		args[i] = s.String()
	}
	return l.entries(ctx, rowsWithStates+`WHERE l.store IN (?`+strings.Repeat(", ?", len(stores)-1)+`)`, args...)
}

// owned is named for the stores of some owners.
func (l *ledger) owned(ctx context.Context, owners []string) ([]entry, error) {
	if len(owners) == 0 {
		return nil, nil
	}
	return l.entries(ctx, rowsWithStates+`WHERE l.owner IN (?`+strings.Repeat(", ?", len(owners)-1)+`)`, anys(owners)...)
}

const rowsWithStates = `s.applied FROM tenement_ledger l LEFT JOIN tenement_ledger_states s ON s.fingerprint = l.fingerprint `

// owners returns whose stores of those names there are. It is one query where stamps can be asked for beside the ledger.
func (m *Migrator) owners(ctx context.Context, stores []backend.Store) (map[backend.Store]string, error) {
	if m.stamps != nil {
		return m.ledger.owners(ctx, m.stamps, stores)
	}
	owners := make(map[backend.Store]string, len(stores))
	for _, s := range stores {
		info, err := m.be.Stat(ctx, s)
		switch {
		case err == nil:
			owners[s] = info.Owner
		case !errors.Is(err, backend.ErrStoreMissing):
			return nil, err
		}
	}
	return owners, nil
}

func (l *ledger) owners(ctx context.Context, stamps backend.Stamper, stores []backend.Store) (map[backend.Store]string, error) {
	args := make([]any, len(stores))
	byName := make(map[string]backend.Store, len(stores))
	for i, s := range stores {
		args[i], byName[s.String()] = s.String(), s
	}
	fault := func(err error) error { return fmt.Errorf("tenement: migrate: looking for stores: %w", err) }
	rows, err := l.db.QueryContext(ctx, l.dialect.bind(`SELECT store, owner FROM (SELECT n.store, `+stamps.OwnerSQL("n.store")+` AS owner
		FROM (VALUES (CAST(? AS TEXT))`+strings.Repeat(", (CAST(? AS TEXT))", len(stores)-1)+`) n (store)) found WHERE owner IS NOT NULL`), args...)
	if err != nil {
		return nil, fault(err)
	}
	defer func() { _ = rows.Close() }()
	owners := make(map[backend.Store]string, len(stores))
	for rows.Next() {
		var name, owner string
		if err := rows.Scan(&name, &owner); err != nil {
			return nil, fault(err)
		}
		owners[byName[name]] = owner
	}
	if err := rows.Err(); err != nil {
		return nil, fault(err)
	}
	return owners, nil
}

// selection says which rows a run goes through.
type selection struct {
	all          bool
	fingerprints []string // those that are behind
}

// where returns the condition on the rows of a run, those that failed included.
func (v selection) where() (string, []any) {
	switch {
	case v.all:
		return `NULL FROM tenement_ledger l WHERE l.store <> ''`, nil
	case len(v.fingerprints) == 0:
		return `NULL FROM tenement_ledger l WHERE l.store <> '' AND l.failed_error <> ''`, nil
	}
	return `NULL FROM tenement_ledger l WHERE l.store <> '' AND (l.failed_error <> '' OR l.fingerprint IN (?` +
		strings.Repeat(", ?", len(v.fingerprints)-1) + `))`, anys(v.fingerprints)
}

// list returns the rows of a run that come after a name and, when upto is set, not after another; without their states.
func (l *ledger) list(ctx context.Context, v selection, after, upto string, limit int) ([]entry, error) {
	where, args := v.where()
	where, args = where+` AND l.store > ?`, append(args, after)
	if upto != "" {
		where, args = where+` AND l.store <= ?`, append(args, upto)
	}
	return l.entries(ctx, where+` ORDER BY l.store LIMIT ?`, append(args, limit)...)
}

// nth returns the name of one of the rows of a run, counted from 0; empty when there are not as many.
func (l *ledger) nth(ctx context.Context, v selection, n int) (string, error) {
	where, args := v.where()
	list, err := l.entries(ctx, where+` ORDER BY l.store LIMIT 1 OFFSET ?`, append(args, n)...)
	if err != nil || len(list) == 0 {
		return "", err
	}
	return list[0].store.String(), nil
}

// entries reads rows. The query goes on with the column of the state and the rest.
func (l *ledger) entries(ctx context.Context, query string, args ...any) ([]entry, error) {
	rows, err := l.db.QueryContext(ctx, l.dialect.bind(`SELECT l.store, l.owner, l.fingerprint, l.failed_error, l.updated_at, `+query), args...)
	if err != nil {
		return nil, fmt.Errorf("tenement: migrate: reading the ledger: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var list []entry
	for rows.Next() {
		var e entry
		var name string
		var text sql.NullString
		if err := rows.Scan(&name, &e.owner, &e.fingerprint, &e.failed, &e.updated, &text); err != nil {
			return nil, fmt.Errorf("tenement: migrate: reading the ledger: %w", err)
		}
		if e.store, err = backend.ParseStore(name); err != nil {
			return nil, fmt.Errorf("tenement: migrate: the ledger: %w", err)
		}
		if e.state, err = decodeState(text); err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("tenement: migrate: reading the ledger: %w", err)
	}
	return list, nil
}

func anys(list []string) []any {
	args := make([]any, len(list), len(list)+4)
	for i, s := range list {
		args[i] = s
	}
	return args
}

// Stores lists the stores that the ledger has, in order of name; there need not be one of each name.
func (m *Migrator) Stores(ctx context.Context) ([]backend.Store, error) {
	if m.parts != nil {
		return m.storesOfPlaces(ctx)
	}
	if exists, err := m.openLedger(ctx); err != nil || !exists {
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
