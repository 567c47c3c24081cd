package sqlite_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/sqlite"
)

// A name is held by one at a time, who keeps others from making, dropping and renaming its store; and not by somebody whose
// context has ended, nor after that.
func TestHold(t *testing.T) {
	t.Parallel()
	b, err := sqlite.Open(t.Context(), t.TempDir(), sqlite.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	rt := backend.Route{Store: backend.MustParseStore("thor"), Owner: "thor's"}
	ended, end := context.WithCancel(t.Context())
	end()
	_, err = b.Hold(ended, rt.Store)
	require.ErrorIs(t, err, context.Canceled)
	release, err := b.Hold(t.Context(), rt.Store)
	require.NoError(t, err)
	_, err = b.Hold(t.Context(), rt.Store)
	require.ErrorIs(t, err, sqlite.ErrBusy)

	made := make(chan error, 1)
	go func() { made <- b.Create(t.Context(), rt) }()
	select {
	case err := <-made:
		t.Fatal("made while it was held: ", err)
	default:
	}
	require.NoFileExists(t, b.Path(rt.Store))
	release()
	release()
	require.NoError(t, <-made)
	require.FileExists(t, b.Path(rt.Store))
}
