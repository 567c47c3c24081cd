package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
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

func TestMissingStoreIsNotMade(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir())
	ctx := backend.WithStore(t.Context(), backend.MustParseStore("nobody"))
	for range 2 {
		_, err := b.DB().ExecContext(ctx, "CREATE TABLE x (a)")
		require.ErrorIs(t, err, backend.ErrStoreMissing) // S08
	}
	entries, err := os.ReadDir(b.tenants())
	require.NoError(t, err)
	require.Empty(t, entries)
}

func TestStaleSideFilesAreRemoved(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir())
	ctx, rt := withTable(t, b, "a")
	mustExec(t, ctx, b.DB(), "INSERT INTO notes (mark) VALUES ('old tenant')")
	wal, err := os.ReadFile(b.path(rt.Store) + "-wal")
	require.NoError(t, err)
	require.NotEmpty(t, wal)
	require.NoError(t, b.Drop(t.Context(), rt))
	for _, ext := range sideExts {
		require.NoFileExists(t, b.path(rt.Store)+ext)
	}
	// S27: what a crash left behind beside the name does not come back with the next store.
	require.NoError(t, os.WriteFile(b.path(rt.Store)+"-wal", wal, 0o600))
	next := backend.Route{Store: rt.Store, Owner: "next"}
	require.NoError(t, b.Create(t.Context(), next))
	nctx := backend.WithRoute(t.Context(), next)
	require.Equal(t, 0, count(t, nctx, b.DB(), "SELECT count(*) FROM sqlite_schema WHERE name = 'notes'"))
	_, err = b.DB().ExecContext(ctx, "SELECT 1")
	require.ErrorIs(t, err, backend.ErrStoreMissing, "the old tenant's context")
}

func TestAnotherTenantsFileIsRefused(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir())
	a, art := withTable(t, b, "a")
	_, crt := withTable(t, b, "c")
	require.NoError(t, b.fold(t.Context(), fresh(t, b, crt)))
	other, err := os.ReadFile(b.path(crt.Store))
	require.NoError(t, err)
	mine := b.path(art.Store) + ".new"
	require.NoError(t, os.WriteFile(mine, other, 0o600))
	fresh(t, b, art)
	require.NoError(t, os.Rename(mine, b.path(art.Store)))
	_, err = b.DB().ExecContext(a, "SELECT 1")
	require.ErrorIs(t, err, backend.ErrStoreMissing)
	require.ErrorContains(t, err, "another owner")
	info, err := b.Stat(t.Context(), art.Store)
	require.NoError(t, err)
	require.Equal(t, "id-c", info.Owner)
}

// A file that was not made as a store is none, whoever asks: routing, Stat and the list agree.
func TestUnstampedFileIsNoStore(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir())
	rt := backend.Route{Store: backend.MustParseStore("billing")}
	db, err := sql.Open("sqlite", b.path(rt.Store))
	require.NoError(t, err)
	mustExec(t, t.Context(), db, "CREATE TABLE notes (a)")
	require.NoError(t, db.Close())
	whole, err := os.ReadFile(b.path(rt.Store))
	require.NoError(t, err)
	for name, err := range map[string]error{
		"read":   b.DB().QueryRowContext(backend.WithRoute(t.Context(), rt), "SELECT count(*) FROM notes").Err(),
		"Drop":   b.Drop(t.Context(), rt),
		"Rename": b.Rename(t.Context(), rt, backend.MustParseStore("other")),
		"script": b.RunScripts(t.Context(), []backend.Script{{Route: rt, SQL: "DROP TABLE notes"}}, backend.ScriptOptions{})[0],
	} {
		require.ErrorIs(t, err, backend.ErrStoreMissing, name)
	}
	_, err = b.Stat(t.Context(), rt.Store)
	require.ErrorIs(t, err, backend.ErrStoreMissing)
	for info, err := range b.Stores(t.Context()) {
		require.NoError(t, err)
		require.Fail(t, "a store was listed", info.Store)
	}
	require.ErrorIs(t, b.Create(t.Context(), rt), backend.ErrStoreExists, "its name is not free either")
	same, err := os.ReadFile(b.path(rt.Store))
	require.NoError(t, err)
	require.Equal(t, whole, same)
}

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
	b := openIn(t, t.TempDir())
	a, rt := withTable(t, b, "a")
	tx, err := b.DB().BeginTx(a, nil)
	require.NoError(t, err)
	st := b.stores.peek(rt.Store)
	var wg sync.WaitGroup
	for i := range 10 {
		ready := make(chan struct{})
		wg.Go(func() {
			close(ready)
			_, err := b.DB().ExecContext(a, "INSERT INTO notes (mark) VALUES (?)", i)
			assert.NoError(t, err)
		})
		<-ready
		require.Eventually(t, func() bool { return waiters(st) == i+1 }, 10*time.Second, time.Millisecond)
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
}

