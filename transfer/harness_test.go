package transfer_test

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	_ "github.com/tenement-go/tenement/backend/postgres"
	_ "github.com/tenement-go/tenement/backend/sqlite"
	"github.com/tenement-go/tenement/internal/leak"
	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
	"github.com/tenement-go/tenement/transfer"
)

func TestMain(m *testing.M) {
	if os.Getenv(envVictim) != "" {
		os.Exit(victim())
	}
	leak.Main(m)
}

// files makes migrations from text.
func files(nameAndText ...string) fs.FS {
	m := fstest.MapFS{}
	for i := 0; i < len(nameAndText); i += 2 {
		m[nameAndText[i]] = &fstest.MapFile{Data: []byte("-- +goose Up\n" + nameAndText[i+1])}
	}
	return m
}

// place is an application over one backend.
type place struct {
	*tenancy.App
	dialect backend.Dialect
	url     string
}

func newPlace(t testing.TB, dialect backend.Dialect, source fs.FS, change ...func(*tenancy.Config)) place {
	return openPlace(t, placeURL(t, dialect), dialect, source, change...)
}

func placeURL(t testing.TB, dialect backend.Dialect) string {
	if dialect == backend.Postgres {
		return pgtest.Shared(t).Database(t)
	}
	return "sqlite:" + t.TempDir()
}

func withFiles(t testing.TB) func(*tenancy.Config) {
	return func(c *tenancy.Config) { c.FilesDir = t.TempDir() }
}

// write makes a file of a tenant.
func (p place) write(t testing.TB, tenant tenancy.Tenant, name, text string) {
	root, err := p.Dir(backend.WithRouter(t.Context(), &tenant))
	require.NoError(t, err)
	defer root.Close()
	require.NoError(t, root.MkdirAll(filepath.Dir(name), 0o750))
	require.NoError(t, root.WriteFile(name, []byte(text), 0o640))
}

func (p place) read(t testing.TB, tenant tenancy.Tenant, name string) string {
	root, err := p.Dir(backend.WithRouter(t.Context(), &tenant))
	require.NoError(t, err)
	defer root.Close()
	text, err := root.ReadFile(name)
	require.NoError(t, err)
	return string(text)
}

func openPlace(t testing.TB, url string, dialect backend.Dialect, source fs.FS, change ...func(*tenancy.Config)) place {
	be, err := backend.Open(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, be.Close()) })
	cfg := tenancy.Config{Tenant: []migrate.Source{{Name: "app", FS: source}}, PollInterval: time.Hour}
	for _, f := range change {
		f(&cfg)
	}
	app, err := tenancy.Open(t.Context(), be, cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, app.Close()) })
	return place{app, dialect, url}
}

func (p place) create(t testing.TB, slug string, statements ...string) tenancy.Tenant {
	tenant, err := p.Create(t.Context(), tenancy.Spec{Slug: slug, Domains: []string{slug + ".example"}})
	require.NoError(t, err)
	p.exec(t, tenant, statements...)
	return tenant
}

func (p place) exec(t testing.TB, tenant tenancy.Tenant, statements ...string) {
	ctx := backend.WithRouter(t.Context(), &tenant)
	for _, s := range statements {
		_, err := p.DB().ExecContext(ctx, s)
		require.NoError(t, err, s)
	}
}

func (p place) query(t testing.TB, tenant tenancy.Tenant, query string) []string {
	rows, err := p.DB().QueryContext(backend.WithRouter(t.Context(), &tenant), query)
	require.NoError(t, err)
	defer rows.Close()
	found := []string{}
	for rows.Next() {
		var s sql.NullString
		require.NoError(t, rows.Scan(&s))
		found = append(found, s.String)
	}
	require.NoError(t, rows.Err())
	return found
}

// export writes a tenant to a new file.
func (p place) export(t testing.TB, tenant tenancy.Tenant) (path string, m *transfer.Manifest) {
	path = filepath.Join(t.TempDir(), "tenant.db")
	m, err := transfer.Export(t.Context(), p.App, tenant.ID, path, transfer.ExportOptions{})
	require.NoError(t, err)
	return path, m
}

func (p place) bring(t testing.TB, path string, opt ...transfer.ImportOptions) tenancy.Tenant {
	var o transfer.ImportOptions
	if len(opt) > 0 {
		o = opt[0]
	}
	tenant, err := transfer.Import(t.Context(), p.App, path, o)
	require.NoError(t, err)
	require.Equal(t, tenancy.Active, tenant.Status)
	return tenant
}

// requireNothing: an import has left no trace.
func (p place) requireNothing(t testing.TB) {
	ctx := context.Background()
	for tenant, err := range p.Tenants(ctx, tenancy.Filter{}) {
		require.NoError(t, err)
		require.Fail(t, "a tenant is left: "+tenant.Slug)
	}
	for info, err := range p.Backend().Stores(ctx) {
		require.NoError(t, err)
		require.Fail(t, "a store is left: "+info.Store.String())
	}
	findings, err := p.Doctor(ctx)
	require.NoError(t, err)
	require.Empty(t, findings)
}

// pairs runs a test from each backend to each.
func pairs(t *testing.T, test func(t *testing.T, from, to backend.Dialect)) {
	t.Parallel()
	for _, from := range []backend.Dialect{backend.SQLite, backend.Postgres} {
		for _, to := range []backend.Dialect{backend.SQLite, backend.Postgres} {
			t.Run(fmt.Sprintf("%s to %s", from, to), func(t *testing.T) {
				t.Parallel()
				test(t, from, to)
			})
		}
	}
}
