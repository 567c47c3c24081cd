package manage

import (
	"context"
	"fmt"
	"iter"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/tenement-go/tenement/tenancy"
)

// Backups keeps a copy of all stores elsewhere, with their history, and restores from it. The module
// backend/sqlite/litestream has one for SQLite. [WithBackups] gives a program the commands backup and restore.
type Backups interface {
	// Run copies what changes until ctx ends, which is no error.
	Run(ctx context.Context, app *tenancy.App) error
	// RunOnce copies what has changed, and returns.
	RunOnce(ctx context.Context, app *tenancy.App) error
	// Status tells of tenants, the shared store first when there is a tenant without an ID among them.
	Status(ctx context.Context, app *tenancy.App, tenants []tenancy.Tenant) iter.Seq2[BackupStatus, error]
	// Restore puts what a tenant was at a moment in the place of what it is. The old store is set aside.
	Restore(ctx context.Context, app *tenancy.App, id tenancy.ID, at time.Time) (tenancy.AsideStore, error)
	// RestoreAs makes another tenant of what a tenant was at a moment. That one may have been purged.
	RestoreAs(ctx context.Context, app *tenancy.App, id tenancy.ID, at time.Time, spec tenancy.Spec) (tenancy.Tenant, error)
	// RestoreFile writes what a tenant was to a file that there is not yet; without an ID, the shared store with the registry.
	RestoreFile(ctx context.Context, app *tenancy.App, id tenancy.ID, at time.Time, path string) error
}

// BackupStatus says what there is of a store in the backup.
type BackupStatus struct {
	Tenant   tenancy.Tenant // zero: the shared store
	Position string         // of the last change that was copied; empty: there is nothing of it
	At       time.Time      // when it was copied
	// Lag is how long ago that was when the store has changed since, and 0 when all of it is in the backup.
	Lag   time.Duration
	Bytes int64 // what its history takes there
}

// WithBackups adds the commands backup and restore.
func WithBackups(b Backups) Option { return func(c *config) { c.backups = b } }

// backupCommands are the commands that need c.backups.
func (t *tree) backupCommands() []*cobra.Command {
	if t.cfg.backups == nil {
		return nil
	}
	backup := group(&cobra.Command{Use: "backup", Short: "Keep a copy of all stores elsewhere, with their history"})
	backup.AddCommand(t.backupRun(), t.backupStatus())
	return []*cobra.Command{backup, t.restoreCommand()}
}

func (t *tree) backupRun() *cobra.Command {
	var once bool
	cmd := leaf(&cobra.Command{
		Use:   "run",
		Short: "Copy what changes, until it is interrupted",
		Long: "Copies what changes in any store, the shared one included, until it is interrupted. It runs beside the processes that serve,\n" +
			"on the same machine. A second one waits until the first has ended. With --once it ends when everything is copied.",
		ValidArgsFunction: cobra.NoFileCompletions,
	})
	cmd.RunE = t.run(func(cmd *cobra.Command, app *tenancy.App, _ []string) error {
		if once {
			return t.cfg.backups.RunOnce(cmd.Context(), app)
		}
		return t.cfg.backups.Run(cmd.Context(), app)
	})
	cmd.Flags().BoolVar(&once, "once", false, "end when everything is copied")
	return cmd
}

// backupLine is the status of a store as JSON has it.
type backupLine struct {
	Tenant   string     `json:"tenant,omitempty"`
	ID       tenancy.ID `json:"id,omitempty"`
	Position string     `json:"position,omitempty"`
	At       *time.Time `json:"at,omitempty"`
	Lag      float64    `json:"lag_seconds"`
	Bytes    int64      `json:"bytes"`
}

