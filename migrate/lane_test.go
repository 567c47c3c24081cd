package migrate_test

import (
	"context"
	"database/sql"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/migrate"
)

// logged calls a function with what is logged.
type logged func(message string)

var _ slog.Handler = logged(nil)

func (logged) Enabled(context.Context, slog.Level) bool { return true }

func (l logged) Handle(_ context.Context, r slog.Record) error {
	l(r.Message)
	return nil
}

func (l logged) WithAttrs([]slog.Attr) slog.Handler { return l }

func (l logged) WithGroup(string) slog.Handler { return l }

// writeMeanwhile has another process, which has a store open already, write to it from when the run has migrated store 1 until
// end is called.
func writeMeanwhile(t *testing.T, be *site, rt backend.Route) (onEvent func(migrate.Event), end func()) {
	t.Helper()
	others := openSite(t, be.url)
	db := others.Shared()
	if !rt.IsZero() {
		db = others.DBFor(rt)
		t.Cleanup(func() { require.NoError(t, db.Close()) })
	}
	column(t, db, "SELECT count(*) FROM sqlite_schema")
	var tx *sql.Tx
	return func(e migrate.Event) {
			if e.Kind != migrate.EventApplied || e.Store != store(1) {
				return
			}
			var err error
			tx, err = db.BeginTx(context.Background(), nil)
			if assert.NoError(t, err) {
				_, err = tx.ExecContext(context.Background(), "CREATE TABLE held (x INTEGER)")
				assert.NoError(t, err)
			}
		}, func() {
			if assert.NotNil(t, tx, "it was migrated") {
				_ = tx.Rollback()
			}
		}
}

// A store that cannot be synced, since somebody writes to it, is waited for, and so is the ledger; those that come after it are
// migrated meanwhile.
func TestStoreThatIsWrittenToBeforeItIsSynced(t *testing.T) {
	t.Parallel()
	for name, rt := range map[string]backend.Route{"store": route(1), "ledger": {}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			writtenToBeforeItIsSynced(t, rt)
		})
	}
}

func writtenToBeforeItIsSynced(t *testing.T, rt backend.Route) {
	t.Helper()
	const stores = 300 // more than the ledger is told of at a time
	be := openSite(t, sqliteURL(t)+"?busy_timeout=50ms&synchronous=normal")
	provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, killed...)})), stores)
	names := make([]backend.Store, stores) // a run by name goes in their order
	for i := range names {
		names[i] = store(i)
	}
	onEvent, end := writeMeanwhile(t, be, rt)
	cfg := tenants(migrate.Source{Name: "app", FS: version(3, killed...)})
	cfg.Logger = slog.New(logged(func(message string) {
		if message == "trying again" {
			end()
		}
	}))
	m := migrator(t, be, cfg)
	res, err := tenantsUp(t.Context(), m, migrate.Fleet{Parallel: 1, Stores: names, OnEvent: onEvent})
	require.NoError(t, err)
	assert.Equal(t, stores, res.Applied)
	st, err := m.Status(t.Context())
	require.NoError(t, err)
	assert.Equal(t, migrate.TenantStatus{Total: stores, Current: stores}, st.Tenants)
}

// One that cannot be synced for as long as the run's patience lasts keeps no other from service: what became of all is found
// out by whoever settles runs.
func TestStoreThatCannotBeSynced(t *testing.T) {
	t.Parallel()
	be := openSite(t, sqliteURL(t)+"?busy_timeout=50ms&synchronous=normal")
	provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, killed...)})), 4)
	run(t, be, route(3), "CREATE TABLE b (x INTEGER)") // in the way
	onEvent, end := writeMeanwhile(t, be, route(1))
	cfg := tenants(migrate.Source{Name: "app", FS: version(3, killed...)})
	cfg.LockPatience = 200 * time.Millisecond
	m := migrator(t, be, cfg)
	res, err := tenantsUp(t.Context(), m, migrate.Fleet{Parallel: 1, OnEvent: onEvent})
	require.ErrorContains(t, err, "making the migrations durable")
	assert.Equal(t, 3, res.Applied)
	_, err = m.Settle(t.Context())
	require.Error(t, err, "it is written to still")
	end()
	res, err = m.Settle(t.Context())
	require.NoError(t, err)
	require.NotNil(t, res)
	assert.Zero(t, res.Applied, "it finds out, and goes on with nothing")
	for i := range 3 {
		require.NoError(t, m.Ready(t.Context(), route(i)))
	}
	st, err := m.Status(t.Context())
	require.NoError(t, err)
	assert.Equal(t, 3, st.Tenants.Current)
	assert.Equal(t, "0", query(t, be, backend.Route{}, "SELECT count(*) FROM tenement_ledger_runs"))
}