// waiters counts sessions that wait for the store's turn: they have no connection.
func waiters(st *store) int {
	st.b.stores.mu.Lock()
	defer st.b.stores.mu.Unlock()
	return st.users - 1 // the transaction's
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

func TestReadOnlyTransactionRefusesWrites(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir())
	a, _ := withTable(t, b, "a")
	const insert = "INSERT INTO notes (mark) VALUES ('x')"
	mustExec(t, a, b.DB(), insert) // now in a connection's cache
	writer, err := b.DB().BeginTx(a, nil)
	require.NoError(t, err)
	tx, err := b.DB().BeginTx(a, &sql.TxOptions{ReadOnly: true})
	require.NoError(t, err, "it needs no turn")
	for _, query := range []string{insert, "DELETE FROM notes", insert + ";" + insert, "CREATE TABLE y (a)"} {
		_, err = tx.ExecContext(a, query)
		require.ErrorContains(t, err, "read-only", query)
	}
	require.NoError(t, tx.QueryRow("SELECT 1").Scan(new(int)))
	require.NoError(t, tx.Commit())
	require.NoError(t, writer.Commit())
	require.Equal(t, 1, count(t, a, b.DB(), "SELECT count(*) FROM notes"))
}

func TestAuthorizerRefusesWhatUndoesIsolation(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir())
	a, _ := withTable(t, b, "a")
	_, crt := withTable(t, b, "c")
	mustExec(t, t.Context(), b.Shared(), "CREATE TABLE plans (id INTEGER)")
	other := b.path(crt.Store)
	for _, query := range []string{
		"ATTACH '" + other + "' AS x",
		"ATTACH '' || '" + other + "' AS x",
		"ATTACH '' AS x",
		"VACUUM; ATTACH '' || '" + other + "' AS x",
		"VACUUM INTO '" + other + ".copy'",
		"DETACH public",
		"PRAGMA writable_schema = on",
		"PRAGMA trusted_schema = on",
		"PRAGMA journal_mode = DELETE",
		"PRAGMA locking_mode = EXCLUSIVE",
		"PRAGMA temp_store_directory = '/'",
		"PRAGMA data_store_directory = '/'",
		"PRAGMA hard_heap_limit = 1",
		"PRAGMA public.user_version = 7",
		"PRAGMA no_such_pragma",
		"INSERT INTO public.plans VALUES (1)",
		"DROP TABLE plans",
		"CREATE TABLE public.t (a)",
		"UPDATE tenement_store SET owner = 'me'",
		"DELETE FROM TENEMENT_STORE",
		"DROP TABLE tenement_store",
		"ALTER TABLE tenement_store ADD COLUMN x",
		"ALTER TABLE tenement_store RENAME TO y",
		"CREATE TRIGGER tr AFTER INSERT ON notes BEGIN DELETE FROM tenement_store; END; INSERT INTO notes (mark) VALUES ('x')",
	} {
		_, err := b.DB().ExecContext(a, query)
		require.ErrorIs(t, err, backend.ErrReadOnlyShared, query)
		_, _ = b.DB().ExecContext(a, "DROP TRIGGER IF EXISTS tr")
	}
	require.NoFileExists(t, other+".copy")
	for _, query := range []string{
		"VACUUM", "vacuum ; ", "PRAGMA journal_mode = WAL", "PRAGMA user_version = 3", "PRAGMA optimize", "ANALYZE main", "ANALYZE notes", "REINDEX notes",
		"CREATE VIEW v AS SELECT mark FROM notes", "ALTER TABLE notes RENAME COLUMN mark TO label",
		"CREATE VIRTUAL TABLE f USING fts5(text)", "INSERT INTO f VALUES ('x')",
		"CREATE TRIGGER tr AFTER INSERT ON notes BEGIN INSERT INTO f VALUES (new.label); END",
		"INSERT INTO notes (label) VALUES ('x')", "CREATE TEMP TABLE tmp (a)",
	} {
		mustExec(t, a, b.DB(), query)
	}
	require.Equal(t, 2, count(t, a, b.DB(), "SELECT count(*) FROM f WHERE f MATCH 'x'"))
	require.Equal(t, 0, count(t, a, b.DB(), "SELECT count(*) FROM sqlite_temp_schema"), "a temporary table outlived its unit of work")
	require.Equal(t, 1, count(t, a, b.DB(), "PRAGMA foreign_keys"))
	mustExec(t, a, b.DB(), "PRAGMA foreign_keys = off")
	for range 3 {
		require.Equal(t, 1, count(t, a, b.DB(), "PRAGMA foreign_keys"), "a setting outlived its unit of work") // S07
	}
	// A transaction begun by text ends with its unit of work.
	mustExec(t, a, b.DB(), "BEGIN; INSERT INTO notes (label) VALUES ('never')")
	require.Equal(t, 1, count(t, a, b.DB(), "SELECT count(*) FROM notes"))
	mustExec(t, a, b.DB(), "BEGIN; INSERT INTO notes (label) VALUES ('y'); COMMIT")
	require.Equal(t, 2, count(t, a, b.DB(), "SELECT count(*) FROM notes"))
	_, err := b.Shared().Exec("ATTACH '" + other + "' AS x")
	require.Error(t, err)
}

