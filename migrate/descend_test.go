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
				entered := 0
				m := migrator(t, be, descending(func(context.Context) error {
					for i := range stores {
						assert.ErrorIs(t, other.Ready(ctx, route(i)), migrate.ErrBehind, "store %d is about to lose something", i)
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
		go func() {
			defer stop()
			assert.Eventually(t, func() bool { return errors.Is(other.Ready(ctx, route(0)), migrate.ErrBehind) }, time.Minute, time.Millisecond)
		}()
		res, err := m.Down(stopped, "", 1, migrate.DownOptions{})
		require.ErrorIs(t, err, context.Canceled)
		assert.Equal(t, stores, res.Left)
		for i := range stores {
			assert.NoError(t, m.Ready(ctx, route(i)), "it is as it was")
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
		require.Eventually(t, func() bool { // its lock is free in a moment
			_, err := m.Settle(ctx)
			require.NoError(t, err)
			st, err := m.Status(ctx)
			require.NoError(t, err)
			known := true
			for _, g := range st.Groups {
				known = known && g.Known
			}
			return known && query(t, be, backend.Route{}, "SELECT count(*) FROM tenement_ledger_runs") == "0"
		}, time.Minute, time.Millisecond)
		verified, err := m.Verify(ctx, migrate.Fleet{})
		require.NoError(t, err)
		assert.Empty(t, verified.Drift)
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
