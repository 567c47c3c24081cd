package migrate_test

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/migrate"
)

// killed is what the process that is killed applies; each version shows in the schema and in the rows.
var killed = []string{
	"1_a.sql", up("CREATE TABLE a (x INTEGER);"),
	"2_b.sql", up("CREATE TABLE b (x INTEGER);\nINSERT INTO a (x) VALUES (2);"),
	"3_c.sql", up("ALTER TABLE a ADD COLUMN y INTEGER;\nINSERT INTO a (x) VALUES (3);"),
	"4_d.sql", "-- +goose NO TRANSACTION\n-- +goose Up\nINSERT INTO a (x) VALUES (4);\n",
}

// asChild is the test binary run again: it migrates a fleet and says so, line by line. A role below zero undoes the newest
// migration. If it is given a store, it migrates that, and kills itself when it hears that this is done.
func asChild(role string) int {
	ctx := context.Background()
	be, err := backend.Open(ctx, os.Getenv("MIGRATE_TEST_URL"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	n, _ := strconv.Atoi(role)
	m, err := migrate.New(be, tenants(migrate.Source{Name: "app", FS: version(max(n, -n), killed...)}))
	fleet := migrate.Fleet{OnEvent: func(e migrate.Event) { fmt.Println(e.Kind, e.Done) }}
	if name := os.Getenv("MIGRATE_TEST_STORE"); name != "" {
		fleet.Stores = []backend.Store{backend.MustParseStore(name)}
		fleet.OnEvent = func(e migrate.Event) {
			if e.Kind == migrate.EventApplied {
				self, _ := os.FindProcess(os.Getpid())
				_ = self.Kill()
				select {}
			}
		}
	}
	switch {
	case err != nil:
	case n < 0:
		_, err = m.Down(ctx, "", 1, migrate.DownOptions{Fleet: fleet, Forget: true})
	default:
		_, err = tenantsUp(ctx, m, fleet)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// child is another process that migrates the fleet, and its lines.
type child struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
}

func startChild(t testing.TB, be *site, last int, env ...string) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprint("MIGRATE_TEST_ROLE=", last), "MIGRATE_TEST_URL="+be.url)
	cmd.Env = append(cmd.Env, env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	return &child{cmd: cmd, lines: bufio.NewScanner(out)}
}

// S65
func TestKilledInTheMiddle(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		const stores = 60
		ctx := context.Background()
		provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, killed...)})), stores)
		for _, at := range []int{1, 20, 45} {
			child := startChild(t, be, 3)
			for n := 0; n < at && child.lines.Scan(); n++ {
			}
			require.NoError(t, child.cmd.Process.Kill())
			_ = child.cmd.Wait() // it was killed, or was faster

			// No store has a migration without its version row or the reverse.
			done := 0
			for i := range stores {
				done += checkWhole(t, be, route(i), 3)
			}
			t.Logf("killed after %d lines: %d stores done", at, done)
		}
		m := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(3, killed...)}))
		res, err := m.Up(ctx, migrate.UpOptions{Scope: migrate.TenantsOnly})
		require.NoError(t, err)
		assert.Zero(t, res.Failed)
		for i := range stores {
			require.Equal(t, 1, checkWhole(t, be, route(i), 3))
		}
		st, err := m.Status(ctx)
		require.NoError(t, err)
		assert.Equal(t, migrate.TenantStatus{Total: stores, Current: stores}, st.Tenants)
		noDrift(t, m)
	})
}

// S65: a run by name that was killed is looked after, too, and no store is migrated that it was not given.
func TestKilledByName(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := t.Context()
		provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, killed...)})), 3)
		child := startChild(t, be, 3, "MIGRATE_TEST_STORE="+store(1).String())
		require.Error(t, child.cmd.Wait(), "it has killed itself")
		m := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(3, killed...)}))
		require.Eventually(t, func() bool { // its lock is free in a moment
			_, err := m.Settle(ctx)
			require.NoError(t, err)
			return m.Ready(ctx, route(1)) == nil && query(t, be, backend.Route{}, "SELECT count(*) FROM tenement_ledger_runs") == "0"
		}, 20*time.Second, time.Millisecond)
		require.Equal(t, "0,1,2,3", versions(t, be, route(1), "goose_db_version"))
		for _, i := range []int{0, 2} {
			require.ErrorIs(t, m.Ready(ctx, route(i)), migrate.ErrBehind)
			require.Equal(t, "0,1", versions(t, be, route(i), "goose_db_version"))
		}
		noDrift(t, m)
	})
}

// checkWhole fails unless the store is at version 1 or at the last one, in tables and rows as in versions. It looks at all
// of them at one moment: the server may still be at what a killed process sent.
func checkWhole(t testing.TB, be *site, rt backend.Route, last int) (done int) {
	t.Helper()
	db := be.Maintenance(rt)
	defer func() { require.NoError(t, db.Close()) }()
	tx, err := db.BeginTx(t.Context(), &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
	if be.Dialect() == backend.SQLite {
		tx, err = db.BeginTx(t.Context(), &sql.TxOptions{ReadOnly: true})
	}
	require.NoError(t, err)
	defer func() { _ = tx.Rollback() }()
	v := column(t, tx, `SELECT version_id FROM goose_db_version ORDER BY id`)
	rows := column(t, tx, `SELECT x FROM a ORDER BY x`)
	hasB := slices.Contains(strings.Split(column(t, tx, tablesQuery(be)), ","), "b")
	switch v {
	case "0,1":
		require.Empty(t, rows)
		require.False(t, hasB)
		return 0
	case "0,1,2": // goose's way: one migration at a time
		require.Equal(t, "2", rows)
		return 0
	}
	require.Equal(t, []string{"0", "1", "2", "3", "4"}[:last+1], strings.Split(v, ","))
	require.Equal(t, []string{"2", "3", "4"}[:last-1], strings.Split(rows, ","))
	require.True(t, hasB)
	return 1
}

// S66
func TestTwoMigratorsAtOnce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		const stores = 96
		ctx := context.Background()
		provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, killed...)})), stores)
		for last := 3; last <= 4; last++ { // as text, and through goose
			var wg sync.WaitGroup
			var applied, skipped atomic.Int64
			for range 3 {
				other := openSite(t, be.url) // as another process has it
				m := migrator(t, other, tenants(migrate.Source{Name: "app", FS: version(last, killed...)}))
				wg.Go(func() {
					res, err := m.Up(ctx, migrate.UpOptions{Scope: migrate.TenantsOnly})
					assert.NoError(t, err)
					applied.Add(int64(res.Applied))
					skipped.Add(int64(res.Skipped))
				})
			}
			wg.Wait()
			assert.EqualValues(t, stores, applied.Load(), "skipped: %d", skipped.Load())
			for i := range stores {
				require.Equal(t, 1, checkWhole(t, be, route(i), last))
			}
			t.Logf("version %d: %d skipped", last, skipped.Load())
		}
		st, err := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(4, killed...)})).Status(ctx)
		require.NoError(t, err)
		assert.Equal(t, migrate.TenantStatus{Total: stores, Current: stores}, st.Tenants)
	})
}
