package tenancy

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

// What a change of the registry fails with can be told by those who called.
func TestErrorsOfAChange(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		_, err := a.reg.change(t.Context(), func(context.Context, *registryTx) error { return errRetry })
		require.ErrorIs(t, err, ErrChanged)
		require.NotErrorIs(t, err, errRetry)

		ctx, cancel := context.WithCancel(t.Context())
		_, err = a.reg.change(ctx, func(ctx context.Context, tx *registryTx) error {
			cancel()
			for {
				_, err := tx.ExecContext(context.WithoutCancel(ctx), "SELECT 1")
				if errors.Is(err, sql.ErrTxDone) {
					return err
				}
			}
		})
		require.ErrorIs(t, err, context.Canceled)
	})
}

// What is remembered of a tenant is bounded, and nobody who changes something waits until the rest is forgotten.
func TestOldChangesAreForgotten(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		thor := create(t, a, "thor")
		shared := p.be.Shared()
		exec := func(query string, args ...any) {
			_, err := shared.ExecContext(t.Context(), query, args...)
			require.NoError(t, err)
		}
		remembered := func() (n int) {
			require.NoError(t, shared.QueryRowContext(t.Context(), `SELECT count(*) FROM tenement_changes WHERE tenant_id = $1`, string(thor.ID)).Scan(&n))
			return n
		}
		// due has the next change be one of those after which is forgotten what is older than 10,000 changes.
		due := func() {
			var last int64
			require.NoError(t, shared.QueryRowContext(t.Context(), `SELECT revision FROM tenement_revision`).Scan(&last))
			exec(`INSERT INTO tenement_changes (revision, tenant_id, kind, nonce, actor, detail, at) WITH RECURSIVE s (i) AS
				(SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < $2) SELECT $3 + i, $1, 'renamed', '', '', '', '2024-01-01T00:00:00.000000Z' FROM s`,
				string(thor.ID), keepHistory+50, last)
			exec(`UPDATE tenement_revision SET revision = $1`, (last+keepChanges+1000)/64*64-1)
		}
		due()
		release := func() {}
		if p.be.Dialect() == backend.Postgres { // SQLite has one writer
			tx, err := shared.BeginTx(t.Context(), nil)
			require.NoError(t, err)
			defer tx.Rollback() //nolint:errcheck // it was, unless the test has failed
			_, err = tx.ExecContext(t.Context(), `SELECT FROM tenement_changes WHERE tenant_id = $1 FOR UPDATE`, string(thor.ID))
			require.NoError(t, err)
			release = func() { require.NoError(t, tx.Rollback()) }
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		name := "Thor"
		_, err := a.Update(ctx, thor.ID, Patch{Name: &name})
		require.NoError(t, err)
		release()
		require.NoError(t, a.Close()) // waits for it
		require.Equal(t, keepHistory, remembered())
	})
}
