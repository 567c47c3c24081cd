package migrate_test

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"testing"
	"testing/fstest"

	"github.com/pressly/goose/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/sqlite"
	"github.com/tenement-go/tenement/migrate"
)

// untouchable is a backend that fails the test when anything of it is used.
type untouchable struct {
	backend.Backend
	dialect backend.Dialect
}

func (u untouchable) Dialect() backend.Dialect { return u.dialect }
func (u untouchable) Shared() *sql.DB          { return nil }

func TestNewRefusesWhatGooseWould(t *testing.T) {
	t.Parallel()
	good := up("SELECT 1;")
	noop := func(context.Context, *sql.Tx) error { return nil }
	goMigration := func(version int64) func() []*goose.Migration {
		return func() []*goose.Migration {
			return []*goose.Migration{goose.NewGoMigration(version, &goose.GoFunc{RunTx: noop}, nil)}
		}
	}
	one := func(fsys fs.FS) []migrate.Source { return []migrate.Source{{Name: "polls", FS: fsys}} }
	for name, c := range map[string]struct {
		tenant, shared []migrate.Source
		file           string
		line           int
		reason         string // a part of it that names the remedy or the fault
		is             error
	}{
		"no Up":                      {tenant: one(files("1_a.sql", "\nCREATE TABLE a (x int);\n")), file: "1_a.sql", line: 2, reason: "+goose Up"},
		"only Down":                  {tenant: one(files("1_a.sql", "-- +goose Down\nDROP TABLE a;\n")), file: "1_a.sql", line: 1, reason: "+goose Up"},
		"two Ups":                    {tenant: one(files("1_a.sql", "-- +goose Up\nSELECT 1;\n-- +goose Up\nSELECT 2;\n")), file: "1_a.sql", line: 3, reason: "duplicate"},
		"COMMIT":                     {tenant: one(files("1_a.sql", up("SELECT 1;\nCOMMIT;"))), file: "1_a.sql", line: 3, reason: "NO TRANSACTION"},
		"COMMIT in Down":             {shared: one(files("1_a.sql", both("SELECT 1;", "COMMIT;"))), file: "1_a.sql", line: 4, reason: "NO TRANSACTION"},
		"no COMMIT":                  {shared: one(files("1_a.sql", "-- +goose NO TRANSACTION\n-- +goose Up\nBEGIN;\nSELECT 1;\n")), file: "1_a.sql", line: 3, reason: "with COMMIT"},
		"no RELEASE":                 {tenant: one(files("1_a.sql", "-- +goose NO TRANSACTION\n-- +goose Up\nSAVEPOINT s;\n")), file: "1_a.sql", line: 3, reason: "RELEASE"},
		"RESET ROLE":                 {tenant: one(files("1_a.sql", up("SELECT 1;\nRESET ROLE;"))), file: "1_a.sql", line: 3, reason: "shared set"},
		"no semicolon":               {tenant: one(files("1_a.sql", "-- +goose Up\nSELECT 1;\nSELECT 2\n\n")), file: "1_a.sql", line: 3, reason: "semicolon"},
		"no semicolon before Down":   {tenant: one(files("1_a.sql", "-- +goose Up\nSELECT 1\n-- +goose Down\nSELECT 2;\n")), file: "1_a.sql", line: 2, reason: "semicolon"},
		"no semicolon in Down":       {tenant: one(files("1_a.sql", "-- +goose Up\nSELECT 1;\n-- +goose Down\nSELECT 2")), file: "1_a.sql", line: 4, reason: "semicolon"},
		"StatementBegin without End": {tenant: one(files("1_a.sql", "-- +goose Up\nSELECT 1;\n-- +goose StatementBegin\nSELECT 2;\n")), file: "1_a.sql", line: 3, reason: "StatementEnd"},
		"StatementEnd without Begin": {tenant: one(files("1_a.sql", "-- +goose Up\nSELECT 1;\n-- +goose StatementEnd\n")), file: "1_a.sql", line: 3, reason: "StatementBegin"},
		"unknown annotation":         {tenant: one(files("1_a.sql", "-- +goose Up\nSELECT 1;\n-- +goose Sideways\n")), file: "1_a.sql", line: 3, reason: "invalid annotation"},
		"indented annotation":        {tenant: one(files("1_a.sql", "  -- +goose Up\nSELECT 1;\n")), file: "1_a.sql", line: 1, reason: "invalid annotation"},
		"empty file":                 {tenant: one(files("1_a.sql", "")), file: "1_a.sql", line: 1, reason: "+goose Up"},
		"fault in the shared set":    {shared: one(files("1_a.sql", "nothing\n")), file: "1_a.sql", line: 1, reason: "+goose Up"},
		"fault in the other dialect": {tenant: one(files("1_a.sqlite.sql", good, "1_a.postgres.sql", "oops")), file: "1_a.postgres.sql", line: 1, reason: "+goose Up"},
		"two files with a version":   {tenant: one(files("1_a.sql", good, "0001_b.sql", good)), file: "1_a.sql", reason: "version 1"},
		"version twice in Go":        {tenant: []migrate.Source{{Name: "polls", FS: files("1_a.sql", good), Go: goMigration(1)}}, file: "1_a.sql", reason: "version 1"},
		"dialect without a pair":     {tenant: one(files("1_a.postgres.sql", good)), file: "1_a.postgres.sql", reason: "1_a.sqlite.sql"},
		"pair with two names":        {tenant: one(files("1_a.postgres.sql", good, "1_b.sqlite.sql", good)), file: "1_b.sqlite.sql", reason: "another number"},
		"Go file without function":   {tenant: one(files("1_a.sql", good, "2_b.go", "package x")), reason: "2_b.go"},
		"no migrations":              {tenant: one(files("sub/1_a.sql", good)), reason: "fs.Sub", is: goose.ErrNoMigrations},
		"nothing at all":             {tenant: []migrate.Source{{Name: "polls"}}, reason: "no migrations", is: goose.ErrNoMigrations},
		"no name":                    {tenant: []migrate.Source{{FS: files("1_a.sql", good)}}, reason: "name"},
		"bad name":                   {tenant: []migrate.Source{{Name: "polls-2", FS: files("1_a.sql", good)}}, reason: "lower-case"},
		"our own name":               {tenant: []migrate.Source{{Name: "tenement_ledger", FS: files("1_a.sql", good)}}, reason: "tenement_ledger"},
		"two of a name":              {tenant: append(one(files("1_a.sql", good)), one(files("1_a.sql", good))...), reason: "same name"},
		"bad table":                  {tenant: []migrate.Source{{Name: "polls", FS: files("1_a.sql", good), Table: "public.goose"}}, reason: "without a schema"},
		"two of a table":             {tenant: []migrate.Source{{Name: "a", FS: files("1_a.sql", good)}, {Name: "b", FS: files("1_a.sql", good), Table: "goose_db_version"}}, reason: "goose_db_version"},
		"broken substitution":        {tenant: one(files("1_a.sql", "-- +goose ENVSUB ON\n-- +goose Up\nSELECT '${TENEMENT_NOT_SET?must be set}';\n")), file: "1_a.sql", line: 3, reason: "must be set"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, d := range []backend.Dialect{backend.SQLite, backend.Postgres} {
				_, err := migrate.New(untouchable{dialect: d}, migrate.Config{Shared: c.shared, Tenant: c.tenant})
				var fault *migrate.SourceError
				require.ErrorAs(t, err, &fault)
				assert.Equal(t, c.file, fault.File)
				assert.Equal(t, c.line, fault.Line)
				assert.Contains(t, fault.Reason, c.reason)
				assert.Contains(t, err.Error(), c.reason)
				if c.is != nil {
					assert.ErrorIs(t, err, c.is)
				}
			}
		})
	}
}

