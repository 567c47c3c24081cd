package transfer_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/tenancy"
	"github.com/tenement-go/tenement/transfer"
)

var rewritable = files("00001_x.sql", `CREATE TABLE a (x int);
CREATE TABLE b (n int, note text);
CREATE TABLE c (n int) PARTITION BY RANGE (n);
CREATE TABLE c1 PARTITION OF c FOR VALUES FROM (0) TO (10);`)

var rewritableRows = []string{
	`INSERT INTO a VALUES (1)`, `INSERT INTO b VALUES (1, 'one'), (2, 'two')`, `INSERT INTO c VALUES (1), (2)`,
}

// rewrites are what somebody does to a table of which an older snapshot sees nothing afterwards, or something else.
var rewrites = map[string]string{
	"rewritten":                  `ALTER TABLE b ALTER COLUMN n TYPE bigint`,
	"truncated":                  `TRUNCATE b`,
	"made anew":                  `DROP TABLE b; CREATE TABLE b (n int, note text)`,
	"replaced":                   `ALTER TABLE b RENAME TO old; CREATE TABLE b (n int, note text)`,
	"a column made anew":         `ALTER TABLE b DROP COLUMN note; ALTER TABLE b ADD COLUMN note text`,
	"a column replaced":          `ALTER TABLE b RENAME COLUMN note TO old; ALTER TABLE b ADD COLUMN note text`,
	"a partition truncated":      `TRUNCATE c`,
	"a partition dropped":        `DROP TABLE c1`,
	"a partition that has left":  `ALTER TABLE c DETACH PARTITION c1`,
	"all partitions, by another": `ALTER TABLE c RENAME TO old; CREATE TABLE c (n int) PARTITION BY RANGE (n)`,
}

// rewrite runs a migration of somebody else's.
func (p place) rewrite(t testing.TB, tenant tenancy.Tenant, statements string) {
	db := p.Backend().Maintenance(tenant.Route())
	defer db.Close()
	_, err := db.ExecContext(t.Context(), statements)
	assert.NoError(t, err, statements)
}

// A snapshot of Postgres does not cover what gives a table another file: what was lost that way is not taken for the tenant.
func TestRewrittenWhileItIsRead(t *testing.T) {
	t.Parallel()
	a := newPlace(t, backend.Postgres, rewritable)
	for name, statements := range rewrites {
		t.Run(name, func(t *testing.T) {
			thor := a.create(t, strings.NewReplacer(" ", "-", ",", "").Replace(name), rewritableRows...)
			path := filepath.Join(t.TempDir(), "thor.db")
			opt := transfer.ExportOptions{OnTable: func(p transfer.Progress) {
				if p.Table == "a" {
					a.rewrite(t, thor, statements)
				}
			}}
			_, err := transfer.Export(t.Context(), a.App, thor.ID, path, opt)
			require.ErrorIs(t, err, transfer.ErrMigrated)
			assert.NoFileExists(t, path)
			_, err = transfer.Export(t.Context(), a.App, thor.ID, path, transfer.ExportOptions{})
			require.NoError(t, err, "it can be had as it is now")
		})
	}
	thor := a.create(t, "thor", rewritableRows...)
	path := filepath.Join(t.TempDir(), "thor.db")
	m, err := transfer.Export(t.Context(), a.App, thor.ID, path, transfer.ExportOptions{OnTable: func(p transfer.Progress) {
		if p.Table == "a" {
			a.rewrite(t, thor, `ALTER TABLE b ADD COLUMN more int DEFAULT 7; DELETE FROM b; ALTER TABLE c1 RENAME TO first; CREATE INDEX ON b (n)`)
		}
	}})
	require.NoError(t, err, "what a snapshot does cover is no reason")
	assert.Equal(t, int64(2), m.Tables[1].Rows)
}

func TestRewrittenWhileItIsCloned(t *testing.T) {
	t.Parallel()
	a := newPlace(t, backend.Postgres, rewritable)
	watch := a.Shared()
	for name, statements := range rewrites {
		t.Run(name, func(t *testing.T) {
			slug := strings.NewReplacer(" ", "-", ",", "").Replace(name)
			thor := a.create(t, slug, rewritableRows...)
			db := a.Backend().Maintenance(thor.Route())
			defer db.Close()
			hold, err := db.BeginTx(t.Context(), nil)
			require.NoError(t, err)
			defer func() { _ = hold.Rollback() }()
			_, err = hold.ExecContext(t.Context(), `LOCK TABLE a IN ACCESS EXCLUSIVE MODE`)
			require.NoError(t, err)
			var cloning errgroup.Group
			cloning.Go(func() error {
				_, err := transfer.Clone(t.Context(), a.App, thor.ID, transfer.CloneOptions{Spec: tenancy.Spec{Slug: slug + "-copy"}})
				return err
			})
			require.Eventually(t, func() (waits bool) {
				err := watch.QueryRowContext(t.Context(), `SELECT EXISTS (SELECT FROM pg_locks WHERE relation IS NOT NULL AND NOT granted
					AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))`).Scan(&waits)
				return assert.NoError(t, err) && waits
			}, time.Minute, time.Millisecond)
			_, err = hold.ExecContext(t.Context(), statements)
			require.NoError(t, err)
			require.NoError(t, hold.Commit())
			require.ErrorIs(t, cloning.Wait(), transfer.ErrMigrated)
			_, err = a.BySlug(t.Context(), slug+"-copy")
			require.ErrorIs(t, err, tenancy.ErrNotFound)
		})
	}
}

// A tenant of which a table was rewritten while it was moved is not in service in the target, and is moved anew.
func TestRewrittenWhileItIsMoved(t *testing.T) {
	t.Parallel()
	for _, to := range []backend.Dialect{backend.SQLite, backend.Postgres} {
		t.Run(string(to), func(t *testing.T) {
			t.Parallel()
			a := newPlace(t, backend.Postgres, files("00001_x.sql", `CREATE TABLE a (x int); CREATE TABLE b (n int, note text);`), withPlans)
			thor := a.create(t, "thor", rewritableRows[:2]...)
			b := a.elsewhere(t, placeURL(t, to), to)
			move := func(rewrite func(e transfer.MoveEvent)) error {
				_, err := transfer.Move(t.Context(), a.App, b.App, transfer.MoveOptions{Resume: true, OnEvent: rewrite})
				return err
			}
			require.ErrorIs(t, move(func(e transfer.MoveEvent) {
				if e.Kind == transfer.MoveMade {
					a.rewrite(t, thor, `ALTER TABLE b ALTER COLUMN n TYPE bigint`)
				}
			}), transfer.ErrMigrated)
			require.NoError(t, move(nil))
			moved, err := b.BySlug(t.Context(), "thor")
			require.NoError(t, err)
			assert.Equal(t, []string{"1", "2"}, b.query(t, moved, `SELECT n FROM b ORDER BY n`))
		})
	}
}
