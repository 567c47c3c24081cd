package tenancy

import (
	"context"
	"database/sql"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
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
