package main

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/tenancy"
)

// What a migration has to leave in a store is missed, each of it, and what it left twice is seen.
func TestJudgeCountsMigrations(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a server")
	}
	for _, name := range []string{"sqlite", "postgres"} {
		t.Run(name, func(t *testing.T) {
			_, err := onStage(t.Context(), name, func(st *stage) (none struct{}, _ error) {
				testMigrations(t, st)
				return none, nil
			})
			require.NoError(t, err)
		})
	}
}

func testMigrations(t *testing.T, st *stage) {
	const version = 6
	app, closeAll, err := open(t.Context(), st.direct, version)
	require.NoError(t, err)
	defer func() { require.NoError(t, closeAll()) }()
	for i, c := range []struct {
		statement string
		reported  string // nothing, when it is ""
	}{
		{"SELECT 1", ""},
		{"DELETE FROM migrated WHERE version = 5", "lost: migration 5: its statements: 0 times"},
		{"INSERT INTO migrated (version) VALUES (5)", "wrong: migration 5: its statements: 2 times"},
		{"INSERT INTO migrated (version) VALUES (7)", "wrong: migration 7: its statements: 1 times"},
		{"DELETE FROM goose_db_version WHERE version_id = 2", "lost: migration 2: its version row: 0 times"},
		{"DROP INDEX entries_c3", "lost: migration 3: its index: 0 times"},
		{"ALTER TABLE entries DROP COLUMN c5", "lost: migrations: their columns"},
	} {
		made, err := app.Create(t.Context(), tenancy.Spec{Slug: fmt.Sprintf("t%d", i)})
		require.NoError(t, err)
		judged := &court{app: app, r: &record{}, v: &verdict{}, version: version}
		require.NoError(t, app.Run(t.Context(), made.ID, tenancy.Policy{}, func(ctx context.Context, in *tenancy.Tenant) error {
			if _, err := app.DB().ExecContext(ctx, c.statement); err != nil {
				return err
			}
			return judged.store(ctx, in, map[uint64]bool{})
		}))
		if c.reported == "" {
			assert.Empty(t, judged.v.Breaches)
			continue
		}
		require.Len(t, judged.v.Breaches, 1, c.statement)
		kind, what, _ := strings.Cut(c.reported, ": ")
		assert.True(t, strings.HasPrefix(judged.v.Breaches[0], kind+": "), judged.v.Breaches[0])
		assert.Contains(t, judged.v.Breaches[0], what)
	}
}