func TestNewReportsEveryFault(t *testing.T) {
	t.Parallel()
	_, err := migrate.New(untouchable{dialect: backend.SQLite}, tenants(
		migrate.Source{Name: "a", FS: files("1_a.sql", "x", "2_b.sql", "y")},
		migrate.Source{Name: "b", FS: files("1_c.sql", "z")},
	))
	require.Error(t, err)
	for _, file := range []string{"1_a.sql:1", "2_b.sql:1", "1_c.sql:1"} {
		assert.Contains(t, err.Error(), file)
	}
}

func TestNewRefusesUnknownDialect(t *testing.T) {
	t.Parallel()
	_, err := migrate.New(untouchable{dialect: "mysql"}, migrate.Config{})
	require.Error(t, err)
}

type brokenFS struct{}

func (brokenFS) Open(string) (fs.File, error) { return nil, errors.New("disk on fire") }

func TestNewReportsUnreadableFiles(t *testing.T) {
	t.Parallel()
	_, err := migrate.New(untouchable{dialect: backend.SQLite}, tenants(migrate.Source{Name: "a", FS: brokenFS{}}))
	var fault *migrate.SourceError
	require.ErrorAs(t, err, &fault)
}

// A file without a dialect in its name is read by the rules of the one that is used: a trigger of SQLite's has statements in it.
func TestTriggerInAFileForAnyDialect(t *testing.T) {
	t.Parallel()
	be, err := sqlite.Open(t.Context(), t.TempDir(), sqlite.Config{})
	require.NoError(t, err)
	defer func() { require.NoError(t, be.Close()) }()
	m, err := migrate.New(be, migrate.Config{Tenant: []migrate.Source{{Name: "app", FS: fstest.MapFS{"00001_a.sql": {Data: []byte(`-- +goose Up
CREATE TABLE a (n INTEGER);
CREATE TABLE b (n INTEGER);
-- +goose StatementBegin
CREATE TRIGGER copied AFTER INSERT ON a BEGIN
	INSERT INTO b VALUES (new.n);
END;
-- +goose StatementEnd
`)}}}}})
	require.NoError(t, err)
	require.NoError(t, m.Close())
}

// The same for Postgres: what is in the body of a function are no statements, though SQLite would take them for some. An
// application that has never run on SQLite names its files as goose has them.
func TestFunctionInAFileForAnyDialect(t *testing.T) {
	t.Parallel()
	m, err := migrate.New(untouchable{dialect: backend.Postgres}, migrate.Config{Tenant: []migrate.Source{{Name: "app", FS: fstest.MapFS{"00001_a.sql": {Data: []byte(`-- +goose Up
CREATE TABLE a (n INTEGER);
-- +goose StatementBegin
CREATE FUNCTION twice(n integer) RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
	RETURN 2 * n;
END;
$$;
-- +goose StatementEnd
-- +goose StatementBegin
DO $do$
BEGIN
	PERFORM twice(2);
END;
$do$;
-- +goose StatementEnd
-- +goose Down
DROP FUNCTION twice(integer);
`)}}}}})
	require.NoError(t, err)
	require.NoError(t, m.Close())
}
