package manage

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tenement-go/tenement/tenancy"
)

func (t *tree) tenantCommand() *cobra.Command {
	cmd := group(&cobra.Command{Use: "tenant", Short: "Make, list, change and remove tenants"})
	cmd.AddCommand(t.tenantCreate(), t.tenantList(), t.tenantShow(), t.tenantRename(), t.tenantSuspend(), t.tenantResume(),
		t.tenantDelete(), t.tenantRestore(), t.tenantPurge())
	return cmd
}

func (t *tree) tenantCreate() *cobra.Command {
	var spec tenancy.Spec
	var meta []string
	cmd := leaf(&cobra.Command{
		Use:     "create SLUG",
		Short:   "Make a tenant",
		Long:    "Makes a tenant, with a store at the newest version. Given again after it failed or was interrupted, it starts over.",
		Example: "  " + t.cfg.name + " tenant create thor --name Thor --domain thor.example.com --meta plan=pro",
	})
	cmd.RunE = t.run(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		values, err := parseMeta(meta)
		if err != nil {
			return usage(cmd, "%w", err)
		}
		spec.Slug = args[0]
		if values != nil {
			spec.Meta = values
		}
		tenant, err := app.Create(cmd.Context(), spec)
		if err != nil {
			return err
		}
		line := "made tenant " + tenant.Slug
		if domain := tenant.PrimaryDomain(); domain != "" {
			line += " at " + domain
		}
		fmt.Fprintln(cmd.OutOrStdout(), line)
		return nil
	})
	flags := cmd.Flags()
	flags.StringArrayVar(&spec.Domains, "domain", nil, "a `HOST` that leads to it; may be repeated, the first one is primary")
	flags.StringVar(&spec.Name, "name", "", "its `NAME`, for people (default: the slug)")
	flags.StringVar(&spec.Store, "store", "", "the name of its `STORE` (default: the slug)")
	flags.StringArrayVar(&meta, "meta", nil, "metadata, `KEY=VALUE`; may be repeated")
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	for _, name := range []string{"domain", "name", "store", "meta"} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	return cmd
}

func parseMeta(pairs []string) (map[string]string, error) {
	if len(pairs) == 0 {
		return nil, nil
	}
	values := map[string]string{}
	for _, pair := range pairs {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("--meta %q is not KEY=VALUE", pair)
		}
		if _, twice := values[key]; twice {
			return nil, fmt.Errorf("--meta gives %q twice", key)
		}
		values[key] = value
	}
	return values, nil
}

// statuses are what --status takes.
var statuses = []string{
	string(tenancy.Active), string(tenancy.Deleted), string(tenancy.Failed), string(tenancy.Provisioning),
	string(tenancy.ReadOnly), string(tenancy.Suspended),
}

