package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/tenement-go/tenement/backend"
)

func openIn(t testing.TB, dir string, change ...func(*Config)) *Backend {
	t.Helper()
	var cfg Config
	for _, f := range change {
		f(&cfg)
	}
	b, err := Open(t.Context(), dir, cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b
}

func mustExec(t testing.TB, ctx context.Context, db *sql.DB, query string, args ...any) {
	t.Helper()
	_, err := db.ExecContext(ctx, query, args...)
	require.NoError(t, err)
}

func count(t testing.TB, ctx context.Context, db *sql.DB, query string, args ...any) (n int) {
	t.Helper()
	require.NoError(t, db.QueryRowContext(ctx, query, args...).Scan(&n))
	return n
}

// withTable makes a store with a table notes and returns a context routed to it.
func withTable(t testing.TB, b *Backend, name string) (context.Context, backend.Route) {
	t.Helper()
	rt := backend.Route{Store: backend.MustParseStore(name), Owner: "id-" + name}
	require.NoError(t, b.Create(t.Context(), rt))
	ctx := backend.WithRoute(t.Context(), rt)
	mustExec(t, ctx, b.DB(), "CREATE TABLE notes (id INTEGER PRIMARY KEY, mark TEXT)")
	return ctx, rt
}

// openFiles counts the process's open files below dir.
func openFiles(t *testing.T, dir string) (n int) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("counts open files in /proc")
	}
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(to, dir) && strings.HasSuffix(strings.TrimSuffix(to, " (deleted)"), ".db") && strings.Contains(to, "tenants") {
			n++
		}
	}
	return n
}

func TestOpenStoresAreBounded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := openIn(t, dir, func(o *Config) { o.MaxOpenStores = 3 })
	var all []context.Context
	for i := range 10 {
		ctx, _ := withTable(t, b, fmt.Sprintf("s%d", i))
		mustExec(t, ctx, b.DB(), "INSERT INTO notes (mark) VALUES (?)", i)
		all = append(all, ctx)
		require.LessOrEqual(t, openFiles(t, dir), 3)
	}
	// One in use stays open and keeps what it is doing, whatever comes and goes beside it.
	tx, err := b.DB().BeginTx(all[0], nil)
	require.NoError(t, err)
	_, err = tx.Exec("INSERT INTO notes (mark) VALUES ('tx')")
	require.NoError(t, err)
	for range 3 {
		for _, ctx := range all[1:] {
			require.Equal(t, 1, count(t, ctx, b.DB(), "SELECT count(*) FROM notes"))
			require.LessOrEqual(t, openFiles(t, dir), 3)
		}
	}
	require.NoError(t, tx.Commit())
	require.Equal(t, 2, count(t, all[0], b.DB(), "SELECT count(*) FROM notes"))

	// With all of them in use the next one waits, no longer than its context; then the call says what to do.
	var held []*sql.Tx
	for _, ctx := range all[:3] {
		tx, err := b.DB().BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
		require.NoError(t, err)
		require.NoError(t, tx.QueryRow("SELECT 1").Scan(new(int)))
		held = append(held, tx)
	}
	short, cancel := context.WithTimeout(all[5], 20*time.Millisecond)
	defer cancel()
	_, err = b.DB().ExecContext(short, "SELECT 1")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	done := make(chan error)
	go func() {
		_, err := b.DB().ExecContext(all[5], "SELECT 1")
		done <- err
	}()
	require.NoError(t, held[0].Rollback())
	require.NoError(t, <-done)
	require.NoError(t, held[1].Rollback())
	require.NoError(t, held[2].Rollback())
}

func TestOpenIsSingleFlight(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir())
	ctx, rt := withTable(t, b, "a")
	b.stores.retireName(rt.Store)
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			var n int
			assert.NoError(t, b.DB().QueryRowContext(ctx, "SELECT count(*) FROM notes").Scan(&n))
		})
	}
	wg.Wait()
	b.stores.mu.Lock()
	defer b.stores.mu.Unlock()
	require.Equal(t, 1, b.stores.count)
}

// A file that was not made as a store is none, whoever asks: routing, Stat and the list agree.
// fresh has the backend close the store, and returns its path.
func fresh(t *testing.T, b *Backend, rt backend.Route) string {
	t.Helper()
	b.stores.retireName(rt.Store)
	return b.path(rt.Store)
}

