package sqlite

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"modernc.org/sqlite"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
)

func held(t *testing.T, b *Backend) *sql.Conn {
	t.Helper()
	conn, err := b.DB().Conn(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// Every end of a transaction, however it is written, looks whether the store is still there.
func TestEveryEndOfATransactionLooks(t *testing.T) { // S77
	t.Parallel()
	for name, steps := range map[string][]string{
		"savepoint":             {"SAVEPOINT s", "INSERT INTO notes (mark) VALUES ('lost')", "RELEASE s"},
		"begin":                 {"BEGIN", "INSERT INTO notes (mark) VALUES ('lost')", "COMMIT"},
		"end":                   {"BEGIN IMMEDIATE", "INSERT INTO notes (mark) VALUES ('lost')", "/* done */ END TRANSACTION"},
		"in one text":           {"BEGIN; INSERT INTO notes (mark) VALUES ('lost')", "SELECT 1; COMMIT"},
		"and another one begun": {"BEGIN; INSERT INTO notes (mark) VALUES ('lost')", "COMMIT; BEGIN IMMEDIATE"},
		"nested":                {"SAVEPOINT s", "SAVEPOINT t; INSERT INTO notes (mark) VALUES ('lost')", "RELEASE t; RELEASE s"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			b, other := openIn(t, dir), openIn(t, dir)
			a, rt := withTable(t, b, "a")
			conn := held(t, b)
			for _, step := range steps[:len(steps)-1] {
				_, err := conn.ExecContext(a, step)
				require.NoError(t, err, step)
			}
			require.NoError(t, other.Drop(t.Context(), rt)) // as another process would
			_, err := conn.ExecContext(a, steps[len(steps)-1])
			require.ErrorIs(t, err, backend.ErrStoreMissing)
		})
	}
	t.Run("within BeginTx", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		b, other := openIn(t, dir), openIn(t, dir)
		a, rt := withTable(t, b, "a")
		tx, err := b.DB().BeginTx(a, nil)
		require.NoError(t, err)
		_, err = tx.Exec("INSERT INTO notes (mark) VALUES ('lost')")
		require.NoError(t, err)
		require.NoError(t, other.Drop(t.Context(), rt))
		_, err = tx.Exec("COMMIT")
		require.ErrorIs(t, err, backend.ErrStoreMissing)
		require.Error(t, tx.Commit())
	})
	t.Run("rows that write", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		b, other := openIn(t, dir), openIn(t, dir)
		a, rt := withTable(t, b, "a")
		rows, err := b.DB().QueryContext(a, "INSERT INTO notes (mark) VALUES ('1'), ('2') RETURNING id")
		require.NoError(t, err)
		require.True(t, rows.Next())
		require.NoError(t, other.Drop(t.Context(), rt))
		require.ErrorIs(t, rows.Close(), backend.ErrStoreMissing)
	})
}

// Whether a transaction is open is what SQLite says.
func TestTransactionsInTextAreNotMisjudged(t *testing.T) { // S77
	t.Parallel()
	b := openIn(t, t.TempDir(), func(cfg *Config) { cfg.BusyTimeout = 50 * time.Millisecond })
	a, rt := withTable(t, b, "a")
	other := held(t, b)
	free := func(what string) {
		t.Helper()
		_, err := other.ExecContext(a, "INSERT INTO notes (mark) VALUES ('other')")
		require.NoError(t, err, "after %s another one can write", what)
	}
	conn := held(t, b)
	run := func(query string) {
		t.Helper()
		_, err := conn.ExecContext(a, query)
		require.NoError(t, err, query)
	}
	for _, text := range []string{
		"SAVEPOINT s", "INSERT INTO notes (mark) VALUES ('1')", "SAVEPOINT t", "ROLLBACK TO t", "RELEASE t", "RELEASE s",
	} {
		run(text)
	}
	free("RELEASE")
	tx, err := conn.BeginTx(a, nil)
	require.NoError(t, err, "no transaction is open")
	require.NoError(t, tx.Rollback())

	for _, text := range []string{"BEGIN", "INSERT INTO notes (mark) VALUES ('2')", "COMMIT; BEGIN IMMEDIATE"} {
		run(text)
	}
	_, err = other.ExecContext(a, "INSERT INTO notes (mark) VALUES ('x')")
	require.ErrorIs(t, err, ErrBusy, "a transaction goes on, and others wait for their turn")
	_, err = conn.BeginTx(a, nil)
	require.ErrorContains(t, err, "still open")
	run("END")
	free("END")

	run("SAVEPOINT s; INSERT INTO notes (id, mark) VALUES (1000, '3')")
	_, err = conn.ExecContext(a, "INSERT OR ROLLBACK INTO notes (id) VALUES (1000)")
	require.Error(t, err)
	free("ON CONFLICT ROLLBACK")
	tx, err = conn.BeginTx(a, nil)
	require.NoError(t, err)
	_, err = tx.Exec("INSERT INTO notes (mark) VALUES ('4'); COMMIT")
	require.NoError(t, err)
	free("COMMIT within BeginTx")
	_, err = tx.Exec("INSERT INTO notes (mark) VALUES ('never')")
	require.ErrorContains(t, err, "begin it again", "what comes after is not committed on its own")
	require.Error(t, tx.Commit())
	run("INSERT INTO notes (mark) VALUES ('5')")

	rows, err := conn.QueryContext(a, "BEGIN; SELECT 1")
	require.NoError(t, err)
	require.NoError(t, rows.Close())
	_, err = conn.BeginTx(a, nil)
	require.ErrorContains(t, err, "still open", "begun by a query")
	run("ROLLBACK")

	marks := "SELECT group_concat(mark) FROM (SELECT mark FROM notes WHERE mark <> 'other' ORDER BY id)"
	var got string
	require.NoError(t, b.DB().QueryRowContext(backend.WithRoute(t.Context(), rt), marks).Scan(&got))
	require.Equal(t, "1,2,4,5", got)
	require.NoError(t, conn.Close())
	free("all of it")
}

