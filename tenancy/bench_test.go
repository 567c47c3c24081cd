package tenancy

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/migrate"
)

// twentyTables is an application's schema: 20 tables with 40 indexes.
func twentyTables() string {
	var b strings.Builder
	for i := range 20 {
		fmt.Fprintf(&b, "CREATE TABLE t%d (id BIGINT PRIMARY KEY, a TEXT NOT NULL, b TEXT, c BIGINT);\nCREATE INDEX t%d_a ON t%d (a);\nCREATE INDEX t%d_b ON t%d (b);\n", i, i, i, i, i)
	}
	return b.String()
}

func openTwenty(b *testing.B, url string) *App {
	return open(b, newPlace(b, url).be, func(c *Config) {
		c.Tenant = []migrate.Source{{Name: "app", FS: files("00001_app.sql", "-- +goose Up\n"+twentyTables())}}
	})
}

// sideBySide runs two things in turn and reports the medians and their ratio: what else the machine does meets both.
func sideBySide(b *testing.B, thing, floor func(i int)) {
	var things, floors []time.Duration
	i := 0
	for b.Loop() {
		start := time.Now()
		thing(i)
		between := time.Now()
		floor(i)
		things, floors = append(things, between.Sub(start)), append(floors, time.Since(between))
		i++
	}
	median := func(d []time.Duration) float64 {
		slices.Sort(d)
		return float64(d[len(d)/2]) / 1e6
	}
	b.ReportMetric(median(things), "ms-create")
	b.ReportMetric(median(floors), "ms-floor")
	b.ReportMetric(median(things)/median(floors), "x-floor")
}

// Create against a copy of the template, on disk, and two commits to the registry.
//
//	go test -run xxx -bench BenchmarkCreate ./tenancy
func BenchmarkCreateSQLite(b *testing.B) {
	dir := b.TempDir()
	a := openTwenty(b, "sqlite:"+dir)
	create(b, a, "template")
	file := filepath.Join(dir, "tenants", "template.db")
	commit := func(i int) {
		tx, err := a.Shared().BeginTx(b.Context(), nil)
		require.NoError(b, err)
		_, err = tx.ExecContext(b.Context(), `INSERT INTO tenement_changes (revision, tenant_id, kind) VALUES ($1, '', '')`, i)
		require.NoError(b, err)
		require.NoError(b, tx.Commit())
	}
	sideBySide(b, func(i int) {
		create(b, a, fmt.Sprintf("made-%d", i))
	}, func(i int) {
		commit(1_000_000_000 + 2*i)
		require.NoError(b, copyFile(file, filepath.Join(dir, fmt.Sprintf("floor-%d", i))))
		commit(1_000_000_001 + 2*i)
	})
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	f, err := os.Create(to + ".tmp")
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(to+".tmp", to)
	}
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(to))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// Create against a script of the same DDL, sent as one message.
func BenchmarkCreatePostgres(b *testing.B) {
	url := pgtest.Shared(b).Database(b)
	a := openTwenty(b, url)
	conn, err := pgx.Connect(b.Context(), url)
	require.NoError(b, err)
	defer conn.Close(b.Context())
	sideBySide(b, func(i int) {
		create(b, a, fmt.Sprintf("made-%d", i))
	}, func(i int) {
		script := fmt.Sprintf("BEGIN; CREATE SCHEMA floor_%d; SET LOCAL search_path = floor_%d;\n%sCOMMIT;", i, i, twentyTables())
		require.NoError(b, conn.PgConn().Exec(b.Context(), script).Close())
	})
}
