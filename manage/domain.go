package manage

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tenement-go/tenement/tenancy"
)

func (t *tree) domainCommand() *cobra.Command {
	cmd := group(&cobra.Command{Use: "domain", Short: "Say which hosts lead to which tenant"})
	cmd.AddCommand(t.domainAdd(), t.domainRemove(), t.domainPrimary(), t.domainMove(), t.domainList())
	return cmd
}

func (t *tree) domainAdd() *cobra.Command {
	cmd := leaf(&cobra.Command{Use: "add SLUG HOST…", Short: "Make hosts lead to a tenant", ValidArgsFunction: t.completeSlug()})
	cmd.RunE = t.run(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		tenant, err := app.BySlug(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		for _, host := range args[1:] {
			_, err := app.AddDomain(cmd.Context(), tenant.ID, host)
			if err := t.done(cmd, err, "%s leads to %s", host, args[0]); err != nil {
				return err
			}
		}
		return nil
	})
	return cmd
}

func (t *tree) domainRemove() *cobra.Command {
	cmd := leaf(&cobra.Command{Use: "remove SLUG HOST", Short: "Make a host lead nowhere", ValidArgsFunction: t.completeSlugHost})
	cmd.RunE = t.run(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		tenant, err := app.BySlug(cmd.Context(), args[0])
		if err == nil {
			tenant, err = app.RemoveDomain(cmd.Context(), tenant.ID, args[1])
		}
		if err := t.done(cmd, err, "%s leads nowhere now", args[1]); err != nil {
			return err
		}
		if primary := tenant.PrimaryDomain(); primary == "" {
			fmt.Fprintf(cmd.ErrOrStderr(), "%s has no domain left\n", tenant.Slug)
		}
		return nil
	})
	return cmd
}

func (t *tree) domainPrimary() *cobra.Command {
	cmd := leaf(&cobra.Command{
		Use:               "primary SLUG HOST",
		Short:             "Choose the domain that a tenant's URLs are built with",
		ValidArgsFunction: t.completeSlugHost,
	})
	cmd.RunE = t.run(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		tenant, err := app.BySlug(cmd.Context(), args[0])
		if err == nil {
			_, err = app.SetPrimaryDomain(cmd.Context(), tenant.ID, args[1])
		}
		return t.done(cmd, err, "%s is the primary domain of %s", args[1], args[0])
	})
	return cmd
}

func (t *tree) domainMove() *cobra.Command {
	cmd := leaf(&cobra.Command{
		Use:               "move HOST SLUG",
		Short:             "Make a host lead to another tenant than before",
		ValidArgsFunction: t.completeHostSlug,
	})
	cmd.RunE = t.run(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		tenant, err := app.BySlug(cmd.Context(), args[1])
		if err == nil {
			_, err = app.MoveDomain(cmd.Context(), args[0], tenant.ID)
		}
		return t.done(cmd, err, "%s leads to %s", args[0], args[1])
	})
	return cmd
}

// domainLine is a domain, as JSON has it.
type domainLine struct {
	Host    string `json:"host"`
	Tenant  string `json:"tenant"`
	Primary bool   `json:"primary"`
}

func (t *tree) domainList() *cobra.Command {
	var asJSON bool
	cmd := leaf(&cobra.Command{
		Use:               "list [SLUG]",
		Short:             "List domains, of one tenant or of all",
		ValidArgsFunction: t.completeSlug(),
	})
	cmd.RunE = t.run(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		tab := newTable(cmd.OutOrStdout(), "HOST", "TENANT", "PRIMARY")
		array := newList(cmd.OutOrStdout())
		show := func(tenant tenancy.Tenant) error {
			for _, d := range tenant.Domains {
				if asJSON {
					if err := array.add(domainLine{d.Host, tenant.Slug, d.Primary}); err != nil {
						return err
					}
					continue
				}
				primary := ""
				if d.Primary {
					primary = "yes"
				}
				tab.add(d.Host, tenant.Slug, primary)
			}
			return nil
		}
		if len(args) > 0 {
			tenant, err := app.BySlug(cmd.Context(), args[0])
			if err == nil {
				err = show(tenant)
			}
			if err != nil {
				return err
			}
		} else {
			for tenant, err := range app.Tenants(cmd.Context(), tenancy.Filter{}) {
				if err == nil {
					err = show(tenant)
				}
				if err != nil {
					return err
				}
			}
		}
		switch {
		case asJSON:
			return array.end()
		case tab.count == 0:
			fmt.Fprintln(cmd.ErrOrStderr(), "no domains")
			return nil
		}
		return tab.end()
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}