func TestCorruptFileIsTheStoresFault(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir())
	a, art := withTable(t, b, "a")
	c, _ := withTable(t, b, "c")
	mustExec(t, a, b.DB(), "INSERT INTO notes (mark) VALUES ('kept')")
	path := fresh(t, b, art)
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, slices.Concat([]byte("this is not a database at all..."), make([]byte, 8192)), 0o600))

	_, err = b.DB().ExecContext(a, "INSERT INTO notes (mark) VALUES ('x')")
	var own *backend.Error
	require.ErrorAs(t, err, &own)
	require.Equal(t, art.Store, own.Store)
	require.Equal(t, sqlite3.SQLITE_NOTADB, code(err), "the driver's error is in the chain")
	mustExec(t, c, b.DB(), "INSERT INTO notes (mark) VALUES ('others are unaffected')")

	require.NoError(t, os.WriteFile(path, whole, 0o600)) // restored in place
	require.Equal(t, 1, count(t, a, b.DB(), "SELECT count(*) FROM notes"), "no restart is needed")
}

func TestCorruptPageIsNoticedWhileOpen(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir(), func(o *Config) { o.CacheSize = 1 })
	a, art := withTable(t, b, "a")
	mustExec(t, a, b.DB(), "INSERT INTO notes (mark) SELECT hex(randomblob(500)) FROM pragma_function_list LIMIT 100")
	path := fresh(t, b, art)
	require.Equal(t, 100, count(t, a, b.DB(), "SELECT count(*) FROM notes"))
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	broken := slices.Clone(whole)
	for i := 3 * 4096; i < len(broken); i++ {
		broken[i] = 0xff
	}
	overwrite(t, path, broken)
	_, err = b.DB().ExecContext(a, "PRAGMA shrink_memory") // drops the page cache
	require.NoError(t, err)
	err = b.DB().QueryRowContext(a, "SELECT sum(length(mark)) FROM notes").Scan(new(int))
	var own *backend.Error
	require.ErrorAs(t, err, &own)
	require.Equal(t, sqlite3.SQLITE_CORRUPT, code(err)&0xff)
	overwrite(t, path, whole)
	require.Equal(t, 100, count(t, a, b.DB(), "SELECT count(*) FROM notes"), "no restart is needed")
}

func overwrite(t *testing.T, path string, data []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt(data, 0)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

func TestFullDiskIsTheStoresFault(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir())
	a, art := withTable(t, b, "a")
	conn, err := b.DB().Conn(a)
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.ExecContext(a, "PRAGMA max_page_count = 8")
	require.NoError(t, err)
	tx, err := conn.BeginTx(a, nil)
	require.NoError(t, err)
	_, err = tx.Exec("INSERT INTO notes (mark) VALUES (zeroblob(100000))")
	var own *backend.Error
	require.ErrorAs(t, err, &own)
	require.Equal(t, art.Store, own.Store)
	require.Equal(t, sqlite3.SQLITE_FULL, code(err))
	// SQLite may have rolled back by itself; nothing that follows is then committed on its own.
	_, err = tx.Exec("INSERT INTO notes (mark) VALUES ('after')")
	if err == nil {
		require.NoError(t, tx.Rollback())
	} else {
		require.Error(t, tx.Commit())
	}
	require.NoError(t, conn.Close())
	require.Equal(t, 0, count(t, a, b.DB(), "SELECT count(*) FROM notes"))
	mustExec(t, a, b.DB(), "INSERT INTO notes (mark) VALUES (zeroblob(100000))")
}

func TestTransactionThatSQLiteRolledBack(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir())
	a, _ := withTable(t, b, "a")
	mustExec(t, a, b.DB(), "INSERT INTO notes (id) VALUES (1)")
	tx, err := b.DB().BeginTx(a, nil)
	require.NoError(t, err)
	_, err = tx.Exec("INSERT INTO notes (id) VALUES (2)")
	require.NoError(t, err)
	_, err = tx.Exec("INSERT OR ROLLBACK INTO notes (id) VALUES (1)")
	require.Error(t, err)
	_, err = tx.Exec("INSERT INTO notes (id) VALUES (3)")
	require.ErrorContains(t, err, "begin it again")
	require.Error(t, tx.Commit())
	require.Equal(t, 1, count(t, a, b.DB(), "SELECT count(*) FROM notes"))
}

func TestWritersAreServedInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := openIn(t, t.TempDir())
		a, _ := withTable(t, b, "a")
		tx, err := b.DB().BeginTx(a, nil)
		require.NoError(t, err)
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				_, err := b.DB().ExecContext(a, "INSERT INTO notes (mark) VALUES (?)", i)
				assert.NoError(t, err)
			})
			synctest.Wait() // until it is in line
		}
		require.Equal(t, 0, count(t, a, b.DB(), "SELECT count(*) FROM notes"), "readers do not wait")
		require.NoError(t, tx.Commit())
		wg.Wait()
		rows, err := b.DB().QueryContext(a, "SELECT mark FROM notes ORDER BY id")
		require.NoError(t, err)
		defer rows.Close()
		for i := 0; rows.Next(); i++ {
			var mark int
			require.NoError(t, rows.Scan(&mark))
			require.Equal(t, i, mark)
		}
		require.NoError(t, rows.Err())
	})
}

