package manage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/tenancy"
)

func (t *tree) citusCommand() *cobra.Command {
	cmd := group(&cobra.Command{Use: "citus", Short: "Look after a Citus cluster"})
	cmd.AddCommand(t.citusRebalance(), t.citusShare())
	return cmd
}

// placement tells where stores are: on which node of a Citus cluster, and in which place, where there are several.
type placement struct {
	nodes  map[backend.Store]string // nil: there are none
	placer backend.Placer           // nil: there is one place
}

// whereabouts is what it says of one store.
type whereabouts struct {
	Node  string `json:"node,omitempty"`
	Place string `json:"place,omitempty"`
}

func placementOf(ctx context.Context, app *tenancy.App) (p placement, err error) {
	if len(app.Places()) > 1 {
		p.placer = app.Backend().(backend.Placer)
	}
	nodes, err := backend.NodesOf(ctx, app.Backend())
	if errors.Is(err, backend.ErrNoNodes) {
		return p, nil
	}
	p.nodes = map[backend.Store]string{}
	for _, n := range nodes {
		for _, s := range n.Stores {
			p.nodes[s] = n.Name
		}
	}
	return p, err
}

// of says where a store is, as far as is known: a place need not be asked, nor be up.
func (p placement) of(ctx context.Context, s backend.Store) (w whereabouts, err error) {
	w.Node = p.nodes[s]
	if p.placer != nil {
		w.Place, err = p.placer.PlaceOf(ctx, s)
	}
	return w, err
}

// columns adds to a row what there is to be said: all of a table's rows are alike.
func (p placement) columns(row []string, node, place string) []string {
	if p.placer != nil {
		row = append(row, dash(place))
	}
	if p.nodes != nil {
		row = append(row, dash(node))
	}
	return row
}

// with adds the members to an object of JSON.
func (w whereabouts) with(object []byte) ([]byte, error) {
	more, err := json.Marshal(w)
	if err != nil || len(more) == len("{}") {
		return object, err
	}
	return append(append(bytes.TrimSuffix(object, []byte("}")), ','), more[1:]...), nil
}

// located is a tenant and where it is, as JSON has it.
type located struct {
	tenancy.Tenant
	at whereabouts
}

// MarshalJSON adds to the tenant's own members.
func (l located) MarshalJSON() ([]byte, error) {
	text, err := json.Marshal(l.Tenant)
	if err != nil {
		return nil, err
	}
	return l.at.with(text)
}

// printSpread says in a line how many stores are on each node, where there are nodes.
func printSpread(cmd *cobra.Command, app *tenancy.App) error {
	nodes, err := backend.NodesOf(cmd.Context(), app.Backend())
	if errors.Is(err, backend.ErrNoNodes) || err == nil && len(nodes) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	var parts []string
	for _, n := range nodes {
		parts = append(parts, fmt.Sprintf("%s: %s", n.Name, plural(len(n.Stores), "store", "stores")))
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), strings.Join(parts, ", "))
	return err
}

// moveToNode moves a tenant's store to another node.
func moveToNode(cmd *cobra.Command, app *tenancy.App, tenant tenancy.Tenant, node string) error {
	nodes, err := backend.NodesOf(cmd.Context(), app.Backend())
	if err != nil {
		return err
	}
	place, err := app.PlaceOf(cmd.Context(), tenant)
	if err != nil {
		return err
	}
	var names []string
	for _, n := range nodes {
		if n.Place == place {
			names = append(names, n.Name)
		}
	}
	if len(names) == 0 {
		return fmt.Errorf("the tenant is in %s: %w", place, backend.ErrNoNodes)
	}
	if !slices.Contains(names, node) {
		return usage(cmd, "--node %q is none; there are %s", node, strings.Join(names, ", "))
	}
	return app.Backend().(backend.Noder).MoveStore(cmd.Context(), tenant.Route(), node)
}

func (t *tree) citusRebalance() *cobra.Command {
	var dry bool
	cmd := leaf(&cobra.Command{
		Use:   "rebalance",
		Short: "Spread the tenants' stores over the nodes",
		Long:  "Moves stores from the nodes that have the most to those that have the fewest, one after the other, as tenant move does.",
	})
	cmd.RunE = t.change(func(cmd *cobra.Command, app *tenancy.App, _ []string) error {
		nodes, err := backend.NodesOf(cmd.Context(), app.Backend())
		if err != nil {
			return err
		}
		moves := backend.Rebalance(nodes)
		for _, m := range moves {
			if !dry {
				// Whoever it belongs to: the name stays its own while it is moved.
				if err := app.Backend().(backend.Noder).MoveStore(cmd.Context(), backend.Route{Store: m.Store}, m.To); err != nil {
					return err
				}
			}
			if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: %s -> %s\n", m.Store, m.From, m.To); err != nil {
				return err
			}
		}
		if len(moves) == 0 {
			return t.done(cmd, nil, "the stores are spread already")
		}
		return nil
	})
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only say what would be moved")
	return cmd
}

func (t *tree) citusShare() *cobra.Command {
	cmd := leaf(&cobra.Command{
		Use:   "share TABLE…",
		Short: "Make reference tables of shared tables",
		Long: "Makes reference tables of tables in the schema public: each node gets a copy, so that tenants' tables may refer to them and\n" +
			"join them where they are. Nothing happens to those that are it already.",
		ValidArgsFunction: cobra.NoFileCompletions,
	})
	cmd.RunE = t.change(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		s, ok := app.Backend().(backend.Sharer)
		if !ok {
			return backend.ErrNoNodes
		}
		err := s.ShareEverywhere(cmd.Context(), args...)
		return t.done(cmd, err, "on each node: %s", strings.Join(args, ", "))
	})
	return cmd
}
