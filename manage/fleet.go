package manage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
)

// fleet is the flags of the commands that work on many stores.
type fleet struct {
	shared   bool
	slugs    []string
	source   string
	terms    migrate.Fleet
	failFast bool
	json     bool
}

func (f *fleet) register(t *tree, cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringSliceVar(&f.slugs, "tenant", nil, "only these tenants' stores (`SLUG,…`)")
	flags.StringVar(&f.source, "source", "", "only this `SOURCE` of migrations; --to is about it")
	flags.IntVar(&f.terms.Parallel, "parallel", 0, "work on `N` stores at once (default: 2 on Postgres, the number of CPUs on SQLite)")
	flags.BoolVar(&f.failFast, "fail-fast", false, "stop at the first store that fails")
	flags.BoolVar(&f.json, "json", false, "report as JSON, a line for each event")
	_ = cmd.RegisterFlagCompletionFunc("tenant", t.completeSlugList)
	_ = cmd.RegisterFlagCompletionFunc("source", cobra.NoFileCompletions)
}

// atLeast refuses numbers that make no sense, of the flags that the command has.
func atLeast(cmd *cobra.Command, least int64, what string, names ...string) error {
	for _, name := range names {
		flag := cmd.Flags().Lookup(name)
		if flag == nil || !flag.Changed {
			continue
		}
		if n, err := strconv.ParseInt(flag.Value.String(), 10, 64); err != nil || n < least {
			return usage(cmd, "--%s must be %s", name, what)
		}
	}
	return nil
}

// check refuses flags that make no sense, and looks the tenants up.
func (f *fleet) check(cmd *cobra.Command, app *tenancy.App) error {
	if err := atLeast(cmd, 1, "at least 1", "parallel", "canary", "stop-after", "steps"); err != nil {
		return err
	}
	if err := atLeast(cmd, 0, "a version", "to"); err != nil {
		return err
	}
	switch {
	case f.failFast && f.terms.StopAfter > 0:
		return usage(cmd, "--fail-fast and --stop-after exclude each other")
	case f.failFast:
		f.terms.StopAfter = 1
	}
	if err := notEmpty(cmd, "tenant"); err != nil {
		return err
	}
	for _, slug := range f.slugs {
		tenant, err := app.BySlug(cmd.Context(), slug)
		if err != nil {
			return fmt.Errorf("%s: %w", slug, err)
		}
		f.terms.Stores = append(f.terms.Stores, tenant.Store)
	}
	return nil
}

// finish ends the progress, prints what a run came to, and returns what is to be said about it.
func (t *tree) finish(cmd *cobra.Command, p *progress, res *migrate.Result, err error) error {
	p.end()
	err = t.report(cmd, p, res, err)
	if p.broken != nil {
		err = errors.Join(err, p.broken)
	}
	return err
}

// report prints what a run came to, and returns what is to be said about it.
func (t *tree) report(cmd *cobra.Command, p *progress, res *migrate.Result, err error) error {
	var run *migrate.RunError
	if errors.As(err, &run) {
		res = run.Result
	}
	if res == nil {
		return err
	}
	changed := false
	for _, r := range []*migrate.Result{res.Shared, res} {
		if r == nil {
			continue
		}
		changed = changed || r.Applied > 0
		if werr := p.result(cmd, r); werr != nil {
			return errors.Join(err, werr)
		}
	}
	if changed && !p.json {
		fmt.Fprintf(cmd.ErrOrStderr(), "servers that are running notice within %v\n", migrate.ReadyBound)
	}
	if run == nil {
		return err
	}
	return &manyError{text: t.verdict(cmd, run), err: run, status: ExitFailed}
}

// result prints what one set came to.
func (p *progress) result(cmd *cobra.Command, res *migrate.Result) error {
	if p.json {
		one := *res
		one.Shared = nil // it has a line of its own
		p.line(resultLine{Event: "result", Result: &one, Failures: failuresOf(res.Failures)})
		return nil
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), summary(cmd.Name(), res))
	return errors.Join(err, printFailures(cmd.ErrOrStderr(), res))
}

func (t *tree) verdict(cmd *cobra.Command, e *migrate.RunError) string {
	left := ""
	if e.Result.Left > 0 {
		left = "; " + plural(e.Result.Left, "store is", "stores are") + " left: " + t.goesOn(cmd)
	}
	failed := plural(e.Result.Failed, "store", "stores") + " failed"
	switch {
	case errors.Is(e.Err, context.Canceled), errors.Is(e.Err, context.DeadlineExceeded):
		if e.Result.Failed > 0 {
			return "interrupted; " + failed + left
		}
		return "interrupted" + left
	case errors.Is(e.Err, migrate.ErrCanary):
		return "a canary failed, so the other stores were left alone" + left
	case errors.Is(e.Err, migrate.ErrStopped):
		return "stopped: " + failed + left
	case e.Err != nil:
		return "stopped: " + said(e.Err) + left
	}
	return failed + left
}