func (t *tree) tenantList() *cobra.Command {
	var status []string
	var asJSON bool
	cmd := leaf(&cobra.Command{Use: "list", Short: "List tenants"})
	cmd.RunE = t.run(func(cmd *cobra.Command, app *tenancy.App, _ []string) error {
		var filter tenancy.Filter
		for _, s := range status {
			if !slices.Contains(statuses, s) {
				return usage(cmd, "--status %q is none; there are %s", s, strings.Join(statuses, ", "))
			}
			filter.Status = append(filter.Status, tenancy.Status(s))
		}
		tab := newTable(cmd.OutOrStdout(), "SLUG", "NAME", "STATUS", "DOMAIN", "CREATED")
		array := newList(cmd.OutOrStdout())
		for tenant, err := range app.Tenants(cmd.Context(), filter) {
			if err != nil {
				return err
			}
			if asJSON {
				if err := array.add(tenant); err != nil {
					return err
				}
				continue
			}
			domain := dash(tenant.PrimaryDomain())
			if more := len(tenant.Domains) - 1; more > 0 {
				domain += fmt.Sprintf(" +%d", more)
			}
			tab.add(tenant.Slug, tenant.Name, string(tenant.Status), domain, tenant.Created.Format(time.DateOnly))
		}
		switch {
		case asJSON:
			return array.end()
		case tab.count == 0:
			fmt.Fprintln(cmd.ErrOrStderr(), "no tenants")
			return nil
		}
		return tab.end()
	})
	cmd.Flags().StringSliceVar(&status, "status", nil, "only those that are `STATUS`: "+strings.Join(statuses, ", "))
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	_ = cmd.RegisterFlagCompletionFunc("status", cobra.FixedCompletions(statuses, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (t *tree) tenantShow() *cobra.Command {
	var asJSON bool
	cmd := leaf(&cobra.Command{Use: "show SLUG", Short: "Show all that is known about a tenant", ValidArgsFunction: t.completeSlug()})
	cmd.RunE = t.run(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		tenant, err := app.BySlug(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if asJSON {
			return writeJSON(cmd.OutOrStdout(), tenant)
		}
		tab := newTable(cmd.OutOrStdout(), "slug", tenant.Slug)
		tab.add("name", tenant.Name)
		tab.add("id", string(tenant.ID))
		status := string(tenant.Status)
		if tenant.Reason != "" {
			status += ": " + tenant.Reason
		}
		tab.add("status", status)
		tab.add("store", tenant.Store.String())
		for _, d := range tenant.Domains {
			if d.Primary {
				tab.add("domain", d.Host+" (primary)")
			} else {
				tab.add("domain", d.Host)
			}
		}
		var meta map[string]json.RawMessage
		if err := json.Unmarshal(tenant.Meta, &meta); err == nil {
			for _, key := range sortedKeys(meta) {
				value := string(meta[key])
				var text string
				if json.Unmarshal(meta[key], &text) == nil {
					value = text
				}
				tab.add("meta", key+"="+value)
			}
		}
		tab.add("created", tenant.Created.Format(time.RFC3339))
		tab.add("updated", tenant.Updated.Format(time.RFC3339))
		return tab.end()
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

func (t *tree) tenantRename() *cobra.Command {
	cmd := leaf(&cobra.Command{
		Use:               "rename SLUG NEWSLUG",
		Short:             "Give a tenant another slug",
		Long:              "Gives a tenant another slug. Its store, where it is named after the slug, is renamed too; domains stay.",
		ValidArgsFunction: t.completeSlug(tenancy.Active, tenancy.Suspended),
	})
	cmd.RunE = t.run(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		tenant, err := app.BySlug(cmd.Context(), args[0])
		if err == nil {
			tenant, err = app.Rename(cmd.Context(), tenant.ID, args[1])
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s is %s now\n", printable(args[0]), tenant.Slug)
		return nil
	})
	return cmd
}

func (t *tree) tenantSuspend() *cobra.Command {
	var reason string
	cmd := leaf(&cobra.Command{
		Use:               "suspend SLUG",
		Short:             "Stop serving a tenant, until it is resumed",
		ValidArgsFunction: t.completeSlug(tenancy.Active),
	})
	cmd.RunE = t.run(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		tenant, err := app.BySlug(cmd.Context(), args[0])
		if err == nil {
			_, err = app.Suspend(cmd.Context(), tenant.ID, reason)
		}
		return t.done(cmd, err, "%s is suspended", args[0])
	})
	cmd.Flags().StringVar(&reason, "reason", "", "why; `TEXT` for those who ask")
	return cmd
}

func (t *tree) tenantResume() *cobra.Command {
	cmd := leaf(&cobra.Command{
		Use:               "resume SLUG",
		Short:             "Serve a suspended tenant again",
		ValidArgsFunction: t.completeSlug(tenancy.Suspended),
	})
	cmd.RunE = t.run(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
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
		ValidArgsFunction: t.completeSlug(tenancy.Active, tenancy.Suspended, tenancy.Failed, tenancy.Provisioning),
	})
	cmd.RunE = t.run(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
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
	cmd.RunE = t.run(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		tenant, err := app.BySlug(cmd.Context(), args[0])
		if err == nil {
			tenant, err = app.Restore(cmd.Context(), tenant.ID)
		}
		return t.done(cmd, err, "%s is %s", args[0], tenant.Status)
	})
	return cmd
}

func (t *tree) tenantPurge() *cobra.Command {
	var yes bool
	cmd := leaf(&cobra.Command{
		Use:               "purge SLUG",
		Short:             "Remove a deleted tenant with all its data",
		ValidArgsFunction: t.completeSlug(tenancy.Deleted),
	})
	cmd.RunE = t.run(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		tenant, err := app.BySlug(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if tenant.Status != tenancy.Deleted {
			return fmt.Errorf("%s is %s; delete it first: %s tenant delete %[1]s", tenant.Slug, tenant.Status, t.root.CommandPath())
		}
		if err := t.confirm(cmd, yes, tenant.Slug, "removes "+described(tenant)+" with all its data, for good"); err != nil {
			return err
		}
		return t.done(cmd, app.Purge(cmd.Context(), tenant.ID), "%s is gone", args[0])
	})
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
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
