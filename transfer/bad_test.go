package transfer_test

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
	"github.com/tenement-go/tenement/transfer"
)

// change runs SQL in a file, as somebody who has it could.
func change(t testing.TB, path, statements string) {
	db, err := sql.Open("sqlite", path)
	require.NoError(t, err)
	_, err = db.ExecContext(t.Context(), statements)
	require.NoError(t, err)
	require.NoError(t, db.Close())
}

func TestBadFiles(t *testing.T) {
	t.Parallel()
	a := newPlace(t, backend.SQLite, blog, withFiles(t))
	thor := a.create(t, "thor", blogRows...)
	a.write(t, thor, "logo.png", "a picture")
	whole, _ := a.export(t, thor)
	content, err := os.ReadFile(whole)
	require.NoError(t, err)
	cases := []struct {
		name string
		make func(t *testing.T, path string)
		want error
	}{
		{"of another application", func(t *testing.T, path string) {
			require.NoError(t, os.Remove(path))
			change(t, path, "CREATE TABLE x (a)")
		}, transfer.ErrNotTransferFile},
		{"no database", func(t *testing.T, path string) {
			require.NoError(t, os.WriteFile(path, []byte("PK\x03\x04 this is an archive of something else, and it is long enough to be read as the head of a file, which it is not"), 0o600))
		}, transfer.ErrNotTransferFile},
		{"empty", func(t *testing.T, path string) { require.NoError(t, os.WriteFile(path, nil, 0o600)) }, transfer.ErrNotTransferFile},
		{"of a later format", func(t *testing.T, path string) { change(t, path, "PRAGMA user_version = 2") }, transfer.ErrFormat},
		{"cut short", func(t *testing.T, path string) {
			require.NoError(t, os.WriteFile(path, content[:len(content)/2], 0o600))
		}, transfer.ErrDamaged},
		{"cut by a page", func(t *testing.T, path string) {
			require.NoError(t, os.WriteFile(path, content[:len(content)-4096], 0o600))
		}, transfer.ErrDamaged},
		{"with another manifest", func(t *testing.T, path string) {
			change(t, path, "UPDATE tenement_manifest SET manifest = replace(manifest, 'thor', 'loki')")
		}, transfer.ErrDamaged},
		{"without a manifest", func(t *testing.T, path string) { change(t, path, "DELETE FROM tenement_manifest") }, transfer.ErrDamaged},
		{"with another value", func(t *testing.T, path string) { change(t, path, "UPDATE posts SET title = 'changed' WHERE id = 1") }, transfer.ErrDamaged},
		{"with a row less", func(t *testing.T, path string) { change(t, path, "DELETE FROM log WHERE rowid = 1") }, transfer.ErrDamaged},
		{"with a row twice", func(t *testing.T, path string) { change(t, path, "INSERT INTO log SELECT * FROM log LIMIT 1") }, transfer.ErrDamaged},
		{"without a table", func(t *testing.T, path string) { change(t, path, "DROP TABLE posts") }, transfer.ErrDamaged},
		{"with another file", func(t *testing.T, path string) { change(t, path, "UPDATE tenement_pieces SET data = 'x'") }, transfer.ErrDamaged},
		{"with a file elsewhere", func(t *testing.T, path string) {
			change(t, path, "UPDATE tenement_files SET path = '../' || path")
		}, transfer.ErrDamaged},
	}
	requireRefused := func(t *testing.T, err error, path, name string, want error) {
		require.ErrorIs(t, err, want, name)
		var fault *transfer.FileError
		if assert.ErrorAs(t, err, &fault, name) {
			assert.Equal(t, path, fault.Path, name)
		}
	}
	for _, to := range []backend.Dialect{backend.SQLite, backend.Postgres} {
		t.Run(string(to), func(t *testing.T) {
			t.Parallel()
			b := newPlace(t, to, blog, withFiles(t))
			for _, c := range cases {
				path := filepath.Join(t.TempDir(), "bad.db")
				require.NoError(t, os.WriteFile(path, content, 0o600))
				c.make(t, path)
				_, err := transfer.Import(t.Context(), b.App, path, transfer.ImportOptions{})
				requireRefused(t, err, path, c.name, c.want)
				_, err = transfer.Verify(t.Context(), transfer.InStore(a.App, thor.ID), transfer.InFile(path), transfer.VerifyOptions{})
				requireRefused(t, err, path, c.name+", verified", c.want)
				b.requireNothing(t)
			}
			moved := b.bring(t, whole)
			assert.Equal(t, "a picture", b.read(t, moved, "logo.png"))
		})
	}
}

