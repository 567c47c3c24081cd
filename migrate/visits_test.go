package migrate

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

// Two stores of one owner that are met at the same moment are two; one that has another name by now is one.
func TestVisitsAreOfOneStore(t *testing.T) {
	t.Parallel()
	at := func(name string) entry { return entry{store: backend.MustParseStore(name), owner: "thor"} }
	first, second := at("a"), at("b")
	for _, renamed := range []bool{false, true} {
		v := newVisits()
		_, counted := v.note(first, backend.Route{}, &outcome{touched: []*migration{{}}})
		require.False(t, counted)
		before, out := backend.Route{}, &outcome{}
		if renamed {
			before = first.route()
		}
		was, counted := v.note(second, before, out)
		require.Equal(t, renamed, counted, "it is not counted twice, nor instead of another")
		require.Len(t, v.list(), map[bool]int{false: 2, true: 1}[renamed])
		if renamed {
			require.Equal(t, first.route(), was.route)
			require.Len(t, out.touched, 1)
			continue
		}
		require.Empty(t, out.touched)
		_, counted = v.note(first, first.route(), &outcome{})
		require.True(t, counted, "met again")
	}
}
