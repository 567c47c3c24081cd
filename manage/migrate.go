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
	shared, tenants bool
	slugs           []string
	fleet           migrate.Fleet
	source          string
	to              int64
	toSet           bool
	steps           int
	failFast        bool
	maxFailures     int
	dryRun          bool
	json, yes       bool
}

func (f *fleet) register(t *tree, cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringSliceVar(&f.slugs, "tenant", nil, "only these tenants' stores (`SLUG,…`)")
	flags.StringVar(&f.source, "source", "", "only this `SOURCE` of migrations; --to is about it")
	flags.IntVar(&f.fleet.Parallel, "parallel", 0, "work on `N` stores at once (default: 2 on Postgres, the number of CPUs on SQLite)")
	flags.BoolVar(&f.failFast, "fail-fast", false, "stop at the first store that fails")
	flags.BoolVar(&f.json, "json", false, "report as JSON, a line for each event")
	_ = cmd.RegisterFlagCompletionFunc("tenant", t.completeSlugList)
	_ = cmd.RegisterFlagCompletionFunc("source", cobra.NoFileCompletions)
}

// check refuses numbers that make no sense, and looks the tenants up.
func (f *fleet) check(cmd *cobra.Command, app *tenancy.App) error {
	for name, n := range map[string]int{"parallel": f.fleet.Parallel, "canary": f.fleet.Canary, "max-failures": f.maxFailures, "steps": f.steps} {
		if flag := cmd.Flags().Lookup(name); flag != nil && flag.Changed && n < 1 {
			return usage(cmd, "--%s must be at least 1", name)
		}
	}
	if flag := cmd.Flags().Lookup("to"); flag != nil && flag.Changed && f.to < 0 {
		return usage(cmd, "--to must be a version")
	}
	switch {
	case f.failFast:
		f.fleet.StopAfter = 1
	case f.maxFailures > 0:
		f.fleet.StopAfter = f.maxFailures + 1
	}
	if cmd.Flags().Changed("tenant") && len(f.slugs) == 0 {
		return usage(cmd, "--tenant names no tenant")
	}
	for _, slug := range f.slugs {
		tenant, err := app.BySlug(cmd.Context(), slug)
		if err != nil {
			return fmt.Errorf("%s: %w", slug, err)
		}
		f.fleet.Stores = append(f.fleet.Stores, tenant.Store)
	}
	return nil
}

func (t *tree) migrateCommand() *cobra.Command {
	var f fleet
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
		tenants := f.tenants || len(f.slugs) > 0
		switch {
		case !f.shared && !tenants:
			f.shared, tenants = true, true
		case !tenants && (cmd.Flags().Changed("canary") || cmd.Flags().Changed("parallel")):
			return usage(cmd, "--canary and --parallel are about tenants; leave --shared away, or add --tenants")
		}
		var dryRun io.Writer
		if f.dryRun {
			if f.json {
				return usage(cmd, "--dry-run prints SQL; leave --json away")
			}
			dryRun = cmd.OutOrStdout()
		}
		p := t.progress(cmd, f.json)
		if !f.dryRun {
			f.fleet.OnEvent = p.event
		}
		up := func(scope migrate.Scope) (*migrate.Result, error) {
			if f.to != 0 {
				return app.Migrator().UpTo(cmd.Context(), f.source, f.to, migrate.UpToOptions{Fleet: f.fleet, Scope: scope, DryRun: dryRun})
			}
			return app.Migrator().Up(cmd.Context(), migrate.UpOptions{Fleet: f.fleet, Scope: scope, Source: f.source, DryRun: dryRun})
		}
		unknown := error(nil)
		if f.shared {
			res, err := up(migrate.SharedOnly)
			if f.source != "" && tenants && errors.Is(err, migrate.ErrUnknownSource) {
				unknown = err // it may be in the other set
			} else if err = t.finish(cmd, p, &f, res, err); err != nil {
				return err
			}
		}
		if !tenants {
			return nil
		}
		res, err := up(migrate.TenantsOnly)
		if f.source != "" && f.shared && errors.Is(err, migrate.ErrUnknownSource) {
			if unknown == nil {
				return nil // it was in the shared set
			}
			return errors.Join(unknown, err)
		}
		return t.finish(cmd, p, &f, res, err)
	})
	f.register(t, cmd)
	flags := cmd.Flags()
	flags.BoolVar(&f.shared, "shared", false, "the shared store")
	flags.BoolVar(&f.tenants, "tenants", false, "the tenants' stores (default: both)")
	flags.Int64Var(&f.to, "to", 0, "stop at version `V`")
	flags.IntVar(&f.fleet.Canary, "canary", 0, "migrate `N` stores first, and the rest only when all of them succeeded")
	flags.IntVar(&f.maxFailures, "max-failures", 0, "stop when more than `N` stores have failed")
	flags.BoolVar(&f.dryRun, "dry-run", false, "print the SQL that would be run, and change nothing")
	return cmd
}

func (t *tree) rollbackCommand() *cobra.Command {
	var f fleet
	cmd := t.backward(&f, "rollback", "Undo migrations", "undoes migrations, with the data in what they made,",
		"Undoes the last migration of a source, or several, newest first.", func(ctx context.Context, m *migrate.Migrator, f *fleet, opt migrate.SourceOptions) (*migrate.Result, error) {
			if f.toSet {
				return m.DownTo(ctx, f.source, f.to, opt)
			}
			return m.Down(ctx, f.source, f.steps, opt)
		})
	cmd.Flags().Int64Var(&f.to, "to", 0, "keep version `V` and what is older; 0 undoes everything")
	cmd.Flags().IntVar(&f.steps, "steps", 1, "undo the last `N` migrations")
	return cmd
}