// What is not a table of values would be run by whoever reads it: a file that has it is not opened.
func TestFileHasTablesOnly(t *testing.T) {
	t.Parallel()
	a := newPlace(t, backend.SQLite, blog, withFiles(t))
	whole, _ := a.export(t, a.create(t, "thor", blogRows...))
	content, err := os.ReadFile(whole)
	require.NoError(t, err)
	for name, statements := range map[string]string{
		"a view for a table":        `ALTER TABLE log RENAME TO l; CREATE VIEW log AS SELECT * FROM l`,
		"a view for the manifest":   `ALTER TABLE tenement_manifest RENAME TO m; CREATE VIEW tenement_manifest AS SELECT * FROM m`,
		"a view beside them":        `CREATE VIEW v AS SELECT 1`,
		"a view said to be a table": `CREATE VIEW v AS SELECT 1; PRAGMA writable_schema = ON; UPDATE sqlite_schema SET type = 'table' WHERE name = 'v'`,
		"a generated column":        `ALTER TABLE log ADD COLUMN more AS (what || what)`,
		"a hidden generated column": `ALTER TABLE log ADD COLUMN more AS (what); PRAGMA writable_schema = ON; UPDATE sqlite_schema SET name = 'x', tbl_name = 'x' WHERE name = 'log'`,
		"a virtual table":           `CREATE VIRTUAL TABLE v USING rtree(id, low, high)`,
		"a trigger":                 `CREATE TRIGGER v AFTER INSERT ON log BEGIN DELETE FROM log; END`,
		"an index on an expression": `CREATE INDEX v ON log (upper(what))`,
	} {
		path := filepath.Join(t.TempDir(), "bad.db")
		require.NoError(t, os.WriteFile(path, content, 0o600))
		change(t, path, statements)
		f, err := transfer.Open(t.Context(), path)
		if !assert.ErrorIs(t, err, transfer.ErrDamaged, name) && err == nil {
			require.NoError(t, f.Close())
		}
	}
}

// What a forged manifest says bounds what is read of a file, and is bounded itself.
func TestForgedManifestIsBounded(t *testing.T) {
	t.Parallel()
	a := newPlace(t, backend.Postgres, files("00001_x.sql", `CREATE TABLE x (n numeric(8,2), c char(4), v varchar(5)[], ts timestamp(3));`))
	path, _ := a.export(t, a.create(t, "thor", `INSERT INTO x VALUES (1.50, 'abcd', '{abc}', now()), (2.50, 'efgh', '{}', now())`))
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	for was, is := range map[string]string{
		`"scale":2`:     `"scale":2000000000`,
		`"precision":8`: `"precision":1001`,
		`"len":4`:       `"len":2000000000`,
		`"len":5`:       `"len":-1`,
		`"digits":4`:    `"digits":8`,
	} {
		forged := filepath.Join(t.TempDir(), "forged.db")
		require.NoError(t, os.WriteFile(forged, content, 0o600))
		require.True(t, forgeManifest(t, forged, was, is), was)
		f, err := transfer.Open(t.Context(), forged)
		if !assert.ErrorIs(t, err, transfer.ErrDamaged, is) && err == nil {
			require.NoError(t, f.Close())
		}
	}
	require.True(t, forgeManifest(t, path, `"rows":2`, `"rows":1`))
	f, err := transfer.Open(t.Context(), path)
	require.NoError(t, err)
	err = f.Check(t.Context())
	require.NoError(t, f.Close())
	require.ErrorIs(t, err, transfer.ErrDamaged)
	require.ErrorContains(t, err, "more rows than", "it is not read to its end")
}

