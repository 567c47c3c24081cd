// Package backendtest is the conformance suite that every [backend.Backend] passes, and its benchmarks.
//
// A backend's own test calls [Run] with a [Config] that says how to make an empty place for stores. Each case carries
// the sentence of the contract that it enforces, and prints it when it fails. The cases are numbered as the project's
// scenarios are (S01, S02, …) where they belong to one.
package backendtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

// Config says what is tested and what it can do. The zero value of each field but New is the usual.
type Config struct {
	// New makes a fresh, empty place for stores (a directory, a database) and returns a function that opens a backend
	// over it. The suite calls open more than once to stand for several processes. maxConns bounds the real
	// connections that the backend opens (SQLite: the stores that it keeps open); 0 means its default. What open
	// returns, and the place, are closed and removed by t's cleanup; the suite may close a backend before.
	New func(t testing.TB) (open func(maxConns int) backend.Backend)

	// SharedReadOnly: statements run inside a tenant cannot change the shared store (Postgres: with tenant roles).
	SharedReadOnly bool
	// StoresApart: nor can they name another tenant's store (Postgres: with a role for each tenant).
	StoresApart bool
	// TransactionPooler: the server is reached through a pooler that gives each transaction another server
	// connection. A *sql.Conn is then one session only inside a transaction, and settings of a server session
	// other than those that the backend sends itself are whatever the pooler made of them. Statements that need a
	// server session (S14) are left out.
	TransactionPooler bool
	// Waiting returns when n calls, or as many as can, wait for a lock inside the database of be. nil: the suite does not
	// wait for them to wait, and what it forces elsewhere is left to chance.
	Waiting func(ctx context.Context, be backend.Backend, n int) error
	// Foreign makes, by other means than the backend's, what a store of that name would be (a file, a schema), with the
	// table notes and the row 'stray' in it, but no stamp. nil: the case that needs it is left out.
	Foreign func(ctx context.Context, be backend.Backend, s backend.Store) error
	// Native returns the backend's other way in, which takes its route from the context as the routed handle does. nil:
	// it has none.
	Native func(be backend.Backend) Native

	// Full runs S03 in its full size (20,000 statements) unless -short is given.
	Full bool
	// Seed makes the random choices of S03 repeatable; 0 means another one each time.
	Seed uint64
	// Only limits the run to the cases whose "S07/name" begins with one of these; nil means all.
	Only []string
}

// Native is a routed way into a backend that is not database/sql, reduced to what the suite needs.
type Native interface {
	Exec(ctx context.Context, query string, args ...any) error
	QueryRow(ctx context.Context, query string, args ...any) interface{ Scan(dest ...any) error }
	// InTx runs fn in a transaction, committed when fn returns nil.
	InTx(ctx context.Context, fn func(tx Native) error) error
}

// Run runs the suite as subtests of t, in parallel.
func Run(t *testing.T, cfg Config) {
	if cfg.New == nil {
		t.Fatal("backendtest: Config.New is needed")
	}
	groups := map[string][]testCase{}
	var order []string
	for _, c := range cases() {
		if !cfg.wants(c) {
			continue
		}
		if groups[c.id] == nil {
			order = append(order, c.id)
		}
		groups[c.id] = append(groups[c.id], c)
	}
	for _, id := range order {
		t.Run(id, func(t *testing.T) {
			t.Parallel()
			for _, c := range groups[id] {
				t.Run(c.name, func(t *testing.T) {
					t.Parallel()
					runCase(t, cfg, c, patience*max(1, c.patience))
				})
			}
		})
	}
}

func (cfg Config) wants(c testCase) bool {
	if c.needs != nil && !c.needs(cfg) {
		return false
	}
	if cfg.Only == nil {
		return true
	}
	for _, prefix := range cfg.Only {
		if strings.HasPrefix(c.path(), prefix) {
			return true
		}
	}
	return false
}

// patience is how long a case may take before what it waits for is given up: long, since the machine may be busy.
const patience = 2 * time.Minute

// testCase is one rule and the way to find out whether it holds.
type testCase struct {
	id       string // the scenario, or the part of the contract
	name     string
	rule     string                // the sentence that a backend which fails has broken
	conns    int                   // passed to open; 0: the backend's default
	needs    func(cfg Config) bool // nil: nothing that a backend may lack
	patience time.Duration         // multiplies how long it may take; 0: 1
	run      func(e *env)
}

func (c testCase) path() string { return c.id + "/" + c.name }

