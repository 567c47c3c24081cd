package manage

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tenement-go/tenement/tenancy"
)

func (t *tree) storeSpares() *cobra.Command {
	var fill, asJSON bool
	cmd := leaf(&cobra.Command{
		Use:   "spares",
		Short: "Say how many stores are made ahead of sign-ups",
		Long: "Says how many stores are made ahead, of how many that the application wants, and how many of them it can give away: those at\n" +
			"its migrations. With --fill it makes those that are missing, and removes those that are too many or behind, first.",
		ValidArgsFunction: cobra.NoFileCompletions,
	})
	cmd.RunE = t.run(func(cmd *cobra.Command, app *tenancy.App, _ []string) error {
		if fill {
			if err := app.FillSpares(cmd.Context()); err != nil {
				return err
			}
		}
		list, err := app.Spares(cmd.Context())
		if err != nil {
			return err
		}
		if asJSON {
			return writeJSON(cmd.OutOrStdout(), append([]tenancy.Spare{}, list...))
		}
		ready := 0
		for _, s := range list {
			if s.Ready {
				ready++
			}
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s made ahead, %d ready, %d wanted\n", plural(len(list), "store", "stores"), ready, app.SparesWanted())
		return err
	})
	cmd.Flags().BoolVar(&fill, "fill", false, "make those that are missing first")
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}
