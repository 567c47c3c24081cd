package placed_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/placed"
	"github.com/tenement-go/tenement/internal/pgtest"
)

func TestNoNodes(t *testing.T) {
	t.Parallel()
	be := open(t, placed.Place{Name: "home", URL: pgtest.Shared(t).Database(t)}, placed.Place{Name: "eu", URL: pgtest.Shared(t).Database(t)})
	_, err := backend.NodesOf(t.Context(), be)
	require.ErrorIs(t, err, backend.ErrNoNodes)
	require.NoError(t, be.Create(t.Context(), route("a")))
	require.ErrorIs(t, be.MoveStore(t.Context(), route("a"), "127.0.0.1:1"), backend.ErrNoNodes)
	require.ErrorIs(t, be.ShareEverywhere(t.Context(), "plans"), backend.ErrNoNodes)
}

// One place is a Citus cluster, and home is not.
func TestCitusPlace(t *testing.T) {
	t.Parallel()
	cluster := pgtest.Citus(t).Database(t)
	be := open(t, placed.Place{Name: "home", URL: pgtest.Shared(t).Database(t)}, placed.Place{Name: "cluster", URL: cluster})
	for name, place := range map[string]string{"a": "home", "b": "cluster", "c": "cluster"} {
		s := backend.Script{Route: route(name), Create: true, SQL: "CREATE TABLE notes (id int PRIMARY KEY)"}
		require.NoError(t, be.RunScripts(backend.WithPlace(t.Context(), place), []backend.Script{s}, backend.ScriptOptions{})[0])
	}
	nodes, err := backend.NodesOf(t.Context(), be)
	require.NoError(t, err)
	have := map[backend.Store]string{}
	for _, n := range nodes {
		require.Equal(t, "cluster", n.Place)
		for _, s := range n.Stores {
			have[s] = n.Name
		}
	}
	require.Len(t, have, 2)
	b := route("b")
	for _, n := range nodes {
		require.NoError(t, be.MoveStore(t.Context(), b, n.Name))
	}
	require.ErrorIs(t, be.MoveStore(t.Context(), route("a"), nodes[0].Name), backend.ErrNoNodes)
	_, err = be.In("cluster").Shared().ExecContext(t.Context(), "CREATE TABLE plans (name text PRIMARY KEY)")
	require.NoError(t, err)
	require.NoError(t, be.ShareEverywhere(t.Context(), "plans"))
}