// Whoever renames a store closes its connections, also that of one who waits for the turn to write.
func TestRenamedWhileAWriterWaits(t *testing.T) { // with -race, which sees no order here that a test made
	t.Parallel()
	b := openIn(t, t.TempDir())
	a, rt := withTable(t, b, "a")
	there := backend.Route{Store: backend.MustParseStore("b"), Owner: rt.Owner}
	for range 20 {
		tx, err := b.DB().BeginTx(a, nil)
		require.NoError(t, err)
		_, err = tx.Exec("INSERT INTO notes (mark) VALUES ('x')")
		require.NoError(t, err)
		conn, err := b.DB().Conn(a)
		require.NoError(t, err)
		var n int
		require.NoError(t, conn.QueryRowContext(a, "SELECT count(*) FROM notes").Scan(&n))
		require.Zero(t, n)
		var wg sync.WaitGroup
		wg.Go(func() { // compiled, let go, and compiled again by the writer
			_, err := conn.ExecContext(a, "INSERT INTO notes (mark) VALUES ('y')")
			assert.Error(t, err)
		})
		runtime.Gosched()
		require.NoError(t, b.Rename(t.Context(), rt, there.Store))
		require.Error(t, tx.Commit())
		wg.Wait()
		_ = conn.Close()
		require.NoError(t, b.Rename(t.Context(), there, rt.Store))
	}
}

// Who takes a store away ends whatever this process has open of it: also what it let go of before (the janitor retires what is
// being renamed, by this process too; an error puts its connections in doubt), and that somebody still has.
func TestRetiredIsTakenAwayToo(t *testing.T) { // S25
	t.Parallel()
	for name, end := range map[string]func(b *Backend, rt backend.Route) error{
		"rename": func(b *Backend, rt backend.Route) error {
			return b.Rename(t.Context(), rt, backend.MustParseStore("b"))
		},
		"drop":  func(b *Backend, rt backend.Route) error { return b.Drop(t.Context(), rt) },
		"close": func(b *Backend, _ backend.Route) error { return b.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := openIn(t, t.TempDir(), func(o *Config) { o.BusyTimeout = 100 * time.Millisecond })
			shared := b.descriptors.conns.Load()
			a, rt := withTable(t, b, "a")
			var held []*sql.Conn
			for range 3 { // of two stores that were retired, and of the one that is open
				c, err := b.DB().Conn(a)
				require.NoError(t, err)
				_, err = c.ExecContext(a, "SELECT 1")
				require.NoError(t, err)
				held = append(held, c)
				b.stores.retireName(rt.Store)
			}
			mustExec(t, a, b.DB(), "SELECT 1")
			require.Equal(t, shared+4, b.descriptors.conns.Load())
			require.NoError(t, end(b, rt))
			require.LessOrEqual(t, b.descriptors.conns.Load(), shared)
			for _, c := range held {
				require.Error(t, c.PingContext(t.Context()))
				_ = c.Close()
			}
			b.stores.mu.Lock()
			defer b.stores.mu.Unlock()
			require.Empty(t, b.stores.leaving)
		})
	}
}

// Whoever waits for a store, for its writer's turn or a free connection, waits no longer than it is there, however much time he has.
func TestWaitEndsWithTheStore(t *testing.T) { // S25
	t.Parallel()
	for name, end := range map[string]struct {
		do   func(ctx context.Context, b *Backend, rt backend.Route) error
		fate error
	}{
		"rename": {func(ctx context.Context, b *Backend, rt backend.Route) error {
			return b.Rename(ctx, rt, backend.MustParseStore("b"))
		}, backend.ErrStoreMissing},
		"drop":  {func(ctx context.Context, b *Backend, rt backend.Route) error { return b.Drop(ctx, rt) }, backend.ErrStoreMissing},
		"close": {func(_ context.Context, b *Backend, _ backend.Route) error { return b.Close() }, backend.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := openIn(t, t.TempDir(), func(c *Config) { c.BusyTimeout, c.MaxReaders = time.Hour, 1 })
				a, rt := withTable(t, b, "a")
				long, cancel := context.WithTimeout(a, 2*time.Hour)
				defer cancel()
				tx, err := b.DB().BeginTx(a, nil)
				require.NoError(t, err)
				defer func() { _ = tx.Rollback() }()
				reading, err := b.DB().BeginTx(a, &sql.TxOptions{ReadOnly: true})
				require.NoError(t, err)
				defer func() { _ = reading.Rollback() }()

				began := time.Now()
				var wg sync.WaitGroup
				for who, wait := range map[string]func() error{
					"a writer": func() error {
						_, err := b.DB().ExecContext(a, "INSERT INTO notes (mark) VALUES ('x')")
						return err
					},
					"a writer with a deadline": func() error {
						_, err := b.DB().ExecContext(long, "INSERT INTO notes (mark) VALUES ('x')")
						return err
					},
					"a transaction": func() error {
						_, err := b.DB().BeginTx(a, nil)
						return err
					},
					"a reader": func() error { return b.DB().QueryRowContext(long, "SELECT count(*) FROM notes").Scan(new(int)) },
					"a script": func() error {
						return b.RunScripts(a, []backend.Script{{Route: rt, SQL: "DELETE FROM notes"}}, backend.ScriptOptions{})[0]
					},
				} {
					wg.Go(func() {
						assert.ErrorIs(t, wait(), end.fate, who)
						assert.Less(t, time.Since(began), time.Minute, who)
					})
				}
				synctest.Wait() // until they are in line
				require.NoError(t, end.do(t.Context(), b, rt))
				wg.Wait()
			})
		})
	}
}

