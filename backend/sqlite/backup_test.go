package sqlite_test

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/sqlite"
)

// A backup is of one moment, and is made however much is written meanwhile.
func TestBackupUnderConstantWrites(t *testing.T) { // S78
	t.Parallel()
	b := open(t, func(cfg *sqlite.Config) { cfg.Synchronous = sqlite.Off })
	in := tenant(t, b, "a")
	exec(t, in, b.DB(), "CREATE TABLE a (n INTEGER); CREATE TABLE filler (x BLOB); CREATE TABLE z (n INTEGER)")
	exec(t, in, b.DB(), "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 1500) INSERT INTO filler SELECT zeroblob(4000) FROM n")
	ctx, cancel := context.WithCancel(in)
	var writers sync.WaitGroup
	for range 2 {
		writers.Go(func() {
			for ctx.Err() == nil {
				tx, err := b.DB().BeginTx(in, nil)
				if assert.NoError(t, err) {
					_, err = tx.Exec("INSERT INTO a VALUES (1)")
					assert.NoError(t, err)
					_, err = tx.Exec("INSERT INTO z VALUES (1)")
					assert.NoError(t, err)
					assert.NoError(t, tx.Commit())
				}
			}
		})
	}
	dir := t.TempDir()
	rt, _ := backend.RouteFrom(in)
	for _, name := range []string{"1.db", "2.db", "3.db"} {
		require.NoError(t, b.Backup(t.Context(), rt, filepath.Join(dir, name)))
	}
	cancel()
	writers.Wait()
	var before int
	for _, name := range []string{"1.db", "2.db", "3.db"} {
		db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, name)+"?mode=ro")
		require.NoError(t, err)
		var verdict string
		require.NoError(t, db.QueryRow("PRAGMA integrity_check").Scan(&verdict))
		require.Equal(t, "ok", verdict)
		n := number(t, t.Context(), db, "SELECT count(*) FROM a")
		require.Equal(t, n, number(t, t.Context(), db, "SELECT count(*) FROM z"))
		require.GreaterOrEqual(t, n, before)
		before = n
		require.NoError(t, db.Close())
	}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 3, "nothing is left beside them")

	// It is a store where a store belongs.
	other := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(other, "tenants"), 0o700))
	require.NoError(t, os.Rename(filepath.Join(dir, "3.db"), filepath.Join(other, "tenants", "a.db")))
	restored, err := sqlite.Open(t.Context(), other, sqlite.Config{})
	require.NoError(t, err)
	defer restored.Close()
	require.Equal(t, before, number(t, in, restored.DB(), "SELECT count(*) FROM z"))
}

// A backup that cannot be finished leaves nothing behind.
func TestBackupThatFails(t *testing.T) {
	t.Parallel()
	b := open(t)
	in := tenant(t, b, "a")
	rt, _ := backend.RouteFrom(in)
	dir := t.TempDir()
	gone, cancel := context.WithCancel(t.Context())
	require.NoError(t, os.WriteFile(filepath.Join(dir, "taken"), []byte("mine"), 0o600))
	require.ErrorIs(t, b.Backup(t.Context(), rt, filepath.Join(dir, "taken")), os.ErrExist)
	require.ErrorIs(t, b.Backup(t.Context(), backend.Route{Store: rt.Store, Owner: "other"}, filepath.Join(dir, "x")), backend.ErrStoreMissing)
	cancel()
	require.ErrorIs(t, b.Backup(gone, rt, filepath.Join(dir, "x")), context.Canceled)
	require.Error(t, b.Backup(t.Context(), rt, filepath.Join(dir, "none", "x")))
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1)
}
