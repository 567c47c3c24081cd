package manage

import (
	"github.com/spf13/cobra"

	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
)

func (t *tree) migrateCommand() *cobra.Command {
	var f fleet
	var tenants, dryRun bool
	var to int64
	cmd := leaf(&cobra.Command{
		Use:   "migrate",
		Short: "Bring the shared store and the tenants' stores up to date",
		Long: "Applies what is pending: first to the shared store, then to every tenant's. A store that fails does not stop the others;\n" +
			"the same command, given again, goes on with what is left. Exits 1 when a store failed.",
	})
	cmd.RunE = t.run(func(cmd *cobra.Command, app *tenancy.App, _ []string) error {
		if err := f.check(cmd, app); err != nil {
			return err
		}
		opt := migrate.UpOptions{Fleet: f.terms, Source: f.source}
		switch tenants := tenants || len(f.slugs) > 0; {
		case f.shared && !tenants:
			opt.Scope = migrate.SharedOnly
			if cmd.Flags().Changed("canary") || cmd.Flags().Changed("parallel") {
				return usage(cmd, "--canary and --parallel are about tenants; leave --shared away, or add --tenants")
			}
		case tenants && !f.shared:
			opt.Scope = migrate.TenantsOnly
		}
		up := func() (*migrate.Result, error) {
			if cmd.Flags().Changed("to") {
				return app.Migrator().UpTo(cmd.Context(), f.source, to, migrate.UpToOptions{Fleet: opt.Fleet, Scope: opt.Scope, DryRun: opt.DryRun})
			}
			return app.Migrator().Up(cmd.Context(), opt)
		}
		if dryRun {
			if f.json {
				return usage(cmd, "--dry-run prints SQL; leave --json away")
			}
			opt.DryRun = cmd.OutOrStdout()
			_, err := up()
			return err
		}
		p := t.progress(cmd, f.json)
		opt.OnEvent = p.event
		res, err := up()
		err = t.finish(cmd, p, res, err)
		finishOperations(cmd, app) // a creation may need the shared tables as they are by now
		return err
	})
	f.register(t, cmd)
	flags := cmd.Flags()
	flags.BoolVar(&f.shared, "shared", false, "the shared store")
	flags.BoolVar(&tenants, "tenants", false, "the tenants' stores (default: both)")
	flags.Int64Var(&to, "to", 0, "stop at version `V`")
	flags.IntVar(&f.terms.Canary, "canary", 0, "migrate `N` stores first, and the rest only when all of them succeeded")
	flags.IntVar(&f.terms.StopAfter, "stop-after", 0, "stop when `N` stores have failed")
	flags.BoolVar(&dryRun, "dry-run", false, "print the SQL that would be run, and change nothing")
	return cmd
}
