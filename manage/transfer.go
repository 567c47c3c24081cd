package manage

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tenement-go/tenement/tenancy"
	"github.com/tenement-go/tenement/transfer"
)

// lossNames are the words for what --allow allows.
var lossNames = map[string]transfer.Loss{
	"scale": transfer.LossScale, "digits": transfer.LossDigits, "padding": transfer.LossPadding, "inexact": transfer.LossInexact,
}

// parseMapping reads TABLE.COLUMN=WHAT.
func parseMapping(text string) (transfer.Mapping, error) {
	name, words, ok := strings.Cut(text, "=")
	dot := strings.LastIndexByte(name, '.')
	if !ok || dot <= 0 || dot == len(name)-1 {
		return transfer.Mapping{}, fmt.Errorf("--allow %q is not TABLE.COLUMN=WHAT", text)
	}
	m := transfer.Mapping{Table: name[:dot], Column: name[dot+1:]}
	for word := range strings.SplitSeq(words, ",") {
		loss, known := lossNames[word]
		if !known {
			return m, fmt.Errorf("--allow %q: %q is none of %s", text, word, strings.Join(slices.Sorted(maps.Keys(lossNames)), ", "))
		}
		m.May |= loss
	}
	return m, nil
}

// allowFlag gives a command the flag that says what may be lost. The function that it returns reads it when the command runs.
func allowFlag(cmd *cobra.Command) func() ([]transfer.Mapping, error) {
	allowed := cmd.Flags().StringArray("allow", nil, "what values of a column may lose, `TABLE.COLUMN=WHAT`: "+
		strings.Join(slices.Sorted(maps.Keys(lossNames)), ", ")+"; may be repeated")
	_ = cmd.RegisterFlagCompletionFunc("allow", cobra.NoFileCompletions)
	return func() (mappings []transfer.Mapping, err error) {
		for _, text := range *allowed {
			m, err := parseMapping(text)
			if err != nil {
				return nil, usage(cmd, "%w", err)
			}
			mappings = append(mappings, m)
		}
		return mappings, nil
	}
}

func (t *tree) tenantExport() *cobra.Command {
	var opt transfer.ExportOptions
	cmd := leaf(&cobra.Command{
		Use:   "export SLUG FILE",
		Short: "Write a tenant to a file",
		Long: "Writes a tenant's tables, as they are at one moment, and its files to a new file: a SQLite database that anyone can open.\n" +
			"Nobody is held up. tenant import makes a tenant of it again, also on the other kind of database.",
		Example:           "  " + t.cfg.name + " tenant export thor thor.db",
		ValidArgsFunction: t.completeSlugFile,
	})
	cmd.RunE = t.run(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		tenant, err := app.BySlug(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if args[1] == "-" {
			return usage(cmd, "a tenant is written to a file, not to standard output: it is a database, whose pages are not written in order")
		}
		m, err := transfer.Export(cmd.Context(), app, tenant.ID, args[1], opt)
		if err != nil {
			return err
		}
		rows := int64(0)
		for _, table := range m.Tables {
			rows += table.Rows
		}
		return t.done(cmd, nil, "wrote %s to %s: %s, %s, %s", tenant.Slug, args[1], plural(len(m.Tables), "table", "tables"),
			plural(int(rows), "row", "rows"), plural(int(m.Files.Count), "file", "files"))
	})
	cmd.Flags().StringSliceVar(&opt.Without, "without", nil, "leave out `TABLE`; may be repeated")
	cmd.Flags().BoolVar(&opt.NoFiles, "no-files", false, "leave out the tenant's files")
	_ = cmd.RegisterFlagCompletionFunc("without", cobra.NoFileCompletions)
	return cmd
}