func TestExportRefusesWhatIsThere(t *testing.T) {
	t.Parallel()
	a := newPlace(t, backend.SQLite, blog)
	thor := a.create(t, "thor")
	path, _ := a.export(t, thor)
	_, err := transfer.Export(t.Context(), a.App, thor.ID, path, transfer.ExportOptions{})
	require.ErrorIs(t, err, fs.ErrExist)
	_, err = transfer.Export(t.Context(), a.App, "0190163d-8694-739b-aea5-966c26f8ad91", filepath.Join(t.TempDir(), "x"), transfer.ExportOptions{})
	require.ErrorIs(t, err, tenancy.ErrNotFound)
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	assert.Len(t, entries, 1)
}

// The migrations are those of the file, or nothing is made.
func TestImportVersions(t *testing.T) {
	pairs(t, func(t *testing.T, from, to backend.Dialect) {
		one := []string{"00001_a.sql", "CREATE TABLE a (x TEXT);\n"}
		two := append(one, "00002_b.sql", "ALTER TABLE a ADD COLUMN y TEXT;\n")
		a := newPlace(t, from, files(one...))
		old := a.create(t, "old", `INSERT INTO a VALUES ('1')`)
		path, _ := a.export(t, old)
		newer := newPlace(t, to, files(two...), func(c *tenancy.Config) { c.Behind = migrate.Serve })
		moved := newer.bring(t, path)
		assert.Equal(t, []string{"1"}, newer.query(t, moved, `SELECT x FROM a`))
		_, err := newer.DB().ExecContext(backend.WithRouter(t.Context(), &moved), `UPDATE a SET y = '2'`)
		require.Error(t, err, "it is at the version that it was at")
		_, err = newer.Migrator().Up(t.Context(), migrate.UpOptions{})
		require.NoError(t, err)
		newer.exec(t, moved, `UPDATE a SET y = '2'`)

		path, _ = newer.export(t, moved)
		var version *migrate.VersionError
		older := newPlace(t, from, files(one...))
		_, err = transfer.Import(t.Context(), older.App, path, transfer.ImportOptions{})
		require.ErrorAs(t, err, &version)
		assert.Equal(t, int64(2), version.Version)
		assert.ErrorIs(t, err, migrate.ErrUnknownSource)
		older.requireNothing(t)
		edited := newPlace(t, from, files("00001_a.sql", "CREATE TABLE a (x TEXT, z TEXT);\n", two[2], two[3]))
		_, err = transfer.Import(t.Context(), edited.App, path, transfer.ImportOptions{})
		require.ErrorAs(t, err, &version)
		assert.NotErrorIs(t, err, migrate.ErrUnknownSource)
		edited.requireNothing(t)
	})
}

