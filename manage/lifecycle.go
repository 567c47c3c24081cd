package manage

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tenement-go/tenement/tenancy"
)

func (t *tree) tenantRename() *cobra.Command {
	cmd := leaf(&cobra.Command{
		Use:               "rename SLUG NEWSLUG",
		Short:             "Give a tenant another slug",
		Long:              "Gives a tenant another slug. Its store, where it is named after the slug, is renamed too; domains stay.",
		ValidArgsFunction: t.completeSlug(tenancy.Active, tenancy.ReadOnly, tenancy.Suspended),
	})
	cmd.RunE = t.change(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		tenant, err := app.BySlug(cmd.Context(), args[0])
		if err == nil {
			tenant, err = app.Rename(cmd.Context(), tenant.ID, args[1])
		}
		return t.done(cmd, err, "%s is %s now", args[0], tenant.Slug)
	})
	return cmd
}

func (t *tree) tenantSuspend() *cobra.Command {
	var reason string
	cmd := leaf(&cobra.Command{
		Use:               "suspend SLUG",
		Short:             "Stop serving a tenant, until it is resumed",
		ValidArgsFunction: t.completeSlug(tenancy.Active, tenancy.ReadOnly),
	})
	cmd.RunE = t.change(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		tenant, err := app.BySlug(cmd.Context(), args[0])
		if err == nil {
			_, err = app.Suspend(cmd.Context(), tenant.ID, reason)
		}
		return t.done(cmd, err, "%s is suspended", args[0])
	})
	cmd.Flags().StringVar(&reason, "reason", "", "why; `TEXT` for those who ask")
	return cmd
}

func (t *tree) tenantReadOnly() *cobra.Command {
	var reason string
	cmd := leaf(&cobra.Command{
		Use:               "read-only SLUG",
		Short:             "Let a tenant be read and not written to, until it is resumed",
		ValidArgsFunction: t.completeSlug(tenancy.Active, tenancy.Suspended),
	})
	cmd.RunE = t.change(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		tenant, err := app.BySlug(cmd.Context(), args[0])
		if err == nil {
			_, err = app.SetReadOnly(cmd.Context(), tenant.ID, reason)
		}
		return t.done(cmd, err, "%s is read-only", args[0])
	})
	cmd.Flags().StringVar(&reason, "reason", "", "why; `TEXT` for those who ask")
	return cmd
}

func (t *tree) tenantResume() *cobra.Command {
	cmd := leaf(&cobra.Command{
		Use:               "resume SLUG",
		Short:             "Serve a suspended or read-only tenant again, in full",
		ValidArgsFunction: t.completeSlug(tenancy.ReadOnly, tenancy.Suspended),
	})
	cmd.RunE = t.change(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		tenant, err := app.BySlug(cmd.Context(), args[0])
		if err == nil {
			_, err = app.Activate(cmd.Context(), tenant.ID)
		}
		return t.done(cmd, err, "%s is active", args[0])
	})
	return cmd
}

func (t *tree) tenantDelete() *cobra.Command {
	var yes bool
	cmd := leaf(&cobra.Command{
		Use:               "delete SLUG",
		Short:             "Stop serving a tenant for good; it can be restored until it is purged",
		ValidArgsFunction: t.completeSlug(tenancy.Active, tenancy.ReadOnly, tenancy.Suspended, tenancy.Failed, tenancy.Provisioning),
	})
	cmd.RunE = t.change(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		tenant, err := app.BySlug(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if err := t.confirm(cmd, yes, tenant.Slug, "stops "+described(tenant)+" from being served"); err != nil {
			return err
		}
		_, err = app.Delete(cmd.Context(), tenant.ID)
		return t.done(cmd, err, "%s is deleted; %s tenant restore %[1]s brings it back, until it is purged", args[0], t.root.CommandPath())
	})
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func (t *tree) tenantRestore() *cobra.Command {
	cmd := leaf(&cobra.Command{Use: "restore SLUG", Short: "Undo delete", ValidArgsFunction: t.completeSlug(tenancy.Deleted)})
	cmd.RunE = t.change(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		tenant, err := app.BySlug(cmd.Context(), args[0])
		if err == nil {
			tenant, err = app.Restore(cmd.Context(), tenant.ID)
		}
		return t.done(cmd, err, "%s is %s", args[0], tenant.Status)
	})
	return cmd
}

func (t *tree) tenantPurge() *cobra.Command {
	var typed string
	cmd := leaf(&cobra.Command{
		Use:   "purge SLUG",
		Short: "Remove a deleted tenant with all its data",
		Long: "Removes a deleted tenant with all its data, for good. The slug has to be typed a second time: on the terminal, where it is\n" +
			"asked for, or with --confirm.",
		Example:           "  " + t.cfg.name + " tenant purge thor --confirm thor",
		ValidArgsFunction: t.completeSlug(tenancy.Deleted),
	})
	cmd.RunE = t.change(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		tenant, err := app.BySlug(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if tenant.Status != tenancy.Deleted {
			return fmt.Errorf("%s is %s; delete it first: %s tenant delete %[1]s", tenant.Slug, tenant.Status, t.root.CommandPath())
		}
		if err := t.confirmTyped(cmd, typed, tenant.Slug, "removes "+described(tenant)+" with all its data, for good"); err != nil {
			return err
		}
		return t.done(cmd, app.Purge(cmd.Context(), tenant.ID), "%s is gone", args[0])
	})
	cmd.Flags().StringVar(&typed, "confirm", "", "the `SLUG` once more, where there is no terminal to ask on")
	_ = cmd.RegisterFlagCompletionFunc("confirm", cobra.NoFileCompletions)
	return cmd
}

// described is a tenant as whoever is about to remove it should see it.
func described(tenant tenancy.Tenant) string {
	text := tenant.Slug
	if tenant.Name != tenant.Slug {
		text += fmt.Sprintf(" (%s)", cell(tenant.Name))
	}
	return text
}

// done prints what was done, unless it was not.
func (t *tree) done(cmd *cobra.Command, err error, format string, args ...any) error {
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), format+"\n", args...)
	return err
}
