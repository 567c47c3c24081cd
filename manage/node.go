package manage

import (
	"context"
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

// placement tells on which node a store is, where there are nodes.
type placement map[backend.Store]string

func placementOf(ctx context.Context, app *tenancy.App) (placement, error) {
	nodes, err := backend.NodesOf(ctx, app.Backend())
	if errors.Is(err, backend.ErrNoNodes) {
		return nil, nil
	}
	at := placement{}
	for _, n := range nodes {
		for _, s := range n.Stores {
			at[s] = n.Name
		}
	}
	return at, err
}

// column adds what p has to say about a store to a row, and nothing where there are no nodes.
func (p placement) column(row []string, s backend.Store) []string {
	if p == nil {
		return row
	}
	return append(row, dash(p[s]))
}

// moveToNode moves a tenant's store to another node.
func moveToNode(cmd *cobra.Command, app *tenancy.App, tenant tenancy.Tenant, node string) error {
	nodes, err := backend.NodesOf(cmd.Context(), app.Backend())
	if err != nil {
		return err
	}
	names := make([]string, len(nodes))
	for i, n := range nodes {
		names[i] = n.Name
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
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s -> %s\n", m.Store, m.From, m.To)
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
