package postgres_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/postgres"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// BenchmarkFigures measures routed access against the bare driver, turn and turn about in the same run, over the unix
// socket. It reports the medians (µs) and ours ÷ reference.
//
//	go test ./backend/postgres -run '^$' -bench Figures -benchtime 20000x
func BenchmarkFigures(b *testing.B) {
	ctx := b.Context()
	w := newWorkload(b, 1000, nil)
	thor := backend.WithRoute(ctx, w.routes[0])
	fixed := w.pool(b, map[string]string{"search_path": w.routes[0].Store.String() + ",public"})
	fixedDB := stdlib.OpenDBFromPool(fixed)
	b.Cleanup(func() { _ = fixedDB.Close() })
	plain := w.pool(b, nil)

	const point = "SELECT question FROM polls WHERE id = $1"
	var got string
	b.Run("same tenant, database/sql", func(b *testing.B) {
		compare(b, func() error {
			return w.be.DB().QueryRowContext(thor, point, 1).Scan(&got)
		}, func() error {
			return fixedDB.QueryRowContext(ctx, point, 1).Scan(&got)
		})
	})
	b.Run("same tenant, native", func(b *testing.B) {
		compare(b, func() error {
			return w.be.PGX().QueryRow(thor, point, 1).Scan(&got)
		}, func() error {
			return fixed.QueryRow(ctx, point, 1).Scan(&got)
		})
	})
	b.Run("random of 1000 tenants", func(b *testing.B) {
		ours, theirs := rand.New(rand.NewPCG(1, 1)), rand.New(rand.NewPCG(1, 1))
		// Every connection knows every tenant, and the server has made up its mind about plans (after five executions).
		for range 7 {
			for _, rt := range w.routes {
				require.NoError(b, w.be.DB().QueryRowContext(backend.WithRoute(ctx, rt), point, 1).Scan(&got))
				require.NoError(b, readAfterSet(ctx, plain, rt.Store, point, &got))
			}
		}
		compare(b, func() error {
			rt := w.routes[ours.IntN(len(w.routes))]
			return w.be.DB().QueryRowContext(backend.WithRoute(ctx, rt), point, 1).Scan(&got)
		}, func() error {
			return readAfterSet(ctx, plain, w.routes[theirs.IntN(len(w.routes))].Store, point, &got)
		})
	})
	b.Run("transaction of 3 statements", func(b *testing.B) {
		three := func(ctx context.Context, db *sql.DB) error {
			tx, err := db.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			defer func() { _ = tx.Rollback() }()
			for range 3 {
				if err := tx.QueryRowContext(ctx, point, 1).Scan(&got); err != nil {
					return err
				}
			}
			return tx.Commit()
		}
		compare(b, func() error { return three(thor, w.be.DB()) }, func() error { return three(ctx, fixedDB) })
	})
	b.Run("transaction of 3 statements, native", func(b *testing.B) {
		type beginner interface {
			Begin(context.Context) (pgx.Tx, error)
		}
		three := func(ctx context.Context, db beginner) error {
			tx, err := db.Begin(ctx)
			if err != nil {
				return err
			}
			defer func() { _ = tx.Rollback(ctx) }()
			for range 3 {
				if err := tx.QueryRow(ctx, point, 1).Scan(&got); err != nil {
					return err
				}
			}
			return tx.Commit(ctx)
		}
		compare(b, func() error { return three(thor, w.be.PGX()) }, func() error { return three(ctx, fixed) })
	})
}

// BenchmarkScripts measures one ADD COLUMN in 32 stores by RunScripts against 32 hand-written transactions in one message,
// both asynchronous and on one connection.
func BenchmarkScripts(b *testing.B) {
	ctx := b.Context()
	w := newWorkload(b, 64, nil)
	plain := w.pool(b, nil)
	var column [2]int
	compare(b, func() error {
		column[0]++
		var scripts []backend.Script
		for _, rt := range w.routes[:32] {
			scripts = append(scripts, backend.Script{Route: rt, SQL: fmt.Sprintf("ALTER TABLE polls ADD COLUMN c%d int", column[0])})
		}
		return errors.Join(w.be.RunScripts(ctx, scripts, backend.ScriptOptions{Async: true})...)
	}, func() error {
		column[1]++
		var text strings.Builder
		for _, rt := range w.routes[32:] {
			fmt.Fprintf(&text, "BEGIN;SET LOCAL synchronous_commit=off;SET LOCAL search_path=%q,public;ALTER TABLE polls ADD COLUMN c%d int;COMMIT;",
				rt.Store, column[1])
		}
		_, err := plain.Exec(ctx, text.String())
		return err
	})
}

