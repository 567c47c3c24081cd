package migrate_test

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/migrate"
)

// withParam returns a database's URL with one parameter more.
func withParam(t testing.TB, databaseURL, name, value string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	require.NoError(t, err)
	q := u.Query()
	q.Set(name, value)
	u.RawQuery = q.Encode()
	return u.String()
}

// throughGoose is migrations of which none can be sent as text, one of each kind.
func throughGoose(last int) migrate.Source {
	return slow(last, "VACUUM a;\n", "CREATE INDEX CONCURRENTLY a_x ON a (x);\nVACUUM a;\n")
}

// slow has two texts in migrations without a transaction, among others that cannot be sent as text.
func slow(last int, second, fourth string) migrate.Source {
	list := []string{
		"1_a.sql", up("CREATE TABLE a (x INTEGER);"),
		"2_vacuum.sql", "-- +goose NO TRANSACTION\n-- +goose Up\n" + second + "INSERT INTO a (x) VALUES (2);\n",
		"4_index.sql", "-- +goose NO TRANSACTION\n-- +goose Up\n" + fourth,
	}
	return migrate.Source{
		Name: "app", FS: version(min(last, 3), list...),
		Go: func() []*goose.Migration {
			if last < 3 {
				return nil
			}
			return []*goose.Migration{
				goose.NewGoMigration(3, &goose.GoFunc{RunDB: func(ctx context.Context, db *sql.DB) error {
					_, err := db.ExecContext(ctx, "INSERT INTO a (x) VALUES (3)")
					return err
				}}, nil),
				goose.NewGoMigration(5, &goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error {
					_, err := tx.ExecContext(ctx, "INSERT INTO a (x) VALUES (5)")
					return err
				}}, nil),
			}
		},
	}
}

// S73: nobody holds one connection of the pool while waiting for another: creates, lazy migrations and a fleet run with
// more workers than connections come to their end, on a pool of any size, and other tenants' statements go on.
func TestPoolsOfAnySize(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 2, 4} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			be := openSite(t, withParam(t, pgtest.Shared(t).Database(t), "pool_max_conns", fmt.Sprint(size)))
			// Far more than it takes: it is reached only where something waits in a circle.
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			const stores = 6
			old := migrator(t, be, tenants(throughGoose(2)))
			var wg sync.WaitGroup
			for i := range stores {
				wg.Go(func() { assert.NoError(t, old.Provision(ctx, route(i))) })
			}
			wg.Wait()
			require.False(t, t.Failed())

			stop := make(chan struct{})
			var traffic sync.WaitGroup
			traffic.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						_, err := be.DB().ExecContext(backend.WithRoute(ctx, route(0)), "SELECT x FROM a")
						assert.NoError(t, err)
					}
				}
			})
			cfg := tenants(throughGoose(5))
			cfg.Behind, cfg.BehindWait = migrate.Migrate, time.Minute
			m := migrator(t, be, cfg)
			defer func() { require.NoError(t, m.Close()) }()
			for i := range stores {
				wg.Go(func() { assert.NoError(t, m.Ready(ctx, route(i))) })
			}
			for i := range stores {
				wg.Go(func() { assert.NoError(t, m.Provision(ctx, route(stores+i))) })
			}
			wg.Go(func() {
				_, err := m.Up(ctx, migrate.UpOptions{Fleet: migrate.Fleet{Parallel: 16}})
				assert.NoError(t, err)
			})
			wg.Wait()
			close(stop)
			traffic.Wait()
			for i := range 2 * stores {
				require.Equal(t, "0,1,2,3,4,5", versions(t, be, route(i), "goose_db_version"))
				require.Equal(t, "2,3,5", query(t, be, route(i), "SELECT x FROM a ORDER BY x"))
			}
		})
	}
}

