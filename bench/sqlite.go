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
	"sync"
	"testing"
	"time"

	_ "modernc.org/sqlite" // the bare driver that is the reference

	"github.com/tenement-go/tenement/backend"
	_ "github.com/tenement-go/tenement/backend/sqlite"
)

var sqliteSuites = []suite{
	{rows: []string{"sqlite_read", "sqlite_read_allocs"}, measure: sqliteRead},
	{rows: []string{"sqlite_writers_total", "sqlite_writers_worst"}, measure: sqliteWriters},
	{rows: []string{"sqlite_read_random"}, measure: sqliteRandom},
	{rows: []string{"sqlite_new_store"}, measure: sqliteNewStore},
}

// barePragmas is what the reference opens its files with: the same as the backend's own.
const barePragmas = "&_pragma=journal_mode(wal)&_pragma=foreign_keys(on)&_pragma=synchronous(full)" +
	"&_pragma=busy_timeout(10000)&_pragma=trusted_schema(off)"

func openBare(file, params string) (*sql.DB, error) {
	return sql.Open("sqlite", "file:"+filepath.ToSlash(file)+"?mode=rw"+barePragmas+params)
}

const (
	pointTable = `CREATE TABLE polls (id INTEGER PRIMARY KEY, question TEXT NOT NULL)`
	pointRow   = `INSERT INTO polls (id, question) VALUES (1, 'Which colour?')`
	pointRead  = `SELECT question FROM polls WHERE id = $1`
)

func readPoint(ctx context.Context, db interface {
	QueryRowContext(context.Context, string, ...any) *sql.Row
},
) error {
	var q string
	return db.QueryRowContext(ctx, pointRead, 1).Scan(&q)
}

// newSQLite opens a backend in a new directory, with the given stores made from one template that has the point table.
func newSQLite(ctx context.Context, e *env, params string, stores int) (backend.Backend, string, error) {
	dir, err := e.dir()
	if err != nil {
		return nil, "", err
	}
	be, err := backend.Open(ctx, "sqlite:"+dir+params)
	if err != nil {
		return nil, "", err
	}
	e.cleanup = append(e.cleanup, func() { _ = be.Close() })
	if _, err := be.Shared().ExecContext(ctx, `CREATE TABLE plans (id INTEGER PRIMARY KEY, name TEXT)`); err != nil {
		return nil, "", err
	}
	for i := range stores {
		rt := backend.Route{Store: numbered(i), Owner: fmt.Sprint(i)}
		if err := be.(backend.Templater).CreateFrom(ctx, rt, "bench", func(ctx context.Context, db *sql.DB) error {
			_, err := db.ExecContext(ctx, pointTable+";"+pointRow)
			return err
		}); err != nil {
			return nil, "", err
		}
	}
	return be, dir, nil
}

func numbered(i int) backend.Store { return backend.MustParseStore(fmt.Sprintf("t%05d", i)) }

func sqliteRead(ctx context.Context, e *env) ([]result, error) {
	be, dir, err := newSQLite(ctx, e, "", 1)
	if err != nil {
		return nil, err
	}
	bare, err := openBare(filepath.Join(dir, "tenants", "t00000.db"), "")
	if err != nil {
		return nil, err
	}
	defer bare.Close()
	routed := backend.WithRoute(ctx, backend.Route{Store: numbered(0), Owner: "0"})
	ours := func(context.Context) error { return readPoint(routed, be.DB()) }
	ref := func(ctx context.Context) error { return readPoint(ctx, bare) }
	r, err := e.compare(ctx, "sqlite_read", "routed point read ÷ bare modernc db.QueryRowContext", "µs", 0.88,
		e.pick(20000, 4000), timed(ours), timed(ref))
	if err != nil {
		return nil, err
	}
	return []result{r, allocations(ctx, "sqlite_read_allocs", "allocations of the same", 1, ours, ref)}, nil
}

// allocations compares the allocations of one operation; the bar is the reference's count and more on top.
func allocations(ctx context.Context, name, what string, more float64, ours, ref func(context.Context) error) result {
	count := func(op func(context.Context) error) float64 {
		return testing.AllocsPerRun(1000, func() { _ = op(ctx) })
	}
	a, b := count(ours), count(ref)
	return newResult(name, what, "allocs", (b+more)/b, a, b, nil)
}

