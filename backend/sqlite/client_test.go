package sqlite_test

import (
	osexec "os/exec"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/sqlite"
)

// An operator who opens a client is in the right store, with the shared tables beside it, read-only.
func TestClientCommandOpensTheStore(t *testing.T) {
	t.Parallel()
	program, err := osexec.LookPath("sqlite3")
	if err != nil {
		t.Skip("sqlite3 is not installed")
	}
	be, err := sqlite.Open(t.Context(), t.TempDir()+"/it's here", sqlite.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, be.Close()) })
	_, err = be.Shared().ExecContext(t.Context(), "CREATE TABLE plans (name TEXT); INSERT INTO plans VALUES ('pro')")
	require.NoError(t, err)
	rt := backend.Route{Store: backend.MustParseStore("thor"), Owner: "a"}
	require.NoError(t, be.Create(t.Context(), rt))
	_, err = be.DB().ExecContext(backend.WithRoute(t.Context(), rt), "CREATE TABLE polls AS SELECT 'Hammer?' AS question")
	require.NoError(t, err)

	how, err := be.ClientCommand(t.Context(), rt)
	require.NoError(t, err)
	require.Equal(t, "sqlite3", how.Name)
	out, err := osexec.CommandContext(t.Context(), program, append(how.Args, "SELECT question, name FROM polls, plans")...).CombinedOutput()
	require.NoError(t, err, string(out))
	assert.Equal(t, "Hammer?|pro\n", string(out))
	out, err = osexec.CommandContext(t.Context(), program, append(how.Args, "DELETE FROM public.plans")...).CombinedOutput()
	require.Error(t, err)
	assert.Contains(t, string(out), "readonly")

	_, err = be.ClientCommand(t.Context(), backend.Route{Store: rt.Store, Owner: "b"})
	require.ErrorIs(t, err, backend.ErrStoreMissing)
	_, err = be.ClientCommand(t.Context(), backend.Route{Store: backend.MustParseStore("potter")})
	require.ErrorIs(t, err, backend.ErrStoreMissing)
}
