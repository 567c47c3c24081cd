package migrate_test

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	_ "github.com/tenement-go/tenement/backend/postgres"
	_ "github.com/tenement-go/tenement/backend/sqlite"
	"github.com/tenement-go/tenement/internal/leak"
	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/migrate"
)

func TestMain(m *testing.M) {
	if role := os.Getenv("MIGRATE_TEST_ROLE"); role != "" {
		os.Exit(asChild(role))
	}
	leak.Main(m)
}

// site is a backend and how another process opens it.
type site struct {
	backend.Backend
	url string
}

// each runs a test on both backends, and on a Citus cluster where there is one.
func each(t *testing.T, fn func(t *testing.T, be *site)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		fn(t, sqliteSite(t))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		fn(t, postgresSite(t))
	})
	if pgtest.HasCitus() {
		t.Run("citus", func(t *testing.T) {
			t.Parallel()
			fn(t, openSite(t, pgtest.Citus(t).Database(t)))
		})
	}
}

func sqliteSite(t testing.TB) *site { return openSite(t, sqliteURL(t)) }

func sqliteURL(t testing.TB) string { return "sqlite:" + filepath.Join(t.TempDir(), "data") }

func postgresSite(t testing.TB) *site {
	return openSite(t, pgtest.Shared(t).Database(t))
}

func openSite(t testing.TB, url string) *site {
	t.Helper()
	be, err := backend.Open(context.Background(), url)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, be.Close()) })
	return &site{Backend: be, url: url}
}

// files makes a file system of "name", "text" pairs.
func files(pairs ...string) fs.FS {
	m := fstest.MapFS{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
	}
	return m
}

// up is a migration file.
func up(text string) string { return "-- +goose Up\n" + text + "\n" }

// both is a migration file with a way back.
func both(up, down string) string { return "-- +goose Up\n" + up + "\n-- +goose Down\n" + down + "\n" }

// version is a file system with the first n of some migrations, as a binary of that release carries them.
func version(n int, pairs ...string) fs.FS { return files(pairs[:2*n]...) }

func migrator(t testing.TB, be backend.Backend, cfg migrate.Config) *migrate.Migrator {
	t.Helper()
	if s, ok := be.(*site); ok {
		be = s.Backend // whose abilities a wrapper would hide
	}
	m, err := migrate.New(be, cfg)
	require.NoError(t, err)
	return m
}

func tenants(sources ...migrate.Source) migrate.Config { return migrate.Config{Tenant: sources} }

// noDrift has every store be what the ledger says of it.
func noDrift(t testing.TB, m *migrate.Migrator) {
	t.Helper()
	verified, err := m.Verify(t.Context(), migrate.Fleet{})
	require.NoError(t, err)
	assert.Empty(t, verified.Drift)
}

// tenantsUp applies the tenant set on some terms.
func tenantsUp(ctx context.Context, m *migrate.Migrator, fleet migrate.Fleet) (*migrate.Result, error) {
	return m.Up(ctx, migrate.UpOptions{Fleet: fleet, Scope: migrate.TenantsOnly})
}

// store names a test's store.
func store(i int) backend.Store { return backend.MustParseStore(fmt.Sprintf("t%04d", i)) }

func route(i int) backend.Route {
	return backend.Route{Store: store(i), Owner: fmt.Sprintf("owner-%d", i)}
}

// provision makes n stores.
func provision(t testing.TB, m *migrate.Migrator, n int) {
	t.Helper()
	for i := range n {
		require.NoError(t, m.Provision(context.Background(), route(i)))
	}
}

// query returns the first column of all rows, joined by commas.
func query(t testing.TB, be backend.Backend, rt backend.Route, text string) string {
	t.Helper()
	db := be.Shared()
	if !rt.IsZero() {
		db = be.Maintenance(rt)
		defer func() { require.NoError(t, db.Close()) }()
	}
	return column(t, db, text)
}

// queryer is a *sql.DB or a *sql.Tx.
type queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// column is query on what is at hand.
func column(t testing.TB, db queryer, text string) string {
	t.Helper()
	rows, err := db.QueryContext(context.Background(), text)
	require.NoError(t, err)
	defer rows.Close()
	var list []string
	for rows.Next() {
		var v any
		require.NoError(t, rows.Scan(&v))
		if b, ok := v.([]byte); ok {
			v = string(b)
		}
		list = append(list, fmt.Sprint(v))
	}
	require.NoError(t, rows.Err())
	return strings.Join(list, ",")
}

func run(t testing.TB, be backend.Backend, rt backend.Route, text string) {
	t.Helper()
	db := be.Shared()
	if !rt.IsZero() {
		db = be.Maintenance(rt)
		defer func() { require.NoError(t, db.Close()) }()
	}
	_, err := db.ExecContext(context.Background(), text)
	require.NoError(t, err)
}

// tables lists a store's own tables.
func tables(t testing.TB, be backend.Backend, rt backend.Route) []string {
	t.Helper()
	joined := query(t, be, rt, tablesQuery(be))
	if joined == "" {
		return nil
	}
	return strings.Split(joined, ",")
}

func tablesQuery(be backend.Backend) string {
	if be.Dialect() == backend.Postgres {
		return `SELECT tablename FROM pg_catalog.pg_tables WHERE schemaname = current_schema() ORDER BY 1`
	}
	return `SELECT name FROM main.sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name <> 'tenement_store' ORDER BY 1`
}

// versions lists what goose's table says.
func versions(t testing.TB, be backend.Backend, rt backend.Route, table string) string {
	t.Helper()
	return query(t, be, rt, `SELECT version_id FROM `+table+` ORDER BY id`)
}