func (t *tree) redoCommand() *cobra.Command {
	var f fleet
	return t.backward(&f, "redo", "Undo the newest migration and apply it again", "undoes the newest migration, with the data in what it made,",
		"Undoes the newest migration of a source and applies it again.", func(ctx context.Context, m *migrate.Migrator, f *fleet, opt migrate.SourceOptions) (*migrate.Result, error) {
			return m.Redo(ctx, f.source, opt)
		})
}

func (t *tree) baselineCommand() *cobra.Command {
	var f fleet
	cmd := t.backward(&f, "baseline", "Record migrations as applied, without running them", "records migrations as applied, whether their tables are there or not,",
		"Records the migrations of a source as applied: for stores that got their tables in another way. Also accepts, as they\n"+
			"are now, the files of migrations that were edited after they were applied.", func(ctx context.Context, m *migrate.Migrator, f *fleet, opt migrate.SourceOptions) (*migrate.Result, error) {
			return m.Baseline(ctx, f.source, f.to, opt)
		})
	cmd.Flags().Int64Var(&f.to, "to", 0, "up to version `V` (default: all)")
	return cmd
}

// sourceVerb is what a command does to one source.
type sourceVerb func(ctx context.Context, m *migrate.Migrator, f *fleet, opt migrate.SourceOptions) (*migrate.Result, error)

// backward makes a command that works on one source, and asks first.
func (t *tree) backward(f *fleet, name, short, what, long string, do sourceVerb) *cobra.Command {
	cmd := leaf(&cobra.Command{
		Use:   name,
		Short: short,
		Long:  long + "\nIn every tenant's store, unless --tenant or --shared says otherwise.",
	})
	cmd.RunE = t.run(func(cmd *cobra.Command, app *tenancy.App, _ []string) error {
		if err := f.check(cmd, app); err != nil {
			return err
		}
		if cmd.Flags().Changed("to") && cmd.Flags().Changed("steps") {
			return usage(cmd, "--to and --steps exclude each other")
		}
		set := migrate.SetTenant
		word, where := "all", "in every tenant's store"
		switch {
		case f.shared && len(f.slugs) > 0:
			return usage(cmd, "--shared and --tenant exclude each other")
		case f.shared:
			set = migrate.SetShared
			word, where = "shared", "in the shared store"
		case len(f.slugs) > 0:
			word = strings.Join(f.slugs, ",")
			where = "in the store of " + word
		}
		if err := t.confirm(cmd, f.yes, word, what+" "+where); err != nil {
			return err
		}
		p := t.progress(cmd, f.json)
		f.fleet.OnEvent = p.event
		f.toSet = cmd.Flags().Changed("to")
		res, err := do(cmd.Context(), app.Migrator(), f, migrate.SourceOptions{Fleet: f.fleet, Set: set})
		return t.finish(cmd, p, f, res, err)
	})
	f.register(t, cmd)
	cmd.Flags().BoolVar(&f.shared, "shared", false, "in the shared store instead of the tenants'")
	cmd.Flags().BoolVar(&f.yes, "yes", false, "do not ask")
	return cmd
}

// finish ends the progress, prints what a run came to, and returns what is to be said about it.
func (t *tree) finish(cmd *cobra.Command, p *progress, f *fleet, res *migrate.Result, err error) error {
	p.end()
	var run *migrate.RunError
	if errors.As(err, &run) {
		res = run.Result
	}
	if res == nil || f.dryRun {
		return err
	}
	if f.json {
		if werr := p.line(resultLine{Event: "result", Result: res, Failures: failuresOf(res.Failures)}); werr != nil {
			return errors.Join(err, werr)
		}
	} else {
		fmt.Fprintln(cmd.OutOrStdout(), summary(cmd.Name(), res))
		if werr := printFailures(cmd.ErrOrStderr(), res); werr != nil {
			return errors.Join(err, werr)
		}
	}
	if run == nil {
		return err
	}
	return &manyError{text: t.verdict(cmd, run), err: run, status: ExitFailed}
}

func (t *tree) verdict(cmd *cobra.Command, e *migrate.RunError) string {
	again := t.root.CommandPath() + " " + below(cmd)
	left := ""
	if e.Result.Left > 0 {
		left = "; " + plural(e.Result.Left, "store is", "stores are") + " left: " + again + " goes on with them"
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
	}{{res.Skipped, "done by others"}, {res.Failed, "failed"}, {res.Left, "left"}, {res.Current, "current before"}} {
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

func (t *tree) statusCommand() *cobra.Command {
	var asJSON, check bool
	cmd := leaf(&cobra.Command{
		Use:   "status",
		Short: "Say how far the stores are",
		Long:  "Shows what is applied, pending and failed, and where stores and binary disagree. Reads the ledger alone.",
	})
	cmd.RunE = t.run(func(cmd *cobra.Command, app *tenancy.App, _ []string) error {
		st, err := app.Migrator().Status(cmd.Context())
		if err != nil {
			return err
		}
		if asJSON {
			err = writeJSON(cmd.OutOrStdout(), st)
		} else {
			err = printStatus(cmd.OutOrStdout(), st)
		}
		if err != nil || !check {
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

func printStatus(w io.Writer, st *migrate.Status) error {
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
		return nil
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
