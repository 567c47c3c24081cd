package manage_test

import (
	"net/url"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	_ "github.com/tenement-go/tenement/backend/placed"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// Tenants in two databases: where they are made, listed, migrated and moved to.
func TestPlaceCommands(t *testing.T) {
	t.Parallel()
	pgtest.Shared(t) // may skip the test, which nobody may do within a sync.OnceValue
	two := &place{backend: sync.OnceValue(func() backend.Backend {
		home, eu := pgtest.Shared(t).Database(t), pgtest.Shared(t).Database(t)
		be, err := backend.Open(t.Context(), "placed:?home="+url.QueryEscape(home)+"&eu="+url.QueryEscape(eu))
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, be.Close()) })
		return be
	})}
	two.mustOld(t, "tenant", "create", "thor", "--place", "home")
	two.mustOld(t, "tenant", "create", "odin")
	two.must(t, "migrate")
	two.must(t, "exec", "thor", "--", "ask", "Hammer?")
	require.JSONEq(t, `[{"place":"home","stores":1},{"place":"eu","stores":1}]`, two.must(t, "place", "list", "--json"))
	require.Contains(t, two.must(t, "tenant", "move", "thor", "--place", "eu"), "thor is in eu; its old store is set aside as aside_thor_")
	require.JSONEq(t, `[{"place":"home","stores":1},{"place":"eu","stores":2}]`, two.must(t, "place", "list", "--json"))
	require.Equal(t, "Hammer?\n", two.must(t, "exec", "thor", "--", "questions"))
	list := two.must(t, "tenant", "list")
	require.Regexp(t, `(?m)^SLUG .* PLACE$`, list)
	require.Regexp(t, `(?m)^thor .* eu$`, list)
	require.Contains(t, two.must(t, "tenant", "list", "--json"), `"place"`)
	require.Regexp(t, `(?m)^place +eu$`, two.must(t, "tenant", "show", "thor"))
	require.Regexp(t, `"place": ?"eu"`, two.must(t, "tenant", "show", "thor", "--json"))
	two.must(t, "doctor")
	for _, args := range [][]string{
		{"tenant", "move", "thor", "--place", "eu"},
		{"tenant", "move", "thor", "--place", "mars"},
		{"tenant", "move", "thor"},
		{"tenant", "create", "loki", "--place", "mars"},
	} {
		require.NotZero(t, two.run(t, &call{args: args}).status, args)
	}
	one := newPlace(t, backend.SQLite)
	one.must(t, "tenant", "create", "thor")
	require.JSONEq(t, `[]`, one.must(t, "place", "list", "--json"))
	require.NotZero(t, one.run(t, &call{args: []string{"tenant", "move", "thor", "--place", "eu"}}).status)
}
