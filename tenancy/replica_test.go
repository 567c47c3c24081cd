package tenancy

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

func TestReplicaReads(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		tenant := create(t, a, "thor")
		ctx, _, leave, err := a.Enter(t.Context(), tenant.ID, Policy{})
		require.NoError(t, err)
		defer leave()
		_, err = a.DB().ExecContext(ctx, `INSERT INTO polls (question) VALUES ('Hammer?')`)
		require.NoError(t, err)
		position, err := a.Position(ctx)
		require.NoError(t, err)
		var question string
		require.NoError(t, a.Replica().QueryRowContext(backend.WithPosition(ctx, position), `SELECT question FROM polls`).Scan(&question))
		require.Equal(t, "Hammer?", question)
		_, err = a.Replica().ExecContext(ctx, `DELETE FROM polls`)
		require.ErrorIs(t, err, backend.ErrReadOnly)
		require.ErrorIs(t, a.Replica().QueryRowContext(t.Context(), `SELECT 1`).Scan(new(int)), backend.ErrNoTenant)
	})
}
