package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

// family makes a parent and children that go with it.
const family = `CREATE TABLE parent (id INTEGER PRIMARY KEY, name TEXT);
	CREATE TABLE child (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parent (id) ON DELETE CASCADE);
	INSERT INTO parent VALUES (1, 'a'), (2, 'b'); INSERT INTO child VALUES (1, 1), (2, 2), (3, 2)`

// rebuild is how a table is changed in a way that ALTER TABLE cannot.
var rebuild = []string{
	"CREATE TABLE parent_new (id INTEGER PRIMARY KEY, name TEXT NOT NULL)", "INSERT INTO parent_new SELECT id, name FROM parent",
	"DROP TABLE parent", "ALTER TABLE parent_new RENAME TO parent",
}

// ways are the ways in which a migration is run.
func ways(b *Backend, rt backend.Route) map[string]func(statements []string) error {
	return map[string]func([]string) error{
		"script": func(statements []string) error {
			return b.RunScripts(context.Background(), []backend.Script{{Route: rt, SQL: strings.Join(statements, ";")}}, backend.ScriptOptions{})[0]
		},
		"transaction": func(statements []string) error {
			db := b.Maintenance(rt)
			defer db.Close()
			tx, err := db.Begin()
			if err != nil {
				return err
			}
			defer func() { _ = tx.Rollback() }()
			for _, s := range statements {
				if _, err := tx.Exec(s); err != nil {
					return err
				}
			}
			return tx.Commit()
		},
		"transaction in text": func(statements []string) error {
			db := b.Maintenance(rt)
			defer db.Close()
			conn, err := db.Conn(context.Background())
			if err != nil {
				return err
			}
			defer conn.Close()
			for _, s := range append(append([]string{"BEGIN"}, statements...), "COMMIT") {
				if _, err := conn.ExecContext(context.Background(), s); err != nil {
					return err
				}
			}
			return nil
		},
		"one text": func(statements []string) error {
			db := b.Maintenance(rt)
			defer db.Close()
			conn, err := db.Conn(context.Background())
			if err != nil {
				return err
			}
			defer conn.Close()
			_, err = conn.ExecContext(context.Background(), "BEGIN; "+strings.Join(statements, ";")+"; COMMIT; SELECT 1")
			return err
		},
		"each alone": func(statements []string) error {
			db := b.Maintenance(rt)
			defer db.Close()
			for _, s := range append([]string{"PRAGMA foreign_keys = OFF"}, statements...) {
				if _, err := db.Exec(s); err != nil {
					return err
				}
			}
			return nil
		},
		"each alone, as a query": func(statements []string) error {
			db := b.Maintenance(rt)
			defer db.Close()
			for _, s := range append([]string{"PRAGMA foreign_keys = OFF"}, statements...) {
				rows, err := db.Query(s)
				if err != nil {
					return err
				}
				if err := errors.Join(rows.Close(), rows.Err()); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// The cache may have room for no statement but the last: what is under way does not need it.
func TestMigrationsWithoutACache(t *testing.T) { // S78
	t.Parallel()
	b := openIn(t, t.TempDir(), func(c *Config) { c.Statements = 1 })
	rt := backend.Route{Store: backend.MustParseStore("a")}
	require.NoError(t, b.Create(t.Context(), rt))
	in := backend.WithRoute(t.Context(), rt)
	for _, way := range []string{"script", "transaction", "transaction in text", "one text", "each alone", "each alone, as a query"} {
		mustExec(t, in, b.DB(), "DROP TABLE IF EXISTS child; DROP TABLE IF EXISTS parent; "+family)
		require.NoError(t, ways(b, rt)[way](rebuild), way)
		require.Equal(t, 2, count(t, in, b.DB(), "SELECT count(*) FROM parent"), way)
	}
}

// A table that a migration rebuilds keeps its children, and a migration that leaves children without parents fails.
func TestMigrationsAndForeignKeys(t *testing.T) { // S78
	t.Parallel()
	b := openIn(t, t.TempDir())
	mustExec(t, t.Context(), b.Shared(), "CREATE TABLE plans (id INTEGER PRIMARY KEY)")
	for i, way := range []string{"script", "transaction", "transaction in text", "one text"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			rt := backend.Route{Store: backend.MustParseStore(string(rune('a' + i)))}
			require.NoError(t, b.Create(t.Context(), rt))
			in := backend.WithRoute(t.Context(), rt)
			run := ways(b, rt)[way]
			mustExec(t, in, b.DB(), family)
			children := func() int { return count(t, in, b.DB(), "SELECT count(*) FROM child") }

			require.NoError(t, run(rebuild))
			require.Equal(t, 3, children())
			require.NoError(t, run(append([]string{"PRAGMA foreign_keys = OFF"}, rebuild...)), "as goose files have it")
			require.Equal(t, 3, children())

			var failure *ForeignKeyError
			require.ErrorAs(t, run([]string{"CREATE TABLE mark (a)", "DELETE FROM parent WHERE id = 2"}), &failure)
			require.Equal(t, &ForeignKeyError{Table: "child", Parent: "parent", Rows: 2}, failure)
			require.Equal(t, 2, count(t, in, b.DB(), "SELECT count(*) FROM parent"), "nothing is kept")
			require.Equal(t, 0, count(t, in, b.DB(), "SELECT count(*) FROM sqlite_schema WHERE name = 'mark'"))

			var shared *SharedParentError
			require.ErrorAs(t, run([]string{"CREATE TABLE subs (id INTEGER PRIMARY KEY, plan INTEGER REFERENCES Plans (id))"}), &shared)
			require.Equal(t, "Plans", shared.Parent)
			require.ErrorAs(t, run([]string{"ALTER TABLE child ADD COLUMN plan INTEGER REFERENCES plans (id)"}), &shared)
			require.NoError(t, run([]string{"CREATE TABLE later (id INTEGER PRIMARY KEY, other INTEGER REFERENCES not_yet (id))"}))
			require.NoError(t, run([]string{"CREATE TABLE plans (id INTEGER PRIMARY KEY)", "CREATE TABLE own (plan INTEGER REFERENCES plans (id))"}))

			// Requests have them enforced, before and after.
			_, err := b.DB().ExecContext(in, "INSERT INTO child VALUES (9, 99)")
			require.ErrorContains(t, err, "FOREIGN KEY")

			// What was broken before is not the migration's doing.
			db := b.Maintenance(rt)
			mustExec(t, t.Context(), db, "INSERT INTO child VALUES (9, 99)")
			require.NoError(t, db.Close())
			require.NoError(t, run([]string{"CREATE TABLE mark (a)"}))
			require.ErrorAs(t, run([]string{"INSERT INTO child VALUES (10, 100)"}), &failure)
			require.Equal(t, 1, failure.Rows)

			// A statement outside of a transaction is taken back too.
			db = b.Maintenance(rt)
			defer db.Close()
			mustExec(t, t.Context(), b.Shared(), "CREATE TABLE IF NOT EXISTS only_shared (id INTEGER PRIMARY KEY)")
			_, err = db.Exec("CREATE TABLE refers (id INTEGER PRIMARY KEY, plan INTEGER REFERENCES only_shared (id))")
			require.ErrorAs(t, err, &shared)
			rows, err := db.Query("CREATE TABLE refers (id INTEGER PRIMARY KEY, plan INTEGER REFERENCES only_shared (id))")
			if err == nil {
				err = errors.Join(rows.Err(), rows.Close())
			}
			require.ErrorAs(t, err, &shared, "as a query")
			require.Equal(t, 0, count(t, in, b.DB(), "SELECT count(*) FROM sqlite_schema WHERE name = 'refers'"))
			rows, err = db.Query("CREATE TABLE alone (id INTEGER PRIMARY KEY)")
			require.NoError(t, err)
			require.False(t, rows.Next())
			require.NoError(t, errors.Join(rows.Err(), rows.Close()))
			require.Equal(t, 1, count(t, in, b.DB(), "SELECT count(*) FROM sqlite_schema WHERE name = 'alone'"))
			_, err = db.Exec("CREATE TABLE refers (id INTEGER PRIMARY KEY, plan INTEGER REFERENCES only_shared (id)); SELECT 1")
			require.ErrorAs(t, err, &shared)
			_, err = db.Query("CREATE TABLE refers (id INTEGER PRIMARY KEY, plan INTEGER REFERENCES only_shared (id)); SELECT 1")
			require.ErrorAs(t, err, &shared)
			require.Equal(t, 0, count(t, in, b.DB(), "SELECT count(*) FROM sqlite_schema WHERE name = 'refers'"))
			mustExec(t, t.Context(), db, "CREATE TABLE refers (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parent (id))")
		})
	}
}

// A pinned handle remembers PRAGMA foreign_keys; every other one forgets it with the unit of work.
func TestPinnedHandleRemembersForeignKeys(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir())
	a, rt := withTable(t, b, "a")
	mustExec(t, a, b.DB(), family)
	mine, theirs := b.DBFor(rt), b.DBFor(rt)
	defer mine.Close()
	defer theirs.Close()
	ctx := t.Context()
	mustExec(t, ctx, mine, "PRAGMA foreign_keys = OFF")
	mustExec(t, ctx, mine, "INSERT INTO child VALUES (9, 99)")
	tx, err := mine.Begin()
	require.NoError(t, err)
	_, err = tx.Exec("PRAGMA foreign_keys = ON") // does nothing within a transaction
	require.NoError(t, err)
	_, err = tx.Exec("INSERT INTO child VALUES (10, 100)")
	require.NoError(t, err)
	require.NoError(t, tx.Commit())
	for name, db := range map[string]*sql.DB{"another pinned one": theirs, "the routed one": b.DB()} {
		_, err := db.ExecContext(a, "INSERT INTO child VALUES (11, 111)")
		require.ErrorContains(t, err, "FOREIGN KEY", name)
	}
	require.Equal(t, 0, count(t, ctx, mine, "PRAGMA foreign_keys"))
	mustExec(t, ctx, mine, "PRAGMA foreign_keys = ON")
	_, err = mine.Exec("INSERT INTO child VALUES (11, 111)")
	require.ErrorContains(t, err, "FOREIGN KEY")
}

// Statements that mean every attached database mean the tenant's store.
func TestUpkeepStatementsMeanTheStore(t *testing.T) { // S78
	t.Parallel()
	b := openIn(t, t.TempDir())
	mustExec(t, t.Context(), b.Shared(), "CREATE TABLE plans (id INTEGER PRIMARY KEY); INSERT INTO plans VALUES (1)")
	a, rt := withTable(t, b, "a")
	upkeep := b.Maintenance(rt)
	defer upkeep.Close()
	for name, db := range map[string]*sql.DB{"routed": b.DB(), "upkeep": upkeep, "shared": b.Shared()} {
		for _, attached := range []bool{false, true} {
			conn, err := db.Conn(t.Context())
			require.NoError(t, err)
			if attached {
				_, err := conn.ExecContext(a, "SELECT count(*) FROM plans")
				require.NoError(t, err)
			}
			for _, query := range []string{
				"PRAGMA wal_checkpoint", "pragma WAL_checkpoint(TRUNCATE);", "PRAGMA wal_checkpoint = PASSIVE", "ANALYZE", " analyze ; ", "VACUUM",
				"PRAGMA optimize", "PRAGMA optimize(0x10002)", "PRAGMA integrity_check", "PRAGMA foreign_key_check", "PRAGMA main.wal_checkpoint",
			} {
				_, err := conn.ExecContext(a, query)
				require.NoError(t, err, "%s, on the %s handle", query, name)
			}
			require.NoError(t, conn.Close())
		}
	}
	_, err := b.DB().ExecContext(a, "SELECT 1 FROM plans; PRAGMA wal_checkpoint")
	require.ErrorContains(t, err, "PRAGMA main.wal_checkpoint", "the way out is named")
	tx, err := upkeep.Begin()
	require.NoError(t, err)
	_, err = tx.Exec("ANALYZE")
	require.NoError(t, err)
	require.NoError(t, tx.Commit())
}

// The statements of a text get the same arguments each, as with the other handles, and the last one's rows are the text's.
func TestTextsOfSeveralOnTheMaintenanceHandle(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir())
	_, rt := withTable(t, b, "a")
	db := b.Maintenance(rt)
	defer db.Close()
	mustExec(t, t.Context(), db, "CREATE TABLE pairs (a, b); INSERT INTO pairs VALUES (?, ?); INSERT INTO pairs VALUES (?2, ?1);", 1, 2)
	require.Equal(t, 2, count(t, t.Context(), db, "DELETE FROM pairs WHERE a = ?; SELECT a FROM pairs; -- the end", 1))
	mustExec(t, t.Context(), db, "CREATE TRIGGER once AFTER INSERT ON pairs BEGIN DELETE FROM pairs; SELECT 1; END; INSERT INTO pairs VALUES (1, 1)")
	require.Equal(t, 0, count(t, t.Context(), db, "SELECT count(*) FROM pairs"))
}

