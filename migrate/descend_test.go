package migrate_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/migrate"
)

// descending are two migrations, the second of which calls fn before it is undone.
func descending(fn func(ctx context.Context) error) migrate.Config {
	return tenants(migrate.Source{Name: "app", Go: func() []*goose.Migration {
		return []*goose.Migration{
			goose.NewGoMigration(1, inTx("CREATE TABLE polls (id TEXT)"), inTx("DROP TABLE polls")),
			goose.NewGoMigration(2, inTx("CREATE TABLE votes (id TEXT)"), &goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error {
				if err := fn(ctx); err != nil {
					return err
				}
				_, err := tx.ExecContext(ctx, "DROP TABLE votes")
				return err
			}}),
		}
	}})
}

// When something is undone, every process that needs it refuses the store already, also one that migrates what is behind:
// that waits, and brings it back afterwards.
func TestDownIsHeardOfFirst(t *testing.T) {
	t.Parallel()
	for _, policy := range []migrate.Policy{migrate.Refuse, migrate.Migrate} {
		t.Run(policy.String(), func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, be *site) {
				const stores = 3
				ctx := t.Context()
				cfg := descending(nil)
				cfg.Behind, cfg.BehindWait = policy, time.Millisecond
				other := migrator(t, openSite(t, be.url), cfg) // as another process has it
				defer func() { require.NoError(t, other.Close()) }()
				older := migrator(t, openSite(t, be.url), tenants(migrate.Source{Name: "app", Go: func() []*goose.Migration {
					return []*goose.Migration{goose.NewGoMigration(1, inTx("CREATE TABLE polls (id TEXT)"), inTx("DROP TABLE polls"))}
				}}))
				entered := 0
				m := migrator(t, be, descending(func(context.Context) error {
					for i := range stores {
						assert.ErrorIs(t, other.Ready(ctx, route(i)), migrate.ErrBehind, "store %d is about to lose something", i)
						assert.NoError(t, older.Ready(ctx, route(i)), "that of before does not need it")
					}
					entered++
					return nil
				}))
				provision(t, m, stores)
				for i := range stores {
					require.NoError(t, other.Ready(ctx, route(i)))
				}
				res, err := m.Down(ctx, "", 1, migrate.DownOptions{Fleet: migrate.Fleet{Parallel: 1}})
				require.NoError(t, err)
				assert.Equal(t, stores, res.Applied)
				assert.Equal(t, stores, entered)
				if policy == migrate.Migrate {
					for i := range stores {
						require.Eventually(t, func() bool { return other.Ready(ctx, route(i)) == nil }, time.Minute, time.Millisecond)
						assert.Equal(t, "0,1,2", versions(t, be, route(i), "goose_db_version"))
					}
				}
			})
		})
	}
}

// Of a Down that was stopped, or stops by itself, nothing is left where nothing was undone.
func TestStoppedDownLeavesNothing(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		const stores = 4
		ctx := t.Context()
		undone := 0
		m := migrator(t, be, descending(func(context.Context) error {
			if undone++; undone == 2 {
				return errors.New("this one fails")
			}
			return nil
		}))
		other := migrator(t, openSite(t, be.url), descending(nil))
		provision(t, m, stores)
		stopped, stop := context.WithCancel(ctx)
		early := migrator(t, be, descending(nil))
		early.SetHearing(time.Hour) // it is stopped before that
		go func() {
			defer stop()
			assert.Eventually(t, func() bool { return errors.Is(other.Ready(ctx, route(0)), migrate.ErrBehind) }, time.Minute, time.Millisecond)
		}()
		res, err := early.Down(stopped, "", 1, migrate.DownOptions{})
		require.ErrorIs(t, err, context.Canceled)
		assert.Equal(t, stores, res.Left)
		for i := range stores {
			assert.NoError(t, early.Ready(ctx, route(i)), "it is as it was")
		}

		_, err = m.Down(ctx, "", 1, migrate.DownOptions{Fleet: migrate.Fleet{Parallel: 1, StopAfter: 1}})
		require.ErrorIs(t, err, migrate.ErrStopped)
		require.ErrorIs(t, m.Ready(ctx, route(0)), migrate.ErrBehind)
		for i := 1; i < stores; i++ {
			assert.NoError(t, m.Ready(ctx, route(i)), "it was not undone there")
		}
		assert.Equal(t, "0", query(t, be, backend.Route{}, "SELECT count(*) FROM tenement_ledger_runs"))
	})
}

