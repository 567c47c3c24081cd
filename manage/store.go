package manage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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
		Long: "Renames a store that is no tenant's, so that its name is free. Nothing of it is lost: store list lists it, store purge\n" +
			"removes it for good. Renamed by hand to what it was (the schema, or the file), it can be adopted with tenant adopt.",
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

// asideLine is a store, or a directory of a tenant's files, that was set aside, as JSON has it.
type asideLine struct {
	Store string `json:"store,omitempty"`
	Files string `json:"files,omitempty"` // the directory
	Was   string `json:"was"`
	Owner string `json:"owner,omitempty"`
	Bytes *int64 `json:"bytes,omitempty"` // left out where it is not known
}

// asideLines lists the stores that were set aside, and after them the directories.
func asideLines(ctx context.Context, app *tenancy.App) (lines []asideLine, err error) {
	stores, err := app.AsideStores(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range stores {
		line := asideLine{Store: s.Store.String(), Was: s.Was, Owner: s.Owner}
		if s.Bytes >= 0 {
			line.Bytes = &s.Bytes
		}
		lines = append(lines, line)
	}
	dirs, err := app.AsideDirs(ctx)
	for _, d := range dirs {
		lines = append(lines, asideLine{Files: d.Name, Was: string(d.Tenant), Owner: string(d.Tenant)})
	}
	return lines, err
}

func (t *tree) storeList() *cobra.Command {
	var asJSON bool
	cmd := leaf(&cobra.Command{Use: "list", Short: "List the stores and the directories of files that were set aside"})
	cmd.RunE = t.run(func(cmd *cobra.Command, app *tenancy.App, _ []string) error {
		lines, err := asideLines(cmd.Context(), app)
		if err != nil {
			return err
		}
		array := newList(cmd.OutOrStdout())
		tab := newTable(cmd.OutOrStdout(), "NAME", "WAS", "OWNER", "BYTES")
		for _, line := range lines {
			if asJSON {
				if err := array.add(line); err != nil {
					return err
				}
				continue
			}
			size := "-"
			if line.Bytes != nil {
				size = strconv.FormatInt(*line.Bytes, 10)
			}
			tab.add(line.Store+line.Files, line.Was, dash(line.Owner), size)
		}
		switch {
		case asJSON:
			return array.end()
		case tab.count == 0:
			fmt.Fprintln(cmd.ErrOrStderr(), "nothing was set aside")
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
		Use:   "purge NAME",
		Short: "Remove a store that was set aside, with all that is in it",
		Long: "Removes a store, or a directory of files, that was set aside, for good; see store list. Its name has to be typed a second\n" +
			"time: on the terminal, where it is asked for, or with --confirm.",
		ValidArgsFunction: cobra.NoFileCompletions,
	})
	cmd.RunE = t.change(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		name, err := backend.ParseStore(args[0])
		if err != nil {
			return usage(cmd, "%w", err)
		}
		if err := t.confirmTyped(cmd, typed, name.String(), "removes "+name.String()+" with all that is in it, for good"); err != nil {
			return err
		}
		err = app.PurgeAsideDir(cmd.Context(), name.String())
		if errors.Is(err, fs.ErrNotExist) {
			err = app.PurgeAside(cmd.Context(), name)
		}
		return t.done(cmd, err, "%s is gone", name)
	})
	cmd.Flags().StringVar(&typed, "confirm", "", "the `NAME` once more, where there is no terminal to ask on")
	_ = cmd.RegisterFlagCompletionFunc("confirm", cobra.NoFileCompletions)
	return cmd
}