// BenchmarkRoles measures a point read with tenant roles on against one with roles off, over the same database with
// TENEMENT_BENCH_ROLES (10,000 by default) roles in it.
func BenchmarkRoles(b *testing.B) {
	ctx := b.Context()
	w := newWorkload(b, 100, map[string]string{"tenant_role": "each"})
	off := open(b, w.url, map[string]string{"pool_max_conns": "1", "tenant_role": "off"})
	const point = "SELECT question FROM polls WHERE id = $1"
	var got string
	thor := backend.WithRoute(ctx, w.routes[0])
	read := func(be *postgres.Backend) func() error {
		return func() error { return be.DB().QueryRowContext(thor, point, 1).Scan(&got) }
	}
	random := func(be *postgres.Backend) func() error {
		r := rand.New(rand.NewPCG(1, 1))
		return func() error {
			return be.DB().QueryRowContext(backend.WithRoute(ctx, w.routes[r.IntN(len(w.routes))]), point, 1).Scan(&got)
		}
	}
	b.Run("few roles", func(b *testing.B) { compare(b, read(w.be), read(off)) })
	b.Run("few roles, random", func(b *testing.B) { compare(b, random(w.be), random(off)) })
	_, err := w.be.Shared().ExecContext(ctx, `DO $$ BEGIN FOR i IN 1..10000 LOOP
		EXECUTE format('CREATE ROLE bench_%s_%s NOLOGIN', current_database(), i);
		EXECUTE format('GRANT bench_%s_%s TO %I', current_database(), i, current_user); END LOOP; END $$`)
	require.NoError(b, err)
	b.Run("10000 roles more", func(b *testing.B) { compare(b, read(w.be), read(off)) })
	b.Run("10000 roles more, random", func(b *testing.B) { compare(b, random(w.be), random(off)) })
	_, err = w.be.Shared().ExecContext(ctx, `DO $$ BEGIN FOR i IN 1..10000 LOOP
		EXECUTE format('DROP ROLE bench_%s_%s', current_database(), i); END LOOP; END $$`)
	require.NoError(b, err)
}

// workload is a database with many tenants that have a table each.
type workload struct {
	url    string
	be     *postgres.Backend
	routes []backend.Route
}

func newWorkload(b testing.TB, tenants int, params map[string]string) *workload {
	b.Helper()
	cluster := pgtest.Shared(b)
	socket, err := cluster.SocketURL(cluster.Database(b))
	require.NoError(b, err)
	p := map[string]string{"pool_max_conns": "1"}
	for k, v := range params {
		p[k] = v
	}
	w := &workload{url: socket}
	w.be = open(b, socket, p)
	scripts := make([]backend.Script, tenants)
	for i := range scripts {
		rt := backend.Route{Store: backend.MustParseStore(fmt.Sprintf("t%04d", i)), Owner: fmt.Sprintf("owner-%d", i)}
		w.routes = append(w.routes, rt)
		scripts[i] = backend.Script{Route: rt, Create: true, SQL: `CREATE TABLE polls (id int PRIMARY KEY, question text NOT NULL);
			INSERT INTO polls SELECT i, 'Question ' || i FROM generate_series(1, 20) i`}
	}
	for _, err := range w.be.RunScripts(b.Context(), scripts, backend.ScriptOptions{Async: true}) {
		require.NoError(b, err)
	}
	return w
}

func (w *workload) pool(b testing.TB, params map[string]string) *pgxpool.Pool {
	p := map[string]string{"pool_max_conns": "1"}
	for k, v := range params {
		p[k] = v
	}
	pool, err := pgxpool.New(b.Context(), with(b, w.url, p))
	require.NoError(b, err)
	b.Cleanup(pool.Close)
	return pool
}

// readAfterSet is what one does without routing.
func readAfterSet(ctx context.Context, pool *pgxpool.Pool, s backend.Store, query string, got *string) error {
	c, err := pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer c.Release()
	if _, err := c.Exec(ctx, `SET search_path = "`+s.String()+`", public`); err != nil {
		return err
	}
	return c.QueryRow(ctx, query, 1).Scan(got)
}

// compare runs both in turns and reports their medians, and how their quickest tenths compare.
func compare(b *testing.B, ours, reference func() error) {
	const turn = 20
	var took [2][]time.Duration
	funcs := [2]func() error{ours, reference}
	for _, f := range funcs {
		for range 100 {
			require.NoError(b, f())
		}
	}
	b.ResetTimer()
	for done := 0; done < b.N; done += turn {
		for i, f := range funcs {
			for range turn {
				start := time.Now()
				if err := f(); err != nil {
					b.Fatal(err)
				}
				took[i] = append(took[i], time.Since(start))
			}
		}
	}
	slices.Sort(took[0])
	slices.Sort(took[1])
	at := func(d []time.Duration, part float64) float64 {
		return float64(d[int(float64(len(d))*part)]) / float64(time.Microsecond)
	}
	o, r := at(took[0], 0.5), at(took[1], 0.5)
	b.ReportMetric(0, "ns/op") // of both together: means nothing
	b.ReportMetric(o, "ours-µs")
	b.ReportMetric(r, "reference-µs")
	b.ReportMetric(o/r, "ours/reference")
	// On a machine that others are using, the quick tenth tells more.
	b.ReportMetric(at(took[0], 0.1)/at(took[1], 0.1), "ours/reference-p10")
}
