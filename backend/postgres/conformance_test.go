package postgres_test

import (
	"context"
	"maps"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/backendtest"
	"github.com/tenement-go/tenement/backend/postgres"
	"github.com/tenement-go/tenement/internal/leak"
	"github.com/tenement-go/tenement/internal/pgtest"
)

func TestMain(m *testing.M) { leak.Main(m) }

// with returns a database URL with more parameters.
func with(t testing.TB, databaseURL string, params map[string]string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	require.NoError(t, err)
	q := u.Query()
	for k, v := range params {
		q.Set(k, v)
	}
	u.RawQuery = q.Encode()
	return u.String()
}

func open(t testing.TB, databaseURL string, params map[string]string) *postgres.Backend {
	t.Helper()
	be, err := postgres.Open(t.Context(), with(t, databaseURL, params), postgres.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, be.Close()) })
	return be
}

// modes are pgx's query execution modes.
var modes = []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"}

// S01–S14 and S25–S27 directly, in each of pgx's modes; S15 is the same through PgBouncer; S17 the same with a role for
// each tenant. The modes that differ little leave out the cases in which the mode plays no part.
func TestConformance(t *testing.T) {
	t.Parallel()
	routing := []string{"S", "transaction", "readonly", "sql", "native"}
	run := func(name string, cfg backendtest.Config, bouncer *pgtest.BouncerConfig, params map[string]string) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if bouncer != nil && bouncer.PreparedStatements > 0 {
				if able, err := pgtest.BouncerPrepares(t.Context()); err != nil || !able {
					t.Skip("the PgBouncer that is installed is older than 1.21 and knows no prepared statements")
				}
			}
			cluster := pgtest.Shared
			if strings.HasPrefix(name, "citus/") {
				cluster = pgtest.Citus
			}
			places := &places{t: t, cluster: cluster(t), bouncer: bouncer}
			cfg.New = func(t testing.TB) func(int) backend.Backend {
				place := places.take(t)
				return func(maxConns int) backend.Backend {
					params := maps.Clone(params)
					if maxConns > 0 {
						params["pool_max_conns"] = strconv.Itoa(maxConns)
					}
					be := open(t, place.url, params)
					places.direct.Store(be, place.direct)
					return be
				}
			}
			cfg.Waiting = func(ctx context.Context, be backend.Backend, n int) error {
				direct, _ := places.direct.Load(be)
				return waiting(ctx, direct.(string), n)
			}
			cfg.Foreign = func(ctx context.Context, be backend.Backend, s backend.Store) error {
				_, err := be.Shared().ExecContext(ctx, `CREATE SCHEMA "`+s.String()+`" CREATE TABLE notes (id int, mark text);
					INSERT INTO "`+s.String()+`".notes VALUES (1, 'stray')`)
				return err
			}
			cfg.Native = func(be backend.Backend) backendtest.Native { return native{be.(*postgres.Backend).PGX()} }
			backendtest.Run(t, cfg)
		})
	}
	for _, mode := range modes {
		params := map[string]string{"default_query_exec_mode": mode}
		cfg := backendtest.Config{Full: mode == "cache_statement", SharedReadOnly: true}
		if !cfg.Full {
			cfg.Only = routing
		}
		run(mode, cfg, nil, params)
		cfg = backendtest.Config{TransactionPooler: true, SharedReadOnly: true}
		bouncer := &pgtest.BouncerConfig{PoolSize: 4}
		switch mode {
		case "cache_statement":
			bouncer.PreparedStatements = 200
		case "exec": // the one that works with every PgBouncer runs all of the suite
		default:
			cfg.Only = routing
		}
		run("pgbouncer/"+mode, cfg, bouncer, params)
	}
	for _, mode := range []string{"cache_statement", "simple_protocol"} {
		run("off/"+mode, backendtest.Config{Only: routing}, nil, map[string]string{"default_query_exec_mode": mode, "tenant_role": "off"})
		cfg := backendtest.Config{SharedReadOnly: true, StoresApart: true}
		if mode != "cache_statement" {
			cfg.Only = routing
		}
		run("citus/"+mode, backendtest.Config{Only: cfg.Only, Full: cfg.Only == nil, SharedReadOnly: true}, nil, map[string]string{"default_query_exec_mode": mode})
		run("each/"+mode, cfg, nil, map[string]string{"default_query_exec_mode": mode, "tenant_role": "each"})
	}
}

