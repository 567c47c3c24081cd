package manage

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
)

// sourceVerb is what a command does to one source of one set.
type sourceVerb func(ctx context.Context, m *migrate.Migrator, source string, opt migrate.DownOptions) (*migrate.Result, error)

func (t *tree) rollbackCommand() *cobra.Command {
	var to int64
	var steps int
	var forget bool
	var cmd *cobra.Command
	cmd = t.backward("rollback", "Undo migrations", "undoes migrations, with the data in what they made,",
		"Undoes the last migration of a source, or several, newest first. One that does not say how is refused.",
		func(ctx context.Context, m *migrate.Migrator, source string, opt migrate.DownOptions) (*migrate.Result, error) {
			opt.Forget = forget
			if cmd.Flags().Changed("to") {
				return m.DownTo(ctx, source, to, opt)
			}
			return m.Down(ctx, source, steps, opt)
		})
	cmd.Flags().Int64Var(&to, "to", 0, "keep version `V` and what is older; 0 undoes everything")
	cmd.Flags().IntVar(&steps, "steps", 1, "undo the last `N` migrations")
	cmd.Flags().BoolVar(&forget, "forget", false, "record migrations that have no Down as not applied; what they made stays")
	return cmd
}

func (t *tree) redoCommand() *cobra.Command {
	var forget bool
	cmd := t.backward("redo", "Undo the newest migration and apply it again",
		"undoes the newest migration, with the data in what it made,",
		"Undoes the newest migration of a source and applies it again. One that does not say how it is undone is refused.",
		func(ctx context.Context, m *migrate.Migrator, source string, opt migrate.DownOptions) (*migrate.Result, error) {
			opt.Forget = forget
			return m.Redo(ctx, source, opt)
		})
	cmd.Flags().BoolVar(&forget, "forget", false, "apply a migration that has no Down again, over what it made")
	return cmd
}

func (t *tree) baselineCommand() *cobra.Command {
	var to int64
	cmd := t.backward("baseline", "Record migrations as applied, without running them",
		"records migrations as applied, whether their tables are there or not,",
		"Records the migrations of a source as applied: for stores that got their tables in another way. Also accepts, as they\n"+
			"are now, the files of migrations that were edited after they were applied.",
		func(ctx context.Context, m *migrate.Migrator, source string, opt migrate.DownOptions) (*migrate.Result, error) {
			return m.Baseline(ctx, source, to, migrate.BaselineOptions{Fleet: opt.Fleet, Set: opt.Set})
		})
	cmd.Flags().Int64Var(&to, "to", 0, "up to version `V` (default: all)")
	return cmd
}

// backward makes a command that works on one source, and asks first.
func (t *tree) backward(name, short, what, long string, do sourceVerb) *cobra.Command {
	var f fleet
	var yes bool
	cmd := leaf(&cobra.Command{
		Use:   name,
		Short: short,
		Long:  long + "\nIn every tenant's store, unless --tenant or --shared says otherwise.",
	})
	cmd.RunE = t.change(func(cmd *cobra.Command, app *tenancy.App, _ []string) error {
		if err := f.check(cmd, app); err != nil {
			return err
		}
		if cmd.Flags().Changed("to") && cmd.Flags().Changed("steps") {
			return usage(cmd, "--to and --steps exclude each other")
		}
		opt := migrate.DownOptions{Fleet: f.terms}
		word, where := "all", "in every tenant's store"
		switch {
		case f.shared && len(f.slugs) > 0:
			return usage(cmd, "--shared and --tenant exclude each other")
		case f.shared:
			opt.Set = migrate.SetShared
			word, where = "shared", "in the shared store"
		case len(f.slugs) > 0:
			word = strings.Join(f.slugs, ",")
			where = "in the store of " + word
		}
		if err := t.confirm(cmd, yes, word, what+" "+where); err != nil {
			return err
		}
		p := t.progress(cmd, f.json)
		opt.OnEvent = p.event
		res, err := do(cmd.Context(), app.Migrator(), f.source, opt)
		if errors.Is(err, migrate.ErrNoDown) {
			err = fmt.Errorf("%w\nwrite its Down, or forget with --forget that it was applied; what it made stays then", err)
		}
		return t.finish(cmd, p, res, err)
	})
	f.register(t, cmd)
	cmd.Flags().BoolVar(&f.shared, "shared", false, "in the shared store instead of the tenants'")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}