// goesOn says how a command is finished that has left stores. What counts from where a store is must not be given again
// as it is: it would undo something else in those in which it is done.
func (t *tree) goesOn(cmd *cobra.Command) string {
	again := t.root.CommandPath() + " " + below(cmd)
	switch {
	case cmd.Name() == "rollback" && !cmd.Flags().Changed("to"):
		return again + " --to V goes on with them, V being the version that is to stay; without it, it would undo more in the others"
	case cmd.Name() == "redo":
		return again + " --tenant SLUG does them; without it, it would do the others once more"
	}
	return again + " goes on with them"
}

func summary(command string, res *migrate.Result) string {
	verb := map[string]string{"migrate": "migrated", "rollback": "rolled back", "redo": "redone", "baseline": "recorded"}[command]
	if res.Set == migrate.SetShared {
		switch {
		case res.Failed > 0:
			return "shared store: failed"
		case res.Applied > 0:
			return "shared store: " + verb
		case res.Left > 0:
			return "shared store: not done"
		}
		return "shared store: nothing to do"
	}
	if res.Total == 0 {
		return "tenants' stores: nothing to do"
	}
	parts := []string{strconv.Itoa(res.Applied) + " " + verb}
	for _, part := range []struct {
		n    int
		what string
	}{{res.Skipped, "done by others"}, {res.Missing, "gone"}, {res.Failed, "failed"}, {res.Left, "left"}, {res.Current, "current before"}} {
		if part.n > 0 {
			parts = append(parts, strconv.Itoa(part.n)+" "+part.what)
		}
	}
	return "tenants' stores: " + strings.Join(parts, ", ")
}

// failure is a store's failure, as JSON has it.
type failure struct {
	Store     string `json:"store"` // empty for the shared store
	Source    string `json:"source,omitempty"`
	Version   int64  `json:"version,omitempty"`
	File      string `json:"file,omitempty"`
	Line      int    `json:"line,omitempty"`
	Statement string `json:"statement,omitempty"`
	SQLState  string `json:"sqlstate,omitempty"`
	Error     string `json:"error"`
}

func failureOf(e *migrate.StoreError) failure {
	return failure{e.Store.String(), e.Source, e.Version, e.File, e.Line, e.Statement, e.SQLState, e.Err.Error()}
}

func failuresOf(list []*migrate.StoreError) []failure {
	var out []failure
	for _, e := range list {
		out = append(out, failureOf(e))
	}
	return out
}

// resultLine is a result, as JSON has it.
type resultLine struct {
	Event string `json:"event"`
	*migrate.Result
	Failures []failure `json:"failures,omitempty"`
}

// shownFailures is how many rows the table of the failures has: a fault that is in the migration is in every store.
const shownFailures = 50

func printFailures(w io.Writer, res *migrate.Result) error {
	if len(res.Failures) == 0 {
		return nil
	}
	tab := newTable(w, "STORE", "MIGRATION", "SQLSTATE", "ERROR", "STATEMENT")
	for i, e := range res.Failures {
		if i == shownFailures {
			break
		}
		tab.add(storeName(e.Store), migrationName(e.Source, e.Version, e.File, e.Line), dash(e.SQLState),
			shorten(said(e.Err), 120), dash(shorten(e.Statement, 80)))
	}
	if err := tab.end(); err != nil {
		return err
	}
	if more := res.Failed - shownFailures; more > 0 {
		fmt.Fprintf(w, "and %d more\n", more)
	}
	return nil
}

func storeName(s backend.Store) string {
	if s.IsZero() {
		return "(shared)"
	}
	return s.String()
}

func migrationName(source string, version int64, file string, line int) string {
	if source == "" {
		return "-"
	}
	name := fmt.Sprintf("%s %d", source, version)
	if file != "" {
		name = source + "/" + file
	}
	if line > 0 {
		name += ":" + strconv.Itoa(line)
	}
	return name
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// shorten puts text on one line of at most n characters.
func shorten(text string, n int) string {
	text = strings.Join(strings.Fields(text), " ")
	if runes := []rune(text); len(runes) > n {
		return string(runes[:n-1]) + "…"
	}
	return text
}
