package manage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/tenancy"
	"github.com/tenement-go/tenement/transfer"
)

func (t *tree) transferCommand() *cobra.Command {
	var opt transfer.MoveOptions
	var target string
	var slugs []string
	cmd := leaf(&cobra.Command{
		Use:   "transfer",
		Short: "Take tenants to another database, such as from SQLite to Postgres",
		Long: "Copies the shared tables, the registry and the tenants to another database, of either kind. Each tenant is made by this\n" +
			"program's migrations at the versions that it has, loaded, and compared with what was sent; it is read-only while that goes\n" +
			"on, and can be read. Tenants are in service there when all of them are there: all at once, or none. What is here stays as\n" +
			"it is.\n\n" +
			"What is written here after a tenant was copied is not there. So stop the application first or, for a shorter stop, run it\n" +
			"with --prepare, stop the application, and run it with --resume, which copies what has changed. --resume also goes on after\n" +
			"whatever has ended it. Directories of files are named after the tenants' IDs, which stay: they serve there as they are.",
		Example: "  " + t.cfg.name + " transfer --to postgres://localhost/app\n" +
			"  " + t.cfg.name + " transfer --to postgres://localhost/app --prepare\n  " + t.cfg.name + " transfer --to postgres://localhost/app --resume",
	})
	allowed := allowFlag(cmd)
	cmd.RunE = t.change(func(cmd *cobra.Command, app *tenancy.App, _ []string) error {
		if target == "" {
			return usage(cmd, "--to is missing")
		}
		if err := atLeast(cmd, 1, "at least 1", "parallel"); err != nil {
			return err
		}
		if err := notEmpty(cmd, "tenant"); err != nil {
			return err
		}
		var err error
		if opt.Mappings, err = allowed(); err != nil {
			return err
		}
		for _, slug := range slugs {
			tenant, err := app.BySlug(cmd.Context(), slug)
			if err != nil {
				return fmt.Errorf("%s: %w", slug, err)
			}
			opt.Tenants = append(opt.Tenants, tenant.ID)
		}
		return t.transferTo(cmd, app, target, opt)
	})
	flags := cmd.Flags()
	flags.StringVar(&target, "to", "", "the `URL` of the database to take them to")
	flags.StringSliceVar(&slugs, "tenant", nil, "only these tenants (`SLUG,…`)")
	flags.BoolVar(&opt.Resume, "resume", false, "go on with a transfer that was interrupted or prepared")
	flags.BoolVar(&opt.Prepare, "prepare", false, "copy, and put nobody into service there yet")
	flags.BoolVar(&opt.NoShared, "no-shared", false, "leave the shared tables there as they are")
	flags.IntVar(&opt.Parallel, "parallel", 0, "copy `N` tenants at once (default 4)")
	flags.StringSliceVar(&opt.Without, "without", nil, "leave out `TABLE`; may be repeated")
	for _, name := range []string{"to", "without"} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	_ = cmd.RegisterFlagCompletionFunc("tenant", t.completeSlugList)
	return cmd
}

func (t *tree) transferTo(cmd *cobra.Command, app *tenancy.App, url string, opt transfer.MoveOptions) (err error) {
	be, err := backend.Open(cmd.Context(), url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, be.Close()) }()
	to, err := app.Elsewhere(cmd.Context(), be)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	show := &moveProgress{cmd: cmd, terminal: t.cfg.terminal(cmd.ErrOrStderr())}
	opt.OnEvent = show.event
	res, err := transfer.Move(cmd.Context(), app, to, opt)
	show.end()
	if res != nil {
		if werr := printMoved(cmd, res); werr != nil {
			err = errors.Join(err, werr)
		}
	}
	return t.moved(cmd, res, err)
}

// moved says what came of it, and what is left to do.
func (t *tree) moved(cmd *cobra.Command, res *transfer.MoveResult, err error) error {
	again := t.root.CommandPath() + " transfer --to URL --resume"
	var many *transfer.MoveError
	switch {
	case errors.As(err, &many):
		tab := newTable(cmd.ErrOrStderr(), "TENANT", "ERROR")
		for _, f := range many.Failures {
			tab.add(f.Tenant.Slug, shorten(said(f.Err), 200))
		}
		text := fmt.Sprintf("%s could not be moved, and nobody is in service there; %s goes on with the rest", plural(len(many.Failures), "tenant", "tenants"), again)
		return errors.Join(tab.end(), &manyError{text: text, err: err, status: ExitFailed})
	case errors.Is(err, context.Canceled):
		return &manyError{text: "interrupted; " + again + " goes on", err: err, status: ExitFailed}
	case errors.Is(err, transfer.ErrMoveUnfinished):
		return fmt.Errorf("%w\n%s goes on with it", err, again)
	case err != nil:
		return err
	case !res.InService:
		return t.done(cmd, nil, "%s there, and not in service yet; %s goes on", plural(len(res.Tenants), "tenant is", "tenants are"), again)
	}
	return t.done(cmd, nil, "%s in service there; what is here stays as it was", plural(len(res.Tenants), "tenant is", "tenants are"))
}

func printMoved(cmd *cobra.Command, res *transfer.MoveResult) error {
	if len(res.Tenants) > 0 {
		tab := newTable(cmd.OutOrStdout(), "TENANT", "ROWS", "RESULT", "READ-ONLY FOR")
		for _, m := range res.Tenants {
			result, locked := "copied", "-"
			if m.Same {
				result = "there already"
			}
			if m.ReadOnly > 0 {
				locked = m.ReadOnly.Round(time.Millisecond).String()
			}
			tab.add(m.Tenant.Slug, fmt.Sprint(m.Rows), result, locked)
		}
		if err := tab.end(); err != nil {
			return err
		}
	}
	for _, s := range res.Aside {
		fmt.Fprintf(cmd.ErrOrStderr(), "a store that was there, and may have been served from, was set aside: %s\n", s)
	}
	for _, t := range res.Left {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s was left: it is %s\n", t.Slug, t.Status)
	}
	return nil
}

// moveProgress shows how far a transfer is: a bar on a terminal, a line now and then elsewhere.
type moveProgress struct {
	cmd      *cobra.Command
	terminal bool
	bar      *progressbar.ProgressBar
	next     time.Duration
}

func (p *moveProgress) event(e transfer.MoveEvent) {
	out := p.cmd.ErrOrStderr()
	if e.Kind == transfer.MoveStarted {
		p.next = lineEvery
		if p.terminal && e.Total > 1 {
			p.bar = newBar(out, e.Total, "tenants")
		} else {
			fmt.Fprintf(out, "%s to copy\n", plural(e.Total, "tenant", "tenants"))
		}
		return
	}
	switch {
	case p.bar != nil:
		if e.Failed > 0 {
			p.bar.Describe(fmt.Sprintf("tenants (%d failed)", e.Failed))
		}
		_ = p.bar.Set(e.Done + e.Failed)
	case e.Kind == transfer.MoveFailed:
		fmt.Fprintf(out, "%s: %s\n", e.Tenant.Slug, said(e.Err))
	case e.Elapsed >= p.next:
		p.next = e.Elapsed + lineEvery
		fmt.Fprintf(out, "%d of %d tenants copied, %d failed\n", e.Done, e.Total, e.Failed)
	}
}

func (p *moveProgress) end() {
	if p.bar != nil {
		_ = p.bar.Clear()
		_ = p.bar.Exit()
	}
}
