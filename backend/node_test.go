package backend_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

func TestRebalance(t *testing.T) {
	t.Parallel()
	for _, have := range [][]int{{}, {7}, {1, 1}, {1, 2}, {200, 0}, {9, 0, 0}, {3, 8, 1, 5}} {
		nodes := make([]backend.Node, len(have))
		total, excess := 0, 0
		for i, n := range have {
			nodes[i].Name = fmt.Sprint("node", i)
			for j := range n {
				nodes[i].Stores = append(nodes[i].Stores, backend.MustParseStore(fmt.Sprintf("s%d-%d", i, j)))
			}
			total += n
		}
		at := map[string]int{}
		for _, n := range nodes {
			at[n.Name] = len(n.Stores)
			excess += max(0, len(n.Stores)-(total+len(nodes)-1)/len(nodes))
		}
		moves := backend.Rebalance(nodes)
		seen := map[backend.Store]bool{}
		for _, m := range moves {
			require.False(t, seen[m.Store], "no store moves twice")
			seen[m.Store] = true
			at[m.From]--
			at[m.To]++
		}
		for _, n := range at {
			for _, other := range at {
				require.LessOrEqual(t, n-other, 1, "%v", have)
			}
		}
		require.GreaterOrEqual(t, len(moves), excess)
		require.LessOrEqual(t, len(moves), excess+len(nodes), "%v: no more than it takes", have)
		for i, n := range have {
			require.Len(t, nodes[i].Stores, n, "what it was given is left alone")
		}
	}
}

// No store goes to another place: that is not a node's business.
func TestRebalanceWithinPlaces(t *testing.T) {
	t.Parallel()
	stores := func(names ...string) (all []backend.Store) {
		for _, name := range names {
			all = append(all, backend.MustParseStore(name))
		}
		return all
	}
	require.Equal(t, []backend.StoreMove{{Store: backend.MustParseStore("e"), From: "n3", To: "n4"}}, backend.Rebalance([]backend.Node{
		{Name: "n1", Place: "home", Stores: stores("a", "b", "c")},
		{Name: "n2", Place: "home", Stores: stores("x", "y")},
		{Name: "n3", Place: "eu", Stores: stores("d", "e")},
		{Name: "n4", Place: "eu"},
	}))
}
