package manage

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tenement-go/tenement/tenancy"
)

func (t *tree) tenantHistory() *cobra.Command {
	var limit int
	var asJSON bool
	cmd := leaf(&cobra.Command{
		Use:               "history SLUG",
		Short:             "Say what was done to a tenant, when and by whom",
		Long:              "Lists a tenant's changes, the latest first. A tenant that is gone is named by its ID.",
		ValidArgsFunction: t.completeSlug(),
	})
	cmd.RunE = t.run(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		if err := atLeast(cmd, 1, "at least 1", "limit"); err != nil {
			return err
		}
		id, err := idOf(cmd.Context(), app, args[0])
		if err != nil {
			return err
		}
		changes, err := app.History(cmd.Context(), id, limit)
		if err != nil {
			return err
		}
		array := newList(cmd.OutOrStdout())
		tab := newTable(cmd.OutOrStdout(), "WHEN", "WHAT", "BY", "DETAIL")
		for _, c := range changes {
			if asJSON {
				if err := array.add(c); err != nil {
					return err
				}
				continue
			}
			tab.add(c.At.Format(time.RFC3339), string(c.Kind), dash(c.Actor), dash(c.Detail))
		}
		switch {
		case asJSON:
			return array.end()
		case tab.count == 0:
			fmt.Fprintln(cmd.ErrOrStderr(), "nothing is known of it")
			return nil
		}
		return tab.end()
	})
	cmd.Flags().IntVar(&limit, "limit", 0, "the latest `N` (default: all that are kept)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

// idOf returns the ID of the tenant that a slug or an ID names. The ID's may be gone.
func idOf(ctx context.Context, app *tenancy.App, name string) (tenancy.ID, error) {
	if id, err := tenancy.ParseID(name); err == nil {
		return id, nil
	}
	tenant, err := app.BySlug(ctx, name)
	return tenant.ID, err
}
