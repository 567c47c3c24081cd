package manage

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/tenancy"
)

func (t *tree) placeShare() *cobra.Command {
	cmd := group(&cobra.Command{Use: "share", Short: "Have the rows of shared tables copied from home to the other places"})
	cmd.AddCommand(t.placeShareOn(), t.placeShareOff(), t.placeShareStatus())
	return cmd
}

var errOnePlace = errors.New("the stores of this backend are all in one place")

func sharer(app *tenancy.App) (backend.RowSharer, error) {
	s, ok := app.Backend().(backend.RowSharer)
	if !ok || len(app.Places()) < 2 {
		return nil, errOnePlace
	}
	return s, nil
}

func (t *tree) placeShareOn() *cobra.Command {
	var opt backend.ShareOptions
	cmd := leaf(&cobra.Command{
		Use:   "on [TABLE…]",
		Short: "Begin to copy, also to places and of tables that came later",
		Long: "Sets up Postgres' logical replication of the rows of all shared tables, or of those named, from home to each other place. What\n" +
			"is set up already stays. Home runs with wal_level=logical. It takes a log-in that owns the tables, with REPLICATION at home, and\n" +
			"that is a superuser in the other places (from Postgres 16 on: a member of pg_create_subscription who may create in the database):\n" +
			"have the backend's URL name one for this command. The log-in of --from reads the tables at home, and has REPLICATION.",
		Example:           "  " + t.cfg.name + " place share on --from 'host=a dbname=app user=replicator password=…'",
		ValidArgsFunction: cobra.NoFileCompletions,
	})
	cmd.RunE = t.change(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		s, err := sharer(app)
		if err != nil {
			return err
		}
		if len(args) > 0 {
			opt.Tables = args
		}
		return t.done(cmd, s.ShareRows(cmd.Context(), opt), "copying; %s place share status says how far", t.root.CommandPath())
	})
	cmd.Flags().StringVar(&opt.From, "from", "", "how the servers of other places reach home's database: a `CONNECTION` string of libpq's")
	cmd.Flags().BoolVar(&opt.Replace, "replace", false, "remove rows that these tables have in other places first; they are empty there until home's are copied")
	_ = cmd.RegisterFlagCompletionFunc("from", cobra.NoFileCompletions)
	return cmd
}

func (t *tree) placeShareOff() *cobra.Command {
	cmd := leaf(&cobra.Command{
		Use:               "off",
		Short:             "End the copying",
		Long:              "Ends the copying to all places; the rows stay as they are. A place that cannot be reached is an error: run it again later.",
		ValidArgsFunction: cobra.NoFileCompletions,
	})
	cmd.RunE = t.change(func(cmd *cobra.Command, app *tenancy.App, _ []string) error {
		s, err := sharer(app)
		if err != nil {
			return err
		}
		return t.done(cmd, s.UnshareRows(cmd.Context()), "rows are not copied any more")
	})
	return cmd
}

func (t *tree) placeShareStatus() *cobra.Command {
	var asJSON bool
	cmd := leaf(&cobra.Command{
		Use:               "status",
		Short:             "Say how far the copies are, and what is wrong with them",
		Long:              "Lists what is copied to each place, how many bytes of its log home keeps for it, and what is wrong. Exits 1 when something is.",
		ValidArgsFunction: cobra.NoFileCompletions,
	})
	cmd.RunE = t.run(func(cmd *cobra.Command, app *tenancy.App, _ []string) error {
		s, err := sharer(app)
		if err != nil {
			return err
		}
		shares, err := s.RowShares(cmd.Context())
		if err != nil {
			return err
		}
		var fault error
		tab := newTable(cmd.OutOrStdout(), "PLACE", "TABLES", "BEHIND", "FAULT")
		for _, sh := range shares {
			behind := "-"
			if sh.Behind >= 0 {
				behind = fmt.Sprintf("%d bytes", sh.Behind)
			}
			tab.add(sh.Place, dash(strings.Join(sh.Tables, ", ")), behind, strings.Join(sh.Faults, "; "))
			if len(sh.Faults) > 0 {
				fault = errors.New("something is wrong with the copies")
			}
		}
		switch {
		case asJSON:
			err = writeJSON(cmd.OutOrStdout(), append([]backend.RowShare{}, shares...))
		case len(shares) == 0:
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "rows are not copied")
		default:
			err = tab.end()
		}
		return errors.Join(err, fault)
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}