// A process that dies once it has told the others leaves stores that are refused, and others find out that nothing is
// missing there.
func TestKilledDown(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		const stores = 5
		ctx := t.Context()
		m := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(3, killed...)}))
		provision(t, m, stores)
		child := startChild(t, be, -3)
		require.Eventually(t, func() bool { return errors.Is(m.Ready(ctx, route(0)), migrate.ErrBehind) }, time.Minute, time.Millisecond)
		require.NoError(t, child.cmd.Process.Kill())
		_ = child.cmd.Wait()
		// Also those who do not have what was to be undone.
		older := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(2, killed...)}))
		require.Eventually(t, func() bool { // its lock is free in a moment
			_, err := older.Settle(ctx)
			require.NoError(t, err)
			return query(t, be, backend.Route{}, "SELECT count(*) FROM tenement_ledger_runs") == "0"
		}, time.Minute, time.Millisecond)
		st, err := m.Status(ctx)
		require.NoError(t, err)
		assert.Zero(t, st.Tenants.Failed)
		noDrift(t, m)
	})
}

// What is tried again in a store, since somebody held a lock for instance, goes no further down than it was to.
func TestDownTriedAgainGoesNoFurther(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := t.Context()
		var busy atomic.Bool // once
		once := func(text string) *goose.GoFunc {
			return &goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error {
				if busy.CompareAndSwap(true, false) {
					return fmt.Errorf("in passing: %w", backend.ErrBusy)
				}
				_, err := tx.ExecContext(ctx, text)
				return err
			}}
		}
		source := migrate.Source{Name: "app", Go: func() []*goose.Migration {
			var list []*goose.Migration
			for i := int64(1); i <= 4; i++ {
				list = append(list, goose.NewGoMigration(i, once(fmt.Sprintf("CREATE TABLE t%d (x TEXT)", i)), once(fmt.Sprintf("DROP TABLE t%d", i))))
			}
			return append(list, goose.NewGoMigration(5, once("CREATE TABLE t5 (x TEXT)"), inTx("DROP TABLE t5")))
		}}
		m := migrator(t, be, migrate.Config{Shared: []migrate.Source{source}, Tenant: []migrate.Source{source}})
		_, err := m.Up(ctx, migrate.UpOptions{})
		require.NoError(t, err)
		provision(t, m, 1)
		for _, in := range []migrate.Set{migrate.SetTenant, migrate.SetShared} {
			rt := route(0)
			if in == migrate.SetShared {
				rt = backend.Route{}
			}
			busy.Store(true) // when it is applied again
			_, err = m.Redo(ctx, "", migrate.DownOptions{Set: in})
			require.NoError(t, err)
			require.False(t, busy.Load())
			require.Equal(t, "0,1,2,3,4,5", versions(t, be, rt, "goose_db_version"))
			busy.Store(true) // at the second that is undone
			_, err = m.Down(ctx, "", 2, migrate.DownOptions{Set: in})
			require.NoError(t, err)
			require.False(t, busy.Load())
			require.Equal(t, "0,1,2,3", versions(t, be, rt, "goose_db_version"))
		}
	})
}

// A store that gets another name while a Down is at it is neither undone twice nor refused for ever.
func TestDownOfWhatIsRenamed(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		const stores = 6
		ctx := t.Context()
		old := be.Backend
		rename := func(i int, to string) {
			name := backend.MustParseStore(to)
			require.NoError(t, old.Rename(ctx, route(i), name))
			require.NoError(t, migrator(t, be, descending(nil)).Renamed(ctx, store(i), name))
		}
		m := migrator(t, be, descending(func(context.Context) error { return nil }))
		other := migrator(t, openSite(t, be.url), descending(nil))
		provision(t, m, stores)
		done := make(chan error, 1)
		go func() {
			_, err := m.Down(ctx, "", 1, migrate.DownOptions{})
			done <- err
		}()
		require.Eventually(t, func() bool { return errors.Is(other.Ready(ctx, route(3)), migrate.ErrBehind) }, time.Minute, time.Millisecond)
		rename(3, "zeta") // it has been told of, and has not had its turn
		require.NoError(t, <-done)
		moved := backend.Route{Store: backend.MustParseStore("zeta"), Owner: route(3).Owner}
		v := versions(t, be, moved, "goose_db_version")
		if v == "0,1,2" { // it was not undone there
			assert.NoError(t, m.Ready(ctx, moved))
		} else {
			assert.Equal(t, "0,1", v)
		}
		verified, err := m.Verify(ctx, migrate.Fleet{})
		require.NoError(t, err)
		assert.Empty(t, verified.Drift, "the ledger knows what it has")
	})
}

