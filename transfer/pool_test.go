package transfer_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/tenancy"
	"github.com/tenement-go/tenement/transfer"
)

// Nobody holds a connection of a pool while waiting for another of the same pool. S73
func TestPoolOfOne(t *testing.T) {
	t.Parallel()
	database := pgtest.Shared(t).Database(t)
	for name, url := range map[string]string{
		"direct":                  database + "&pool_max_conns=1",
		"direct, a role for each": pgtest.Shared(t).Database(t) + "&pool_max_conns=1&tenant_role=each",
		"behind PgBouncer":        pgtest.Bouncer(t, pgtest.Shared(t).Database(t), pgtest.BouncerConfig{PoolSize: 4}) + "&default_query_exec_mode=exec",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			a := openPlace(t, url, backend.Postgres, blog)
			thor := a.create(t, "thor", blogRows...)
			path := filepath.Join(t.TempDir(), "thor.db")
			_, err := transfer.Export(ctx, a.App, thor.ID, path, transfer.ExportOptions{})
			require.NoError(t, err)
			loki, err := transfer.Import(ctx, a.App, path, transfer.ImportOptions{Spec: tenancy.Spec{Slug: "loki"}, NoDomains: true})
			require.NoError(t, err)
			clone, err := transfer.Clone(ctx, a.App, thor.ID, transfer.CloneOptions{Spec: tenancy.Spec{Slug: "copy"}})
			require.NoError(t, err)
			for _, other := range []tenancy.Tenant{loki, clone} {
				c, err := transfer.Verify(ctx, transfer.InStore(a.App, thor.ID), transfer.InStore(a.App, other.ID), transfer.VerifyOptions{})
				require.NoError(t, err)
				assert.NoError(t, c.Err())
			}
		})
	}
}

// A file has the tenant as of one moment, however much is written meanwhile.
func TestExportIsOneMoment(t *testing.T) {
	onEach(t, func(t *testing.T, d backend.Dialect) {
		a := newPlace(t, d, files("00001_x.sql", "CREATE TABLE a (n INTEGER);\nCREATE TABLE b (n INTEGER);"))
		thor := a.create(t, "thor", `INSERT INTO a VALUES (0)`, `INSERT INTO b VALUES (0)`)
		path := filepath.Join(t.TempDir(), "thor.db")
		_, err := transfer.Export(t.Context(), a.App, thor.ID, path, transfer.ExportOptions{OnTable: func(p transfer.Progress) {
			if p.Table == "a" {
				a.exec(t, thor, `UPDATE a SET n = 1`, `UPDATE b SET n = 1`, `INSERT INTO b VALUES (2)`)
			}
		}})
		require.NoError(t, err)
		b := newPlace(t, d, files("00001_x.sql", "CREATE TABLE a (n INTEGER);\nCREATE TABLE b (n INTEGER);"))
		moved := b.bring(t, path)
		assert.Equal(t, []string{"0"}, b.query(t, moved, `SELECT n FROM a`))
		assert.Equal(t, []string{"0"}, b.query(t, moved, `SELECT n FROM b`))
		c, err := transfer.Verify(t.Context(), transfer.InStore(a.App, thor.ID), transfer.InFile(path), transfer.VerifyOptions{})
		require.NoError(t, err)
		require.ErrorIs(t, c.Err(), transfer.ErrDiffer)
		assert.ErrorContains(t, c.Err(), "table a: 1 rows each, of which some differ; table b: 2 rows and 1 rows")
	})
}