func TestSharedTablesAreFoundWheneverTheyAreAskedFor(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir())
	_, rt := withTable(t, b, "a")
	mustExec(t, t.Context(), b.Shared(), "CREATE TABLE plans (id INTEGER); INSERT INTO plans VALUES (1)")
	// Each on a connection that has not seen a shared table yet.
	ctx := backend.WithRoute(t.Context(), rt)
	for _, query := range []string{
		"SELECT count(*) FROM plans",
		"SELECT count(*) FROM public.plans",
		"SELECT count(*) FROM pragma_table_info('plans')",
		"SELECT count(*) FROM pragma_database_list WHERE name = 'public'",
		"SELECT 0; SELECT count(*) FROM plans",
		"WITH p AS (SELECT id FROM plans) SELECT count(*) FROM p",
	} {
		fresh(t, b, rt)
		require.Equal(t, 1, count(t, ctx, b.DB(), query), query)
		mustExec(t, ctx, b.DB(), "SELECT 1")
	}
	for _, readOnly := range []bool{false, true} {
		fresh(t, b, rt)
		tx, err := b.DB().BeginTx(ctx, &sql.TxOptions{ReadOnly: readOnly})
		require.NoError(t, err)
		require.NoError(t, tx.QueryRow("SELECT id FROM plans").Scan(new(int)), "within a transaction")
		require.NoError(t, tx.Commit())
	}
	fresh(t, b, rt)
	_, err := b.DB().ExecContext(ctx, "DROP TABLE IF EXISTS plans")
	require.ErrorIs(t, err, backend.ErrReadOnlyShared)
	// What asks for a name that nobody has still fails as SQLite has it.
	mustExec(t, ctx, b.DB(), "SELECT 1")
	_, err = b.DB().ExecContext(ctx, "SELECT * FROM nothing")
	require.Equal(t, sqlite3.SQLITE_ERROR, code(err))
}

func TestTenantsTableWinsOverACachedSharedOne(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir())
	a, rt := withTable(t, b, "a")
	mustExec(t, t.Context(), b.Shared(), "CREATE TABLE plans (id INTEGER); INSERT INTO plans VALUES (1)")
	const read = "SELECT id FROM plans"
	held, err := b.DB().Conn(a)
	require.NoError(t, err)
	defer held.Close()
	var n int
	require.NoError(t, held.QueryRowContext(a, read).Scan(&n))
	require.Equal(t, 1, n)
	// Another connection, even another process, gives the tenant a table of that name. // S09
	other := openIn(t, b.dir)
	mustExec(t, a, other.DB(), "CREATE TABLE plans (id INTEGER)")
	mustExec(t, a, other.DB(), "INSERT INTO plans VALUES (2)")
	require.NoError(t, held.QueryRowContext(a, read).Scan(&n))
	require.Equal(t, 2, n)
	owner := b.Maintenance(rt)
	mustExec(t, a, owner, "DROP TABLE plans")
	require.NoError(t, owner.Close())
	require.NoError(t, held.QueryRowContext(a, read).Scan(&n))
	require.Equal(t, 1, n)
}