// A store that another process has dropped a moment ago is missing, whatever is done with it and whatever it was being waited for.
func TestDroppedAMomentAgo(t *testing.T) { // S25, S72
	t.Parallel()
	for name, do := range map[string]func(t *testing.T, b *Backend, rt backend.Route, drop func()) error{
		"backup": func(t *testing.T, b *Backend, rt backend.Route, drop func()) error {
			drop()
			return b.Backup(t.Context(), rt, filepath.Join(t.TempDir(), "backup"))
		},
		"copy": func(t *testing.T, b *Backend, rt backend.Route, drop func()) error {
			drop()
			return b.CopyStore(t.Context(), rt, backend.Route{Store: backend.MustParseStore("copy")})
		},
		"script": func(t *testing.T, b *Backend, rt backend.Route, drop func()) error {
			tx, err := b.DB().BeginTx(backend.WithRoute(t.Context(), rt), nil)
			require.NoError(t, err)
			failed := make(chan error, 1)
			go func() {
				failed <- b.RunScripts(t.Context(), []backend.Script{{Route: rt, SQL: "DELETE FROM notes"}}, backend.ScriptOptions{})[0]
			}()
			synctest.Wait() // until it is in line
			drop()
			require.NoError(t, tx.Rollback())
			return <-failed
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				b, other := openIn(t, dir), openIn(t, dir)
				a, rt := withTable(t, b, "a")
				mustExec(t, a, b.DB(), "INSERT INTO notes (mark) VALUES ('x')")
				b.stores.peek(rt.Store).checked.Store(int64(b.now() + time.Hour)) // it is not looked for before that
				require.ErrorIs(t, do(t, b, rt, func() { require.NoError(t, other.Drop(t.Context(), rt)) }), backend.ErrStoreMissing)
			})
		})
	}
}

// Who renames a store waits for those who are opening it; they wait for the rename, and are not in its way.
func TestOpenedWhileItIsRenamed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := openIn(t, t.TempDir())
		a, rt := withTable(t, b, "a")
		b.stores.retireName(rt.Store)
		unlock, err := b.lock(t.Context(), storeKey(rt.Store)) // as rename begins
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(b.marker(rt.Store), nil, 0o600))
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				_, err := b.DB().ExecContext(a, "INSERT INTO notes (mark) VALUES ('x')")
				assert.NoError(t, err)
			})
		}
		synctest.Wait()
		soon, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		unblock, err := b.stores.block(soon, rt.Store)
		require.NoError(t, err)
		unblock()
		unlock()
		wg.Wait()
	})
}

// Whoever has a store open is waited for by who renames it: also when he brought it into WAL mode, as after a rename, and
// has read nothing yet.
func TestOpenStoreCannotBeFolded(t *testing.T) { // S25
	t.Parallel()
	b := openIn(t, t.TempDir(), func(o *Config) { o.BusyTimeout = 30 * time.Millisecond })
	_, rt := withTable(t, b, "a")
	b.stores.retireName(rt.Store)
	require.NoError(t, b.fold(t.Context(), b.path(rt.Store)))
	st, err := b.stores.acquire(t.Context(), rt)
	require.NoError(t, err)
	defer b.stores.release(st)
	require.ErrorIs(t, b.fold(t.Context(), b.path(rt.Store)), ErrBusy)
}

