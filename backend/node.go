package backend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// ErrNoNodes says that the backend's stores are not spread over nodes.
var ErrNoNodes = errors.New("the stores are not spread over nodes")

// Noder is the ability to spread stores over the nodes of one database, where the database itself finds them (Citus).
type Noder interface {
	// Nodes lists the nodes that take stores, with the stores that each has. It is empty where there are none.
	Nodes(ctx context.Context) ([]Node, error)
	// MoveStore brings rt's store to a node, by the name that Nodes gives it, while it is used; it does nothing when the
	// store is there. It returns ErrStoreMissing as Drop does, and ErrNoNodes where there are none.
	MoveStore(ctx context.Context, rt Route, node string) error
}

// Sharer is the ability to have a copy of shared tables on each node, which stores may refer to.
type Sharer interface {
	// ShareEverywhere does so with shared tables, by their names, and nothing about those that are there already. It returns
	// ErrNoNodes where there are none.
	ShareEverywhere(ctx context.Context, tables ...string) error
}

// Node is a server that holds stores.
type Node struct {
	Name   string // HOST:PORT
	Place  string // of a backend with several places, the one whose node it is
	Stores []Store
}

// StoreMove is a store that is to go to another node.
type StoreMove struct {
	Store    Store
	From, To string
}

// Rebalance says which stores are to move so that no node has two more than another of its place; as few as possible.
func Rebalance(nodes []Node) (moves []StoreMove) {
	places := map[string][]Node{}
	for _, n := range nodes {
		n.Stores = slices.Clone(n.Stores)
		places[n.Place] = append(places[n.Place], n)
	}
	for _, place := range slices.Sorted(maps.Keys(places)) {
		moves = append(moves, rebalance(places[place])...)
	}
	return moves
}

// rebalance is Rebalance within a place. It changes nodes.
func rebalance(nodes []Node) (moves []StoreMove) {
	count := func(a, b Node) int { return len(a.Stores) - len(b.Stores) }
	for len(nodes) > 1 {
		slices.SortStableFunc(nodes, count)
		least, most := &nodes[0], &nodes[len(nodes)-1]
		last := len(most.Stores) - 1
		if last-len(least.Stores) < 1 {
			break
		}
		s := most.Stores[last]
		most.Stores, least.Stores = most.Stores[:last], append(least.Stores, s)
		moves = append(moves, StoreMove{Store: s, From: most.Name, To: least.Name})
	}
	return moves
}

// NodesOf returns the nodes of a backend's stores, and ErrNoNodes where it has none.
func NodesOf(ctx context.Context, be Backend) ([]Node, error) {
	n, ok := be.(Noder)
	if !ok {
		return nil, ErrNoNodes
	}
	nodes, err := n.Nodes(ctx)
	if err == nil && len(nodes) == 0 {
		err = fmt.Errorf("%w: it is no Citus cluster", ErrNoNodes)
	}
	return nodes, err
}
