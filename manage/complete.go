package manage

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tenement-go/tenement/tenancy"
)

// offered is how many slugs or domains a shell is given to choose from. More are of no use, and take time.
const offered = 100

// completer is cobra's ValidArgsFunction.
type completer = func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective)

// slugs lists slugs that begin with what was typed, of tenants in these states (any, when there are none).
func (t *tree) slugs(ctx context.Context, begun string, status ...tenancy.Status) []string {
	app, err := t.tenants(ctx)
	if err != nil {
		return nil // a shell in the middle of a line is no place for complaints
	}
	var slugs []string
	for tenant, err := range app.Tenants(ctx, tenancy.Filter{SlugPrefix: begun, Status: status}) {
		if err != nil || len(slugs) == offered {
			break
		}
		slugs = append(slugs, tenant.Slug+"\t"+cell(tenant.Name))
	}
	return slugs
}

// completeSlug completes the first argument, a slug of a tenant in one of these states.
func (t *tree) completeSlug(status ...tenancy.Status) completer {
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return t.slugs(cmd.Context(), begun, status...), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeSlugList completes SLUG,SLUG,….
func (t *tree) completeSlugList(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
	done := ""
	if i := strings.LastIndexByte(begun, ','); i >= 0 {
		done, begun = begun[:i+1], begun[i+1:]
	}
	list := t.slugs(cmd.Context(), begun)
	for i := range list {
		list[i] = done + list[i]
	}
	return list, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// hosts lists the domains that begin with what was typed.
func (t *tree) hosts(ctx context.Context, begun string) []string {
	app, err := t.tenants(ctx)
	if err != nil {
		return nil
	}
	rows, err := app.Shared().QueryContext(tenancy.Leave(ctx), `SELECT d.host, t.slug FROM tenement_domains d
		JOIN tenement_tenants t ON t.id = d.tenant_id WHERE substr(d.host, 1, $2) = $1 ORDER BY d.host LIMIT $3`,
		begun, len(begun), offered)
	if err != nil {
		return nil
	}
	defer rows.Close()
	var hosts []string
	for rows.Next() {
		var host, slug string
		if rows.Scan(&host, &slug) != nil {
			break
		}
		hosts = append(hosts, host+"\t"+slug)
	}
	if rows.Err() != nil {
		return nil
	}
	return hosts
}

// completeSlugHost completes a slug and then a domain of that tenant.
func (t *tree) completeSlugHost(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	switch len(args) {
	case 0:
		return t.slugs(cmd.Context(), begun), cobra.ShellCompDirectiveNoFileComp
	case 1:
		app, err := t.tenants(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		tenant, err := app.BySlug(cmd.Context(), args[0])
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var hosts []string
		for _, d := range tenant.Domains {
			if strings.HasPrefix(d.Host, begun) && len(hosts) < offered {
				hosts = append(hosts, d.Host)
			}
		}
		return hosts, cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}

// completeHostSlug completes a domain and then a slug.
func (t *tree) completeHostSlug(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	switch len(args) {
	case 0:
		return t.hosts(cmd.Context(), begun), cobra.ShellCompDirectiveNoFileComp
	case 1:
		return t.slugs(cmd.Context(), begun), cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}

// completeExec completes a slug and then a command of the application's.
func (t *tree) completeExec(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	all, _ := cmd.Flags().GetBool("all")
	if len(args) == 0 && !all {
		return t.slugs(cmd.Context(), begun), cobra.ShellCompDirectiveNoFileComp
	}
	if len(args) == 0 || len(args) == 1 && !all {
		var names []string
		for _, c := range t.cfg.commands {
			if strings.HasPrefix(c.Name, begun) {
				names = append(names, c.Name+"\t"+c.Short)
			}
		}
		slices.Sort(names)
		return names, cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveDefault
}
