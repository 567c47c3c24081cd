package migrate_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/migrate"
)

// S69
func TestReady(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := context.Background()
		old := migrator(t, be, tenants(migrate.Source{Name: "polls", FS: version(1, polls...)}))
		require.ErrorIs(t, old.Ready(ctx, route(0)), migrate.ErrBehind, "there is not even a ledger")
		provision(t, old, 2)
		counting := countQueries(t, be)
		m := migrator(t, counting, tenants(migrate.Source{Name: "polls", FS: version(3, polls...)}))
		require.ErrorIs(t, m.Ready(ctx, route(0)), migrate.ErrBehind)
		// asked is how many questions there may be, at most, in the time since then: whatever is remembered is asked for
		// again after half a second or more.
		asked := func(begun time.Time) int64 { return 2 + 2*int64(time.Since(begun)/(500*time.Millisecond)) }
		before, begun := counting.queries.Load(), time.Now()
		for range 20 {
			require.ErrorIs(t, m.Ready(ctx, route(0)), migrate.ErrBehind)
		}
		assert.LessOrEqual(t, counting.queries.Load()-before, asked(begun), "a refusal is kept for a moment")

		// Another process migrates it; this one notices without a restart.
		_, err := migrator(t, be, tenants(migrate.Source{Name: "polls", FS: version(3, polls...)})).Up(ctx, migrate.UpOptions{Scope: migrate.TenantsOnly})
		require.NoError(t, err)
		require.Eventually(t, func() bool { return m.Ready(ctx, route(0)) == nil }, time.Minute, 10*time.Millisecond)
		before, begun = counting.queries.Load(), time.Now()
		for range 100 {
			require.NoError(t, m.Ready(ctx, route(0)))
		}
		// But for the question for setbacks, which is one in a while for all.
		assert.LessOrEqual(t, counting.queries.Load()-before, asked(begun))
		require.NoError(t, old.Ready(ctx, route(1)), "newer than needed is fine")
	})
}

func TestReadyDoesNotAllocate(t *testing.T) { //nolint:paralleltest // counts allocations
	be := sqliteSite(t)
	m := migrator(t, be, tenants(migrate.Source{Name: "polls", FS: version(3, polls...)}))
	provision(t, m, 1)
	ctx, rt := context.Background(), route(0)
	require.NoError(t, m.Ready(ctx, rt))
	assert.Zero(t, testing.AllocsPerRun(100, func() { _ = m.Ready(ctx, rt) }))
}

// S69: lazy mode.
func TestLazy(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := context.Background()
		provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, killed...)})), 2)
		entered, proceed := make(chan struct{}, 10), make(chan struct{})
		cfg := tenants(migrate.Source{Name: "app", FS: version(1, killed...), Go: func() []*goose.Migration {
			return []*goose.Migration{goose.NewGoMigration(2, &goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error {
				entered <- struct{}{}
				<-proceed
				_, err := tx.ExecContext(ctx, "INSERT INTO a (x) VALUES (2)")
				return err
			}}, nil)}
		}})
		cfg.Behind, cfg.BehindWait = migrate.Migrate, time.Minute
		m := migrator(t, be, cfg)
		results := make(chan error, 8)
		for range 8 {
			go func() { results <- m.Ready(ctx, route(0)) }()
		}
		<-entered
		// Whoever has no time gets an answer.
		var err error
		for wait := 100 * time.Millisecond; !errors.Is(err, migrate.ErrBehind); wait *= 2 { // until it is enough to read the ledger
			require.Less(t, wait, time.Minute, "%v", err)
			short, cancel := context.WithTimeout(ctx, wait)
			defer cancel()
			err = m.Ready(short, route(0))
			require.Error(t, err)
		}
		close(proceed)
		for range 8 {
			require.NoError(t, <-results)
		}
		assert.Empty(t, entered, "it was done once")
		assert.Equal(t, "2", query(t, be, route(0), "SELECT x FROM a"))
		assert.Equal(t, "0,1", versions(t, be, route(1), "goose_db_version"), "the other one was not asked for")
		require.NoError(t, m.Ready(ctx, route(0)))

		run(t, be, route(1), "DROP TABLE a")
		err = m.Ready(ctx, route(1))
		require.ErrorIs(t, err, migrate.ErrBehind)
		var failure *migrate.StoreError
		require.ErrorAs(t, err, &failure)
		assert.Equal(t, store(1), failure.Store)
	})
}