func TestWriteToAReplacedFileIsNotReportedAsDone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b, other := openIn(t, dir), openIn(t, dir)
	a, rt := withTable(t, b, "a")
	tx, err := b.DB().BeginTx(a, nil)
	require.NoError(t, err)
	_, err = tx.Exec("INSERT INTO notes (mark) VALUES ('vanishes')")
	require.NoError(t, err)
	require.NoError(t, other.Drop(t.Context(), rt)) // as another process would
	require.ErrorIs(t, tx.Commit(), backend.ErrStoreMissing)
	_, err = b.DB().ExecContext(a, "INSERT INTO notes (mark) VALUES ('vanishes')")
	require.ErrorIs(t, err, backend.ErrStoreMissing)
}

func TestRenameWhileAnotherProcessHasItOpen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b, other := openIn(t, dir), openIn(t, dir)
	a, rt := withTable(t, b, "a")
	mustExec(t, a, b.DB(), "INSERT INTO notes (mark) VALUES ('1')")
	to := backend.Route{Store: backend.MustParseStore("z"), Owner: rt.Owner}
	require.NoError(t, other.Rename(t.Context(), rt, to.Store)) // S25
	z := backend.WithRoute(t.Context(), to)
	for _, be := range []*Backend{b, other} {
		require.Equal(t, 1, count(t, z, be.DB(), "SELECT count(*) FROM notes"))
		mustExec(t, z, be.DB(), "INSERT INTO notes (mark) VALUES ('2')")
		mustExec(t, z, be.DB(), "DELETE FROM notes WHERE mark = '2'")
		_, err := be.DB().ExecContext(a, "INSERT INTO notes (mark) VALUES ('x')")
		require.ErrorIs(t, err, backend.ErrStoreMissing)
	}
	left, err := b.Leftovers(t.Context())
	require.NoError(t, err)
	require.Empty(t, left)

	// A unit of work that goes on there makes it fail, and nothing is changed.
	tx, err := b.DB().BeginTx(z, nil)
	require.NoError(t, err)
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, other.Rename(short, to, rt.Store), context.DeadlineExceeded)
	_, err = tx.Exec("INSERT INTO notes (mark) VALUES ('2')")
	require.NoError(t, err)
	require.NoError(t, tx.Commit())
	require.Equal(t, 2, count(t, z, other.DB(), "SELECT count(*) FROM notes"))
}

func TestMarkerOfADeadRenameDoesNotBlock(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir())
	a, rt := withTable(t, b, "a")
	fresh(t, b, rt)
	require.NoError(t, os.WriteFile(filepath.Join(b.moving(), "a"), nil, 0o600))
	require.Equal(t, 0, count(t, a, b.DB(), "SELECT count(*) FROM notes"))
	require.NoFileExists(t, filepath.Join(b.moving(), "a"))
}

