package transfer_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/transfer"
)

var events = files("00001_events.sql", `CREATE TABLE events (id BIGINT PRIMARY KEY, kind TEXT NOT NULL, n BIGINT, note TEXT);
CREATE INDEX events_kind ON events (kind);`)

// BenchmarkExport exports 100,000 rows.
func BenchmarkExport(b *testing.B) {
	a := newPlace(b, backend.Postgres, events)
	thor := a.create(b, "thor", `INSERT INTO events SELECT i, 'kind' || i % 10, i * 7, 'note of some length, number ' || i FROM generate_series(1, 100000) s (i)`)
	dir := b.TempDir()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		_, err := transfer.Export(b.Context(), a.App, thor.ID, filepath.Join(dir, fmt.Sprint(i)), transfer.ExportOptions{})
		require.NoError(b, err)
	}
}

// BenchmarkMove moves 100 tenants of 1,000 rows from SQLite to Postgres.
func BenchmarkMove(b *testing.B) {
	a := newPlace(b, backend.SQLite, events)
	for i := range 100 {
		a.create(b, fmt.Sprintf("t%d", i), `INSERT INTO events SELECT i, 'kind' || i % 10, i * 7, 'note of some length, number ' || i
			FROM (WITH RECURSIVE s (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 1000) SELECT i FROM s)`)
	}
	for b.Loop() {
		b.StopTimer()
		to := newPlace(b, backend.Postgres, events)
		b.StartTimer()
		_, err := transfer.Move(b.Context(), a.App, to.App, transfer.MoveOptions{NoShared: true})
		require.NoError(b, err)
	}
}
