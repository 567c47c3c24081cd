package migrate_test

import (
	"context"
	"database/sql"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/migrate"
)

// ledgerRows lists the stores that the ledger has.
func ledgerRows(t testing.TB, be backend.Backend) string {
	t.Helper()
	return query(t, be, backend.Route{}, `SELECT store FROM tenement_ledger WHERE store <> '' ORDER BY store`)
}

// A row that an earlier store of the name has left is that of the one which is there by now, in whichever run meets it.
func TestRowOfAnEarlierStore(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fleet    migrate.Fleet
		verified bool
	}{
		"all": {}, "named": {fleet: migrate.Fleet{Stores: []backend.Store{store(0)}}},
		"all, verified": {verified: true}, "named, verified": {migrate.Fleet{Stores: []backend.Store{store(0)}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, be *site) {
				ctx := t.Context()
				old := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, killed...)}))
				provision(t, old, 1)
				next := backend.Route{Store: store(0), Owner: "next"}
				require.NoError(t, be.Drop(ctx, route(0)))
				require.NoError(t, be.Create(ctx, next))
				owner := func() string {
					return query(t, be, backend.Route{}, "SELECT owner FROM tenement_ledger WHERE store = 't0000'")
				}

				filled := c.verified
				cfg := tenants(migrate.Source{Name: "app", FS: version(3, killed...)})
				cfg.Ahead = func(_ context.Context, s backend.StoreInfo) (bool, error) {
					assert.Equal(t, store(0), s.Store)
					assert.Equal(t, "next", s.Owner)
					return !filled, nil
				}
				m := migrator(t, be, cfg)
				if c.verified {
					res, err := m.Verify(ctx, c.fleet)
					require.NoError(t, err)
					require.Zero(t, res.Missing)
					require.Equal(t, "next", owner())
				} else {
					res, err := tenantsUp(ctx, m, c.fleet)
					if len(c.fleet.Stores) > 0 {
						require.ErrorIs(t, err, migrate.ErrUnentered)
					} else {
						require.NoError(t, err)
						require.Equal(t, 1, res.Missing)
					}
					require.Equal(t, "owner-0", owner())
					require.Empty(t, tables(t, be, next), "it is left alone while it is being filled")
					filled = true
				}
				res, err := tenantsUp(ctx, m, c.fleet)
				require.NoError(t, err)
				require.Zero(t, res.Missing)
				require.Equal(t, 1, res.Applied)
				require.Equal(t, "next", owner())
				require.Equal(t, "0,1,2,3", versions(t, be, next, "goose_db_version"))
				require.NoError(t, m.Ready(ctx, next))
			})
		})
	}
}

// What the ledger has of an earlier store of a name makes nobody ready for the one that is there by now.
func TestReadyOfAnEarlierStore(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := t.Context()
		cfg := tenants(migrate.Source{Name: "app", FS: version(3, killed...)})
		m := migrator(t, be, cfg)
		provision(t, m, 1)
		require.NoError(t, m.Ready(ctx, route(0)))
		next := backend.Route{Store: store(0), Owner: "next"}
		require.NoError(t, be.Drop(ctx, route(0)))
		require.NoError(t, be.Create(ctx, next))
		err := m.Ready(ctx, next)
		require.ErrorIs(t, err, migrate.ErrBehind)
		require.ErrorIs(t, err, migrate.ErrUnentered)

		// Nor does who is refused for the sake of one of them keep the other waiting.
		other := migrator(t, be, cfg)
		require.NoError(t, other.Enter(ctx, store(0)))
		_, err = tenantsUp(ctx, other, migrate.Fleet{})
		require.NoError(t, err)
		require.ErrorIs(t, other.Ready(ctx, route(0)), migrate.ErrUnentered)
		require.NoError(t, other.Ready(ctx, next))
		require.Equal(t, "0,1,2,3", versions(t, be, next, "goose_db_version"))
	})
}