// Who was about to open a store when another process began to rename it writes nothing that the rename leaves behind.
func TestOpenedAsItIsFolded(t *testing.T) { // S25, S72
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		b, other := openIn(t, dir), openIn(t, dir)
		a, rt := withTable(t, b, "a")
		to := backend.Route{Store: backend.MustParseStore("z"), Owner: rt.Owner}

		other.descriptors.last.Store(int64(other.now() + time.Hour)) // as if they were short: it waits for them
		other.descriptors.scarce <- struct{}{}
		var acknowledged bool
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := other.DB().ExecContext(a, "INSERT INTO notes (mark) VALUES ('x')")
			acknowledged = err == nil
		})
		synctest.Wait()

		unlock, err := b.lock(t.Context(), storeKey(rt.Store)) // what rename does
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(b.marker(rt.Store), nil, 0o600))
		unblock, err := b.stores.block(t.Context(), rt.Store)
		require.NoError(t, err)
		require.NoError(t, b.fold(t.Context(), b.path(rt.Store)))
		<-other.descriptors.scarce
		synctest.Wait()
		require.NoError(t, os.Rename(b.path(rt.Store), b.path(to.Store)))
		require.NoError(t, remove(b.marker(rt.Store)))
		unblock()
		unlock()
		wg.Wait()
		other.stores.retireName(rt.Store)

		rows := count(t, backend.WithRoute(t.Context(), to), b.DB(), "SELECT count(*) FROM notes")
		require.Equal(t, acknowledged, rows == 1, "rows: %d", rows)
	})
}

func TestNestedWriteFailsInsteadOfHanging(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir(), func(o *Config) { o.BusyTimeout = 30 * time.Millisecond })
	a, _ := withTable(t, b, "a")
	tx, err := b.DB().BeginTx(a, nil)
	require.NoError(t, err)
	_, err = b.DB().ExecContext(a, "INSERT INTO notes (mark) VALUES ('outside')")
	require.ErrorIs(t, err, ErrBusy)
	short, cancel := context.WithTimeout(a, 30*time.Millisecond)
	defer cancel()
	_, err = b.DB().ExecContext(short, "INSERT INTO notes (mark) VALUES ('outside')")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	gone, cancel2 := context.WithCancel(a)
	cancel2()
	_, err = b.DB().ExecContext(gone, "INSERT INTO notes (mark) VALUES ('outside')")
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, tx.Commit())
	mustExec(t, a, b.DB(), "INSERT INTO notes (mark) VALUES ('now')")
	require.Equal(t, 1, count(t, a, b.DB(), "SELECT count(*) FROM notes"))
}

func TestPointReadAllocations(t *testing.T) {
	b := openIn(t, t.TempDir())
	_, rt := withTable(t, b, "a")
	ctx := backend.WithRoute(context.Background(), rt)
	mustExec(t, ctx, b.DB(), "INSERT INTO notes (mark) VALUES ('x')")
	db, err := sql.Open("sqlite", filepath.Join(t.TempDir(), "bare.db"))
	require.NoError(t, err)
	defer db.Close()
	mustExec(t, context.Background(), db, "CREATE TABLE notes (id INTEGER PRIMARY KEY, mark TEXT); INSERT INTO notes (mark) VALUES ('x')")
	read := func(db *sql.DB) float64 {
		return testing.AllocsPerRun(200, func() {
			var mark string
			if err := db.QueryRowContext(ctx, "SELECT mark FROM notes WHERE id = ?", 1).Scan(&mark); err != nil {
				t.Error(err)
			}
		})
	}
	bare := read(db)
	require.LessOrEqual(t, read(b.DB()), bare)
}

func TestStatementCacheIsBounded(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir(), func(o *Config) { o.Statements = 4 })
	a, rt := withTable(t, b, "a")
	for i := range 50 {
		require.Equal(t, i, count(t, a, b.DB(), fmt.Sprintf("SELECT %d FROM (SELECT 1)", i)))
	}
	st := b.stores.peek(rt.Store)
	for _, c := range st.conns {
		require.LessOrEqual(t, c.stmts.Len(), 4)
	}
}

// noRaw is a connection that knows no more than whether it was closed.
type noRaw struct{ raw }

func (noRaw) Close() error { return nil }

// Whoever loses a store at the moment at which a call on a connection ends has it closed all the same: nobody else would,
// and a rename waits for it.
func TestLostAsACallEnds(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir())
	for range 20_000 {
		st := b.newStore(backend.Store{}, "")
		c := &conn{st: st, raw: noRaw{}, stmts: newStatements(1)}
		st.conns = []*conn{c}
		b.descriptors.conns.Add(1)
		c.mu.Lock()
		var wg sync.WaitGroup
		wg.Go(c.unlock)
		st.lose(backend.ErrStoreMissing)
		wg.Wait()
		require.Nil(t, c.raw)
	}
}