// Whatever PRAGMA foreign_keys said on a connection, a migration's transaction can rebuild tables; after it, it holds again.
func TestMigrationsTransactionsDoNotEnforceForeignKeys(t *testing.T) { // S78
	t.Parallel()
	b := openIn(t, t.TempDir())
	a, rt := withTable(t, b, "a")
	mustExec(t, a, b.DB(), family)
	db := b.Maintenance(rt)
	defer db.Close()
	conn, err := db.Conn(a)
	require.NoError(t, err)
	defer conn.Close()
	run := func(query string) error {
		_, err := conn.ExecContext(a, query)
		return err
	}
	require.NoError(t, run("PRAGMA foreign_keys = ON"))
	enforced := func() {
		t.Helper()
		require.Equal(t, 3, count(t, a, b.DB(), "SELECT count(*) FROM child"))
		require.ErrorContains(t, run("INSERT INTO child VALUES (9, 99)"), "FOREIGN KEY")
	}
	for _, end := range []string{"COMMIT", "ROLLBACK"} {
		tx, err := conn.BeginTx(a, nil)
		require.NoError(t, err)
		for _, s := range rebuild {
			_, err := tx.ExecContext(a, s)
			require.NoError(t, err)
		}
		if end == "COMMIT" {
			require.NoError(t, tx.Commit())
		} else {
			require.NoError(t, tx.Rollback())
		}
		enforced()
		for _, begin := range []string{"BEGIN", "SAVEPOINT s"} {
			if begin != "BEGIN" && end != "COMMIT" {
				continue
			}
			ending := map[string]string{"BEGIN": end, "SAVEPOINT s": "RELEASE s"}[begin]
			require.NoError(t, run(strings.Join(append(append([]string{begin}, rebuild...), ending), ";")))
			enforced()
			for _, s := range append(append([]string{begin}, rebuild...), ending) {
				require.NoError(t, run(s))
			}
			enforced()
		}
	}
}