// A transaction that was begun by text and is over leaves a connection that others can use.
func TestConnectionAfterATransactionInText(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir())
	a, rt := withTable(t, b, "a")
	st := b.stores.peek(rt.Store)
	kept := st.conns[0]
	for range 3 {
		mustExec(t, a, b.DB(), "BEGIN; INSERT INTO notes (mark) VALUES ('1'); COMMIT")
		mustExec(t, a, b.DB(), "SAVEPOINT s; RELEASE s")
	}
	require.Equal(t, []*conn{kept}, st.conns)
	mustExec(t, a, b.DB(), "BEGIN; INSERT INTO notes (mark) VALUES ('never')")
	require.Equal(t, 3, count(t, a, b.DB(), "SELECT count(*) FROM notes"))
}

// Ping looks at the disk.
func TestPingLooksAtTheDisk(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	b := openIn(t, dir)
	a, _ := withTable(t, b, "a")
	conn := held(t, b)
	require.NoError(t, conn.PingContext(a))
	_, err := conn.ExecContext(a, "SELECT 1")
	require.NoError(t, err)
	require.NoError(t, conn.PingContext(a))
	require.NoError(t, b.DB().PingContext(t.Context()))
	require.NoError(t, os.Rename(dir, dir+".gone"))
	require.Error(t, b.DB().PingContext(t.Context()), "the directory is gone")
	require.Error(t, b.Shared().PingContext(t.Context()))
	require.Error(t, conn.PingContext(a))
	_, err = b.DB().ExecContext(a, "INSERT INTO notes (mark) VALUES ('x')")
	require.ErrorIs(t, err, backend.ErrStoreMissing)
	require.NoError(t, os.Rename(dir+".gone", dir))
	require.NoError(t, b.DB().PingContext(t.Context()))
	mustExec(t, a, b.DB(), "INSERT INTO notes (mark) VALUES ('it is back')")
}

// Whatever is done on the shared handle, tenants can read the shared store: its -wal and -shm stay.
func TestSharedStoreStaysOpen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := openIn(t, dir)
	a, rt := withTable(t, b, "a")
	mustExec(t, t.Context(), b.Shared(), "CREATE TABLE plans (id INTEGER); INSERT INTO plans VALUES (1)")
	for _, query := range []string{"PRAGMA cache_size = 10", "PRAGMA temp_store = 2", "CREATE TEMP TABLE x (a)", "PRAGMA wal_checkpoint", "BEGIN"} {
		mustExec(t, t.Context(), b.Shared(), query)
		b.stores.retireName(rt.Store) // so that no connection has it attached
		require.FileExists(t, filepath.Join(dir, "shared.db-wal"), query)
		require.FileExists(t, filepath.Join(dir, "shared.db-shm"), query)
		require.Equal(t, 1, count(t, a, b.DB(), "SELECT count(*) FROM plans"), query)
	}
}

