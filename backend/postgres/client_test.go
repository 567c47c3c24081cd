package postgres

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// An operator who opens a client is in the right store, and in no other.
func TestClientCommandOpensTheStore(t *testing.T) {
	t.Parallel()
	psql, err := exec.LookPath("psql")
	if err != nil {
		t.Skip("psql is not installed")
	}
	be, err := Open(t.Context(), pgtest.Shared(t).Database(t)+"&default_query_exec_mode=exec&timezone=Europe/Vienna", Config{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, be.Close()) })
	rt := backend.Route{Store: backend.MustParseStore("thor-1"), Owner: "a"}
	require.NoError(t, be.Create(t.Context(), rt))

	how, err := be.ClientCommand(t.Context(), rt)
	require.NoError(t, err)
	require.Equal(t, "psql", how.Name)
	cmd := exec.CommandContext(t.Context(), psql, append(how.Args, "-XAtc", "select current_schema(), current_setting('search_path'), current_setting('timezone')")...)
	cmd.Env = append(os.Environ(), how.Env...)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	assert.Equal(t, "thor-1|\"thor-1\",public|Europe/Vienna\n", string(out))
	password := be.pool.Config().ConnConfig.Password
	require.NotEmpty(t, password)
	assert.NotContains(t, strings.Join(how.Args, " "), password)

	_, err = be.ClientCommand(t.Context(), backend.Route{Store: rt.Store, Owner: "b"})
	require.ErrorIs(t, err, backend.ErrStoreMissing)
	_, err = be.ClientCommand(t.Context(), backend.Route{Store: backend.MustParseStore("potter")})
	require.ErrorIs(t, err, backend.ErrStoreMissing)
}

func TestClientEnvFollowsTheConnectionString(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		url  string
		want []string
	}{
		{"postgres://u@h/d?sslmode=disable", []string{"PGSSLMODE=disable", "PGHOST=h", "PGPORT=5432", "PGUSER=u", "PGDATABASE=d"}},
		{"postgres://u@h/d", []string{"PGSSLMODE=prefer"}},
		{"postgres://u@h/d?sslmode=allow", []string{"PGSSLMODE=allow"}},
		{"postgres://u@h/d?sslmode=require&connect_timeout=7", []string{"PGSSLMODE=require", "PGCONNECT_TIMEOUT=7"}},
		{"postgres://u@h/d?sslmode=verify-full", []string{"PGSSLMODE=verify-full"}},
		{"postgres://u@h1:1,h2:2/d?target_session_attrs=primary", []string{"PGHOST=h1,h2", "PGPORT=1,2", "PGTARGETSESSIONATTRS=primary"}},
		{"host=h user=u password='a b' dbname=d sslmode=disable connect_timeout = 3", []string{"PGPASSWORD=a b", "PGCONNECT_TIMEOUT=3"}},
		{"postgres://u@h/d?sslmode=disable&application_name=x", []string{"PGAPPNAME=x", `PGOPTIONS=-c search_path="thor",public`}},
	} {
		cc, err := pgx.ParseConfig(c.url)
		require.NoError(t, err, c.url)
		env := clientEnv(cc, backend.MustParseStore("thor"))
		for _, want := range c.want {
			assert.Contains(t, env, want, c.url)
		}
	}
}