// A store that somebody else is to enter, since it is still being filled, is left alone when it is named too; its maker enters it.
func TestVerifyLeavesAlone(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := t.Context()
		require.NoError(t, be.Create(ctx, route(0)))
		cfg := tenants(migrate.Source{Name: "app", FS: version(1, killed...)})
		cfg.Ahead = func(context.Context, backend.StoreInfo) (bool, error) { return true, nil }
		m := migrator(t, be, cfg)
		_, err := m.Verify(ctx, migrate.Fleet{Stores: []backend.Store{store(0)}})
		require.ErrorIs(t, err, migrate.ErrUnentered)
		_, err = m.Verify(ctx, migrate.Fleet{})
		require.NoError(t, err)
		require.Empty(t, ledgerRows(t, be))
		require.NoError(t, m.Enter(ctx))
		require.Empty(t, ledgerRows(t, be))
		require.NoError(t, m.Enter(ctx, store(0)))
		require.Equal(t, "t0000", ledgerRows(t, be))
		require.Empty(t, tables(t, be, route(0)), "nothing is applied")
	})
}

// A name that no store has, and a store that is purged while a run goes on, leave no row in the ledger.
func TestNoRowsOfNothing(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := t.Context()
		old := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, killed...)}))
		provision(t, old, 1)
		m := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(3, killed...)}))

		typo := backend.MustParseStore("typo")
		res, err := tenantsUp(ctx, m, migrate.Fleet{Stores: []backend.Store{typo, store(0)}})
		require.ErrorIs(t, err, backend.ErrStoreMissing)
		var failure *migrate.StoreError
		require.ErrorAs(t, err, &failure)
		assert.Equal(t, typo, failure.Store)
		assert.Equal(t, 1, res.Applied, "the one that is there is migrated")
		_, err = m.Down(ctx, "", 1, migrate.DownOptions{Fleet: migrate.Fleet{Stores: []backend.Store{typo}}})
		require.ErrorIs(t, err, backend.ErrStoreMissing)
		_, err = m.Verify(ctx, migrate.Fleet{Stores: []backend.Store{typo}})
		require.ErrorIs(t, err, backend.ErrStoreMissing)
		assert.Equal(t, "t0000", ledgerRows(t, be))

		// Its turn comes after it was dropped and forgotten, and after it was dropped only.
		for _, forget := range []bool{true, false} {
			gone := map[bool]int{true: 1, false: 2}[forget]
			require.NoError(t, old.Provision(ctx, route(gone)))
			var missing []backend.Store
			res, err = tenantsUp(ctx, m, migrate.Fleet{Parallel: 1, OnEvent: func(e migrate.Event) {
				switch e.Kind {
				case migrate.EventStarted:
					require.NoError(t, be.Drop(ctx, route(gone)))
					if forget {
						require.NoError(t, m.Forget(ctx, store(gone)))
					}
				case migrate.EventMissing:
					missing = append(missing, e.Store)
				}
			}})
			require.NoError(t, err)
			assert.Zero(t, res.Failed)
			if !forget {
				assert.Equal(t, 1, res.Missing)
				assert.Equal(t, []backend.Store{store(gone)}, missing)
			}
			assert.Equal(t, forget, !strings.Contains(ledgerRows(t, be), store(gone).String()))
		}
		// From now on it is no reason for a run to fail.
		_, err = tenantsUp(ctx, m, migrate.Fleet{})
		require.NoError(t, err)
		res, err = m.Verify(ctx, migrate.Fleet{})
		require.NoError(t, err)
		assert.Equal(t, 1, res.Missing)
	})
}

// lateBackend has something come in between when a store is looked at.
type lateBackend struct {
	backend.Backend
	between func()
}

func (l *lateBackend) Stat(ctx context.Context, s backend.Store) (backend.StoreInfo, error) {
	defer l.between()
	return l.Backend.Stat(ctx, s)
}

// What a migrator notes of a store late, while that is forgotten, is forgotten too.
func TestForgottenWhileItIsNoted(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := t.Context()
		src := migrate.Source{Name: "app", FS: version(1, killed...)}
		provision(t, migrator(t, be, tenants(src)), 2)
		require.NoError(t, be.Drop(ctx, route(1)))
		times := 0
		m := migrator(t, &lateBackend{be.Backend, func() {
			if times++; times == 1 {
				_, err := be.Shared().ExecContext(ctx, `UPDATE tenement_ledger SET fingerprint = '' WHERE store = 't0001'`)
				require.NoError(t, err)
			}
		}}, tenants(src))
		require.NoError(t, m.Forget(ctx, store(1)))
		assert.Equal(t, "t0000", ledgerRows(t, be))
	})
}

