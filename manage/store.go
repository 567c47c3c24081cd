package manage

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/tenancy"
)

func (t *tree) storeCommand() *cobra.Command {
	cmd := group(&cobra.Command{Use: "store", Short: "Deal with stores that belong to no tenant"})
	cmd.AddCommand(t.storeAside(), t.storeList(), t.storePurge(), t.storeSpares())
	return cmd
}

func (t *tree) storeAside() *cobra.Command {
	cmd := leaf(&cobra.Command{
		Use:   "aside STORE",
		Short: "Put a store that is no tenant's out of the way",
		Long: "Renames a store that is no tenant's, so that its name is free. Nothing of it is lost: tenant adopt makes a tenant of it\n" +
			"again, store purge removes it for good.",
		ValidArgsFunction: cobra.NoFileCompletions,
	})
	cmd.RunE = t.change(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		name, err := backend.ParseStore(args[0])
		if err != nil {
			return usage(cmd, "%w", err)
		}
		aside, err := app.SetAside(cmd.Context(), name)
		return t.done(cmd, err, "%s is set aside as %s", name, aside.Store)
	})
	return cmd
}

// asideLine is a store that was set aside, as JSON has it.
type asideLine struct {
	Store string `json:"store"`
	Was   string `json:"was"`
	Owner string `json:"owner,omitempty"`
	Bytes *int64 `json:"bytes,omitempty"` // left out where it is not known
}

func (t *tree) storeList() *cobra.Command {
	var asJSON bool
	cmd := leaf(&cobra.Command{Use: "list", Short: "List the stores that were set aside"})
	cmd.RunE = t.run(func(cmd *cobra.Command, app *tenancy.App, _ []string) error {
		stores, err := app.AsideStores(cmd.Context())
		if err != nil {
			return err
		}
		array := newList(cmd.OutOrStdout())
		tab := newTable(cmd.OutOrStdout(), "STORE", "WAS", "OWNER", "BYTES")
		for _, s := range stores {
			line, size := asideLine{Store: s.Store.String(), Was: s.Was, Owner: s.Owner}, "-"
			if s.Bytes >= 0 {
				line.Bytes, size = &s.Bytes, strconv.FormatInt(s.Bytes, 10)
			}
			if !asJSON {
				tab.add(line.Store, line.Was, dash(line.Owner), size)
			} else if err := array.add(line); err != nil {
				return err
			}
		}
		switch {
		case asJSON:
			return array.end()
		case tab.count == 0:
			fmt.Fprintln(cmd.ErrOrStderr(), "no stores were set aside")
			return nil
		}
		return tab.end()
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

func (t *tree) storePurge() *cobra.Command {
	var typed string
	cmd := leaf(&cobra.Command{
		Use:   "purge STORE",
		Short: "Remove a store that was set aside, with all that is in it",
		Long: "Removes a store that was set aside, for good. Its name has to be typed a second time: on the terminal, where it is asked\n" +
			"for, or with --confirm.",
		ValidArgsFunction: cobra.NoFileCompletions,
	})
	cmd.RunE = t.change(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		name, err := backend.ParseStore(args[0])
		if err != nil {
			return usage(cmd, "%w", err)
		}
		if err := t.confirmTyped(cmd, typed, name.String(), "removes the store "+name.String()+" with all that is in it, for good"); err != nil {
			return err
		}
		return t.done(cmd, app.PurgeAside(cmd.Context(), name), "%s is gone", name)
	})
	cmd.Flags().StringVar(&typed, "confirm", "", "the `STORE` once more, where there is no terminal to ask on")
	_ = cmd.RegisterFlagCompletionFunc("confirm", cobra.NoFileCompletions)
	return cmd
}
