package postgres

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// A rename to the name that the store has says whether it has it: so it waits for whoever is taking it away, who may have lost
// every lock by which others would wait for him.
func TestRenameToItselfWaits(t *testing.T) {
	t.Parallel()
	url := pgtest.Shared(t).Database(t)
	be, _ := opened(t, url)
	rt := backend.Route{Store: backend.MustParseStore("a"), Owner: "a"}
	to := backend.MustParseStore("b")
	require.NoError(t, be.Rename(t.Context(), rt, rt.Store))

	late, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer late.Close(context.WithoutCancel(t.Context()))
	_, err = late.PgConn().Exec(t.Context(), "begin;"+claimSQL(rt.Store)+claimSQL(to)+"alter schema a rename to b").ReadAll()
	require.NoError(t, err)
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, be.Rename(short, rt, rt.Store), context.DeadlineExceeded)
	_, err = late.Exec(t.Context(), "commit")
	require.NoError(t, err)
	require.ErrorIs(t, be.Rename(t.Context(), rt, rt.Store), backend.ErrStoreMissing)
}
