package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/tenement-go/tenement/examples/polls/polls"
	"github.com/tenement-go/tenement/manage"
	"github.com/tenement-go/tenement/tenancy"
)

// command runs a management command and returns the exit status. The stores are opened by the commands that need them.
func command(ctx context.Context, log *slog.Logger, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	var app *tenancy.App
	closeApp := func() {}
	defer func() { closeApp() }()
	return manage.Execute(ctx, nil, args, stdin, stdout, stderr,
		manage.WithName("polls"),
		manage.WithOpen(func(ctx context.Context) (*tenancy.App, error) {
			opened, closeOpened, err := open(ctx, log)
			if err != nil {
				return nil, err
			}
			app, closeApp = opened, closeOpened
			return app, nil
		}),
		manage.WithCommand(manage.Command{
			Name: "createsuperuser", Short: "add a user who may do everything in the admin",
			Run: func(ctx context.Context, args []string, stdio manage.IO) error {
				return createSuperuser(ctx, polls.NewStore(app.DB()), args, stdio)
			},
		}),
		manage.WithCommand(manage.Command{
			Name: "seed", Short: "add the polls of the demo, unless there are any polls",
			Run: func(ctx context.Context, args []string, stdio manage.IO) error {
				return seed(ctx, polls.NewStore(app.DB()), args, stdio)
			},
		}),
	)
}

// parse reads the flags of a command that runs inside a tenant.
func parse(flags *flag.FlagSet, args []string, stdio manage.IO) error {
	flags.SetOutput(stdio.Err)
	if err := flags.Parse(args); err != nil {
		return manage.Usagef("%w", err)
	}
	if flags.NArg() > 0 {
		return manage.Usagef("%q is one argument too many; %s -h lists the flags", flags.Arg(0), flags.Name())
	}
	return nil
}

// createSuperuser is the same code as it would be with one customer: the context says whose superuser it is.
func createSuperuser(ctx context.Context, store *polls.Store, args []string, stdio manage.IO) error {
	flags := flag.NewFlagSet("createsuperuser", flag.ContinueOnError)
	username := flags.String("username", "admin", "their `NAME`")
	given := flags.String("password", "", "their password (default: $POLLS_ADMIN_PASSWORD, else one is made up and printed)")
	if err := parse(flags, args, stdio); err != nil {
		return err
	}
	chosen := cmp.Or(*given, os.Getenv("POLLS_ADMIN_PASSWORD"))
	password := cmp.Or(chosen, rand.Text())
	if _, err := polls.CreateSuperuser(ctx, store, *username, password); err != nil {
		return err
	}
	if chosen == "" {
		fmt.Fprintf(stdio.Out, "made the superuser %s with the password %s (shown only now)\n", *username, password)
	} else {
		fmt.Fprintf(stdio.Out, "made the superuser %s\n", *username)
	}
	return nil
}

func seed(ctx context.Context, store *polls.Store, args []string, stdio manage.IO) error {
	flags := flag.NewFlagSet("seed", flag.ContinueOnError)
	author := flags.String("author", "admin", "the `NAME` of the user who asks the questions; made, without a password, if there is none")
	if err := parse(flags, args, stdio); err != nil {
		return err
	}
	name := ""
	if t, ok := tenancy.From(ctx); ok {
		name = t.Slug
	}
	return polls.SeedDemo(ctx, store, polls.Demo{Superuser: *author, Polls: polls.DemoPolls(name)})
}
