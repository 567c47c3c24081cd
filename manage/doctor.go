package manage

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tenement-go/tenement/tenancy"
)

// checkup is a finding and what became of it, as JSON has it.
type checkup struct {
	tenancy.Finding
	Repaired bool   `json:"repaired"`
	Error    string `json:"error,omitempty"` // why it could not be repaired
}

// moves reports the findings whose repair gives somebody's data another place or another owner. None removes it.
func moves(f tenancy.Finding) bool {
	return f.Code == tenancy.FindingStoreOrphan || f.Code == tenancy.FindingFilesOrphan
}

func (t *tree) doctorCommand() *cobra.Command {
	var repair, asJSON, yes bool
	cmd := leaf(&cobra.Command{
		Use:   "doctor",
		Short: "Find what does not fit together, and repair it",
		Long: "Compares the registry, the stores and the ledger, and says what repairing would do, and what is under way. Exits 1 when\n" +
			"something was found that is still there at the end. No repair removes what may be a customer's: a store or a\n" +
			"directory that belongs to nobody is adopted or set aside, which is asked about, or needs --yes.",
	})
	cmd.RunE = t.run(func(cmd *cobra.Command, app *tenancy.App, _ []string) error {
		found, err := app.Doctor(cmd.Context())
		if err != nil {
			return err
		}
		if yes && !repair {
			return usage(cmd, "--yes is for --repair")
		}
		under, err := app.Operations(cmd.Context())
		if err != nil {
			return err
		}
		list := make([]checkup, len(found))
		left := 0
		for i, f := range found {
			list[i].Finding = f
			if repair {
				if err := t.repair(cmd, app, f, yes); err != nil {
					list[i].Error = err.Error()
					if cmd.Context().Err() != nil {
						return err
					}
				} else {
					list[i].Repaired = true
				}
			}
			if !list[i].Repaired {
				left++
			}
		}
		if asJSON {
			err = writeJSON(cmd.OutOrStdout(), map[string]any{"findings": list, "operations": append([]tenancy.Operation{}, under...)})
		} else if err = printSpread(cmd, app); err == nil {
			err = t.printCheckup(cmd, list, under, repair)
		}
		if err != nil || left == 0 {
			return err
		}
		verdict := plural(left, "thing does", "things do") + " not fit"
		if repair {
			return errors.New(verdict + " still")
		}
		for _, f := range found {
			if f.Repair != "" {
				return fmt.Errorf("%s; %s doctor --repair repairs what can be", verdict, t.root.CommandPath())
			}
		}
		return errors.New(verdict)
	})
	cmd.Flags().BoolVar(&repair, "repair", false, "repair what can be")
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	cmd.Flags().BoolVar(&yes, "yes", false, "with --repair: do not ask")
	return cmd
}

func (t *tree) repair(cmd *cobra.Command, app *tenancy.App, f tenancy.Finding, yes bool) error {
	if f.Repair == "" {
		return fmt.Errorf("%w: %s", tenancy.ErrNoRepair, f.Detail)
	}
	if moves(f) {
		if err := t.confirm(cmd, yes, f.Subject, fmt.Sprintf("%s (%s)", f.Repair, f.Subject)); err != nil {
			if !yes && !t.cfg.terminal(cmd.InOrStdin()) {
				return errors.New("it " + f.Repair + "; say so with --yes")
			}
			return err
		}
	}
	return app.Repair(cmd.Context(), f)
}

func (t *tree) printCheckup(cmd *cobra.Command, list []checkup, under []tenancy.Operation, repair bool) error {
	if len(under) > 0 {
		tab := newTable(cmd.OutOrStdout(), "UNDER WAY", "TENANT")
		for _, op := range under {
			tab.add(underWay(op), string(op.Tenant))
		}
		if err := tab.end(); err != nil {
			return err
		}
	}
	if len(list) == 0 {
		_, err := fmt.Fprintln(cmd.OutOrStdout(), "everything fits")
		return err
	}
	last := "REPAIRING"
	if repair {
		last = "REPAIR"
	}
	tab := newTable(cmd.OutOrStdout(), "FINDING", "SUBJECT", "WHAT", last)
	for _, c := range list {
		outcome := dash(c.Repair)
		switch {
		case c.Repaired:
			outcome = "done"
		case repair:
			outcome = "not done: " + c.Error
		}
		tab.add(string(c.Code), c.Subject, c.Detail, outcome)
	}
	return tab.end()
}