// Whoever is short of descriptors waits for those who make room no longer than his context.
func TestWaitForDescriptorsEndsWithItsContext(t *testing.T) {
	t.Parallel()
	b, err := Open(t.Context(), t.TempDir(), Config{})
	require.NoError(t, err)
	defer func() { require.NoError(t, b.Close()) }()
	rt := backend.Route{Store: backend.MustParseStore("thor"), Owner: "1"}
	require.NoError(t, b.Create(t.Context(), rt))
	b.descriptors.last.Store(int64(b.now() + time.Hour)) // they are short
	b.descriptors.scarce <- struct{}{}                   // and somebody is at it
	ctx, cancel := context.WithTimeout(backend.WithRoute(t.Context(), rt), 20*time.Millisecond)
	defer cancel()
	_, err = b.DB().ExecContext(ctx, "CREATE TABLE polls (question TEXT)")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	<-b.descriptors.scarce
	_, err = b.DB().ExecContext(backend.WithRoute(t.Context(), rt), "SELECT 1")
	require.NoError(t, err)
}

// Who closes a store's last connection has the file to himself, copies its log into it and removes the side files by name. A
// store that is made in its place meanwhile would lose its own: Drop waits.
func TestDropWaitsForWhoCloses(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir())
	a, rt := withTable(t, b, "a")
	path := b.path(rt.Store)
	mustExec(t, a, b.DB(), "SELECT 1")
	unblock, err := b.stores.block(t.Context(), rt.Store)
	require.NoError(t, err)
	unblock()
	closing, err := dial(t.Context(), uri(path, "rw"))
	require.NoError(t, err)
	_, err = closing.ExecContext(t.Context(), "PRAGMA locking_mode=EXCLUSIVE; BEGIN EXCLUSIVE; ROLLBACK", nil)
	require.NoError(t, err)

	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, b.Drop(short, rt), context.DeadlineExceeded) // within the call, or between two
	require.FileExists(t, path)
	dropped := make(chan error, 1)
	go func() { dropped <- b.Drop(t.Context(), rt) }()
	require.NoError(t, closing.Close())
	require.NoError(t, <-dropped)
	require.NoFileExists(t, path)
	require.NoFileExists(t, path+"-wal")
	require.NoFileExists(t, path+"-shm")

	// A file that cannot be read has nobody who closes it.
	require.NoError(t, b.Create(t.Context(), rt))
	require.NoError(t, os.Truncate(path, 4096*2))
	require.NoError(t, b.Drop(t.Context(), rt))
}

// SQLite opens a store's file and, when it reads for the first time, its -wal and -shm by name. Between the two the name must not
// come to stand for another store: neither Drop nor Rename gets through the door then, from whatever process.
func TestNothingIsMovedWhileItIsOpened(t *testing.T) { // S25, S72
	t.Parallel()
	dir := t.TempDir()
	b, other := openIn(t, dir), openIn(t, dir)
	a, rt := withTable(t, b, "a")
	mustExec(t, a, b.DB(), "INSERT INTO notes (mark) VALUES ('one')")
	b.stores.retireName(rt.Store)
	away := backend.Route{Store: backend.MustParseStore("away"), Owner: rt.Owner}
	next := backend.Route{Store: rt.Store, Owner: "next"}
	changeHands := func(ctx context.Context) error {
		if err := other.Rename(ctx, rt, away.Store); err != nil {
			return err
		}
		require.NoError(t, other.Create(ctx, next))
		in := backend.WithRoute(ctx, next)
		mustExec(t, in, other.DB(), "CREATE TABLE notes (id INTEGER PRIMARY KEY, mark TEXT)")
		mustExec(t, in, other.DB(), "INSERT INTO notes (mark) VALUES ('another')")
		return nil
	}
	const read = "SELECT count(*) FROM notes WHERE mark = 'another'"

	for _, who := range []*Backend{b, other} {
		r, err := b.enter(t.Context(), b.path(rt.Store), time.Minute, func(r raw) error {
			for what, do := range map[string]func(context.Context) error{
				"rename":  func(ctx context.Context) error { return who.Rename(ctx, rt, away.Store) },
				"drop":    func(ctx context.Context) error { return who.Drop(ctx, rt) },
				"restamp": func(ctx context.Context) error { return who.Restamp(ctx, rt, "another") },
			} {
				short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				require.ErrorIs(t, do(short), context.DeadlineExceeded, what)
				cancel()
			}
			n, err := ask(t.Context(), r, read)
			require.Zero(t, n)
			return err
		})
		require.NoError(t, err)
		require.NoError(t, r.Close())
	}

	// What is opened by whoever does not go through it: should SQLite ever do better, the door can go.
	r, err := dial(t.Context(), dsn(b.path(rt.Store), "rw"))
	require.NoError(t, err)
	require.NoError(t, changeHands(t.Context()))
	n, err := ask(t.Context(), r, read)
	require.NoError(t, err)
	require.EqualValues(t, 1, n, "the first store's file, with the log of the next one")
	require.NoError(t, r.Close())
	require.Equal(t, 1, count(t, backend.WithRoute(t.Context(), next), other.DB(), read))
	require.Zero(t, count(t, backend.WithRoute(t.Context(), away), b.DB(), read))
}

