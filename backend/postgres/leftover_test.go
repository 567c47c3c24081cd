package postgres_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/internal/pgtest"
)

// What cleans a connection answers with a row of its own, which is nobody's: a statement without a result has no columns.
func TestCleaningHasNoColumns(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			be := open(t, pgtest.Shared(t).Database(t), map[string]string{"pool_max_conns": "1", "default_query_exec_mode": mode})
			_, a := tenant(t, be, "a")
			_, b := tenant(t, be, "b")
			for range 3 {
				for _, args := range [][]any{nil, {"x"}} {
					require.NoError(t, be.DB().QueryRowContext(b, `SELECT 1`).Scan(new(int)))
					text := `INSERT INTO notes (mark) VALUES ('x')`
					if args != nil {
						text = `INSERT INTO notes (mark) VALUES ($1)`
					}
					rows, err := be.DB().QueryContext(a, text, args...)
					require.NoError(t, err)
					columns, err := rows.Columns()
					require.NoError(t, err)
					require.Empty(t, columns)
					require.False(t, rows.Next())
					require.NoError(t, rows.Close())
				}
			}
		})
	}
}

// What is prepared is taken away out of sight: the next tenant's cleaning finds that out, and the tenant does not.
func TestDeallocatedOutOfSight(t *testing.T) {
	t.Parallel()
	be := open(t, pgtest.Shared(t).Database(t), map[string]string{"pool_max_conns": "1"})
	_, a := tenant(t, be, "a")
	_, b := tenant(t, be, "b")
	for range 5 {
		_, err := be.DB().ExecContext(a, `DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$`)
		require.NoError(t, err)
		require.NoError(t, be.DB().QueryRowContext(b, `SELECT 1`).Scan(new(int)))
		_, err = be.DB().ExecContext(a, `DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$`)
		require.NoError(t, err)
		tx, err := be.DB().BeginTx(b, nil)
		require.NoError(t, err)
		require.NoError(t, tx.QueryRowContext(b, `SELECT 1`).Scan(new(int)))
		require.NoError(t, tx.Commit())
		require.NoError(t, be.Shared().QueryRowContext(t.Context(), `SELECT 1`).Scan(new(int)))
	}
}