// The methods that tell of columns may be called while the context ends, which closes the rows.
func TestColumnTypesWhileTheContextEnds(t *testing.T) { // with -race
	t.Parallel()
	b := openIn(t, t.TempDir())
	a, _ := withTable(t, b, "a")
	mustExec(t, a, b.DB(), "INSERT INTO notes (mark) VALUES ('1'), ('2')")
	for range 50 {
		ctx, cancel := context.WithCancel(a)
		rows, err := b.DB().QueryContext(ctx, "SELECT id, mark FROM notes")
		require.NoError(t, err)
		require.True(t, rows.Next())
		go cancel()
		types, err := rows.ColumnTypes()
		if err == nil {
			require.Len(t, types, 2)
		}
		_ = rows.Close()
	}
}

// What Conn.Raw gives tells of the connection, and cannot undo what keeps tenants apart.
func TestRaw(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir())
	a, _ := withTable(t, b, "a")
	conn := held(t, b)
	raw := func() (r any) {
		require.NoError(t, conn.Raw(func(dc any) error {
			r = dc.(driver.Rawer).Raw()
			return nil
		}))
		return r
	}
	require.Nil(t, raw(), "nothing was run yet")
	_, err := conn.ExecContext(a, "SELECT 1")
	require.NoError(t, err)
	r := raw().(Raw)
	used, _, err := r.Status(sqlite.DBStatusSchemaUsed, false)
	require.NoError(t, err)
	require.Positive(t, used)
	columns, err := r.ColumnInfo("SELECT mark FROM notes")
	require.NoError(t, err)
	require.Equal(t, "TEXT", columns[0].DeclType)
	_, can := raw().(sqlite.AuthorizerRegisterer)
	require.False(t, can)
	require.NoError(t, b.Close())
	_, _, err = r.Status(sqlite.DBStatusSchemaUsed, false)
	require.ErrorIs(t, err, backend.ErrClosed)
}

// A transaction of the shared store has its file open once: as public, too, it would be read by somebody else, who may have
// to wait for the transaction itself. public.x can be read before and after.
func TestSharedTransactionReadsItsFileOnce(t *testing.T) { // S73
	t.Parallel()
	b := openIn(t, t.TempDir())
	mustExec(t, t.Context(), b.Shared(), "CREATE TABLE plans (id INTEGER PRIMARY KEY)")
	conn, err := b.Shared().Conn(t.Context())
	require.NoError(t, err)
	defer conn.Close()
	const public = "SELECT count(*) FROM public.plans"
	files := func() (n int64) {
		for _, c := range b.shared.conns {
			c.mu.Lock()
			c.own = true
			n, err = ask(t.Context(), c.raw, "SELECT count(*) FROM pragma_database_list WHERE file <> ''")
			c.own = false
			c.mu.Unlock()
			require.NoError(t, err)
		}
		return n
	}
	for _, how := range []struct {
		begin func() error
		end   func() error
	}{
		{
			func() error { _, err := conn.ExecContext(t.Context(), "BEGIN IMMEDIATE"); return err },
			func() error { _, err := conn.ExecContext(t.Context(), "COMMIT"); return err },
		},
		{
			func() error {
				_, err := conn.ExecContext(t.Context(), "BEGIN IMMEDIATE; INSERT INTO plans DEFAULT VALUES")
				return err
			},
			func() error { _, err := conn.ExecContext(t.Context(), "ROLLBACK"); return err },
		},
	} {
		var n int
		require.NoError(t, conn.QueryRowContext(t.Context(), public).Scan(&n))
		require.Len(t, b.shared.conns, 1)
		require.EqualValues(t, 2, files(), "a read of public")
		require.NoError(t, how.begin())
		require.EqualValues(t, 1, files(), "within the transaction")
		require.NoError(t, how.end())
	}
	var n int
	require.NoError(t, conn.QueryRowContext(t.Context(), public).Scan(&n))
	require.Zero(t, n)
	tx, err := conn.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	require.EqualValues(t, 1, files(), "within the transaction")
	require.NoError(t, tx.Commit())
}

// What is kept of a connection for the sake of its waits goes with it.

// What is kept of a connection for the sake of its waits goes with it.
func TestNothingIsKeptOfAClosedConnection(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.db")
	_, err := dial(t.Context(), dsn(path, "rw"))
	require.Error(t, err, "there is no such file")
	for _, name := range []string{dsn(path, "rwc"), nowhereDSN} {
		r, err := dial(t.Context(), name)
		require.NoError(t, err)
		c := r.(*patientConn).c
		known := func(m *sync.Map) (is bool) {
			m.Range(func(_, v any) bool { is = is || v == c; return !is })
			return is
		}
		require.Equal(t, name != nowhereDSN, known(&callers))
		require.NoError(t, r.Close())
		require.False(t, known(&callers))
		require.False(t, known(&openings))
	}
}