// Whoever has come through the door holds the file until he closes it, also where it was folded: Rename finds it in use, and after
// a Drop he has the log of the store that is gone.
func TestEnteredFileIsHeld(t *testing.T) { // S25, S72
	t.Parallel()
	dir := t.TempDir()
	b, other := openIn(t, dir), openIn(t, dir, func(c *Config) { c.BusyTimeout = 50 * time.Millisecond })
	a, rt := withTable(t, b, "a")
	mustExec(t, a, b.DB(), "INSERT INTO notes (mark) VALUES ('one')")
	folded := backend.Route{Store: backend.MustParseStore("folded"), Owner: rt.Owner}
	require.NoError(t, b.Rename(t.Context(), rt, folded.Store))
	r, err := b.enter(t.Context(), b.path(folded.Store), 0, func(r raw) error {
		_, err := askOwner(t.Context(), r, "")
		return err
	})
	require.NoError(t, err)
	require.ErrorIs(t, other.Rename(t.Context(), folded, rt.Store), ErrBusy)
	require.NoError(t, other.Drop(t.Context(), folded))
	next := backend.Route{Store: folded.Store, Owner: "next"}
	require.NoError(t, other.Create(t.Context(), next))
	in := backend.WithRoute(t.Context(), next)
	mustExec(t, in, other.DB(), "CREATE TABLE notes (id INTEGER PRIMARY KEY, mark TEXT)")
	mustExec(t, in, other.DB(), "INSERT INTO notes (mark) VALUES ('another')")
	_, err = r.ExecContext(t.Context(), "INSERT INTO notes (mark) VALUES ('lost')", nil)
	require.NoError(t, err)
	n, err := ask(t.Context(), r, "SELECT count(*) FROM notes WHERE mark <> 'another'")
	require.NoError(t, err)
	require.EqualValues(t, 2, n)
	require.NoError(t, r.Close())
	require.Equal(t, 1, count(t, in, other.DB(), "SELECT count(*) FROM notes"))
	var fine string
	require.NoError(t, other.DB().QueryRowContext(in, "PRAGMA integrity_check").Scan(&fine))
	require.Equal(t, "ok", fine)
}

// Who has to wait for the file does not do so at the door, where those could be in need of it whom he waits for.
func TestNobodyWaitsAtTheDoor(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir())
	a, rt := withTable(t, b, "a")
	path := b.path(rt.Store)
	b.stores.retireName(rt.Store)
	require.NoError(t, b.fold(t.Context(), path))
	reading, err := b.occupy(t.Context(), path) // as Drop does: it is not turned to WAL meanwhile
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := b.DB().ExecContext(a, "INSERT INTO notes (mark) VALUES ('x')")
		assert.NoError(t, err)
	})
	for range 10 {
		require.NoError(t, b.atDoor(t.Context(), path, func() error { return nil }))
	}
	reading()
	wg.Wait()
	b.stores.retireName(rt.Store)

	require.NoError(t, b.fold(t.Context(), path))
	reading, err = b.occupy(t.Context(), path)
	require.NoError(t, err)
	short, cancel := context.WithTimeout(a, 50*time.Millisecond)
	defer cancel()
	_, err = b.DB().ExecContext(short, "INSERT INTO notes (mark) VALUES ('x')")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	reading()
}

// A store's script waits at the door, too, no longer than it was told; the next one has its turn.
func TestScriptsAtTheDoor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b, other := openIn(t, dir), openIn(t, dir)
	_, rt := withTable(t, b, "a")
	_, next := withTable(t, b, "b")
	b.stores.retireName(rt.Store)
	require.NoError(t, other.atDoor(t.Context(), b.path(rt.Store), func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		const sql = "INSERT INTO notes (mark) VALUES ('script')"
		errs := b.RunScripts(ctx, []backend.Script{{Route: rt, SQL: sql}, {Route: next, SQL: sql}},
			backend.ScriptOptions{LockTimeout: 10 * time.Millisecond})
		require.ErrorIs(t, errs[0], ErrBusy)
		require.NoError(t, errs[1])
		return nil
	}))
}