func (t *tree) backupStatus() *cobra.Command {
	var asJSON bool
	cmd := leaf(&cobra.Command{
		Use:   "status [SLUG…]",
		Short: "Say for each store up to when it is in the backup",
		Long: "Asks the backup what there is of the tenants that are named, or of all and of the shared store. LAG is how far behind that is\n" +
			"a store that has changed since. Exits 1 when there is nothing of one.",
		ValidArgsFunction: t.completeSlug(),
	})
	cmd.RunE = t.run(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		tenants, err := backedUp(cmd.Context(), app, args)
		if err != nil {
			return err
		}
		array, tab := newList(cmd.OutOrStdout()), newTable(cmd.OutOrStdout(), "TENANT", "POSITION", "AT", "LAG", "BYTES")
		missing := 0
		for s, err := range t.cfg.backups.Status(cmd.Context(), app, tenants) {
			if err != nil {
				return err
			}
			if s.Position == "" {
				missing++
			}
			if !asJSON {
				tab.add(s.row()...)
			} else if err := array.add(s.line()); err != nil {
				return err
			}
		}
		if asJSON {
			err = array.end()
		} else {
			err = tab.end()
		}
		if err == nil && missing > 0 {
			err = fmt.Errorf("there is nothing of %s in the backup", plural(missing, "store", "stores"))
		}
		return err
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

// backedUp are the tenants of those slugs, or the shared store and all that have a store.
func backedUp(ctx context.Context, app *tenancy.App, slugs []string) (tenants []tenancy.Tenant, err error) {
	for _, slug := range slugs {
		tenant, err := app.BySlug(ctx, slug)
		if err != nil {
			return nil, err
		}
		tenants = append(tenants, tenant)
	}
	if len(slugs) > 0 {
		return tenants, nil
	}
	tenants = append(tenants, tenancy.Tenant{})
	for tenant, err := range app.Tenants(ctx, tenancy.Filter{Status: []tenancy.Status{tenancy.Active, tenancy.ReadOnly, tenancy.Suspended, tenancy.Deleted}}) {
		if err != nil {
			return nil, err
		}
		tenants = append(tenants, tenant)
	}
	return tenants, nil
}

func (s BackupStatus) line() backupLine {
	line := backupLine{Tenant: s.Tenant.Slug, ID: s.Tenant.ID, Position: s.Position, Lag: s.Lag.Seconds(), Bytes: s.Bytes}
	if s.Position != "" {
		line.At = &s.At
	}
	return line
}

func (s BackupStatus) row() []string {
	slug, at, lag := s.Tenant.Slug, "-", "-"
	if s.Tenant.ID == "" {
		slug = "(shared)"
	}
	if s.Position != "" {
		at, lag = s.At.UTC().Format(time.RFC3339), s.Lag.Round(time.Second).String()
	}
	return []string{slug, dash(s.Position), at, lag, strconv.FormatInt(s.Bytes, 10)}
}

func (t *tree) restoreCommand() *cobra.Command {
	var moment, file string
	var spec tenancy.Spec
	var yes, shared bool
	cmd := leaf(&cobra.Command{
		Use:   "restore [SLUG]",
		Short: "Put a tenant back to what it was at a moment",
		Long: "Restores a tenant from the backup, as it was at the moment --at, and checks it. It takes the place of what the tenant has now,\n" +
			"which is set aside until store purge removes it. With --as it becomes another tenant, with --to a file instead. One that\n" +
			"was purged is named by its ID. --shared, with --to, is the store that all tenants share, with the registry.",
		Example: "  " + t.cfg.name + " restore thor --at 2026-11-26T08:30:00Z\n" +
			"  " + t.cfg.name + " restore thor --at 2026-11-26T08:30:00+01:00 --as thor-yesterday",
		ValidArgsFunction: t.completeSlug(),
	})
	complete := specFlags(cmd, &spec)
	cmd.RunE = t.change(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		when, err := time.Parse(time.RFC3339, moment)
		switch {
		case moment == "":
			return usage(cmd, "--at is missing: the moment, such as 2026-11-26T08:30:00Z")
		case err != nil:
			return usage(cmd, "--at %q is no time such as 2026-11-26T08:30:00Z", moment)
		case when.After(time.Now()):
			return usage(cmd, "--at %s is to come", moment)
		case shared != (len(args) == 0):
			return usage(cmd, "name a tenant, or say --shared")
		case shared && file == "":
			return usage(cmd, "--shared needs --to: put the file in its place while nothing is served")
		}
		if err := notEmpty(cmd, "as", "to"); err != nil {
			return err
		}
		for _, name := range specFlagNames {
			if spec.Slug == "" && cmd.Flags().Changed(name) {
				return usage(cmd, "--%s is about the tenant that --as makes", name)
			}
		}
		if err := complete(); err != nil {
			return err
		}
		var tenant tenancy.Tenant
		if !shared {
			if tenant, err = restored(cmd.Context(), app, args[0], spec.Slug != "" || file != ""); err != nil {
				return err
			}
		}
		switch {
		case file != "":
			err := t.cfg.backups.RestoreFile(cmd.Context(), app, tenant.ID, when, file)
			return t.done(cmd, err, "wrote what there was at %s to %s", moment, file)
		case spec.Slug != "":
			made, err := t.cfg.backups.RestoreAs(cmd.Context(), app, tenant.ID, when, spec)
			if err != nil {
				return err
			}
			return t.done(cmd, nil, "made tenant %s of what %s was at %s%s", made.Slug, args[0], moment, at(made))
		}
		if err := t.confirm(cmd, yes, tenant.Slug, "puts "+tenant.Slug+" back to what it was at "+moment); err != nil {
			return err
		}
		aside, err := t.cfg.backups.Restore(cmd.Context(), app, tenant.ID, when)
		return t.done(cmd, err, "%s is what it was at %s; what it had is set aside as %s", tenant.Slug, moment, aside.Store)
	})
	flags := cmd.Flags()
	flags.StringVar(&moment, "at", "", "the `TIME`, as RFC 3339 has it")
	flags.StringVar(&spec.Slug, "as", "", "make a tenant of that `SLUG` of it")
	flags.StringVar(&file, "to", "", "write it to `FILE`")
	flags.BoolVar(&shared, "shared", false, "the shared store")
	flags.BoolVar(&yes, "yes", false, "do not ask")
	cmd.MarkFlagsMutuallyExclusive("as", "to")
	for _, name := range []string{"at", "as"} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	return cmd
}

// restored finds the tenant of a slug; where it need not be there any more, the ID will do.
func restored(ctx context.Context, app *tenancy.App, slugOrID string, gone bool) (tenancy.Tenant, error) {
	if id, err := tenancy.ParseID(slugOrID); err == nil && gone {
		return tenancy.Tenant{ID: id}, nil
	}
	return app.BySlug(ctx, slugOrID)
}