// S73: nor does a process keep more than one server connection of a pooler for the locks that it has and waits for. Three
// migrators whose locks were a transaction each had all four of these.
func TestMigratorsThroughAPooler(t *testing.T) {
	t.Parallel()
	through := withParam(t, pgtest.Bouncer(t, pgtest.Shared(t).Database(t), pgtest.BouncerConfig{PoolSize: 4}), "default_query_exec_mode", "exec")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // reached only where they wait in a circle
	defer cancel()
	// A pooler lends no connection outside of a transaction, which is what VACUUM and CONCURRENTLY want.
	poolable := func(last int) migrate.Source { return slow(last, "", "CREATE INDEX a_x ON a (x);\n") }
	const stores, processes = 8, 3
	provision(t, migrator(t, openSite(t, through), tenants(poolable(2))), stores)
	var wg sync.WaitGroup
	for p := range processes {
		be := openSite(t, through)
		cfg := tenants(poolable(5))
		cfg.Behind, cfg.BehindWait = migrate.Migrate, 5*time.Minute
		m := migrator(t, be, cfg)
		defer func() { require.NoError(t, m.Close()) }()
		wg.Go(func() {
			_, err := m.Up(ctx, migrate.UpOptions{Fleet: migrate.Fleet{Parallel: 16}})
			assert.NoError(t, err)
		})
		for i := range stores {
			wg.Go(func() { assert.NoError(t, m.Ready(ctx, route(i))) })
			wg.Go(func() { assert.NoError(t, m.Provision(ctx, route(stores+i*processes+p))) })
		}
	}
	wg.Wait()
	be := openSite(t, through)
	for i := range stores + stores*processes {
		require.Equal(t, "0,1,2,3,4,5", versions(t, be, route(i), "goose_db_version"))
		require.Equal(t, "2,3,5", query(t, be, route(i), "SELECT x FROM a ORDER BY x"))
	}
}

// S73: while somebody holds all of the pool, what waits for it ends with its context.
func TestWaitsEndWithTheirContext(t *testing.T) {
	t.Parallel()
	be := openSite(t, withParam(t, pgtest.Shared(t).Database(t), "pool_max_conns", "1"))
	m := migrator(t, be, tenants(throughGoose(2)))
	provision(t, m, 2)
	newer := migrator(t, be, tenants(throughGoose(5)))
	_, err := newer.Up(t.Context(), migrate.UpOptions{Fleet: migrate.Fleet{Stores: []backend.Store{store(1)}}})
	require.NoError(t, err)
	tx, err := be.Shared().BeginTx(t.Context(), nil)
	require.NoError(t, err)
	defer func() { require.NoError(t, tx.Rollback()) }()
	_, err = tx.ExecContext(t.Context(), "SELECT 1")
	require.NoError(t, err)
	for name, do := range map[string]func(context.Context) error{
		"provision": func(ctx context.Context) error { return m.Provision(ctx, route(7)) },
		"up":        func(ctx context.Context) error { _, err := newer.Up(ctx, migrate.UpOptions{}); return err },
		"down": func(ctx context.Context) error {
			_, err := newer.Down(ctx, "", 1, migrate.DownOptions{})
			return err
		},
		"ready":  func(ctx context.Context) error { return newer.Ready(ctx, route(0)) },
		"settle": func(ctx context.Context) error { _, err := newer.Settle(ctx); return err },
	} {
		t.Run(name, func(t *testing.T) { //nolint:paralleltest // the connection is held meanwhile
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			require.ErrorIs(t, do(ctx), context.DeadlineExceeded)
		})
	}
}

// S81: two migrators, an index that is made CONCURRENTLY, and nobody waits for the other's snapshot.
func TestTwoMigratorsAndConcurrently(t *testing.T) {
	t.Parallel()
	database := pgtest.Shared(t).Database(t)
	list := []string{
		"1_a.sql", up("CREATE TABLE a (x INTEGER);"),
		"2_index.sql", "-- +goose NO TRANSACTION\n-- +goose Up\nCREATE INDEX CONCURRENTLY a_x ON a (x);\n",
		"3_other.sql", "-- +goose NO TRANSACTION\n-- +goose Up\nCREATE INDEX CONCURRENTLY a_y ON a (x);\n",
	}
	const stores = 12
	be := openSite(t, database)
	provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, list...)})), stores)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // reached only where they wait in a circle
	defer cancel()
	var wg sync.WaitGroup
	results := make([]*migrate.Result, 3)
	for i := range results {
		m := migrator(t, openSite(t, database), tenants(migrate.Source{Name: "app", FS: version(3, list...)}))
		wg.Go(func() {
			var err error
			// All at the same store, so that they meet.
			for n := range stores {
				var res *migrate.Result
				res, err = m.Up(ctx, migrate.UpOptions{Fleet: migrate.Fleet{Stores: []backend.Store{store(n)}}})
				if !assert.NoError(t, err) {
					return
				}
				if results[i] == nil {
					results[i] = &migrate.Result{}
				}
				results[i].Applied += res.Applied
			}
		})
	}
	wg.Wait()
	applied := 0
	for _, res := range results {
		if res != nil {
			applied += res.Applied
		}
	}
	assert.GreaterOrEqual(t, applied, stores)
	for i := range stores {
		require.Equal(t, "0,1,2,3", versions(t, be, route(i), "goose_db_version"))
		require.Empty(t, query(t, be, route(i), "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE NOT i.indisvalid AND c.relnamespace = current_schema()::regnamespace"))
	}
}