// What is bounded is how long others are waited for, not the work: opening a store takes the time that it takes.
func TestPatienceIsForOthers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b, hasty := openIn(t, dir), openIn(t, dir, func(c *Config) { c.BusyTimeout = time.Millisecond })
	a, rt := withTable(t, b, "a")
	var tables strings.Builder
	for i := range 500 {
		fmt.Fprintf(&tables, "CREATE TABLE t%d (a TEXT, b TEXT, c TEXT, d TEXT, e TEXT);", i)
	}
	b.stores.retireName(rt.Store)
	require.NoError(t, execOnce(t.Context(), b.path(rt.Store), "BEGIN;"+tables.String()+"COMMIT"))
	errs := b.RunScripts(t.Context(), []backend.Script{{Route: rt, SQL: "INSERT INTO notes (mark) VALUES ('script')"}},
		backend.ScriptOptions{LockTimeout: time.Millisecond})
	require.NoError(t, errs[0])
	require.Equal(t, 1, count(t, a, hasty.DB(), "SELECT count(*) FROM notes"))
	hasty.stores.retireName(rt.Store)

	// Who is told that it was busy is told the truth: nothing was done.
	_, small := withTable(t, b, "b")
	b.stores.retireName(small.Store)
	from, to := small.Owner, "another"
	for range 50 {
		err := hasty.Restamp(t.Context(), backend.Route{Store: small.Store, Owner: from}, to)
		info, serr := b.Stat(t.Context(), small.Store)
		require.NoError(t, serr)
		if err != nil {
			require.ErrorIs(t, err, ErrBusy)
			require.Equal(t, from, info.Owner)
			continue
		}
		require.Equal(t, to, info.Owner)
		from, to = to, from
	}
}

// Nor is it busy when nobody has it, however little time there is for waiting; whose own time is over is refused.
func TestFreeIsNotBusy(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir())
	_, rt := withTable(t, b, "a")
	within := func(ctx context.Context) error {
		return b.untilFree(ctx, time.Nanosecond, func(limited context.Context) error {
			<-limited.Done()
			return b.atDoor(limited, b.path(rt.Store), func() error { return nil })
		})
	}
	require.NoError(t, within(t.Context()))

	over, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, within(over), context.Canceled)
	_, err := b.Lock(over, "free")
	require.ErrorIs(t, err, context.Canceled)

	st := b.stores.use(rt.Store)
	defer b.stores.release(st)
	require.NoError(t, st.await(t.Context(), st.turn, time.Nanosecond))
	st.turn.Release(1)
	require.NoError(t, b.RunScripts(t.Context(), []backend.Script{{Route: rt, SQL: "INSERT INTO notes (mark) VALUES ('script')"}},
		backend.ScriptOptions{LockTimeout: time.Nanosecond})[0])
}

// Who waits for another one to open a store waits by his own terms.
func TestOpenersTermsAreTheirOwn(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]struct{ first, second, door time.Duration }{
		"longer":  {first: time.Hour, door: time.Minute},
		"shorter": {second: time.Hour, door: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				b, other := openIn(t, dir), openIn(t, dir)
				a, rt := withTable(t, b, "a")
				b.stores.retireName(rt.Store)
				unlock, err := other.locks.lock(t.Context(), "door/"+filepath.Base(b.path(rt.Store)), true)
				require.NoError(t, err)
				time.AfterFunc(first.door, unlock)
				write := func(within time.Duration) error {
					ctx, cancel := limit(a, within)
					defer cancel()
					_, err := b.DB().ExecContext(ctx, "INSERT INTO notes (mark) VALUES ('x')")
					return err
				}
				var wg sync.WaitGroup
				for _, within := range []time.Duration{first.first, first.second} {
					wg.Go(func() {
						began := time.Now()
						err := write(within)
						if within > 0 {
							assert.NoError(t, err)
							return
						}
						assert.ErrorIs(t, err, ErrBusy)
						assert.LessOrEqual(t, time.Since(began), 2*b.cfg.BusyTimeout)
					})
					time.Sleep(time.Millisecond) // of the test's clock: the first is at the door
				}
				wg.Wait()
			})
		})
	}
}

// Whoever is at the door and does not move on is not waited for without bound.
func TestDoorIsBusy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b, other := openIn(t, dir), openIn(t, dir, func(c *Config) { c.BusyTimeout = 30 * time.Millisecond })
	a, rt := withTable(t, b, "a")
	require.NoError(t, b.atDoor(t.Context(), b.path(rt.Store), func() error {
		_, err := other.DB().ExecContext(a, "INSERT INTO notes (mark) VALUES ('x')")
		require.ErrorIs(t, err, ErrBusy)
		require.ErrorIs(t, other.Drop(t.Context(), rt), ErrBusy)
		return nil
	}))
	mustExec(t, a, other.DB(), "INSERT INTO notes (mark) VALUES ('x')")
}