// A run over all stores that comes while one is being loaded leaves it alone: its migrations would find no rows, and the rows
// that come then would never see them. So does a verification, which enters what the ledger does not have.
func TestLoadWhileOthersMigrate(t *testing.T) {
	pairs(t, func(t *testing.T, from, to backend.Dialect) {
		one := []string{"00001_a.sql", "CREATE TABLE a (x TEXT);\n"}
		two := append(one, "00002_upper.sql", "UPDATE a SET x = upper(x);\n")
		a := newPlace(t, from, files(one...))
		path, _ := a.export(t, a.create(t, "old", `INSERT INTO a VALUES ('low')`))
		migrateOn := func(p place) func() {
			return func() {
				_, err := p.Migrator().Verify(t.Context(), migrate.Fleet{})
				assert.NoError(t, err)
				_, err = p.Migrator().Up(t.Context(), migrate.UpOptions{})
				assert.NoError(t, err)
			}
		}
		b := newPlace(t, to, files(two...), func(c *tenancy.Config) { c.Behind = migrate.Serve })
		requireUpper := func(t *testing.T, p place, tenant tenancy.Tenant) {
			migrateOn(p)()
			assert.Equal(t, []string{"LOW"}, p.query(t, tenant, `SELECT x FROM a`))
			st, err := p.Migrator().Status(t.Context())
			require.NoError(t, err)
			assert.Zero(t, st.Tenants.Pending)
			assert.Empty(t, st.Drift)
		}

		moved := b.bring(t, path, transfer.ImportOptions{OnTable: func(transfer.Progress) { migrateOn(b)() }})
		requireUpper(t, b, moved)
		aside, err := transfer.Restore(t.Context(), b.App, moved.ID, path, transfer.RestoreOptions{OnTable: func(transfer.Progress) { migrateOn(b)() }})
		require.NoError(t, err)
		require.NoError(t, b.PurgeAside(t.Context(), aside.Store))
		requireUpper(t, b, moved)

		// A move, too, between which and its end there may be days.
		c := newPlace(t, to, files(two...), func(c *tenancy.Config) { c.Behind = migrate.Serve })
		opt := transfer.MoveOptions{Prepare: true, Parallel: 1, OnEvent: func(e transfer.MoveEvent) {
			if e.Kind == transfer.MoveMade {
				migrateOn(c)()
				_, err := c.Migrator().Up(t.Context(), migrate.UpOptions{Scope: migrate.TenantsOnly, Fleet: migrate.Fleet{Stores: []backend.Store{e.Tenant.Store}}})
				assert.ErrorIs(t, err, migrate.ErrUnentered, "nor is one that is named")
				_, err = c.Migrator().Verify(t.Context(), migrate.Fleet{Stores: []backend.Store{e.Tenant.Store}})
				assert.ErrorIs(t, err, migrate.ErrUnentered, "nor does who only looks at it enter it")
			}
		}}
		_, err = transfer.Move(t.Context(), a.App, c.App, opt)
		require.NoError(t, err)
		migrateOn(c)()
		opt.Prepare, opt.Resume = false, true
		res, err := transfer.Move(t.Context(), a.App, c.App, opt)
		require.NoError(t, err)
		assert.True(t, res.Tenants[0].Same, "nobody has migrated what was prepared")
		requireUpper(t, c, res.Tenants[0].Tenant)
	})
}