func TestLeftovers(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir())
	a, _ := withTable(t, b, "a")
	write := func(rel string) {
		require.NoError(t, os.WriteFile(filepath.Join(b.dir, rel), []byte("x"), 0o600))
	}
	old := time.Now().Add(-2 * templateAge)
	write("templates/0000.db")
	require.NoError(t, os.Chtimes(filepath.Join(b.dir, "templates/0000.db"), old, old))
	write("tenants/notes.txt") // the operator's: none of our business
	want := map[string]string{
		"moving/q": "marker", "templates/.1111.tmp": "temporary file", "templates/0000.db": "template",
		"tenants/.b.abc.dropped": "tombstone", "tenants/.b.abc.tmp": "temporary file", "tenants/.b.abc.tmp-wal": "temporary file",
		"tenants/b.db-journal": "side file", "tenants/b.db-wal": "side file",
	}
	for rel := range want {
		if rel != "templates/0000.db" {
			write(rel)
		}
	}
	busy, err := b.lock(t.Context(), storeKey(backend.MustParseStore("busy")))
	require.NoError(t, err)
	write("tenants/.busy.abc.tmp") // somebody is making it right now
	left, err := b.Leftovers(t.Context())
	require.NoError(t, err)
	got := map[string]string{}
	for _, l := range left {
		got[l.Name] = l.Kind
	}
	require.Equal(t, want, got)
	for _, l := range left {
		require.NoError(t, b.Sweep(t.Context(), l))
		require.NoError(t, b.Sweep(t.Context(), l), "it is gone already")
	}
	for _, name := range []string{"tenants/a.db", "tenants/a.db-wal", "shared.db", "../x", "/etc/passwd", "tenants/../shared.db", "tenants/notes.txt"} {
		err := b.Sweep(t.Context(), backend.Leftover{Name: name})
		require.Error(t, err, name)
	}
	busy()
	left, err = b.Leftovers(t.Context())
	require.NoError(t, err)
	require.Len(t, left, 1)
	require.Equal(t, 0, count(t, a, b.DB(), "SELECT count(*) FROM notes"))
}

func TestTemplateIsBuiltOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var mu sync.Mutex
	built := 0
	build := func(ctx context.Context, db *sql.DB) error {
		mu.Lock()
		built++
		mu.Unlock()
		_, err := db.ExecContext(ctx, "CREATE TABLE notes (id INTEGER PRIMARY KEY); INSERT INTO notes VALUES (1), (2)")
		return err
	}
	create := func(b *Backend, name string) error {
		return b.CreateFrom(t.Context(), backend.Route{Store: backend.MustParseStore(name), Owner: name}, "key", build)
	}
	b, other := openIn(t, dir), openIn(t, dir)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() { assert.NoError(t, create([]*Backend{b, other}[i%2], fmt.Sprintf("s%d", i))) })
	}
	wg.Wait()
	require.Equal(t, 1, built)
	for info, err := range b.Stores(t.Context()) {
		require.NoError(t, err)
		require.Equal(t, info.Store.String(), info.Owner)
		require.Equal(t, 2, count(t, backend.WithRoute(t.Context(), backend.Route{Store: info.Store, Owner: info.Owner}), b.DB(), "SELECT count(*) FROM notes"))
	}
	// One that is damaged on disk is built again by the next process, not copied.
	files, err := filepath.Glob(filepath.Join(b.templateDir(), "*.db"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	require.NoError(t, os.Truncate(files[0], 5000))
	require.NoError(t, create(openIn(t, dir), "after"))
	require.Equal(t, 2, built)
	// One that was swept is built again.
	require.NoError(t, os.Remove(files[0]))
	require.NoError(t, create(b, "swept"))
	require.Equal(t, 3, built)

	failure := errors.New("no")
	rt := backend.Route{Store: backend.MustParseStore("failed")}
	err = b.CreateFrom(t.Context(), rt, "other", func(context.Context, *sql.DB) error { return failure })
	require.ErrorIs(t, err, failure)
	_, err = b.Stat(t.Context(), rt.Store)
	require.ErrorIs(t, err, backend.ErrStoreMissing)
	left, err := b.Leftovers(t.Context())
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestReadOnlyDirectory(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 || runtime.GOOS == "windows" {
		t.Skip("permissions do not hold root back")
	}
	b := openIn(t, t.TempDir())
	a, _ := withTable(t, b, "a")
	require.NoError(t, os.Chmod(b.tenants(), 0o500))
	t.Cleanup(func() { _ = os.Chmod(b.tenants(), 0o700) })
	var own *backend.Error
	require.ErrorAs(t, b.Create(t.Context(), backend.Route{Store: backend.MustParseStore("new")}), &own)
	mustExec(t, a, b.DB(), "INSERT INTO notes (mark) VALUES ('it is open already')")
}

func TestDirectoryThatCannotBeMade(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := Open(t.Context(), filepath.Join(file, "data"), Config{})
	require.ErrorContains(t, err, file)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "shared.db"), []byte("not a database, not at all"), 0o600))
	_, err = Open(t.Context(), dir, Config{})
	require.ErrorContains(t, err, "shared.db")
}

