package postgres_test

import (
	"context"
	"net/url"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/backendtest"
	"github.com/tenement-go/tenement/backend/postgres"
	"github.com/tenement-go/tenement/internal/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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
	be, err := postgres.Open(t.Context(), with(t, databaseURL, params))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, be.Close()) })
	return be
}

// modes are pgx's query execution modes.
var modes = []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"}

// S01–S14 directly, in each of pgx's modes; S15 is the same through PgBouncer; S17 the same with tenant roles.
func TestConformance(t *testing.T) {
	t.Parallel()
	run := func(t *testing.T, cfg backendtest.Config, place func(testing.TB) string, params map[string]string) {
		t.Parallel()
		cfg.New = func(t testing.TB) func(int) backend.Backend {
			databaseURL := place(t)
			return func(maxConns int) backend.Backend {
				p := map[string]string{}
				for k, v := range params {
					p[k] = v
				}
				if maxConns > 0 {
					p["pool_max_conns"] = strconv.Itoa(maxConns)
				}
				return open(t, databaseURL, p)
			}
		}
		cfg.Native = func(be backend.Backend) backendtest.Native { return native{be.(*postgres.Backend).Native()} }
		backendtest.Run(t, cfg)
	}
	direct := func(t testing.TB) string { return pgtest.Shared(t).Database(t) }
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			run(t, backendtest.Config{Full: mode == "cache_statement"}, direct, map[string]string{"default_query_exec_mode": mode})
		})
		t.Run("pgbouncer/"+mode, func(t *testing.T) {
			prepares := 0
			if mode == "cache_statement" {
				prepares = 200
			}
			bounced := func(t testing.TB) string {
				return pgtest.Bouncer(t, direct(t), pgtest.BouncerConfig{PoolSize: 4, PreparedStatements: prepares})
			}
			if able, err := pgtest.BouncerPrepares(t.Context()); prepares > 0 && (err != nil || !able) {
				t.Skip("this PgBouncer does not follow prepared statements")
			}
			run(t, backendtest.Config{TransactionPooler: true}, bounced, map[string]string{"default_query_exec_mode": mode})
		})
	}
	for _, mode := range []string{"cache_statement", "exec", "simple_protocol"} {
		t.Run("roles/"+mode, func(t *testing.T) {
			run(t, backendtest.Config{SharedReadOnly: true, TenantRoles: true}, direct,
				map[string]string{"default_query_exec_mode": mode, "tenant_roles": "on"})
		})
	}
}

// native is the suite's view of postgres.Native and of its transactions.
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