// One that was undone, and comes up once more under another name, is not undone once more.
func TestDownMeetsAStoreAgain(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		const stores = 150 // so many that a run begins in the middle, and lists what comes before that later
		ctx := t.Context()
		list := []string{
			"1_a.sql", both("CREATE TABLE a (x TEXT);", "DROP TABLE a;"), "2_b.sql", both("CREATE TABLE b (x TEXT);", "DROP TABLE b;"),
			"3_c.sql", both("CREATE TABLE c (x TEXT);", "DROP TABLE c;"),
		}
		m := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(3, list...)}))
		for i := range stores {
			require.NoError(t, m.Provision(ctx, route(i)))
		}
		var first backend.Store
		aaa := backend.MustParseStore("aaa")
		_, err := m.Down(ctx, "", 1, migrate.DownOptions{Fleet: migrate.Fleet{Parallel: 1, OnEvent: func(e migrate.Event) {
			if e.Kind == migrate.EventApplied && first.IsZero() {
				first = e.Store
				info, err := be.Stat(ctx, first)
				assert.NoError(t, err)
				assert.NoError(t, be.Rename(ctx, backend.Route{Store: first, Owner: info.Owner}, aaa))
				assert.NoError(t, migrator(t, be, tenants()).Renamed(ctx, first, aaa))
			}
		}}})
		require.NoError(t, err)
		info, err := be.Stat(ctx, aaa)
		require.NoError(t, err)
		assert.Equal(t, "0,1,2", versions(t, be, backend.Route{Store: aaa, Owner: info.Owner}, "goose_db_version"))
	})
}

// On SQLite the ledger hears of what scripts did later than the stores have it: what somebody else wrote about a store in
// between is not overwritten.
func TestDownBesideALateLedger(t *testing.T) {
	t.Parallel()
	be := sqliteSite(t)
	ctx := t.Context()
	list := []string{"1_a.sql", both("CREATE TABLE a (x TEXT);", "DROP TABLE a;"), "2_b.sql", both("CREATE TABLE b (x TEXT);", "DROP TABLE b;")}
	provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, list...)})), 2)
	db := be.DBFor(route(1))
	defer func() { require.NoError(t, db.Close()) }()
	held, err := db.BeginTx(ctx, nil)
	require.NoError(t, err)
	defer func() { _ = held.Rollback() }()
	_, err = held.ExecContext(ctx, "INSERT INTO a (x) VALUES ('1')")
	require.NoError(t, err)
	cfg := tenants(migrate.Source{Name: "app", FS: version(2, list...)})
	cfg.LockTimeout = 50 * time.Millisecond
	other := migrator(t, openSite(t, be.url), cfg)
	m := migrator(t, be, cfg)
	once := false
	_, err = tenantsUp(ctx, m, migrate.Fleet{OnEvent: func(e migrate.Event) {
		if e.Kind == migrate.EventRetrying && e.Done == 1 && !once {
			once = true
			_, err := other.DownTo(ctx, "", 1, migrate.DownOptions{Fleet: migrate.Fleet{Stores: []backend.Store{store(0)}}})
			assert.NoError(t, err)
			_ = held.Rollback()
		}
	}})
	require.NoError(t, err)
	require.True(t, once)
	require.Equal(t, "0,1", versions(t, be, route(0), "goose_db_version"))
	require.ErrorIs(t, m.Ready(ctx, route(0)), migrate.ErrBehind)
	require.NoError(t, m.Ready(ctx, route(1)))
	noDrift(t, m)
}

// What the ledger could not be told when a Down was stopped is found out after it.
func TestDownThatCannotSaySo(t *testing.T) {
	t.Parallel()
	be := sqliteSite(t)
	ctx := t.Context()
	m := migrator(t, be, descending(nil))
	m.SetHearing(time.Hour) // it is stopped before that
	other := migrator(t, openSite(t, be.url), descending(nil))
	provision(t, m, 2)
	stopped, stop := context.WithCancel(ctx)
	defer stop()
	writing, over := make(chan *sql.Tx, 1), make(chan error, 1)
	go func() {
		_, err := m.Down(stopped, "", 1, migrate.DownOptions{Fleet: migrate.Fleet{OnEvent: func(e migrate.Event) {
			if e.Kind == migrate.EventDone { // it has given up
				assert.NoError(t, (<-writing).Rollback())
			}
		}}})
		over <- err
	}()
	require.Eventually(t, func() bool { return errors.Is(other.Ready(ctx, route(0)), migrate.ErrBehind) }, time.Minute, time.Millisecond)
	writer, err := openSite(t, be.url).Shared().BeginTx(ctx, nil)
	require.NoError(t, err)
	_, err = writer.ExecContext(ctx, "CREATE TABLE held (x TEXT)")
	require.NoError(t, err)
	writing <- writer
	stop()
	require.ErrorIs(t, <-over, context.Canceled)
	require.Eventually(t, func() bool {
		_, err := other.Settle(ctx)
		return err == nil && m.Ready(ctx, route(0)) == nil && m.Ready(ctx, route(1)) == nil
	}, 30*time.Second, 10*time.Millisecond)
	assert.Equal(t, "0", query(t, be, backend.Route{}, "SELECT count(*) FROM tenement_ledger_runs"))
}