// cases returns all of them, in the order in which they are worth reading.
func cases() []testCase {
	var all []testCase
	for _, group := range [][]testCase{
		routingCases, transactionCases, isolationCases, sharedCases, stressCases, nameCases, storeCases, ownerCases,
		handleCases, rightsCases, closeCases, nowhereCases, scriptCases, waitCases, templateCases, lockCases, fenceCases, sweepCases, backupCases, readOnlyCases, adoptCases,
		replicaCases, copyCases, placeCases,
		sqlCases, timeCases, nativeCases,
	} {
		all = append(all, group...)
	}
	return all
}

// runCase runs one case. patience bounds each call of the case that would otherwise wait for ever.
func runCase(t testing.TB, cfg Config, c testCase, patience time.Duration) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s enforces: %s", c.path(), c.rule)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	open := cfg.New(t)
	e := &env{TB: t, cfg: cfg, ctx: ctx, open: open, be: open(c.conns), patience: patience}
	c.run(e)
}

// What a case may need.
func readOnlyShared(cfg Config) bool   { return cfg.SharedReadOnly }
func storesApart(cfg Config) bool      { return cfg.StoresApart }
func ownServerSession(cfg Config) bool { return !cfg.TransactionPooler }
func foreignStores(cfg Config) bool    { return cfg.Foreign != nil }
func nativeAccess(cfg Config) bool     { return cfg.Native != nil }

// env is what a case works with: a backend of its own, and shorthands. It is a testing.TB, so require takes it.
type env struct {
	testing.TB
	cfg      Config
	be       backend.Backend
	open     func(maxConns int) backend.Backend
	ctx      context.Context // names no tenant
	patience time.Duration
}

// The tables of the cases. notes is made in every tenant; a case that wants it in the shared store too makes it there.
const (
	notesPostgres = `CREATE TABLE notes (id integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, mark text NOT NULL)`
	notesSQLite   = `CREATE TABLE notes (id INTEGER PRIMARY KEY, mark TEXT NOT NULL)`

	insertNote  = `INSERT INTO notes (mark) VALUES ($1)`
	selectMarks = `SELECT mark FROM notes ORDER BY id`
)

func (e *env) notesTable() string {
	if e.be.Dialect() == backend.Postgres {
		return notesPostgres
	}
	return notesSQLite
}

// sqlite and postgres pick by dialect.
func (e *env) postgres() bool { return e.be.Dialect() == backend.Postgres }

func (e *env) pick(sqlite, postgres string) string {
	if e.postgres() {
		return postgres
	}
	return sqlite
}

// route returns the route of a store that need not exist.
func route(name string) backend.Route {
	return backend.Route{Store: backend.MustParseStore(name), Owner: "owner-of-" + name}
}

// tenant makes a store with the table notes and a row for each mark.
func (e *env) tenant(name string, marks ...string) backend.Route {
	e.Helper()
	rt := route(name)
	e.create(rt, marks...)
	return rt
}

func (e *env) create(rt backend.Route, marks ...string) {
	e.Helper()
	require.NoError(e, e.be.Create(e.ctx, rt), "create store %s", rt.Store)
	e.ddl(rt, e.notesTable())
	for _, mark := range marks {
		e.add(rt, mark)
	}
}

// sharedNotes makes the table notes in the shared store too: what a statement that lost its way would find.
func (e *env) sharedNotes(marks ...string) {
	e.Helper()
	e.shared(e.notesTable())
	for _, mark := range marks {
		for _, db := range e.everyShared() {
			_, err := db.ExecContext(e.ctx, insertNote, mark)
			require.NoError(e, err, "insert into the shared store")
		}
	}
}

// everyShared returns the handle on the shared store or, where there are several places, those on the shared store of each,
// which the library's users keep alike.
func (e *env) everyShared() []*sql.DB {
	placer, ok := e.be.(backend.Placer)
	if !ok {
		return []*sql.DB{e.be.Shared()}
	}
	var all []*sql.DB
	for _, place := range placer.Places() {
		all = append(all, placer.In(place).Shared())
	}
	return all
}

// sharedBeside returns the handle on the shared store that rt's store sees.
func (e *env) sharedBeside(rt backend.Route) *sql.DB {
	e.Helper()
	placer, ok := e.be.(backend.Placer)
	if !ok {
		return e.be.Shared()
	}
	place, err := placer.PlaceOf(e.ctx, rt.Store)
	require.NoError(e, err)
	return placer.In(place).Shared()
}

// shared runs statements in the shared store.
func (e *env) shared(statements ...string) {
	e.Helper()
	for _, s := range statements {
		for _, db := range e.everyShared() {
			_, err := db.ExecContext(e.ctx, s)
			require.NoError(e, err, "in the shared store: %s", s)
		}
	}
}

