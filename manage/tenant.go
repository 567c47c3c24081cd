package manage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tenement-go/tenement/tenancy"
)

func (t *tree) tenantCommand() *cobra.Command {
	cmd := group(&cobra.Command{Use: "tenant", Short: "Make, list, change and remove tenants"})
	cmd.AddCommand(t.tenantCreate(), t.tenantAdopt(), t.tenantList(), t.tenantShow(), t.tenantMove(), t.tenantHistory(), t.tenantRename(),
		t.tenantSuspend(), t.tenantReadOnly(), t.tenantResume(), t.tenantDelete(), t.tenantRestore(), t.tenantPurge(),
		t.tenantExport(), t.tenantImport(), t.tenantClone(), t.tenantVerify())
	return cmd
}

// specFlagNames are the flags that specFlags makes.
var specFlagNames = []string{"domain", "name", "meta", "place", "reserved"}

// specFlags makes the flags of the commands that make a tenant, and returns what puts their values into the spec.
func specFlags(cmd *cobra.Command, spec *tenancy.Spec) (complete func() error) {
	var meta []string
	flags := cmd.Flags()
	flags.StringArrayVar(&spec.Domains, "domain", nil, "a `HOST` that leads to it; may be repeated, the first one is primary")
	flags.StringVar(&spec.Name, "name", "", "its `NAME`, for people (default: the slug)")
	flags.StringArrayVar(&meta, "meta", nil, "metadata, `KEY=VALUE`; may be repeated")
	flags.StringVar(&spec.Place, "place", "", "the `PLACE` where its store is to be (default: the one with the fewest)")
	flags.BoolVar(&spec.Reserved, "reserved", false, "allow a slug that is reserved, such as www")
	for _, name := range specFlagNames {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	return func() error {
		values, err := parseMeta(meta)
		if err != nil {
			return usage(cmd, "%w", err)
		}
		if values != nil {
			spec.Meta = values
		}
		return nil
	}
}

func (t *tree) tenantCreate() *cobra.Command {
	var spec tenancy.Spec
	cmd := leaf(&cobra.Command{
		Use:               "create SLUG",
		Short:             "Make a tenant",
		Long:              "Makes a tenant, with a store at the newest version. Given again after it failed or was interrupted, it starts over.",
		Example:           "  " + t.cfg.name + " tenant create thor --name Thor --domain thor.example.com --meta plan=pro",
		ValidArgsFunction: cobra.NoFileCompletions,
	})
	complete := specFlags(cmd, &spec)
	// Not change: a creation that was interrupted is what this command itself goes on with.
	cmd.RunE = t.run(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		if err := complete(); err != nil {
			return err
		}
		spec.Slug = args[0]
		tenant, err := app.Create(cmd.Context(), spec)
		if err != nil {
			return err
		}
		return t.done(cmd, nil, "made tenant %s%s", tenant.Slug, at(tenant))
	})
	cmd.Flags().StringVar(&spec.Store, "store", "", "the name of its `STORE` (default: the slug)")
	_ = cmd.RegisterFlagCompletionFunc("store", cobra.NoFileCompletions)
	return cmd
}

// at says where a tenant is to be found.
func at(tenant tenancy.Tenant) string {
	if domain := tenant.PrimaryDomain(); domain != "" {
		return " at " + domain
	}
	return ""
}

