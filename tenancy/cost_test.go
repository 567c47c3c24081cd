package tenancy

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/internal/wireproxy"
	"github.com/tenement-go/tenement/migrate"
)

// What a creation costs beside its tables is counted, since a clock would tell more of the machine than of us.

// A creation on SQLite commits twice to the shared store, the claim and the activation (with it the ledger's row), and
// copies a template: the migrations are not run again.
func TestCreateCommitsTwiceOnSQLite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := open(t, newPlace(t, "sqlite:"+dir).be)
	create(t, a, "first") // with what is done once for all
	templates, err := filepath.Glob(filepath.Join(dir, "templates", "*.db"))
	require.NoError(t, err)
	require.Len(t, templates, 1, "the migrations do not vary, so what they made is kept")
	for i := range 3 {
		before := walCommits(t, dir)
		create(t, a, fmt.Sprint("again-", i), fmt.Sprintf("again-%d.example", i))
		require.Equal(t, 2, walCommits(t, dir)-before)
	}
	require.NoError(t, a.Migrator().Ready(t.Context(), bySlug(t, a, "again-1").Route()), "the ledger has its row")
}

// walCommits counts the commits in the -wal of the shared store (https://www.sqlite.org/fileformat.html#the_write_ahead_log).
// It has no locks of its own that closing it could drop.
func walCommits(t *testing.T, dir string) (commits int) {
	wal, err := os.ReadFile(filepath.Join(dir, "shared.db-wal"))
	require.NoError(t, err)
	require.Greater(t, len(wal), 32)
	page, salts := int(binary.BigEndian.Uint32(wal[8:])), wal[16:24]
	for frame := wal[32:]; len(frame) >= 24+page && bytes.Equal(frame[8:16], salts); frame = frame[24+page:] {
		if binary.BigEndian.Uint32(frame[4:]) != 0 {
			commits++
		}
	}
	return commits
}

func bySlug(t *testing.T, a *App, slug string) *Tenant {
	tenant, err := a.BySlug(context.WithoutCancel(t.Context()), slug)
	require.NoError(t, err)
	return &tenant
}

// A creation on Postgres takes seven messages: the lock, the claim, one that finds out whether the connection is still there,
// a question about public, the store with all its tables, also where an index is made CONCURRENTLY elsewhere, the activation,
// and the lock's end.
func TestCreateTripsOnPostgres(t *testing.T) {
	t.Parallel()
	url := pgtest.Shared(t).Database(t)
	proxy, err := wireproxy.NewURL(url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = proxy.Close() })
	a := open(t, newPlace(t, proxy.URL(url)).be, func(c *Config) {
		c.Tenant = []migrate.Source{{Name: "app", FS: files("00001_app.sql", "-- +goose Up\n"+twentyTables(),
			"00002_index.sql", "-- +goose NO TRANSACTION\n-- +goose Up\nCREATE INDEX CONCURRENTLY t0_c ON t0 (c);\n")}}
	})
	for i := range 5 { // each statement is prepared at its first use
		create(t, a, fmt.Sprint("first-", i), fmt.Sprintf("first-%d.example", i))
	}
	least := int64(1000)
	for i := range 5 { // the lock's connection may have to be opened
		proxy.ResetRoundTrips()
		create(t, a, fmt.Sprint("again-", i), fmt.Sprintf("again-%d.example", i))
		least = min(least, proxy.RoundTrips())
	}
	require.LessOrEqual(t, least, int64(7))
}