// sqliteWriters has 8 goroutines writing to one tenant, 25 transactions each.
func sqliteWriters(ctx context.Context, e *env) ([]result, error) {
	be, dir, err := newSQLite(ctx, e, "", 2)
	if err != nil {
		return nil, err
	}
	bare, err := openBare(filepath.Join(dir, "tenants", "t00001.db"), "&_txlock=immediate")
	if err != nil {
		return nil, err
	}
	defer bare.Close()
	routed := backend.WithRoute(ctx, backend.Route{Store: numbered(0), Owner: "0"})
	perWriter := e.pick(50, 25)
	var worst map[*sql.DB][]float64
	write := func(ctx context.Context, db *sql.DB) side {
		return func(_ context.Context, n int) (float64, error) {
			var total, slowest time.Duration
			for range n {
				took, wait, err := eightWriters(ctx, db, perWriter)
				if err != nil {
					return 0, err
				}
				total += took
				slowest = max(slowest, wait)
			}
			worst[db] = append(worst[db], float64(slowest))
			return float64(total), nil
		}
	}
	worst = map[*sql.DB][]float64{}
	total, err := e.compare(ctx, "sqlite_writers_total",
		fmt.Sprintf("8 goroutines × %d write transactions to one tenant ÷ bare modernc, BEGIN IMMEDIATE, busy_timeout", perWriter),
		"ms", 0.85, 1, write(routed, be.DB()), write(ctx, bare))
	if err != nil {
		return nil, err
	}
	a, b := worst[be.DB()][1:], worst[bare][1:]
	ratios := make([]float64, len(a))
	for i := range a {
		ratios[i] = a[i] / b[i]
	}
	return []result{total, newResult("sqlite_writers_worst", "worst wait of one transaction of the same", "ms", 0.25,
		quantile(a, .5)/1e6, quantile(b, .5)/1e6, ratios)}, nil
}

func eightWriters(ctx context.Context, db *sql.DB, perWriter int) (total, worst time.Duration, err error) {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	began := time.Now()
	for w := range 8 {
		wg.Go(func() {
			for i := range perWriter {
				start := time.Now()
				err := func() error {
					tx, err := db.BeginTx(ctx, nil)
					if err != nil {
						return err
					}
					defer func() { _ = tx.Rollback() }()
					if _, err := tx.ExecContext(ctx, `INSERT INTO polls (question) VALUES ($1)`, fmt.Sprint(w, i)); err != nil {
						return err
					}
					return tx.Commit()
				}()
				mu.Lock()
				worst = max(worst, time.Since(start))
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return time.Since(began), worst, errors.Join(errs...)
}

// sqliteRandom reads from a random one of many tenants of which few can be open.
func sqliteRandom(ctx context.Context, e *env) ([]result, error) {
	stores, open := e.pick(10000, 400), e.pick(256, 16)
	be, dir, err := newSQLite(ctx, e, fmt.Sprintf("?max_open=%d", open), stores)
	if err != nil {
		return nil, err
	}
	shared := filepath.ToSlash(filepath.Join(dir, "shared.db"))
	ours := func(ctx context.Context) error {
		i := rand.IntN(stores)
		return readPoint(backend.WithRoute(ctx, backend.Route{Store: numbered(i), Owner: fmt.Sprint(i)}), be.DB())
	}
	ref := func(ctx context.Context) (err error) {
		file := filepath.Join(dir, "tenants", numbered(rand.IntN(stores)).String()+".db")
		db, err := openBare(file, "")
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
	r, err := e.compare(ctx, "sqlite_read_random",
		fmt.Sprintf("routed read, random of %d tenants with %d open ÷ bare: open, attach, query, close", stores, open),
		"µs", 1.15, e.pick(3000, 300), timed(ours), timed(ref))
	return []result{r}, err
}

// twentyTables is the schema of the provisioning rows: 20 tables with two indexes each.
func twentyTables(idType string) string {
	var ddl string
	for i := range 20 {
		ddl += fmt.Sprintf("CREATE TABLE t%[1]d (id %[2]s PRIMARY KEY, a TEXT NOT NULL, b TEXT, c INTEGER);\n"+
			"CREATE INDEX t%[1]d_a ON t%[1]d (a);\nCREATE INDEX t%[1]d_bc ON t%[1]d (b, c);\n", i, idType)
	}
	return ddl
}

func sqliteNewStore(ctx context.Context, e *env) ([]result, error) {
	be, dir, err := newSQLite(ctx, e, "", 0)
	if err != nil {
		return nil, err
	}
	made := 0
	ours := func(ctx context.Context) error {
		made++
		return be.(backend.Templater).CreateFrom(ctx, backend.Route{Store: numbered(made), Owner: fmt.Sprint(made)}, "twenty",
			func(ctx context.Context, db *sql.DB) error {
				_, err := db.ExecContext(ctx, twentyTables("INTEGER"))
				return err
			})
	}
	if err := ours(ctx); err != nil {
		return nil, err
	}
	template := filepath.Join(dir, "tenants", numbered(1).String()+".db")
	copies := 0
	ref := func(context.Context) error {
		copies++
		return copyFile(template, filepath.Join(dir, fmt.Sprintf("copy%d.db", copies)))
	}
	r, err := e.compare(ctx, "sqlite_new_store", "new store of 20 tables from the template ÷ file copy + fsync + rename + fsync of the directory",
		"ms", 1.5, e.pick(200, 50), timed(ours), timed(ref))
	return []result{r}, err
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