func (t *tree) tenantAdopt() *cobra.Command {
	var spec tenancy.Spec
	cmd := leaf(&cobra.Command{
		Use:   "adopt STORE [SLUG]",
		Short: "Make a tenant of a schema or a file that is there already",
		Long: "Makes a tenant of a store that is nobody's: a schema or a file from before there were tenants, or one that was restored\n" +
			"from a dump. Its tables stay as they are. Where they came without migrations, baseline records which ones they have.",
		Example:           "  " + t.cfg.name + " tenant adopt thor --domain thor.example.com",
		ValidArgsFunction: cobra.NoFileCompletions,
	})
	complete := specFlags(cmd, &spec)
	cmd.RunE = t.change(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		if err := complete(); err != nil {
			return err
		}
		spec.Store = args[0]
		if len(args) > 1 {
			spec.Slug = args[1]
		}
		tenant, err := app.Adopt(cmd.Context(), spec)
		if err != nil {
			return err
		}
		if err := t.done(cmd, nil, "store %s is that of tenant %s%s", tenant.Store, tenant.Slug, at(tenant)); err != nil {
			return err
		}
		if err := app.Migrator().Ready(cmd.Context(), tenant.Route()); errors.Is(err, tenancy.ErrBehind) {
			root := t.root.CommandPath()
			fmt.Fprintf(cmd.ErrOrStderr(), "%s\n%[2]s migrate --tenant %[3]s brings it up to date; %[2]s baseline --tenant %[3]s records what it has already\n",
				said(err), root, tenant.Slug)
		}
		return nil
	})
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
	var status, meta []string
	var asJSON bool
	cmd := leaf(&cobra.Command{Use: "list", Short: "List tenants"})
	cmd.RunE = t.run(func(cmd *cobra.Command, app *tenancy.App, _ []string) error {
		var filter tenancy.Filter
		members, err := parseMeta(meta)
		if err != nil {
			return usage(cmd, "%w", err)
		}
		for key, value := range members {
			if filter.Meta == nil {
				filter.Meta = map[string]any{}
			}
			filter.Meta[key] = value
		}
		for _, s := range status {
			if !slices.Contains(statuses, s) {
				return usage(cmd, "--status %q is none; there are %s", s, strings.Join(statuses, ", "))
			}
			filter.Status = append(filter.Status, tenancy.Status(s))
		}
		at, err := placementOf(cmd.Context(), app)
		if err != nil {
			return err
		}
		header := []string{"SLUG", "NAME", "STATUS", "DOMAIN", "CREATED"}
		tab := newTable(cmd.OutOrStdout(), at.columns(header, "NODE", "PLACE")...)
		array := newList(cmd.OutOrStdout())
		for tenant, err := range app.Tenants(cmd.Context(), filter) {
			if err != nil {
				return err
			}
			where, err := at.of(cmd.Context(), tenant.Store)
			if err != nil {
				return err
			}
			if asJSON {
				if err := array.add(located{tenant, where}); err != nil {
					return err
				}
				continue
			}
			domain := dash(tenant.PrimaryDomain())
			if more := len(tenant.Domains) - 1; more > 0 {
				domain += fmt.Sprintf(" +%d", more)
			}
			row := []string{tenant.Slug, tenant.Name, string(tenant.Status), domain, tenant.Created.Format(time.DateOnly)}
			tab.add(at.columns(row, where.Node, where.Place)...)
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
	cmd.Flags().StringArrayVar(&meta, "meta", nil, "only those whose metadata has `KEY=VALUE`; may be repeated")
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	_ = cmd.RegisterFlagCompletionFunc("meta", cobra.NoFileCompletions)
	_ = cmd.RegisterFlagCompletionFunc("status", cobra.FixedCompletions(statuses, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// shown is a tenant with what is under way, as JSON has it.
type shown struct {
	tenancy.Tenant
	Operations []tenancy.Operation
	Pending    []tenancy.PendingDomain
	at         whereabouts
}

// MarshalJSON adds to the tenant's own members.
func (s shown) MarshalJSON() ([]byte, error) {
	text, err := json.Marshal(located{s.Tenant, s.at})
	if err != nil {
		return nil, err
	}
	more, err := json.Marshal(map[string]any{
		"operations":      append([]tenancy.Operation{}, s.Operations...),
		"pending_domains": append([]tenancy.PendingDomain{}, s.Pending...),
	})
	if err != nil {
		return nil, err
	}
	return append(append(bytes.TrimSuffix(text, []byte("}")), ','), more[1:]...), nil
}

// look reads all that is known about a tenant.
func look(ctx context.Context, app *tenancy.App, slug string) (s shown, err error) {
	if s.Tenant, err = app.BySlug(ctx, slug); err != nil {
		return s, err
	}
	operations, err := app.Operations(ctx)
	if err != nil {
		return s, err
	}
	for _, op := range operations {
		if op.Tenant == s.ID {
			s.Operations = append(s.Operations, op)
		}
	}
	if s.Pending, err = app.PendingDomains(ctx, s.ID); err != nil {
		return s, err
	}
	at, err := placementOf(ctx, app)
	if err == nil {
		s.at, err = at.of(ctx, s.Store)
	}
	return s, err
}

func (t *tree) tenantShow() *cobra.Command {
	var asJSON bool
	cmd := leaf(&cobra.Command{Use: "show SLUG", Short: "Show all that is known about a tenant", ValidArgsFunction: t.completeSlug()})
	cmd.RunE = t.run(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		s, err := look(cmd.Context(), app, args[0])
		switch {
		case err != nil:
			return err
		case asJSON:
			return writeJSON(cmd.OutOrStdout(), s)
		}
		return s.print(cmd.OutOrStdout())
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

func (s shown) print(w io.Writer) error {
	tab := newTable(w, "slug", s.Slug)
	tab.add("name", s.Name)
	tab.add("id", string(s.ID))
	status := string(s.Status)
	if s.Reason != "" {
		status += ": " + s.Reason
	}
	tab.add("status", status)
	for _, op := range s.Operations {
		tab.add("under way", underWay(op))
	}
	tab.add("store", s.Store.String())
	if s.at.Place != "" {
		tab.add("place", s.at.Place)
	}
	if s.at.Node != "" {
		tab.add("node", s.at.Node)
	}
	for _, d := range s.Domains {
		if d.Primary {
			tab.add("domain", d.Host+" (primary)")
		} else {
			tab.add("domain", d.Host)
		}
	}
	for _, d := range s.Pending {
		tab.add("domain", d.Host+" (not approved: "+d.Reason+")")
	}
	var meta map[string]json.RawMessage
	if err := json.Unmarshal(s.Meta, &meta); err == nil {
		for _, key := range slices.Sorted(maps.Keys(meta)) {
			value := string(meta[key])
			var text string
			if json.Unmarshal(meta[key], &text) == nil {
				value = text
			}
			tab.add("meta", key+"="+value)
		}
	}
	tab.add("created", s.Created.Format(time.RFC3339))
	tab.add("updated", s.Updated.Format(time.RFC3339))
	return tab.end()
}

// underWay is an operation as people read it.
func underWay(op tenancy.Operation) string {
	text := fmt.Sprintf("%s, since %s, at %s", op.Kind, op.Started.Format(time.RFC3339), op.Step)
	switch {
	case op.Stopped:
		text += "; stopped: " + op.Error
	case op.Error != "":
		text += "; to be tried again: " + op.Error
	}
	return text
}
