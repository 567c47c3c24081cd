package manage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/tenement-go/tenement/tenancy"
)

func (t *tree) execCommand() *cobra.Command {
	var all, suspended, force, failFast bool
	var parallel int
	cmd := &cobra.Command{
		Use:   "exec (SLUG | --all) -- COMMAND [ARGS…]",
		Short: "Run a command of the application's inside a tenant, or inside all",
		Long: "Runs a command in the context of a tenant, which may be suspended, or of every active tenant. A tenant whose store is\n" +
			"behind this binary's migrations is left out, and counts as failed, unless --force is given." + t.commandList(),
		SilenceUsage:          true,
		DisableFlagsInUseLine: true,
		ValidArgsFunction:     t.completeExec,
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage(cmd, "%w; flags of the command go behind --", err)
	})
	cmd.RunE = t.run(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		slug := ""
		if !all {
			if len(args) == 0 || cmd.ArgsLenAtDash() == 0 {
				return usage(cmd, "SLUG is missing; --all stands for every tenant")
			}
			slug, args = args[0], args[1:]
			if parallel != 0 || suspended || failFast {
				return usage(cmd, "--parallel, --suspended and --fail-fast are for --all")
			}
		} else if cmd.ArgsLenAtDash() > 0 {
			return usage(cmd, "a SLUG and --all exclude each other")
		}
		if parallel < 0 {
			return usage(cmd, "--parallel must be at least 1")
		}
		if len(args) == 0 {
			return usage(cmd, "COMMAND is missing%s", t.known())
		}
		i := slices.IndexFunc(t.cfg.commands, func(c Command) bool { return c.Name == args[0] })
		if i < 0 {
			return usage(cmd, "there is no command %q%s", args[0], t.known())
		}
		c, args := t.cfg.commands[i], args[1:]
		if !all {
			return t.execOne(cmd, app, slug, force, c, args)
		}
		return t.execAll(cmd, app, c, args, fleetTerms{suspended, force, failFast, parallel})
	})
	flags := cmd.Flags()
	flags.BoolVar(&all, "all", false, "in every active tenant")
	flags.BoolVar(&suspended, "suspended", false, "with --all: in suspended tenants too")
	flags.IntVar(&parallel, "parallel", 0, "with --all: in `N` tenants at once (default: the number of CPUs, at most 8)")
	flags.BoolVar(&failFast, "fail-fast", false, "with --all: stop at the first tenant that fails")
	flags.BoolVar(&force, "force", false, "also where the store is behind, or the tenant is deleted")
	return cmd
}

// commandList is the part of the help about the application's commands.
func (t *tree) commandList() string {
	if len(t.cfg.commands) == 0 {
		return "\n\nThis application has no commands for it."
	}
	var b strings.Builder
	b.WriteString("\n\nThe commands:")
	width := 0
	for _, c := range t.cfg.commands {
		width = max(width, len(c.Name))
	}
	for _, c := range t.cfg.commands {
		fmt.Fprintf(&b, "\n  %-*s  %s", width, c.Name, c.Short)
	}
	return b.String()
}

func (t *tree) known() string {
	if len(t.cfg.commands) == 0 {
		return "; the application has registered none"
	}
	var names []string
	for _, c := range t.cfg.commands {
		names = append(names, c.Name)
	}
	return "; there are " + strings.Join(names, ", ")
}

// admit enters the tenant for an operator, who may work on what is not served.
func admit(ctx context.Context, app *tenancy.App, tenant *tenancy.Tenant, force bool) (_ context.Context, leave context.CancelFunc, err error) {
	if !force {
		switch tenant.Status {
		case tenancy.Active, tenancy.ReadOnly, tenancy.Suspended:
		default:
			return nil, nil, fmt.Errorf("%w; --force goes in all the same",
				&tenancy.NotActiveError{Slug: tenant.Slug, Status: tenant.Status, Reason: tenant.Reason})
		}
	}
	ctx, _, leave, err = app.Enter(tenancy.Leave(ctx), tenant, tenancy.Policy{Operator: true, AnyVersion: force})
	if err != nil && !force {
		err = fmt.Errorf("%w; --force goes in all the same", err)
	}
	return ctx, leave, err
}

func (t *tree) execOne(cmd *cobra.Command, app *tenancy.App, slug string, force bool, c Command, args []string) error {
	tenant, err := app.BySlug(cmd.Context(), slug)
	if err != nil {
		return err
	}
	ctx, leave, err := admit(cmd.Context(), app, &tenant, force)
	if err != nil {
		return err
	}
	defer leave()
	err = c.Run(ctx, args, IO{
		In: cmd.InOrStdin(), Out: cmd.OutOrStdout(), Err: cmd.ErrOrStderr(), Terminal: t.cfg.terminal(cmd.InOrStdin()),
	})
	if err != nil && !errors.Is(err, errHelp) {
		return fmt.Errorf("%s: %s: %w", slug, c.Name, err)
	}
	return err
}

type fleetTerms struct {
	suspended, force, failFast bool
	parallel                   int
}

