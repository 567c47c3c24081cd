package migrate_test

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"sync/atomic"
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

// unsyncable is a SQLite backend on a disk that fails for a while.
type unsyncable struct {
	backend.Backend
	fails atomic.Int64 // how often it still does
}

var errDisk = errors.New("input/output error")

func (u *unsyncable) RunScripts(ctx context.Context, scripts []backend.Script, opt backend.ScriptOptions) []error {
	return u.Backend.(backend.ScriptRunner).RunScripts(ctx, scripts, opt)
}

func (u *unsyncable) Flush(ctx context.Context) error {
	if u.fails.Add(-1) >= 0 {
		return errDisk
	}
	return u.Backend.(backend.ScriptRunner).Flush(ctx)
}

func (u *unsyncable) Lock(ctx context.Context, key string) (backend.Lock, error) {
	return u.Backend.(backend.Locker).Lock(ctx, key)
}

func (u *unsyncable) TryLock(ctx context.Context, key string) (backend.Lock, error) {
	return u.Backend.(backend.Locker).TryLock(ctx, key)
}

// A run that cannot be finished is not in the way of those that were begun after it, and is kept for as long as the ledger does not
// know what became of its stores.
func TestSettleGoesOn(t *testing.T) {
	t.Parallel()
	const always = 1 << 30
	for name, c := range map[string]struct{ first, second int64 }{
		"past one that is only looked after": {1, 0},
		"with one that it had to leave":      {always, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			be := openSite(t, sqliteURL(t))
			provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, killed...)})), 3)
			disk := &unsyncable{Backend: be.Backend}
			disk.fails.Store(always)
			m := migrator(t, disk, tenants(migrate.Source{Name: "app", FS: version(3, killed...)}))
			_, err := tenantsUp(t.Context(), m, migrate.Fleet{Stores: []backend.Store{store(0)}})
			require.ErrorIs(t, err, errDisk)
			run(t, be, backend.Route{}, `INSERT INTO tenement_ledger_runs (id, target, source, to_version, started_at)
				SELECT 'of a process that died', target, '', 0, started_at + 1 FROM tenement_ledger_runs`)
			for _, fails := range []int64{c.first, c.second} {
				disk.fails.Store(fails)
				_, err = m.Settle(t.Context())
				if fails > 0 {
					require.ErrorIs(t, err, errDisk)
				} else {
					require.NoError(t, err)
				}
				if fails < always {
					for i := range 3 {
						require.NoError(t, m.Ready(t.Context(), route(i)))
					}
				}
			}
			for res := new(migrate.Result); res != nil; {
				res, err = m.Settle(t.Context())
				require.NoError(t, err)
			}
			require.Equal(t, "0", query(t, be, backend.Route{}, "SELECT count(*) FROM tenement_ledger_runs"))
		})
	}
}