func (t *tree) tenantImport() *cobra.Command {
	var opt transfer.ImportOptions
	var into string
	cmd := leaf(&cobra.Command{
		Use:   "import FILE",
		Short: "Make a tenant of a file that tenant export wrote",
		Long: "Makes a tenant of a file, with an ID of its own. Its store is made by this program's migrations, at the versions that it had.\n" +
			"It is served when all is there and is what was written; if that fails, nothing is left. Slug, name, domains and metadata\n" +
			"are those of the file, unless they are given. With --into the tables of a tenant that there is are replaced; its old store\n" +
			"is set aside until store purge removes it.",
		Example: "  " + t.cfg.name + " tenant import thor.db --slug thor-copy --no-domains\n" +
			"  " + t.cfg.name + " tenant import thor.db --into thor",
		ValidArgsFunction: completeFile(0),
	})
	complete, allowed := specFlags(cmd, &opt.Spec), allowFlag(cmd)
	cmd.RunE = t.run(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		if err := notEmpty(cmd, "into"); err != nil {
			return err
		}
		if err := complete(); err != nil {
			return err
		}
		var err error
		if opt.Mappings, err = allowed(); err != nil {
			return err
		}
		if into != "" {
			return t.restoreInto(cmd, app, into, args[0], opt.Mappings)
		}
		tenant, err := transfer.Import(cmd.Context(), app, args[0], opt)
		if err != nil {
			return err
		}
		return t.done(cmd, nil, "made tenant %s of %s%s", tenant.Slug, args[0], at(tenant))
	})
	flags := cmd.Flags()
	flags.StringVar(&opt.Spec.Slug, "slug", "", "its `SLUG` (default: the one in the file)")
	flags.BoolVar(&opt.NoDomains, "no-domains", false, "leave out the domains in the file")
	flags.BoolVar(&opt.NoFiles, "no-files", false, "leave out the files in the file")
	flags.StringVar(&into, "into", "", "replace the tables of the tenant `SLUG` instead")
	for _, name := range append([]string{"slug", "no-domains", "no-files"}, specFlagNames...) {
		cmd.MarkFlagsMutuallyExclusive("into", name)
	}
	for _, name := range []string{"slug", "into"} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	return cmd
}

func (t *tree) restoreInto(cmd *cobra.Command, app *tenancy.App, slug, file string, mappings []transfer.Mapping) error {
	tenant, err := app.BySlug(cmd.Context(), slug)
	if err != nil {
		return err
	}
	aside, err := transfer.Restore(cmd.Context(), app, tenant.ID, file, transfer.RestoreOptions{Mappings: mappings})
	return t.done(cmd, err, "%s has the tables of %s; what it had is set aside as %s", slug, file, aside.Store)
}

// parseMask reads TABLE.COLUMN, TABLE.COLUMN=EXPRESSION or TABLE.COLUMN=null.
func parseMask(text string) (transfer.Mask, error) {
	name, expr, given := strings.Cut(text, "=")
	dot := strings.LastIndexByte(name, '.')
	if dot <= 0 || dot == len(name)-1 || given && strings.TrimSpace(expr) == "" {
		return transfer.Mask{}, fmt.Errorf("--mask %q is not TABLE.COLUMN=EXPRESSION", text)
	}
	m := transfer.Mask{Table: name[:dot], Column: name[dot+1:], With: transfer.Keep()}
	if given {
		m.With = transfer.Expr(expr)
	}
	return m, nil
}

