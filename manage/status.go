package manage

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
)

func (t *tree) statusCommand() *cobra.Command {
	var asJSON, check bool
	cmd := leaf(&cobra.Command{
		Use:   "status",
		Short: "Say how far the stores are",
		Long:  "Shows what is applied, pending and failed, and where stores and binary disagree. Reads the ledger alone.",
	})
	cmd.RunE = t.run(func(cmd *cobra.Command, app *tenancy.App, _ []string) error {
		st, down := app.Migrator().Status(cmd.Context())
		if st == nil {
			return down
		}
		var err error
		if asJSON {
			err = writeJSON(cmd.OutOrStdout(), st)
		} else {
			err = printStatus(cmd.OutOrStdout(), st)
		}
		if err = errors.Join(down, err); err != nil || !check {
			return err
		}
		switch {
		case !st.Shared.Current:
			return fmt.Errorf("the shared store is behind: %s migrate brings it up to date", t.root.CommandPath())
		case st.Tenants.Pending > 0:
			return fmt.Errorf("%s behind: %s migrate brings them up to date",
				plural(st.Tenants.Pending, "store is", "stores are"), t.root.CommandPath())
		}
		return nil
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	cmd.Flags().BoolVar(&check, "check", false, "exit 1 when anything is pending")
	return cmd
}

func printStatus(to io.Writer, st *migrate.Status) error {
	w := bufio.NewWriter(to) // which keeps the first error, for the tables too
	shared := "current"
	if !st.Shared.Current {
		shared = plural(len(st.Shared.Pending), "migration", "migrations") + " pending"
	}
	c := st.Tenants
	fmt.Fprintf(w, "shared store     %s\n", shared)
	fmt.Fprintf(w, "tenants' stores  %d: %d current, %d pending, %d failed\n", c.Total, c.Current, c.Pending, c.Failed)
	var pending []migrate.GroupStatus
	if !st.Shared.Current {
		pending = append(pending, migrate.GroupStatus{First: "(shared)", Stores: 1, Known: true, Pending: st.Shared.Pending})
	}
	for _, g := range st.Groups {
		if len(g.Pending) > 0 || !g.Known {
			pending = append(pending, g)
		}
	}
	if len(pending) > 0 {
		fmt.Fprintln(w)
		tab := newTable(w, "PENDING IN", "STORES", "FAILED", "MIGRATIONS")
		for _, g := range pending {
			first := g.First
			if g.Stores > 1 {
				first += ", …"
			}
			tab.add(first, strconv.Itoa(g.Stores), strconv.Itoa(g.Failed), pendingNames(g))
		}
		if err := tab.end(); err != nil {
			return err
		}
	}
	if len(st.Failures) > 0 {
		fmt.Fprintln(w)
		tab := newTable(w, "FAILED", "MIGRATION", "SQLSTATE", "ERROR")
		for _, f := range st.Failures {
			tab.add(f.Store, migrationName(f.Source, f.Version, "", 0), dash(f.SQLState), shorten(f.Error, 120))
		}
		if err := tab.end(); err != nil {
			return err
		}
	}
	if len(st.Drift) == 0 {
		return w.Flush()
	}
	fmt.Fprintln(w)
	tab := newTable(w, "DRIFT", "MIGRATION", "IN", "STORES", "MEANING")
	for _, d := range st.Drift {
		in := d.First
		if in == "" {
			in = "(shared)"
		}
		tab.add(string(d.Kind), migrationName(d.Source, d.Version, d.File, 0), in, strconv.Itoa(d.Stores), driftMeaning[d.Kind])
	}
	return tab.end()
}

var driftMeaning = map[migrate.DriftKind]string{
	migrate.DriftEdited:  "the file was changed after it was applied; undo the change, or accept it with baseline",
	migrate.DriftUnknown: "it is applied, and this binary does not have it: it may be older than the stores",
	migrate.DriftInvalid: "an index that was to be made CONCURRENTLY is not valid; drop it and migrate again",
	migrate.DriftLedger:  "the store has other versions than the ledger says; migrate corrects the ledger",
}

func pendingNames(g migrate.GroupStatus) string {
	if !g.Known {
		return "not known yet"
	}
	const shown = 3
	var names []string
	for i, p := range g.Pending {
		if i == shown {
			names = append(names, fmt.Sprintf("and %d more", len(g.Pending)-shown))
			break
		}
		names = append(names, migrationName(p.Source, p.Version, p.File, 0))
	}
	return strings.Join(names, ", ")
}