// What cannot be moved is named, and nothing is left.
func TestValuesThatDoNotFit(t *testing.T) {
	t.Parallel()
	source := files("00001_x.sqlite.sql", "CREATE TABLE x (id INTEGER PRIMARY KEY, n INTEGER, s TEXT, j JSON, ts DATETIME, price NUMERIC);",
		"00001_x.postgres.sql", "CREATE TABLE x (id bigint PRIMARY KEY, n integer, s text, j jsonb, ts timestamptz, price numeric(8,2));")
	b := newPlace(t, backend.Postgres, source)
	for insert, want := range map[string]string{
		`INSERT INTO x (id, n) VALUES (7, 'many')`:                                "column n, id=7",
		`INSERT INTO x (id, n) VALUES (7, 1.5)`:                                   "column n, id=7",
		`INSERT INTO x (id, n) VALUES (7, 3000000000)`:                            "column n, id=7",
		`INSERT INTO x (id, s) VALUES (7, 'a' || char(0) || 'b')`:                 "column s, id=7",
		`INSERT INTO x (id, s) VALUES (7, CAST(x'ff41' AS TEXT))`:                 "column s, id=7",
		`INSERT INTO x (id, s) VALUES (7, x'00')`:                                 "column s, id=7",
		`INSERT INTO x (id, j) VALUES (7, '{"a": 1, "b": {"c": 1, "c": 2}}')`:     `the key "c" twice`,
		`INSERT INTO x (id, j) VALUES (7, '{a: 1}')`:                              "column j, id=7",
		`INSERT INTO x (id, j) VALUES (7, '["\u0000"]')`:                          "column j, id=7",
		`INSERT INTO x (id, ts) VALUES (7, 12345)`:                                "column ts, id=7",
		`INSERT INTO x (id, ts) VALUES (7, 1700000000000)`:                        "column ts, id=7",
		`INSERT INTO x (id, ts) VALUES (7, '2024-01-02 03:04:05.123456789')`:      "more than 6 digits",
		`INSERT INTO x (id, ts) VALUES (7, '2024-02-30 03:04:05')`:                "column ts, id=7",
		`INSERT INTO x (id, price) VALUES (7, 1.005)`:                             "column price, id=7",
		`INSERT INTO x (id, price) VALUES (7, 1000000)`:                           "column price, id=7",
		`INSERT INTO x (id, s) VALUES (1, 'fine'), (2, 'fine'), (7, x'0102030a')`: "column s, id=7: a blob of 4 bytes",
	} {
		a := newPlace(t, backend.SQLite, source)
		thor := a.create(t, "thor", insert)
		path, _ := a.export(t, thor)
		_, err := transfer.Import(t.Context(), b.App, path, transfer.ImportOptions{})
		require.ErrorIs(t, err, transfer.ErrValue, insert)
		var fault *transfer.ValueError
		require.ErrorAs(t, err, &fault)
		assert.Equal(t, "x", fault.Table)
		assert.ErrorContains(t, err, want, insert)
		b.requireNothing(t)
	}

	// The other way it is said before a row is moved that the zeros of a numeric have no place, unless a mapping allows it.
	thor := b.create(t, "thor", `INSERT INTO x (id, price) VALUES (1, 1.50)`)
	path, _ := b.export(t, thor)
	a := newPlace(t, backend.SQLite, source)
	_, err := transfer.Import(t.Context(), a.App, path, transfer.ImportOptions{})
	var fault *transfer.SchemaError
	require.ErrorAs(t, err, &fault)
	assert.Equal(t, "price", fault.Column)
	a.requireNothing(t)
	moved := a.bring(t, path, transfer.ImportOptions{Mappings: []transfer.Mapping{{Table: "x", Column: "price", May: transfer.LossScale}}})
	assert.Equal(t, []string{"1.5"}, a.query(t, moved, `SELECT price FROM x`))
}

// A process that dies in the middle leaves a tenant that nobody is served from, and that is gone as soon as another one
// looks; the call can then be repeated.
func TestImportInterrupted(t *testing.T) {
	pairs(t, func(t *testing.T, from, to backend.Dialect) {
		a := newPlace(t, from, blog)
		path, _ := a.export(t, a.create(t, "thor", blogRows...))
		url := placeURL(t, to)
		dying := openPlace(t, url, to, blog)
		stop, cancel := context.WithCancelCause(t.Context())
		died := errors.New("killed")
		_, err := transfer.Import(stop, dying.App, path, transfer.ImportOptions{OnTable: func(p transfer.Progress) {
			if p.Table == "posts" {
				// Closing the App is as near as a test comes to the end of a process: it lets go of the lock, and undoes nothing.
				go func() { assert.NoError(t, dying.Close()) }()
				for dying.Ready(t.Context()) == nil {
				}
				cancel(died)
			}
		}})
		require.Error(t, err)
		b := openPlace(t, url, to, blog)
		requireUndone(t, b, path)
	})
}

// requireUndone checks that an import whose process has died is undone by whoever looks, and can be made again.
func requireUndone(t *testing.T, b place, path string) {
	t.Helper()
	tenant, err := b.BySlug(t.Context(), "thor")
	require.NoError(t, err)
	assert.Equal(t, tenancy.Provisioning, tenant.Status)
	require.NoError(t, b.FinishOperations(t.Context()))
	_, err = b.BySlug(t.Context(), "thor")
	require.ErrorIs(t, err, tenancy.ErrNotFound)
	moved := b.bring(t, path)
	assert.Equal(t, []string{"Ann", "Bob"}, b.query(t, moved, `SELECT name FROM authors ORDER BY id`))
	aside, err := b.AsideStores(t.Context())
	require.NoError(t, err)
	for _, s := range aside {
		require.NoError(t, b.PurgeAside(t.Context(), s.Store))
	}
	findings, err := b.Doctor(t.Context())
	require.NoError(t, err)
	assert.Empty(t, findings)
}