func (t *tree) tenantClone() *cobra.Command {
	var opt transfer.CloneOptions
	var masks, kept []string
	cmd := leaf(&cobra.Command{
		Use:   "clone SLUG NEWSLUG",
		Short: "Make a tenant of a copy of another one",
		Long: "Makes a tenant, with an ID of its own, of a copy of another one as it is at one moment. It has the domains that are given, and\n" +
			"no others. With --mask or --keep every column must be that of one of them, or nothing is made; the first --mask that\n" +
			"fits counts, then the first --keep. * stands for every table or every column.",
		Example: "  " + t.cfg.name + " tenant clone thor thor-debug\n  " + t.cfg.name +
			` tenant clone thor thor-debug --mask "users.email='user' || id || '@example.com'" --keep "*.id" --keep "polls.*"`,
		ValidArgsFunction: t.completeSlug(),
	})
	complete := specFlags(cmd, &opt.Spec)
	cmd.RunE = t.change(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		if err := complete(); err != nil {
			return err
		}
		for i, text := range append(slices.Clone(masks), kept...) {
			if i >= len(masks) && strings.Contains(text, "=") {
				return usage(cmd, "--keep %q is not TABLE.COLUMN", text)
			}
			m, err := parseMask(text)
			if err != nil {
				return usage(cmd, "%w", err)
			}
			opt.Masks = append(opt.Masks, m)
		}
		tenant, err := app.BySlug(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		opt.Spec.Slug = args[1]
		clone, err := transfer.Clone(cmd.Context(), app, tenant.ID, opt)
		if err != nil {
			return err
		}
		return t.done(cmd, nil, "made tenant %s, a copy of %s%s", clone.Slug, tenant.Slug, at(clone))
	})
	flags := cmd.Flags()
	flags.StringArrayVar(&masks, "mask", nil, "what stands for a column, `TABLE.COLUMN=EXPRESSION` in SQL; may be repeated")
	flags.StringArrayVar(&kept, "keep", nil, "a `TABLE.COLUMN` that is copied as it is, beside others that are masked; may be repeated")
	flags.BoolVar(&opt.NoFiles, "no-files", false, "leave out the tenant's files")
	for _, name := range []string{"mask", "keep"} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	return cmd
}

func (t *tree) tenantVerify() *cobra.Command {
	var opt transfer.VerifyOptions
	var asJSON bool
	cmd := leaf(&cobra.Command{
		Use:   "verify SLUG FILE",
		Short: "Compare a tenant with a file, or with another tenant",
		Long: "Compares a tenant with a file that tenant export wrote, or with another tenant, table by table: the number of rows, and a\n" +
			"hash of their values, for which their order does not count. Exits 1 when they differ. What contains no dot and no slash\n" +
			"is a tenant's slug.",
		Example:           "  " + t.cfg.name + " tenant verify thor thor.db\n  " + t.cfg.name + " tenant verify thor thor-copy",
		ValidArgsFunction: t.completeSlugFile,
	})
	cmd.RunE = t.run(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		a, err := app.BySlug(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		other := transfer.InFile(args[1])
		if !strings.ContainsAny(args[1], `./\`) {
			b, err := app.BySlug(cmd.Context(), args[1])
			if err != nil {
				return err
			}
			other = transfer.InStore(app, b.ID)
		}
		c, err := transfer.Verify(cmd.Context(), transfer.InStore(app, a.ID), other, opt)
		if err != nil {
			return err
		}
		if asJSON {
			err = writeJSON(cmd.OutOrStdout(), c)
		} else {
			err = printComparison(cmd, c)
		}
		if err == nil && c.Err() != nil {
			err = fmt.Errorf("%s and %s: %w", args[0], args[1], transfer.ErrDiffer)
		}
		return err
	})
	cmd.Flags().StringSliceVar(&opt.Without, "without", nil, "leave out `TABLE`; may be repeated")
	cmd.Flags().BoolVar(&opt.NoFiles, "no-files", false, "leave out the files")
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	_ = cmd.RegisterFlagCompletionFunc("without", cobra.NoFileCompletions)
	return cmd
}

func printComparison(cmd *cobra.Command, c *transfer.Comparison) error {
	tab := newTable(cmd.OutOrStdout(), "TABLE", "ROWS", "ROWS THERE", "RESULT")
	for _, t := range c.Tables {
		result := "same"
		switch {
		case t.Detail != "":
			result = t.Detail
		case !t.Equal():
			result = "differs"
		}
		tab.add(t.Table, fmt.Sprint(t.Rows[0]), fmt.Sprint(t.Rows[1]), result)
	}
	if err := tab.end(); err != nil {
		return err
	}
	if c.Files[0].Hash != c.Files[1].Hash {
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "the files differ: %d of %d bytes, %d of %d bytes there\n",
			c.Files[0].Count, c.Files[0].Bytes, c.Files[1].Count, c.Files[1].Bytes)
		return err
	}
	return nil
}

// completeFile completes the argument of that number, a file's name.
func completeFile(n int) completer {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) == n {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeSlugFile completes a slug and then a file's name.
func (t *tree) completeSlugFile(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return t.completeSlug()(cmd, args, begun)
	}
	return completeFile(1)(cmd, args, begun)
}
