package sqlite

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/tenement-go/tenement/backend"
)

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

// A statement that a connection has kept means, when the tenant's table of the name goes or comes, what a new one would.
func TestKeptStatementFollowsTheTenantsTables(t *testing.T) {
	t.Parallel()
	for name, attached := range map[string]bool{"the shared store is not attached": false, "it is": true} {
		t.Run(name, func(t *testing.T) {
			b := openIn(t, t.TempDir())
			a, _ := withTable(t, b, "a")
			mustExec(t, t.Context(), b.Shared(), "CREATE TABLE plans (name TEXT); INSERT INTO plans VALUES ('shared')")
			mustExec(t, a, b.DB(), "CREATE TABLE plans (name TEXT); INSERT INTO plans VALUES ('own')")
			held, err := b.DB().Conn(a)
			require.NoError(t, err)
			defer held.Close()
			if attached {
				_, err = held.ExecContext(a, "SELECT 1 FROM public.plans")
				require.NoError(t, err)
			}
			read := func() (name string) {
				require.NoError(t, held.QueryRowContext(a, "SELECT name FROM plans").Scan(&name))
				return name
			}
			update := func() {
				_, err := held.ExecContext(a, "UPDATE plans SET name = name || '!'")
				require.NoError(t, err)
			}
			require.Equal(t, "own", read())
			update()
			other := openIn(t, b.dir)
			mustExec(t, a, other.DB(), "DROP TABLE plans")
			require.Equal(t, "shared", read())
			mustExec(t, a, other.DB(), "CREATE TABLE plans (name TEXT); INSERT INTO plans VALUES ('new')")
			require.Equal(t, "new", read())
			update()
			require.Equal(t, "new!", read())
		})
	}
}

// secondFails counts the calls of the function second_fails, of which each second one fails.
var secondFails atomic.Int32

func init() { // the driver does not bear it while something is opened
	sqlite.MustRegisterScalarFunction("second_fails", 1, func(_ *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) {
		if secondFails.Add(1)%2 == 0 {
			return nil, errors.New("it was told to")
		}
		return args[0], nil
	})
}

// A statement that fails as it runs is not run once more: what its functions did cannot be undone, and in a transaction SQLite
// does not undo each row that it wrote either.
func TestFailedStatementRunsOnce(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir())
	a, _ := withTable(t, b, "a")
	for _, query := range []string{
		"WITH n(i) AS (VALUES (1), (2)) INSERT INTO notes (mark) SELECT second_fails(i) FROM n",
		"WITH n(i) AS (VALUES (1), (2)) INSERT INTO notes (mark) SELECT second_fails(i) FROM n RETURNING mark",
		"WITH n(i) AS (VALUES (1), (2)) SELECT max(second_fails(i)) FROM n",
	} {
		secondFails.Store(0)
		_, err := b.DB().ExecContext(a, query)
		require.Equal(t, sqlite3.SQLITE_ERROR, code(err), query)
		require.EqualValues(t, 2, secondFails.Load(), query)
		_, err = b.DB().QueryContext(a, query)
		require.Equal(t, sqlite3.SQLITE_ERROR, code(err), query)
		require.EqualValues(t, 4, secondFails.Load(), query)
	}
	require.Zero(t, count(t, a, b.DB(), "SELECT count(*) FROM notes"))

	tx, err := b.DB().BeginTx(a, nil)
	require.NoError(t, err)
	_, err = tx.Exec("WITH n(i) AS (VALUES ('{}'), ('{')) INSERT INTO notes (mark) SELECT json(i) FROM n")
	require.Equal(t, sqlite3.SQLITE_ERROR, code(err))
	require.NoError(t, tx.Commit())
	require.LessOrEqual(t, count(t, a, b.DB(), "SELECT count(*) FROM notes"), 1)
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