func TestPathsAreEscaped(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a?b", "a#b", "a%3Fb", "a'b", `a"b`, "a b", "ü☃", "a&mode=memory", "file:x"} {
		dir := filepath.Join(t.TempDir(), name)
		b := openIn(t, dir)
		ctx, _ := withTable(t, b, "a")
		mustExec(t, t.Context(), b.Shared(), "CREATE TABLE plans (id INTEGER)")
		require.Equal(t, 0, count(t, ctx, b.DB(), "SELECT count(*) FROM public.plans"))
		require.FileExists(t, filepath.Join(dir, "tenants", "a.db"))
	}
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
	require.LessOrEqual(t, read(b.DB()), bare+1)
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

func TestAlone(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]bool{
		"SELECT 1": true, "SELECT 1;": true, "SELECT 1; -- end": true, "SELECT ';'": true, "SELECT 1 /* ; */": true,
		"SELECT \"a;b\", [c;d], `e;f`": true, "": true, ";": true, "SELECT 'it''s;'": true,
		"SELECT $a, @b, :c, $d::e": true, "VACUUM INTO $a('); ATTACH ($b) AS x; --'": false, "SELECT @a::b(\"); SELECT 2 --\"": false,
		"SELECT 1; SELECT 2": false, "SELECT 'open; SELECT 2": false, "SELECT 1 -- ;\n; DELETE FROM x": false,
	} {
		assert.Equal(t, want, alone(query), query)
	}
}

func FuzzParseURL(f *testing.F) {
	for _, s := range []string{"sqlite:data", "sqlite:data?max_open=3&busy_timeout=1s", "sqlite:///x%3F?synchronous=off", "sqlite:?", "sqlite:%zz", "sqlite:a?b=c&b=d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		dir, cfg, err := parseURL(s, Config{})
		if err != nil {
			require.ErrorIs(t, err, backend.ErrInvalidURL)
			return
		}
		require.NotEmpty(t, dir)
		_, err = cfg.withDefaults()
		require.NoError(t, err)
	})
}

func TestParseURL(t *testing.T) {
	t.Parallel()
	dir, cfg, err := parseURL("sqlite:///var/a%3Fb?max_open=3&max_readers=4&busy_timeout=70ms&synchronous=off&cache_size=9&statements=5", Config{MaxOpenStores: 7})
	require.NoError(t, err)
	require.Equal(t, "/var/a?b", dir)
	require.Equal(t, Config{MaxOpenStores: 3, MaxReaders: 4, BusyTimeout: 70 * time.Millisecond, Synchronous: Off, CacheSize: 9, Statements: 5}, cfg, "a parameter wins over a field")
	for url, names := range map[string]string{
		"sqlite:": "directory", "sqlite:?max_open=1": "directory", "sqlite:d?max_opn=1": "max_opn", "sqlite:d?max_open=0": "max_open",
		"sqlite:d?max_open=1&max_open=2": "max_open", "sqlite:d?synchronous=maybe": "synchronous", "sqlite:d?busy_timeout=5": "busy_timeout",
		"sqlite://host/d": "host", "sqlite:%zz": "escape", "sqlite:a%00": "NUL", "postgres:x": "sqlite:",
	} {
		_, _, err := parseURL(url, Config{})
		require.ErrorIs(t, err, backend.ErrInvalidURL, url)
		require.ErrorContains(t, err, names, url)
		_, err = backend.Open(t.Context(), url)
		require.Error(t, err, url)
	}
	_, err = Open(t.Context(), t.TempDir(), Config{MaxOpenStores: -1})
	require.ErrorIs(t, err, backend.ErrInvalidURL)
}

func FuzzStamp(f *testing.F) {
	f.Add("")
	f.Add("0198c5d4-0000-7000-8000-000000000000")
	f.Fuzz(func(t *testing.T, owner string) {
		stamp, err := encodeStamp(owner)
		if err != nil {
			require.True(t, len(owner) > maxOwner || strings.ContainsRune(owner, 0))
			return
		}
		got, ok := decodeStamp(stamp)
		require.True(t, ok)
		require.Equal(t, owner, got)
	})
}
