package postgres

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/tenement-go/tenement/backend"
)

// What the doctor says about how stores are spread.
func TestUnevenNodes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		have []int
		says bool
	}{{nil, false}, {[]int{200}, false}, {[]int{0, 10}, false}, {[]int{0, 11}, true}, {[]int{100, 110}, false}, {[]int{1000, 1100}, false}, {[]int{90, 111}, true}, {[]int{50, 50, 2}, true}} {
		var nodes []backend.Node
		for i, n := range c.have {
			nodes = append(nodes, backend.Node{Name: fmt.Sprint("node", i), Stores: make([]backend.Store, n)})
		}
		assert.Len(t, adviseNodes(nodes), map[bool]int{true: 1}[c.says], "%v", c.have)
	}
}
