package driver_test

import (
	"bytes"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
)

// The log says who closed a handle that was not theirs, and nothing when the backend did.
func TestWhoClosedAHandleIsLogged(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	h := driver.NewHandle(&source{}, driver.AccessTenant, slog.New(slog.NewTextHandler(&log, nil)))
	first := h.DB()
	require.Same(t, first, h.DB())
	require.NoError(t, first.Close())
	require.Contains(t, log.String(), "TestWhoClosedAHandleIsLogged")
	require.NotContains(t, log.String(), "database/sql")
	require.NotSame(t, first, h.DB())
	_, err := h.DB().ExecContext(with(t, inA), "x")
	require.NoError(t, err)

	log.Reset()
	require.NoError(t, first.Close(), "a second time")
	last := h.DB()
	require.NoError(t, h.Close())
	require.Empty(t, log.String())
	require.Same(t, last, h.DB())
	_, err = last.ExecContext(with(t, inA), "x")
	require.Error(t, err)
	require.NotErrorIs(t, err, backend.ErrNoTenant)
}
