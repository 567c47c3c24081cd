package postgres_test

import (
	"context"
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// S73: every idle connection's server process is terminated, and then comes any call that takes one: it gets one that
// works, since nothing had run on the other.
func TestEveryIdleConnectionIsLost(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 2} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			databaseURL := pgtest.Shared(t).Database(t)
			be := open(t, databaseURL, map[string]string{"pool_max_conns": fmt.Sprint(size)})
			rt, _ := tenant(t, be, "a")
			terminate := terminator(t, databaseURL)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			a := backend.WithRoute(ctx, rt)
			b, c := route("b"), route("c")
			copied := func(db interface {
				CopyFrom(context.Context, pgx.Identifier, []string, pgx.CopyFromSource) (int64, error)
			}, in context.Context,
			) error {
				_, err := db.CopyFrom(in, pgx.Identifier{"notes"}, []string{"mark"}, pgx.CopyFromRows([][]any{{"x"}}))
				return err
			}
			scripts := func(scripts ...backend.Script) error {
				for _, err := range be.RunScripts(ctx, scripts, backend.ScriptOptions{}) {
					if err != nil {
						return err
					}
				}
				return nil
			}
			schema := func() error {
				_, err := be.Shared().ExecContext(ctx, `CREATE SCHEMA c`)
				return err
			}
			for _, verb := range []struct {
				name string
				do   func() error
			}{
				{"CopyFrom", func() error { return copied(be.PGX(), a) }},
				{"CopyFrom of a transaction", func() error {
					return pgx.BeginFunc(a, be.PGX(), func(tx pgx.Tx) error { return copied(tx, a) })
				}},
				{"Prepare of a transaction", func() error {
					return pgx.BeginFunc(a, be.PGX(), func(tx pgx.Tx) error {
						_, err := tx.Prepare(a, "mine", `SELECT 1`)
						return err
					})
				}},
				{"SendBatch", func() error {
					var batch pgx.Batch
					batch.Queue(`SELECT 1`)
					return be.PGX().SendBatch(a, &batch).Close()
				}},
				{"AcquireFunc", func() error {
					return be.PGX().AcquireFunc(a, func(c *pgx.Conn) error { return c.Ping(a) })
				}},
				{"RunScripts", func() error { return scripts(backend.Script{Route: rt, SQL: `SELECT 1`}) }},
				{"RunScripts of many", func() error {
					return scripts(backend.Script{Route: rt, SQL: `SELECT 1`}, backend.Script{Route: rt, SQL: `SELECT 2`})
				}},
				{"RunScripts of many again", func() error {
					return scripts(backend.Script{Route: rt, SQL: `SELECT 1`}, backend.Script{Route: rt, SQL: `SELECT 2`})
				}},
				{"Flush", func() error { return be.Flush(ctx) }},
				{"Create", func() error { return be.Create(ctx, b) }},
				{"Stat", func() error { _, err := be.Stat(ctx, b.Store); return err }},
				{"Rename", func() error {
					return be.Rename(ctx, b, backend.MustParseStore("bb"))
				}},
				{"Drop", func() error {
					return be.Drop(ctx, backend.Route{Store: backend.MustParseStore("bb"), Owner: b.Owner})
				}},
				{"CREATE SCHEMA", schema},
				{"Adopt", func() error { return be.Adopt(ctx, c) }},
				{"Restamp", func() error { return be.Restamp(ctx, c, "another") }},
				{"Stores", func() error {
					for _, err := range be.Stores(ctx) {
						if err != nil {
							return err
						}
					}
					return nil
				}},
				{"EnsureRoles", func() error { return be.EnsureRoles(ctx) }},
				{"Advise", func() error { _, err := be.Advise(ctx); return err }},
				{"Leftovers", func() error { _, err := be.Leftovers(ctx); return err }},
				{"Ping", func() error { return be.DB().PingContext(ctx) }},
			} {
				var held []*sql.Conn // all that there may be
				for range size {
					conn, err := be.DB().Conn(a)
					require.NoError(t, err)
					require.NoError(t, conn.QueryRowContext(a, `SELECT 1`).Scan(new(int)))
					held = append(held, conn)
				}
				for _, conn := range held {
					require.NoError(t, conn.Close())
				}
				terminate()
				assert.NoError(t, verb.do(), verb.name)
			}
		})
	}
}