// What was at fault before a migration is not its doing, whatever it renames or rebuilds; what it adds to that is.
func TestFaultsOfBeforeAreToldFromNewOnes(t *testing.T) { // S78
	t.Parallel()
	b := openIn(t, t.TempDir())
	mustExec(t, t.Context(), b.Shared(), "CREATE TABLE plans (id INTEGER PRIMARY KEY)")
	const (
		orphan   = "; INSERT INTO child VALUES (9, 99)"
		mismatch = "; CREATE TABLE m (a REFERENCES parent (name)); INSERT INTO m VALUES (1)"
		rowless  = "; CREATE TABLE w (a TEXT PRIMARY KEY, p REFERENCES parent) WITHOUT ROWID; INSERT INTO w VALUES ('x', 77)"
		anew     = `CREATE TABLE c2 (id INTEGER PRIMARY KEY, other TEXT, parent INTEGER REFERENCES parent (id));
			INSERT INTO c2 (id, parent) SELECT id + 100, parent FROM child; DROP TABLE child; ALTER TABLE c2 RENAME TO child`
	)
	var orphans *ForeignKeyError
	var parents *SharedParentError
	for i, c := range []struct {
		name, before, migration string
		want                    any
	}{
		{"orphan beside a mismatch", mismatch, "INSERT INTO child VALUES (9, 99)", &orphans},
		{"parents deleted beside a mismatch", mismatch, "DELETE FROM parent", &orphans},
		{"nothing beside a mismatch", mismatch, "CREATE TABLE x (a)", nil},
		{"mismatch renamed", mismatch, "ALTER TABLE m RENAME TO m2", nil},
		{"mismatch mended", mismatch, "CREATE UNIQUE INDEX u ON parent (name)", nil},
		{"mismatch made", "", "CREATE TABLE m (a REFERENCES parent (name)); INSERT INTO m VALUES (1)", "mismatch"},
		{"child renamed", orphan, "ALTER TABLE child RENAME TO kid", nil},
		{"child renamed, orphan added", orphan, "ALTER TABLE child RENAME TO kid; INSERT INTO kid VALUES (10, 100)", &orphans},
		{"column renamed", orphan, "ALTER TABLE child RENAME COLUMN parent TO p", nil},
		{"parent renamed", orphan, "ALTER TABLE parent RENAME TO par", nil},
		{"child set aside", orphan, "ALTER TABLE child RENAME TO old; CREATE TABLE child (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parent (id))", nil},
		{"child rebuilt", orphan, anew, nil},
		{"child rebuilt, orphan added", orphan, anew + "; INSERT INTO child (parent) VALUES (98)", &orphans},
		{"no row numbers", rowless, "CREATE TABLE x (a)", nil},
		{"no row numbers, orphan added", rowless, "INSERT INTO w VALUES ('y', 78)", &orphans},
		{"another key of the row", "; CREATE TABLE d (id INTEGER PRIMARY KEY, a REFERENCES parent, b REFERENCES parent); INSERT INTO d VALUES (1, 55, 1)", "UPDATE d SET b = 66", &orphans},
		{"key to a shared table", "; CREATE TABLE s (a REFERENCES plans (id))", "CREATE TABLE x (a); ALTER TABLE s RENAME TO s2", nil},
		{"another key to a shared table", "; CREATE TABLE s (a REFERENCES plans (id))", "CREATE TABLE s2 (a REFERENCES plans (id))", &parents},
	} {
		t.Run(c.name, func(t *testing.T) {
			rt := backend.Route{Store: backend.MustParseStore("s" + strconv.Itoa(i))}
			require.NoError(t, b.Create(t.Context(), rt))
			db := b.DBFor(rt)
			defer db.Close()
			mustExec(t, t.Context(), db, "PRAGMA foreign_keys = OFF")
			mustExec(t, t.Context(), db, family+c.before)
			err := ways(b, rt)["script"]([]string{c.migration})
			switch want := c.want.(type) {
			case nil:
				require.NoError(t, err)
			case string:
				require.ErrorContains(t, err, want)
			default:
				require.ErrorAs(t, err, want)
			}
		})
	}
}

// SQLite sees a text up to its first NUL; the rest must not be left out without a word.
func TestTextWithANULIsRefused(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir())
	a, rt := withTable(t, b, "a")
	const query = "INSERT INTO notes (mark) VALUES ('one');\x00 INSERT INTO notes (mark) VALUES ('two')"
	require.ErrorContains(t, ways(b, rt)["script"]([]string{query}), "NUL")
	db := b.Maintenance(rt)
	defer db.Close()
	for name, db := range map[string]*sql.DB{"routed": b.DB(), "maintenance": db} {
		_, err := db.ExecContext(a, query)
		require.ErrorContains(t, err, "NUL", name)
		_, err = db.ExecContext(a, "SELECT 1\x00")
		require.ErrorContains(t, err, "NUL", name)
	}
}
