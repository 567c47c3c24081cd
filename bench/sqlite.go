package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"

	_ "modernc.org/sqlite" // the bare driver that is the reference

	"github.com/tenement-go/tenement/backend"
	_ "github.com/tenement-go/tenement/backend/sqlite"
)

var sqliteSuites = []suite{
	{
		name: "sqlite_read", what: "one statement, one tenant, one goroutine",
		rows: []row{
			{id: "sqlite_read", what: "`*sql.DB` ÷ bare modernc", ours: "sql", ref: "bare", bar: 0.75},
			{id: "sqlite_read_allocs", what: "allocations of the same", metric: allocs, ours: "sql", ref: "bare", plus: 1},
		},
		measure: sqliteRead,
	},
	{
		name: "sqlite_read8", what: "one statement, tenants at random of 8, 8 goroutines",
		rows: []row{
			{id: "sqlite_read8", what: "`*sql.DB` ÷ bare modernc, a `*sql.DB` per tenant", ours: "sql", ref: "bare", bar: 0.75},
		},
		measure: sqliteReadMany,
	},
	{
		name: "sqlite_writers", what: "8 goroutines with write transactions to one tenant",
		rows: []row{
			{id: "sqlite_writers", what: "time of all ÷ bare modernc, BEGIN IMMEDIATE, busy_timeout", ours: "sql", ref: "bare", bar: 0.85},
			{id: "sqlite_writers_worst", what: "the longest wait of a transaction", metric: worst, ours: "sql", ref: "bare", bar: 0.05},
		},
		measure: sqliteWriters,
	},
	{
		name: "sqlite_read_random", what: "one statement, tenants at random of 10,000 with 256 open, one goroutine",
		rows: []row{
			{id: "sqlite_read_random", what: "`*sql.DB` ÷ bare: open, attach, query, close", ours: "sql", ref: "bare", bar: 1.15},
		},
		measure: sqliteRandom,
	},
	{
		name: "sqlite_new_store", what: "a new store of 20 tables from the template",
		rows: []row{
			{id: "sqlite_new_store", what: "÷ copy, fsync, rename, fsync of the directory", ours: "store", ref: "copy", bar: 1.2},
		},
		measure: sqliteNewStore,
	},
}

// barePragmas is what the reference opens its files with: the same as the backend's own.
const barePragmas = "&_pragma=journal_mode(wal)&_pragma=foreign_keys(on)&_pragma=synchronous(full)" +
	"&_pragma=busy_timeout(10000)&_pragma=trusted_schema(off)"

func openBare(file, params string) (*sql.DB, error) {
	return sql.Open("sqlite", "file:"+filepath.ToSlash(file)+"?mode=rw"+barePragmas+params)
}

func (e *env) bareFile(dir string, store int, params string) (*sql.DB, error) {
	db, err := openBare(fileOf(dir, store), params)
	if err == nil {
		e.cleanup(func() { _ = db.Close() })
	}
	return db, err
}

func fileOf(dir string, store int) string {
	return filepath.Join(dir, "tenants", numbered(store).String()+".db")
}

const (
	pointTable = `CREATE TABLE polls (id INTEGER PRIMARY KEY, question TEXT NOT NULL)`
	pointRow   = `INSERT INTO polls (id, question) VALUES (1, 'Which colour?')`
	pointRead  = `SELECT question FROM polls WHERE id = $1`
)

func readPoint(ctx context.Context, db querier) error {
	var q string
	return db.QueryRowContext(ctx, pointRead, 1).Scan(&q)
}

// sqlite opens a backend in a new directory, with the given stores made from one template that has the point table.
func (e *env) sqlite(ctx context.Context, params string, stores int) (be backend.Backend, dir string, err error) {
	if dir, err = e.dir(); err != nil {
		return nil, "", err
	}
	if be, err = backend.Open(ctx, "sqlite:"+dir+params); err != nil {
		return nil, "", err
	}
	e.cleanup(func() { _ = be.Close() })
	if _, err := be.Shared().ExecContext(ctx, `CREATE TABLE plans (id INTEGER PRIMARY KEY, name TEXT)`); err != nil {
		return nil, "", err
	}
	for i := range stores {
		err := be.(backend.Templater).CreateFrom(ctx, routeTo(i), "bench", func(ctx context.Context, db *sql.DB) error {
			_, err := db.ExecContext(ctx, pointTable+";"+pointRow)
			return err
		})
		if err != nil {
			return nil, "", err
		}
	}
	return be, dir, nil
}