func (t *tree) execAll(cmd *cobra.Command, app *tenancy.App, c Command, args []string, terms fleetTerms) error {
	var mu sync.Mutex // whole lines of several tenants
	filter := tenancy.Filter{Status: []tenancy.Status{tenancy.Active, tenancy.ReadOnly}}
	if terms.suspended {
		filter.Status = append(filter.Status, tenancy.Suspended)
	}
	// Any, because admit knows which tenants an operator may enter.
	opts := []tenancy.ForEachOption{tenancy.Where(filter), tenancy.With(tenancy.Policy{Operator: true, AnyVersion: true})}
	if terms.parallel > 0 {
		opts = append(opts, tenancy.Parallel(terms.parallel))
	}
	if terms.failFast {
		opts = append(opts, tenancy.StopOnError())
	}
	over := map[tenancy.ID]bool{} // where it was run, under mu
	err := app.ForEach(cmd.Context(), func(ctx context.Context, tenant tenancy.Tenant) error {
		out := &lines{mu: &mu, w: cmd.OutOrStdout(), prefix: tenant.Slug + ": "}
		complaints := &lines{mu: &mu, w: cmd.ErrOrStderr(), prefix: tenant.Slug + ": "}
		ctx, leave, err := admit(ctx, app, &tenant, terms.force)
		if err == nil {
			defer leave()
			err = c.Run(ctx, args, IO{In: strings.NewReader(""), Out: out, Err: complaints})
		}
		out.end()
		complaints.end()
		mu.Lock()
		defer mu.Unlock()
		over[tenant.ID] = true
		if err == nil {
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: ok\n", tenant.Slug)
		}
		return err
	}, opts...)
	var failed *tenancy.ForEachError
	if err != nil && !errors.As(err, &failed) {
		return err
	}
	if failed == nil {
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "done in %s\n", plural(len(over), "tenant", "tenants"))
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "done in %s, failed in %d\n", plural(failed.Done, "tenant", "tenants"), len(failed.Failed))
	if err := printTenantErrors(cmd.ErrOrStderr(), failed.Failed); err != nil {
		return err
	}
	return &manyError{text: c.Name + verdictOf(cmd.Context(), app, filter, failed, over), err: failed, status: statusOf(failed)}
}

// statusOf is that of a wrong call when it was one in every tenant.
func statusOf(failed *tenancy.ForEachError) int {
	var wrong *usageError
	for _, f := range failed.Failed {
		if !errors.As(f.Err, &wrong) {
			return ExitFailed
		}
	}
	if failed.Err != nil || len(failed.Failed) == 0 {
		return ExitFailed
	}
	return ExitUsage
}

func printTenantErrors(w io.Writer, failed []*tenancy.TenantError) error {
	if len(failed) == 0 {
		return nil
	}
	tab := newTable(w, "TENANT", "ERROR")
	for i, f := range failed {
		if i == shownFailures {
			break
		}
		tab.add(f.Slug, shorten(said(f.Err), 160))
	}
	if err := tab.end(); err != nil {
		return err
	}
	if more := len(failed) - shownFailures; more > 0 {
		fmt.Fprintf(w, "and %d more\n", more)
	}
	return nil
}

// verdictOf says how a run over many tenants ended, and where it was not run when it ended early.
func verdictOf(ctx context.Context, app *tenancy.App, filter tenancy.Filter, failed *tenancy.ForEachError, over map[tenancy.ID]bool) string {
	text := " failed in " + plural(len(failed.Failed), "tenant", "tenants")
	if failed.Err == nil {
		return text
	}
	var one *tenancy.TenantError
	switch {
	case errors.Is(failed.Err, context.Canceled), errors.Is(failed.Err, context.DeadlineExceeded):
		text = " was interrupted"
	case !errors.As(failed.Err, &one):
		text = ": " + failed.Err.Error()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leftWithin)
	defer cancel()
	var left []string
	n := 0
	for tenant, err := range app.Tenants(ctx, filter) {
		if err != nil {
			return text + "; which tenants are left is not known: " + err.Error()
		}
		if over[tenant.ID] {
			continue
		}
		if n++; n <= leftShown {
			left = append(left, tenant.Slug)
		}
	}
	if n == 0 {
		return text
	}
	if n > leftShown {
		left = append(left, "…")
	}
	return text + "; " + plural(n, "tenant is", "tenants are") + " left: " + strings.Join(left, ", ")
}

const (
	leftWithin = 5 * time.Second // to find out what is left after an interruption
	leftShown  = 20
)

// lines passes whole lines on, each with a prefix.
type lines struct {
	mu     *sync.Mutex // shared by all that write to w
	w      io.Writer
	prefix string
	rest   []byte
}

// maxLine is where a line without an end is broken.
const maxLine = 64 << 10

// Write keeps what is behind the last line break for the next call.
func (l *lines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		i := bytes.IndexByte(l.rest, '\n')
		if i < 0 && len(l.rest) < maxLine {
			return len(p), nil
		}
		if i < 0 {
			i = len(l.rest)
		}
		if err := l.write(l.rest[:i]); err != nil {
			return len(p), err
		}
		l.rest = l.rest[min(i+1, len(l.rest)):]
	}
}

func (l *lines) write(line []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := fmt.Fprintf(l.w, "%s%s\n", l.prefix, line)
	return err
}

func (l *lines) end() {
	if len(l.rest) > 0 {
		_ = l.write(l.rest)
		l.rest = nil
	}
}