// ddl runs statements in a store with the owner's rights.
func (e *env) ddl(rt backend.Route, statements ...string) {
	e.Helper()
	db := e.be.Maintenance(rt)
	defer func() { require.NoError(e, db.Close()) }()
	for _, s := range statements {
		_, err := db.ExecContext(e.ctx, s)
		require.NoError(e, err, "in store %s, as its owner: %s", rt.Store, s)
	}
}

// in returns a context that names rt.
func (e *env) in(rt backend.Route) context.Context { return backend.WithRoute(e.ctx, rt) }

// add inserts a note through the routed handle.
func (e *env) add(rt backend.Route, mark string) {
	e.Helper()
	_, err := e.be.DB().ExecContext(e.in(rt), insertNote, mark)
	require.NoError(e, err, "insert %q into store %s", mark, rt.Store)
}

// holds fails unless the store's notes are exactly these, read through the routed handle.
func (e *env) holds(rt backend.Route, marks ...string) {
	e.Helper()
	got, err := readMarks(e.in(rt), e.be.DB())
	require.NoError(e, err, "read store %s", rt.Store)
	require.Equal(e, normal(marks), got, "notes of store %s", rt.Store)
}

// sharedHolds is holds for the shared store.
func (e *env) sharedHolds(marks ...string) {
	e.Helper()
	for _, db := range e.everyShared() {
		got, err := readMarks(e.ctx, db)
		require.NoError(e, err, "read the shared store")
		require.Equal(e, normal(marks), got, "notes of the shared store")
	}
}

func normal(marks []string) []string {
	if marks == nil {
		return []string{}
	}
	return marks
}

type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// readMarks returns the marks of the table notes.
func readMarks(ctx context.Context, q querier) ([]string, error) {
	return readStrings(ctx, q, selectMarks)
}

// readStrings returns the single text column of a query, never nil without an error.
func readStrings(ctx context.Context, q querier, query string, args ...any) ([]string, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	texts := []string{}
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		texts = append(texts, text)
	}
	return texts, rows.Err()
}

// tx begins a transaction on the routed handle that is rolled back at the end of the case at the latest.
func (e *env) tx(rt backend.Route) *sql.Tx {
	e.Helper()
	tx, err := e.be.DB().BeginTx(e.in(rt), nil)
	require.NoError(e, err, "begin in store %s", rt.Store)
	e.Cleanup(func() { _ = tx.Rollback() })
	return tx
}

// conn holds a connection of the routed handle until the end of the case at the latest.
func (e *env) conn() *sql.Conn {
	e.Helper()
	conn, err := e.be.DB().Conn(e.ctx)
	require.NoError(e, err)
	e.Cleanup(func() { _ = conn.Close() })
	return conn
}

// lock waits for a key.
func (e *env) lock(key string) backend.Lock {
	e.Helper()
	held, err := able[backend.Locker](e, e.be).Lock(e.ctx, key)
	require.NoError(e, err, "lock %q", key)
	return held
}

// pin returns a pinned handle that is closed at the end of the case.
func (e *env) pin(rt backend.Route) *sql.DB {
	db := e.be.DBFor(rt)
	e.Cleanup(func() { _ = db.Close() })
	return db
}

// stores returns the names that Stores lists.
func (e *env) stores() []string {
	e.Helper()
	names := []string{}
	for info, err := range e.be.Stores(e.ctx) {
		require.NoError(e, err, "list the stores")
		names = append(names, info.Store.String())
	}
	return names
}

// within runs fn, which has no context to bound it, and fails the case when it does not return in time.
func (e *env) within(what string, fn func() error) error {
	e.Helper()
	done := make(chan error, 1)
	go func() { done <- fn() }()
	select {
	case err := <-done:
		return err
	case <-e.ctx.Done():
		require.FailNow(e, fmt.Sprintf("%s did not return within %s", what, e.patience))
		return nil
	}
}

// tally gathers the errors of goroutines, which may not end the test themselves.
type tally struct {
	errs chan error
}

func newTally() *tally { return &tally{errs: make(chan error, 1000)} }

func (t *tally) add(err error) {
	if err == nil {
		return
	}
	select {
	case t.errs <- err:
	default: // enough of them
	}
}

func (t *tally) err() error {
	close(t.errs)
	var all []error
	for err := range t.errs {
		if all = append(all, err); len(all) == 10 {
			break
		}
	}
	return errors.Join(all...)
}