func sqliteRead(ctx context.Context, e *env, s *scores) error {
	be, dir, err := e.sqlite(ctx, "", 1)
	if err != nil {
		return err
	}
	bare, err := e.bareFile(dir, 0, "")
	if err != nil {
		return err
	}
	routed := routes(1)[0]
	return e.contest(ctx, s, contest{},
		contender{name: "sql", worker: alike(func(context.Context) error { return readPoint(routed, be.DB()) })},
		contender{name: "bare", worker: alike(func(ctx context.Context) error { return readPoint(ctx, bare) })})
}

func sqliteReadMany(ctx context.Context, e *env, s *scores) error {
	const stores = 8
	be, dir, err := e.sqlite(ctx, "", stores)
	if err != nil {
		return err
	}
	var bare [stores]*sql.DB
	for i := range bare {
		if bare[i], err = e.bareFile(dir, i, ""); err != nil {
			return err
		}
	}
	return e.contest(ctx, s, contest{goroutines: saturating}, routedFiles(be, stores), filePerTenant(bare[:]))
}

// routedFiles reads from files at random through the routed handle.
func routedFiles(be backend.Backend, stores int) contender {
	to := routes(stores)
	return contender{name: "sql", worker: func(rng *rand.Rand) operation {
		return func(context.Context) error { return readPoint(to[rng.IntN(stores)], be.DB()) }
	}}
}

// filePerTenant reads from files at random through a handle for each.
func filePerTenant(handles []*sql.DB) contender {
	return contender{name: "bare", worker: func(rng *rand.Rand) operation {
		return func(ctx context.Context) error { return readPoint(ctx, handles[rng.IntN(len(handles))]) }
	}}
}

func sqliteWriters(ctx context.Context, e *env, s *scores) error {
	be, dir, err := e.sqlite(ctx, "", 2)
	if err != nil {
		return err
	}
	bare, err := e.bareFile(dir, 1, "&_txlock=immediate")
	if err != nil {
		return err
	}
	routed := routes(1)[0]
	return e.contest(ctx, s, contest{goroutines: 8, ops: e.pick(400, 100)},
		contender{name: "sql", worker: alike(func(context.Context) error { return insertPoll(routed, be.DB()) })},
		contender{name: "bare", worker: alike(func(ctx context.Context) error { return insertPoll(ctx, bare) })})
}

func insertPoll(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(ctx, `INSERT INTO polls (question) VALUES ($1)`, "Which one?"); err != nil {
		return err
	}
	return tx.Commit()
}

// sqliteRandom reads from a random one of many tenants of which few can be open.
func sqliteRandom(ctx context.Context, e *env, s *scores) error {
	stores, open := e.pick(10000, 200), e.pick(256, 16)
	be, dir, err := e.sqlite(ctx, fmt.Sprintf("?max_open=%d", open), stores)
	if err != nil {
		return err
	}
	shared := filepath.ToSlash(filepath.Join(dir, "shared.db"))
	openedAnew := func(ctx context.Context, store int) (err error) {
		db, err := openBare(fileOf(dir, store), "")
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, db.Close()) }()
		db.SetMaxOpenConns(1)
		if _, err := db.ExecContext(ctx, `ATTACH 'file:`+shared+`?mode=ro' AS public`); err != nil {
			return err
		}
		return readPoint(ctx, db)
	}
	return e.contest(ctx, s, contest{}, routedFiles(be, stores),
		contender{name: "bare", worker: func(rng *rand.Rand) operation {
			return func(ctx context.Context) error { return openedAnew(ctx, rng.IntN(stores)) }
		}})
}

func sqliteNewStore(ctx context.Context, e *env, s *scores) error {
	be, dir, err := e.sqlite(ctx, "", 0)
	if err != nil {
		return err
	}
	made := 0
	newStore := func(ctx context.Context) error {
		made++
		return be.(backend.Templater).CreateFrom(ctx, routeTo(made), "twenty", func(ctx context.Context, db *sql.DB) error {
			_, err := db.ExecContext(ctx, twentyTables("INTEGER"))
			return err
		})
	}
	if err := newStore(ctx); err != nil {
		return err
	}
	copies := 0
	copyTemplate := func(context.Context) error {
		copies++
		return copyFile(fileOf(dir, 1), filepath.Join(dir, fmt.Sprintf("copy%d.db", copies)))
	}
	return e.contest(ctx, s, contest{},
		contender{name: "store", worker: alike(newStore)}, contender{name: "copy", worker: alike(copyTemplate)})
}

// copyFile is the floor of making a store: copy, fsync, rename, fsync of the directory.
func copyFile(from, to string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.Create(to + ".tmp")
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	if err = errors.Join(err, dst.Sync(), dst.Close()); err != nil {
		return err
	}
	if err := os.Rename(to+".tmp", to); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(to))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