// A store that is purged while it is worked on through goose is not entered again.
func TestPurgedWhileItIsWorkedOn(t *testing.T) {
	t.Parallel()
	be := postgresSite(t)
	provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, killed...)})), 2)
	var m *migrate.Migrator
	m = migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, killed...), Go: func() []*goose.Migration {
		return []*goose.Migration{goose.NewGoMigration(2, &goose.GoFunc{RunDB: func(ctx context.Context, _ *sql.DB) error {
			if err := be.Drop(ctx, route(1)); err != nil {
				return err
			}
			return m.Forget(ctx, store(1))
		}}, nil)}
	}}))
	res, err := tenantsUp(t.Context(), m, migrate.Fleet{Stores: []backend.Store{store(1)}})
	if err == nil {
		assert.Equal(t, 1, res.Missing)
	}
	assert.Equal(t, "t0000", ledgerRows(t, be))
}

// What a migrator notes late of a store is nothing for the row of another owner's of the name, which says the same.
func TestNotedForAnotherOwner(t *testing.T) {
	t.Parallel()
	be := postgresSite(t)
	ctx := t.Context()
	list := []string{"1_a.sql", up("CREATE TABLE a (x INTEGER);"), "2_b.sql", noTx + "CREATE TABLE b (x INTEGER);\n"}
	provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, list...)})), 1)
	other, err := be.Shared().BeginTx(ctx, nil)
	require.NoError(t, err)
	defer func() { _ = other.Rollback() }()
	_, err = other.ExecContext(ctx, `UPDATE tenement_ledger SET owner = 'next' WHERE store = 't0000'`)
	require.NoError(t, err)
	m := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(2, list...)}))
	over := make(chan error, 1)
	go func() {
		_, err := m.Up(ctx, migrate.UpOptions{})
		over <- err
	}()
	require.Eventually(t, func() bool { // it is done, and waits for the row
		return query(t, be, backend.Route{}, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
			AND wait_event_type = 'Lock' AND query LIKE '%UPDATE tenement_ledger%'`) == "1"
	}, time.Minute, 5*time.Millisecond)
	require.NoError(t, be.Drop(ctx, route(0)))
	require.NoError(t, be.Create(ctx, backend.Route{Store: store(0), Owner: "next"}))
	require.NoError(t, other.Commit())
	require.NoError(t, <-over)
	assert.Equal(t, "next", query(t, be, backend.Route{}, `SELECT owner FROM tenement_ledger WHERE store = 't0000'`))
}

// S69: what another process undoes is noticed, and nothing is asked for it again and again.
func TestDownElsewhereIsNoticed(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := t.Context()
		cfg := tenants(migrate.Source{Name: "polls", FS: version(3, polls...)})
		m := migrator(t, be, cfg)
		provision(t, m, 2)
		require.NoError(t, m.Ready(ctx, route(0)))
		require.NoError(t, m.Ready(ctx, route(1)))

		other := migrator(t, openSite(t, be.url), cfg)
		_, err := other.Down(ctx, "", 1, migrate.DownOptions{Fleet: migrate.Fleet{Stores: []backend.Store{store(0)}}})
		require.NoError(t, err)
		require.ErrorIs(t, other.Ready(ctx, route(0)), migrate.ErrBehind)
		require.Eventually(t, func() bool { return m.Ready(ctx, route(0)) != nil }, time.Minute, time.Millisecond)
		require.ErrorIs(t, m.Ready(ctx, route(0)), migrate.ErrBehind)
		require.NoError(t, m.Ready(ctx, route(1)), "it was left alone")

		// So is what goose alone undid, once anybody has looked.
		db := be.Maintenance(route(1))
		_, err = plainGoose(t, be, db, version(3, polls...)).Down(ctx)
		require.NoError(t, err)
		require.NoError(t, db.Close())
		_, err = other.Verify(ctx, migrate.Fleet{})
		require.NoError(t, err)
		require.Eventually(t, func() bool { return m.Ready(ctx, route(1)) != nil }, time.Minute, time.Millisecond)

		// Here it is noticed at once.
		_, err = m.Up(ctx, migrate.UpOptions{})
		require.NoError(t, err)
		require.NoError(t, m.Ready(ctx, route(1)))
		_, err = m.Down(ctx, "", 1, migrate.DownOptions{Fleet: migrate.Fleet{Stores: []backend.Store{store(1)}}})
		require.NoError(t, err)
		require.ErrorIs(t, m.Ready(ctx, route(1)), migrate.ErrBehind)
	})
}

// Other processes hear of it before anything is undone, not after.
func TestSetbackComesFirst(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := t.Context()
		var other *migrate.Migrator
		var inTheMiddle error
		source := migrate.Source{Name: "app", FS: version(1, killed...), Go: func() []*goose.Migration {
			return []*goose.Migration{goose.NewGoMigration(2, nil, &goose.GoFunc{RunDB: func(ctx context.Context, _ *sql.DB) error {
				inTheMiddle = other.Ready(ctx, route(0))
				return nil
			}})}
		}}
		m := migrator(t, be, tenants(source))
		provision(t, m, 1)
		other = migrator(t, openSite(t, be.url), tenants(source)) // it has no answer to keep yet
		_, err := m.Down(ctx, "", 1, migrate.DownOptions{})
		require.NoError(t, err)
		require.ErrorIs(t, inTheMiddle, migrate.ErrBehind)
	})
}

func TestPolicies(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := t.Context()
		provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, killed...)})), 1)
		cfg := tenants(migrate.Source{Name: "app", FS: version(3, killed...)})
		require.ErrorIs(t, migrator(t, be, cfg).Ready(ctx, route(0)), migrate.ErrBehind)
		cfg.Behind = migrate.Serve
		require.NoError(t, migrator(t, be, cfg).Ready(ctx, route(0)))
		cfg.Behind = migrate.Migrate
		m := migrator(t, be, cfg)
		require.NoError(t, m.Ready(ctx, route(0)))
		assert.Equal(t, "0,1,2,3", versions(t, be, route(0), "goose_db_version"))
		require.NoError(t, m.Close())
	})
}

// What Ready began does not outlive the Migrator, and is not cut off in the middle of a migration.
func TestCloseEndsLazyMigrations(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := t.Context()
		provision(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, killed...)})), 1)
		entered, proceed := make(chan struct{}), make(chan struct{})
		insert := func(x int, wait bool) *goose.GoFunc {
			return &goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error {
				if wait {
					close(entered)
					<-proceed
				}
				_, err := tx.ExecContext(ctx, "INSERT INTO a (x) VALUES (2)")
				return err
			}}
		}
		cfg := tenants(migrate.Source{Name: "app", FS: version(1, killed...), Go: func() []*goose.Migration {
			return []*goose.Migration{goose.NewGoMigration(2, insert(2, true), nil), goose.NewGoMigration(3, insert(3, false), nil)}
		}})
		cfg.Behind, cfg.BehindWait = migrate.Migrate, time.Nanosecond
		m := migrator(t, be, cfg)
		require.ErrorIs(t, m.Ready(ctx, route(0)), migrate.ErrBehind)
		<-entered
		var closing sync.WaitGroup
		closing.Go(func() { assert.NoError(t, m.Close()) })
		close(proceed)
		closing.Wait()
		done := versions(t, be, route(0), "goose_db_version")
		assert.Contains(t, []string{"0,1,2", "0,1,2,3"}, done, "2 was brought to its end")
		if err := m.Ready(ctx, route(0)); done == "0,1,2" { // else 3 was begun before Close, and there is nothing to be done
			require.Error(t, err, "nothing is begun after Close")
		}
		assert.Equal(t, done, versions(t, be, route(0), "goose_db_version"))
	})
}

// today is the ledger's tables as the first release made them, with a row of a store and goose's own.
func today(t testing.TB, be *site) {
	t.Helper()
	text, err := os.ReadFile("testdata/ledger/first." + string(be.Dialect()) + ".sql")
	require.NoError(t, err)
	for _, statement := range strings.Split(string(text), ";\n") {
		if strings.TrimSpace(statement) != "" {
			run(t, be, backend.Route{}, statement)
		}
	}
}

// The ledger of the first release is upgraded by whatever is called first, and what it knew is still known.
func TestLedgerUpgrade(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]func(context.Context, *migrate.Migrator) error{
		"up": func(ctx context.Context, m *migrate.Migrator) error {
			_, err := m.Up(ctx, migrate.UpOptions{})
			return err
		},
		"ready": func(ctx context.Context, m *migrate.Migrator) error {
			return m.Ready(ctx, backend.Route{Store: store(0)})
		},
		"status":    func(ctx context.Context, m *migrate.Migrator) error { _, err := m.Status(ctx); return err },
		"provision": func(ctx context.Context, m *migrate.Migrator) error { return m.Provision(ctx, route(5)) },
		"settle":    func(ctx context.Context, m *migrate.Migrator) error { _, err := m.Settle(ctx); return err },
		"prepare":   func(ctx context.Context, m *migrate.Migrator) error { return m.Prepare(ctx) },
		"forget":    func(ctx context.Context, m *migrate.Migrator) error { return m.Forget(ctx, store(9)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, be *site) {
				ctx := t.Context()
				source := migrate.Source{Name: "app", FS: version(1, killed...)}
				require.NoError(t, be.Create(ctx, backend.Route{Store: store(0)}))
				db := be.Maintenance(backend.Route{Store: store(0)})
				_, err := plainGoose(t, be, db, source.FS).Up(ctx)
				require.NoError(t, err)
				require.NoError(t, db.Close())
				today(t, be)
				m := migrator(t, be, tenants(source))
				require.NoError(t, first(ctx, m))
				assert.Equal(t, "0,1,2,3", versions(t, be, backend.Route{}, "goose_tenement_ledger"))
				require.NoError(t, m.Ready(ctx, backend.Route{Store: store(0)}), "what it knew")
				st, err := m.Status(ctx)
				require.NoError(t, err)
				assert.Equal(t, st.Tenants.Total, st.Tenants.Current)
			})
		})
	}
}

// A ledger that a newer binary made is worked with as it is.
func TestLedgerOfANewerBinary(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		m := migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, killed...)}))
		provision(t, m, 1)
		yes := map[backend.Dialect]string{backend.SQLite: "1", backend.Postgres: "true"}[be.Dialect()]
		run(t, be, backend.Route{}, "INSERT INTO goose_tenement_ledger (version_id, is_applied) VALUES (99, "+yes+")")
		require.NoError(t, migrator(t, be, tenants(migrate.Source{Name: "app", FS: version(1, killed...)})).Ready(t.Context(), route(0)))
	})
}

// The tables of a library are nobody's to name, count, undo or baseline; a later migration of them is run.
func TestSystemSources(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := t.Context()
		list := []string{"1_r.sql", both("CREATE TABLE registry (x INTEGER);", "DROP TABLE registry;"), "2_s.sql", both("ALTER TABLE registry ADD COLUMN y INTEGER;", "ALTER TABLE registry DROP COLUMN y;")}
		cfg := func(n int) migrate.Config {
			return migrate.Config{
				System: []migrate.Source{{Name: "tenement", FS: version(n, list...), Table: "goose_tenement"}},
				Shared: []migrate.Source{{Name: "plans", FS: files("1_plans.sql", both("CREATE TABLE plans (id TEXT);", "DROP TABLE plans;"))}},
			}
		}
		require.NoError(t, migrator(t, be, cfg(1)).Prepare(ctx))
		m := migrator(t, be, cfg(2))
		require.NoError(t, m.Prepare(ctx))
		require.NoError(t, m.Prepare(ctx), "again")
		assert.Equal(t, "0,1,2", versions(t, be, backend.Route{}, "goose_tenement"))
		_, err := m.Up(ctx, migrate.UpOptions{})
		require.NoError(t, err)

		shared := migrate.DownOptions{Set: migrate.SetShared}
		for name, do := range map[string]func() (*migrate.Result, error){
			"down":    func() (*migrate.Result, error) { return m.Down(ctx, "tenement", 1, shared) },
			"down to": func() (*migrate.Result, error) { return m.DownTo(ctx, "tenement", 0, shared) },
			"redo":    func() (*migrate.Result, error) { return m.Redo(ctx, "tenement", shared) },
			"baseline": func() (*migrate.Result, error) {
				return m.Baseline(ctx, "tenement", 0, migrate.BaselineOptions{Set: migrate.SetShared})
			},
			"up":     func() (*migrate.Result, error) { return m.Up(ctx, migrate.UpOptions{Source: "tenement"}) },
			"up to":  func() (*migrate.Result, error) { return m.UpTo(ctx, "tenement", 1, migrate.UpToOptions{}) },
			"ledger": func() (*migrate.Result, error) { return m.Down(ctx, "tenement_ledger", 1, shared) },
		} {
			_, err := do()
			require.ErrorIs(t, err, migrate.ErrUnknownSource, name)
			assert.NotContains(t, strings.Replace(err.Error(), `"tenement`, "", 1), "tenement,", "%s: it is not advertised", name)
		}
		_, err = m.Down(ctx, "", 1, shared)
		require.NoError(t, err, "the one source that is there for users needs no name")
		assert.NotContains(t, tables(t, be, backend.Route{}), "plans")
		assert.Contains(t, tables(t, be, backend.Route{}), "registry")
		st, err := m.Status(ctx)
		require.NoError(t, err)
		assert.Equal(t, []migrate.PendingMigration{{Source: "plans", Version: 1, File: "1_plans.sql"}}, st.Shared.Pending)

		// Its version table is nobody else's.
		taken := cfg(2)
		taken.Shared[0].Table = "goose_tenement"
		_, err = migrate.New(be.Backend, taken)
		require.ErrorContains(t, err, "goose_tenement")
	})
}