// places are databases for the cases of one configuration. Making one takes longer than most cases, so they are emptied
// and used again.
type places struct {
	t       *testing.T // of the configuration: the databases live as long
	cluster *pgtest.Cluster
	bouncer *pgtest.BouncerConfig
	direct  sync.Map // the direct URL of each backend's database
	mu      sync.Mutex
	idle    []place
}

type place struct{ direct, url string }

func (p *places) take(t testing.TB) place {
	t.Helper()
	p.mu.Lock()
	var taken place
	if last := len(p.idle) - 1; last >= 0 {
		taken, p.idle = p.idle[last], p.idle[:last]
	}
	p.mu.Unlock()
	if taken.url == "" {
		taken.direct = p.cluster.Database(p.t)
		taken.url = taken.direct
		if p.bouncer != nil {
			taken.url = pgtest.Bouncer(p.t, taken.direct, *p.bouncer)
		}
	}
	t.Cleanup(func() { // after the backends were closed: they are opened later
		if err := empty(taken.direct); err != nil {
			t.Logf("the database is not used again: %v", err)
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.idle = append(p.idle, taken)
	})
	return taken
}

// empty ends the other sessions in a database and removes all that its owner made.
func empty(databaseURL string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	_, err = conn.Exec(ctx, `DO $$
		DECLARE name text;
		BEGIN
			PERFORM pg_terminate_backend(pid, 60000) FROM pg_stat_activity
				WHERE datname = current_database() AND pid <> pg_backend_pid() AND usename = current_user;
			FOR name IN SELECT nspname FROM pg_namespace WHERE nspname <> 'information_schema' AND nspname NOT LIKE 'pg\_%' AND pg_has_role(nspowner, 'usage') LOOP
				EXECUTE format('DROP SCHEMA %I CASCADE', name);
			END LOOP;
			CREATE SCHEMA public;
			FOR name IN SELECT r.rolname FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles o ON o.oid = m.member
				WHERE o.rolname = current_user AND r.rolname NOT LIKE 'pg\_%' LOOP
				EXECUTE format('DROP OWNED BY %I', name);
				EXECUTE format('DROP ROLE %I', name);
			END LOOP;
		END $$`)
	return err
}

// waiting waits until n of a database's sessions wait for a lock. Fewer are fine after a moment: through a pooler, or with
// few connections, there cannot be as many, and a change gives up its place in the queue after a while.
func waiting(ctx context.Context, databaseURL string, n int) error {
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	for deadline := time.Now().Add(150 * time.Millisecond); ; time.Sleep(time.Millisecond) {
		var waiting int
		err := conn.QueryRow(ctx, `SELECT count(DISTINCT l.pid) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
			WHERE NOT l.granted AND a.datname = current_database()`).Scan(&waiting)
		if err != nil || waiting >= n || time.Now().After(deadline) {
			return err
		}
	}
}

// native is the suite's view of postgres.PGX and of its transactions.
type native struct{ postgres.DBTX }

func (n native) Exec(ctx context.Context, query string, args ...any) error {
	_, err := n.DBTX.Exec(ctx, query, args...)
	return err
}

func (n native) QueryRow(ctx context.Context, query string, args ...any) interface{ Scan(dest ...any) error } {
	return n.DBTX.QueryRow(ctx, query, args...)
}

func (n native) InTx(ctx context.Context, fn func(backendtest.Native) error) error {
	return pgx.BeginFunc(ctx, n.DBTX, func(tx pgx.Tx) error { return fn(native{tx}) })
}
