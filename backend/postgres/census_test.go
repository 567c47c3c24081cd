package postgres_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/postgres"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// counted is a backend with stores, of which so many pairs with a text are few that each store may have one.
type counted struct {
	t        *testing.T
	be       *postgres.Backend
	contexts []context.Context
}

const oneText, otherText = `SELECT $1::int`, `SELECT $1::int + 1`

// newCounted returns one with so many connections, which all know one text in each store.
func newCounted(t *testing.T, conns int) *counted {
	t.Helper()
	databaseURL := pgtest.Shared(t).Database(t)
	contexts := stores(t, open(t, databaseURL, nil), 25)
	be := open(t, databaseURL, map[string]string{"pool_max_conns": "4", "first_sights": "240"}) // few are 30
	w := &counted{t: t, be: be, contexts: contexts}
	for _, ctx := range w.contexts {
		var all []pgx.Tx
		for range conns {
			tx, err := be.PGX().Begin(ctx)
			require.NoError(t, err)
			_, err = tx.Exec(ctx, oneText, 1)
			require.NoError(t, err)
			all = append(all, tx)
		}
		for _, tx := range all {
			require.NoError(t, tx.Commit(ctx))
		}
	}
	require.True(t, w.anywhere(), "they are few")
	return w
}

// anywhere reports whether any connection serves any store.
func (w *counted) anywhere() bool {
	w.t.Helper()
	before := w.be.Stats().Seen
	for _, ctx := range w.contexts {
		_, err := w.be.PGX().Exec(ctx, oneText, 1)
		require.NoError(w.t, err)
	}
	return w.be.Stats().Seen > before
}

// What is in use is what is run, not only what is run for the first time: pairs that were used for a while are forgotten
// also where all connections know those that go on being used.
func TestFewAreFewAgain(t *testing.T) {
	t.Parallel()
	w := newCounted(t, 2)
	for _, ctx := range w.contexts {
		_, err := w.be.PGX().Exec(ctx, otherText, 1)
		require.NoError(t, err)
	}
	require.False(t, w.anywhere(), "they are many for now")
	first := w.be.Stats().FirstSights
	for range 4 { // three windows of the census, and no store is used so often that it could be anywhere for that
		for _, ctx := range w.contexts {
			require.NoError(t, pgx.BeginFunc(ctx, w.be.PGX(), func(tx pgx.Tx) error {
				for range 8 {
					if _, err := tx.Exec(ctx, oneText, 1); err != nil {
						return err
					}
				}
				return nil
			}))
		}
	}
	require.Equal(t, first, w.be.Stats().FirstSights, "nothing was new to a connection")
	require.True(t, w.anywhere())
}

// What goes through every store does not make many of the few that are in use.
func TestPassingThroughIsNoUse(t *testing.T) {
	t.Parallel()
	w := newCounted(t, 3)
	for _, ctx := range w.contexts {
		_, err := w.be.PGX().Exec(backend.Apart(ctx), otherText, 1)
		require.NoError(t, err)
	}
	require.True(t, w.anywhere())
}