// A source that is in one set only is a matter of that set; a version needs a source when there are several.
func TestUpWithASource(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, be *site) {
		ctx := t.Context()
		auth := migrate.Source{Name: "auth", FS: files("1_users.sql", up("CREATE TABLE users (id TEXT);"), "2_x.sql", up("CREATE TABLE x (id TEXT);"))}
		plans := migrate.Source{Name: "plans", FS: files("1_plans.sql", up("CREATE TABLE plans (id TEXT);"))}
		pollsSource := migrate.Source{Name: "polls", FS: version(3, polls...)}
		m := migrator(t, be, migrate.Config{Shared: []migrate.Source{plans, auth}, Tenant: []migrate.Source{auth, pollsSource}})
		provision(t, migrator(t, be, tenants(migrate.Source{Name: "auth", FS: files("1_users.sql", up("CREATE TABLE users (id TEXT);"))})), 1)

		res, err := m.Up(ctx, migrate.UpOptions{Source: "plans"})
		require.NoError(t, err)
		assert.Equal(t, migrate.SetShared, res.Set)
		_, err = m.UpTo(ctx, "auth", 1, migrate.UpToOptions{})
		require.ErrorIs(t, err, migrate.ErrSharedBehind, "it is in both")
		_, err = m.UpTo(ctx, "", 1, migrate.UpToOptions{})
		require.ErrorIs(t, err, migrate.ErrUnknownSource)
		_, err = m.UpTo(ctx, "votes", 1, migrate.UpToOptions{})
		require.ErrorIs(t, err, migrate.ErrUnknownSource)
		_, err = m.Up(ctx, migrate.UpOptions{Scope: migrate.SharedOnly})
		require.NoError(t, err)
		res, err = m.Up(ctx, migrate.UpOptions{Source: "polls"})
		require.NoError(t, err)
		assert.Equal(t, migrate.SetTenant, res.Set)
		assert.Equal(t, []string{"goose_db_version", "goose_polls", "polls", "users", "votes"}, tables(t, be, route(0)))
	})
}
