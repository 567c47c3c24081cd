package manage

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/tenancy"
	"github.com/tenement-go/tenement/transfer"
)

func (t *tree) placeCommand() *cobra.Command {
	cmd := group(&cobra.Command{Use: "place", Short: "See where tenants are, when they are in several databases"})
	cmd.AddCommand(t.placeList(), t.placeShare())
	return cmd
}

func (t *tree) placeList() *cobra.Command {
	var asJSON bool
	cmd := leaf(&cobra.Command{
		Use:   "list",
		Short: "List the places and how many stores are in each",
		Long: "Lists the places that tenants can be in, home first, and how many stores are in each, those that were set aside included.\n" +
			"Exits 1 when one cannot be reached.",
		ValidArgsFunction: cobra.NoFileCompletions,
	})
	cmd.RunE = t.run(func(cmd *cobra.Command, app *tenancy.App, _ []string) error {
		type line struct {
			Place  string `json:"place"`
			Stores int    `json:"stores"`
			Error  string `json:"error,omitempty"`
		}
		lines, down := []line{}, error(nil)
		for _, place := range app.Places() {
			l := line{Place: place}
			for _, err := range app.Backend().(backend.Placer).In(place).Stores(cmd.Context()) {
				if err != nil {
					l.Error, down = err.Error(), err
					break
				}
				l.Stores++
			}
			lines = append(lines, l)
		}
		if asJSON {
			if err := writeJSON(cmd.OutOrStdout(), lines); err != nil {
				return err
			}
			return down
		}
		tab := newTable(cmd.OutOrStdout(), "PLACE", "STORES", "ERROR")
		for _, l := range lines {
			tab.add(l.Place, fmt.Sprint(l.Stores), l.Error)
		}
		if err := tab.end(); err != nil {
			return err
		}
		return down
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

func (t *tree) tenantMove() *cobra.Command {
	var place, node string
	cmd := leaf(&cobra.Command{
		Use:   "move SLUG",
		Short: "Move a tenant to another place, or to another node of a Citus cluster",
		Long: "With --place: copies a tenant to another of the places that place list lists, and has it served from there. Nobody reaches\n" +
			"its tables while they are copied. Its old store is set aside where it was until store purge removes it.\n" +
			"With --node: moves its store to another node, by logical replication: its tables need primary keys, and the nodes run with\n" +
			"wal_level=logical. It is served all the while; writers wait for a moment at the end.",
		Example: "  " + t.cfg.name + " tenant move thor --place eu\n" +
			"  " + t.cfg.name + " tenant move thor --node 10.0.0.3:5432",
		ValidArgsFunction: t.completeSlug(),
	})
	cmd.RunE = t.change(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		if (place == "") == (node == "") {
			return usage(cmd, "--place or --node is missing, or there are both: where it is to go to")
		}
		tenant, err := app.BySlug(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if node != "" {
			return t.done(cmd, moveToNode(cmd, app, tenant, node), "tenant %s is on %s", tenant.Slug, node)
		}
		aside, err := transfer.Relocate(cmd.Context(), app, tenant.ID, place, transfer.RelocateOptions{})
		return t.done(cmd, err, "%s is in %s; its old store is set aside as %s", tenant.Slug, place, aside.Store)
	})
	cmd.Flags().StringVar(&place, "place", "", "the `NAME` of the place")
	cmd.Flags().StringVar(&node, "node", "", "the `NODE`, HOST:PORT")
	for _, name := range []string{"place", "node"} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	return cmd
}
