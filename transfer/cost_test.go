package transfer_test

import (
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/wireproxy"
	"github.com/tenement-go/tenement/tenancy"
	"github.com/tenement-go/tenement/transfer"
)

// What a transfer costs is counted, since a clock would tell more of the machine than of us.

// fill inserts rows into the table events.
func (p place) fill(t testing.TB, tenant tenancy.Tenant, rows int) {
	p.exec(t, tenant, fmt.Sprintf(`INSERT INTO events WITH RECURSIVE s (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < %d)
		SELECT i, 'kind' || i %% 10, i * 7, 'note of some length, number ' || i FROM s`, rows))
}

// A tenant that is moved to Postgres takes so many round trips, with those that take a connection and give it back. Two more
// when it is looked at what the load did, which nothing but the library's own statements does. One is the ledger's row, which
// is written when all have arrived, and not by the script that makes the store.
func TestMoveTripsOnPostgres(t *testing.T) {
	t.Parallel()
	a := newPlace(t, backend.SQLite, events)
	made := 0
	trips := func(tenants int) int64 {
		var ids []tenancy.ID
		for range tenants {
			made++
			tenant := a.create(t, fmt.Sprintf("t%d", made))
			a.fill(t, tenant, 10)
			ids = append(ids, tenant.ID)
		}
		url := placeURL(t, backend.Postgres)
		proxy, err := wireproxy.NewURL(url)
		require.NoError(t, err)
		t.Cleanup(func() { _ = proxy.Close() })
		b := a.elsewhere(t, proxy.URL(url), backend.Postgres)
		proxy.ResetRoundTrips()
		_, err = transfer.Move(t.Context(), a.App, b.App, transfer.MoveOptions{Tenants: ids, NoShared: true, Parallel: 1})
		require.NoError(t, err)
		return proxy.RoundTrips()
	}
	few := trips(4)
	more := trips(24)
	require.LessOrEqual(t, (more-few)/20, int64(30), "two of them hand the store over")
}

// A clone on Postgres takes so many round trips, and for each small table those that insert its rows. One is the ledger's row:
// it must not be there before the rows are. Two see to it that no table was rewritten.
func TestCloneTripsOnPostgres(t *testing.T) {
	t.Parallel()
	trips := func(tables int) int64 {
		var text strings.Builder
		for i := range tables {
			fmt.Fprintf(&text, "CREATE TABLE t%d (id bigint PRIMARY KEY, note text);\n", i)
		}
		url := placeURL(t, backend.Postgres)
		proxy, err := wireproxy.NewURL(url)
		require.NoError(t, err)
		t.Cleanup(func() { _ = proxy.Close() })
		a := openPlace(t, proxy.URL(url), backend.Postgres, files("00001_x.sql", text.String()))
		thor := a.create(t, "thor")
		clone := func(slug string) {
			_, err := transfer.Clone(t.Context(), a.App, thor.ID, transfer.CloneOptions{Spec: tenancy.Spec{Slug: slug}})
			require.NoError(t, err)
		}
		clone("warm")
		proxy.ResetRoundTrips()
		clone("copy")
		return proxy.RoundTrips()
	}
	few := trips(4)
	more := trips(24)
	require.LessOrEqual(t, few, int64(38))
	require.LessOrEqual(t, (more-few)/20, int64(1))
}

// Each row that is exported takes the memory of its line, and an interface for each of its values.
func TestExportAllocations(t *testing.T) { // not beside others: the runtime counts for all
	a := newPlace(t, backend.Postgres, events)
	dir := t.TempDir()
	made := 0
	allocations := func(rows int) uint64 {
		made++
		tenant := a.create(t, fmt.Sprintf("t%d", made))
		a.fill(t, tenant, rows)
		least := uint64(1 << 62)
		for i := range 3 {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := transfer.Export(t.Context(), a.App, tenant.ID, filepath.Join(dir, fmt.Sprint(rows, "-", i)), transfer.ExportOptions{})
			require.NoError(t, err)
			runtime.ReadMemStats(&after)
			least = min(least, after.Mallocs-before.Mallocs)
		}
		return least
	}
	few, more := allocations(1000), allocations(21_000)
	require.LessOrEqual(t, float64(more-few)/20_000, 5.5)
}
