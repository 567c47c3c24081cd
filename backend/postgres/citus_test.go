package postgres_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// A script that makes its store works at the first try, with a sequence, an index and a trigger in it; stores are spread;
// one that fails leaves nothing.
func TestCitusStores(t *testing.T) {
	t.Parallel()
	be := open(t, pgtest.Citus(t).Database(t), nil)
	const made = 10
	for i := range made {
		s := backend.Script{Route: backend.Route{Store: backend.MustParseStore(fmt.Sprintf("t%02d", i)), Owner: "o"}, Create: true, SQL: `
			CREATE TABLE notes (id serial PRIMARY KEY, mark text);
			CREATE INDEX by_mark ON notes (mark); INSERT INTO notes (mark) VALUES ('; -- x');
			ALTER TABLE notes ADD COLUMN more int; DROP INDEX by_mark; CREATE INDEX by_more ON notes (more)`}
		require.NoError(t, be.RunScripts(t.Context(), []backend.Script{s}, backend.ScriptOptions{})[0])
	}
	bad := backend.Script{Route: backend.Route{Store: backend.MustParseStore("bad"), Owner: "o"}, Create: true, SQL: "CREATE TABLE a (id int);\nSELECT nonsense"}
	require.ErrorContains(t, be.RunScripts(t.Context(), []backend.Script{bad}, backend.ScriptOptions{})[0], "nonsense")
	_, err := be.Stat(t.Context(), bad.Route.Store)
	require.ErrorIs(t, err, backend.ErrStoreMissing)

	nodes, err := be.Nodes(t.Context())
	require.NoError(t, err)
	for _, n := range nodes {
		assert.InDelta(t, float64(made)/float64(len(nodes)), float64(len(n.Stores)), 1, n.Name)
	}
	if len(nodes) < 2 {
		return
	}
	moved := backend.Route{Store: nodes[0].Stores[0], Owner: "o"}
	for range 2 { // the second time there is nothing to do
		require.NoError(t, be.MoveStore(t.Context(), moved, nodes[1].Name))
	}
	require.ErrorIs(t, be.MoveStore(t.Context(), backend.Route{Store: moved.Store, Owner: "another"}, nodes[0].Name), backend.ErrStoreMissing)
	after, err := be.Nodes(t.Context())
	require.NoError(t, err)
	assert.Contains(t, after[1].Stores, moved.Store)
	var mark string
	require.NoError(t, be.DB().QueryRowContext(backend.WithRoute(t.Context(), moved), "SELECT mark FROM notes").Scan(&mark))
	assert.Equal(t, "; -- x", mark)
	require.NoError(t, be.Drop(t.Context(), moved))
}

// A shared table that is a reference table is joined and referred to from stores.
func TestCitusShared(t *testing.T) {
	t.Parallel()
	be := open(t, pgtest.Citus(t).Database(t), nil)
	_, err := be.Shared().ExecContext(t.Context(), `CREATE TABLE plans (name text PRIMARY KEY); INSERT INTO plans VALUES ('pro')`)
	require.NoError(t, err)
	for range 2 {
		require.NoError(t, be.ShareEverywhere(t.Context(), "plans"))
	}
	s := backend.Script{
		Route: backend.Route{Store: backend.MustParseStore("a"), Owner: "o"}, Create: true,
		SQL: `CREATE TABLE notes (id int PRIMARY KEY, plan text REFERENCES plans); INSERT INTO notes VALUES (1, 'pro')`,
	}
	require.NoError(t, be.RunScripts(t.Context(), []backend.Script{s}, backend.ScriptOptions{})[0])
	var n int
	require.NoError(t, be.DB().QueryRowContext(backend.WithRoute(t.Context(), s.Route), "SELECT count(*) FROM notes JOIN plans ON plans.name = notes.plan").Scan(&n))
	assert.Equal(t, 1, n)
}

func TestNoNodes(t *testing.T) {
	t.Parallel()
	be := open(t, pgtest.Shared(t).Database(t), nil)
	_, err := backend.NodesOf(t.Context(), be)
	require.ErrorIs(t, err, backend.ErrNoNodes)
	require.ErrorIs(t, be.MoveStore(t.Context(), backend.Route{Store: backend.MustParseStore("a")}, "localhost:5432"), backend.ErrNoNodes)
	require.ErrorIs(t, be.ShareEverywhere(t.Context(), "plans"), backend.ErrNoNodes)
}
