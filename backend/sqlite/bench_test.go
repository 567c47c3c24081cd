package sqlite_test

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/sqlite"
)

// The benchmarks come in pairs: ours, and the bare driver (or plain file operations) doing the same.

const pragmas = "&_busy_timeout=5000&_pragma=trusted_schema(0)&_pragma=foreign_keys(1)&_pragma=cache_size(-1024)&_pragma=synchronous(FULL)"

func bare(b testing.TB, path string) *sql.DB {
	b.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?mode=rwc&_txlock=immediate"+pragmas)
	require.NoError(b, err)
	b.Cleanup(func() { _ = db.Close() })
	return db
}

func BenchmarkPointRead(b *testing.B) {
	const create = "CREATE TABLE polls (id INTEGER PRIMARY KEY, question TEXT, created TEXT); INSERT INTO polls VALUES (1, 'What?', 'now'), (2, 'Who?', 'now')"
	read := func(b *testing.B, ctx context.Context, db *sql.DB) {
		b.ReportAllocs()
		for b.Loop() {
			var q string
			if err := db.QueryRowContext(ctx, "SELECT question FROM polls WHERE id = ?", 2).Scan(&q); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("bare", func(b *testing.B) {
		db := bare(b, filepath.Join(b.TempDir(), "a.db"))
		exec(b, b.Context(), db, "PRAGMA journal_mode=WAL;"+create)
		read(b, context.Background(), db)
	})
	b.Run("routed", func(b *testing.B) {
		be := open(b)
		ctx := backend.WithRoute(context.Background(), mustRoute(tenant(b, be, "a")))
		exec(b, ctx, be.DB(), create)
		read(b, ctx, be.DB())
	})
	b.Run("bare/cancellable", func(b *testing.B) {
		db := bare(b, filepath.Join(b.TempDir(), "a.db"))
		exec(b, b.Context(), db, "PRAGMA journal_mode=WAL;"+create)
		read(b, b.Context(), db)
	})
	b.Run("routed/cancellable", func(b *testing.B) {
		be := open(b)
		ctx := tenant(b, be, "a")
		exec(b, ctx, be.DB(), create)
		read(b, ctx, be.DB())
	})
}

func mustRoute(ctx context.Context) backend.Route {
	rt, ok := backend.RouteFrom(ctx)
	if !ok {
		panic("no route")
	}
	return rt
}

func BenchmarkEightWriters(b *testing.B) {
	const create = "CREATE TABLE polls (id INTEGER PRIMARY KEY, question TEXT)"
	write := func(b *testing.B, ctx context.Context, db *sql.DB) {
		var worst time.Duration
		for b.Loop() {
			var wg sync.WaitGroup
			var mu sync.Mutex
			for range 8 {
				wg.Go(func() {
					for range 50 {
						start := time.Now()
						tx, err := db.BeginTx(ctx, nil)
						if err == nil {
							_, err = tx.ExecContext(ctx, "INSERT INTO polls (question) VALUES (?)", "What?")
						}
						if err == nil {
							err = tx.Commit()
						}
						if err != nil {
							b.Error(err)
						}
						took := time.Since(start)
						mu.Lock()
						worst = max(worst, took)
						mu.Unlock()
					}
				})
			}
			wg.Wait()
		}
		b.ReportMetric(float64(worst.Microseconds())/1000, "ms-worst")
	}
	b.Run("bare", func(b *testing.B) {
		db := bare(b, filepath.Join(b.TempDir(), "a.db"))
		exec(b, b.Context(), db, "PRAGMA journal_mode=WAL;"+create)
		write(b, context.Background(), db)
	})
	b.Run("routed", func(b *testing.B) {
		be := open(b)
		ctx := backend.WithRoute(context.Background(), mustRoute(tenant(b, be, "a")))
		exec(b, ctx, be.DB(), create)
		write(b, ctx, be.DB())
	})
}

const schema20 = 20

func tables() (text string) {
	for i := range schema20 {
		text += fmt.Sprintf("CREATE TABLE t%d (id INTEGER PRIMARY KEY, name TEXT NOT NULL, n INTEGER, created TEXT); "+
			"CREATE INDEX t%d_name ON t%d (name); CREATE INDEX t%d_n ON t%d (n);", i, i, i, i, i)
	}
	return text
}

func build20(ctx context.Context, db *sql.DB) error {
	_, err := db.ExecContext(ctx, tables())
	return err
}

func BenchmarkRandomTenant(b *testing.B) {
	const stores, kept = 2000, 256
	be := open(b, func(o *sqlite.Config) { o.MaxOpenStores = kept; o.Synchronous = sqlite.Off })
	exec(b, b.Context(), be.Shared(), "CREATE TABLE plans (id INTEGER PRIMARY KEY, name TEXT)")
	var routes []backend.Route
	var paths []string
	dir := b.TempDir()
	for i := range stores {
		rt := backend.Route{Store: backend.MustParseStore(fmt.Sprintf("t%05d", i)), Owner: fmt.Sprint(i)}
		require.NoError(b, be.CreateFrom(b.Context(), rt, "20", build20))
		routes = append(routes, rt)
		path := filepath.Join(dir, rt.Store.String()+".db")
		paths = append(paths, path)
		copyPlain(b, templateOf(b, be, rt), path, false)
	}
	shared := filepath.Join(dir, "shared.db")
	keep := bare(b, shared)
	exec(b, b.Context(), keep, "PRAGMA journal_mode=WAL; CREATE TABLE plans (id INTEGER PRIMARY KEY, name TEXT)")
	// One after the other in turns: each takes long enough for the machine's other work to weigh on the comparison.
	var bareTime, routedTime time.Duration
	for b.Loop() {
		start := time.Now()
		path := paths[rand.IntN(stores)]
		db, err := sql.Open("sqlite", "file:"+path+"?mode=rw"+pragmas)
		if err == nil {
			db.SetMaxOpenConns(1)
			_, err = db.Exec("ATTACH 'file:" + shared + "?mode=ro' AS public")
		}
		var n int
		if err == nil {
			err = db.QueryRow("SELECT count(*) FROM t3 WHERE id = ?", 2).Scan(&n)
		}
		if err != nil {
			b.Fatal(err)
		}
		db.Close()
		middle := time.Now()
		ctx := backend.WithRoute(context.Background(), routes[rand.IntN(stores)])
		if err := be.DB().QueryRowContext(ctx, "SELECT count(*) FROM t3 WHERE id = ?", 2).Scan(&n); err != nil {
			b.Fatal(err)
		}
		routedTime += time.Since(middle)
		bareTime += middle.Sub(start)
	}
	b.ReportMetric(float64(bareTime.Microseconds())/float64(b.N), "us-bare/op")
	b.ReportMetric(float64(routedTime.Microseconds())/float64(b.N), "us-routed/op")
	b.ReportMetric(float64(routedTime)/float64(bareTime), "routed/bare")
}

// templateOf returns a file that is what the template is.
func templateOf(b testing.TB, be *sqlite.Backend, rt backend.Route) string {
	b.Helper()
	files, err := filepath.Glob(filepath.Join(be.Dir(), "templates", "*.db"))
	require.NoError(b, err)
	require.NotEmpty(b, files)
	return files[0]
}

func copyPlain(b testing.TB, from, to string, sync bool) {
	in, err := os.Open(from)
	require.NoError(b, err)
	defer in.Close()
	out, err := os.Create(to + ".tmp")
	require.NoError(b, err)
	_, err = io.Copy(out, in)
	require.NoError(b, err)
	if sync {
		require.NoError(b, out.Sync())
	}
	require.NoError(b, out.Close())
	require.NoError(b, os.Rename(to+".tmp", to))
}

func BenchmarkCreateFromTemplate(b *testing.B) {
	be := open(b)
	first := backend.Route{Store: backend.MustParseStore("first")}
	require.NoError(b, be.CreateFrom(b.Context(), first, "20", build20))
	tpl := templateOf(b, be, first)
	n := 0
	b.Run("copy+fsync+rename", func(b *testing.B) {
		dir := b.TempDir()
		for b.Loop() {
			n++
			copyPlain(b, tpl, filepath.Join(dir, fmt.Sprint(n)), true)
		}
	})
	b.Run("create", func(b *testing.B) {
		for b.Loop() {
			n++
			rt := backend.Route{Store: backend.MustParseStore(fmt.Sprintf("n%d", n)), Owner: "someone"}
			if err := be.CreateFrom(b.Context(), rt, "20", build20); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkFleetScript(b *testing.B) {
	const stores = 300
	be := open(b)
	dir := b.TempDir()
	var scripts []backend.Script
	var paths []string
	for i := range stores {
		rt := backend.Route{Store: backend.MustParseStore(fmt.Sprintf("t%05d", i)), Owner: fmt.Sprint(i)}
		require.NoError(b, be.CreateFrom(b.Context(), rt, "20", build20))
		scripts = append(scripts, backend.Script{Route: rt})
		path := filepath.Join(dir, rt.Store.String()+".db")
		paths = append(paths, path)
		copyPlain(b, templateOf(b, be, rt), path, false)
	}
	n := 0
	b.Run("bare", func(b *testing.B) {
		for b.Loop() {
			n++
			for _, path := range paths {
				db, err := sql.Open("sqlite", "file:"+path+"?mode=rw"+pragmas)
				if err == nil {
					_, err = db.Exec(fmt.Sprintf("BEGIN IMMEDIATE; ALTER TABLE t0 ADD COLUMN c%d TEXT; COMMIT", n))
				}
				if err != nil {
					b.Fatal(err)
				}
				db.Close()
			}
		}
	})
	b.Run("scripts", func(b *testing.B) {
		for b.Loop() {
			n++
			for i := range scripts {
				scripts[i].SQL = fmt.Sprintf("ALTER TABLE t0 ADD COLUMN c%d TEXT", n)
			}
			for _, err := range be.RunScripts(b.Context(), scripts, backend.ScriptOptions{Async: true}) {
				if err != nil {
					b.Fatal(err)
				}
			}
			if err := be.Flush(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
}
