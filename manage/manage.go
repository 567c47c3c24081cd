// Package manage is the command line of an application with tenants: migrate, status, tenant, domain, store, place, transfer, exec,
// sql and doctor, as a tree of commands that the application mounts in its own binary, where its migrations are.
//
// An application that has no command line of its own hands over its arguments, and an [Opener] that opens its tenants when
// a command needs them. What was opened is closed before Execute returns, so that nothing is left for a defer that
// [os.Exit] would skip:
//
//	func main() { os.Exit(run()) }
//
//	func run() int {
//		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
//		defer stop()
//		return manage.Execute(ctx, open, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
//	}
//
//	func open(ctx context.Context) (*tenancy.App, func() error, error) {
//		be, err := backend.Open(ctx, os.Getenv("DATABASE_URL"))
//		if err != nil {
//			return nil, nil, err
//		}
//		app, err := tenancy.Open(ctx, be, tenancy.Config{…})
//		if err != nil {
//			return nil, nil, errors.Join(err, be.Close())
//		}
//		return app, func() error { return errors.Join(app.Close(), be.Close()) }, nil
//	}
//
// One that uses cobra mounts the tree, as its root or below it, and ends with [ExitStatus] of the error:
//
//	root.AddCommand(manage.New(open, manage.WithName("manage")))
//
// What the application registers with [WithCommand] can be run inside a tenant: exec thor -- createsuperuser. [WithBackups] adds
// backup and restore.
//
// Results go to the standard output, progress and complaints to the standard error. Nothing here ends the process.
package manage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
)

// The exit statuses of a command.
const (
	ExitOK     = 0 // it did what it was told
	ExitFailed = 1 // it failed, or a check found something
	ExitUsage  = 2 // it was called in a wrong way; the message names the right one
)

// Opener opens the tenants. It is called once for a command that needs them, so that help and completion scripts do
// without a database, and closeAll (which may be nil) once after that command.
type Opener func(ctx context.Context) (app *tenancy.App, closeAll func() error, err error)

// Opened is the Opener for an App that is open and stays the caller's.
func Opened(app *tenancy.App) Opener {
	return func(context.Context) (*tenancy.App, func() error, error) { return app, nil, nil }
}

// Option changes what [New] makes.
type Option func(*config)

type config struct {
	name     string
	actor    string
	commands []Command
	backups  Backups
	terminal func(stream any) bool
}

// WithName sets the name of the command at the top, as the help and the messages have it. Defaults to the program's.
func WithName(name string) Option { return func(c *config) { c.name = name } }

// WithActor sets who is kept in the registry with each change that a command makes (see [tenancy.WithActor]), unless the
// command's context says who it is. Defaults to the user of the operating system.
func WithActor(name string) Option { return func(c *config) { c.actor = name } }

// WithCommand registers a command that exec runs inside a tenant. The option may be given several times; the last
// command of a name counts.
func WithCommand(cmd Command) Option {
	return func(c *config) {
		c.commands = slices.DeleteFunc(slices.Clone(c.commands), func(have Command) bool { return have.Name == cmd.Name })
		c.commands = append(c.commands, cmd)
	}
}

// Command is a command of the application's, to be run inside a tenant with exec SLUG -- NAME ARGS….
type Command struct {
	// Name is what it is called by: not empty, and without a hyphen at the beginning.
	Name string
	// Short is the line about it in the help.
	Short string
	// Run does it. Its context is in the tenant and is cancelled by an interrupt; app is the one that the Opener opened,
	// whose DB goes to that tenant's store. With exec --all it is called for several tenants at once. The arguments are
	// those behind the name. An error that [Usagef] made, or [flag.ErrHelp], is taken as what it is; any other means
	// that the command failed.
	Run func(ctx context.Context, app *tenancy.App, args []string, stdio IO) error
}

// New returns the tree of commands over the tenants that open opens. Each command takes the context, the streams and the
// arguments that cobra's methods set on the root that it is executed under.
//
// Errors are for the root to print, as cobra does by default; those of several tenants or stores have been printed in
// full by then, on the standard error. The process's exit status is for the caller: see [ExitStatus].
func New(open Opener, opts ...Option) *cobra.Command {
	t := &tree{open: open, cfg: config{name: programName(), actor: defaultActor(), terminal: isTerminal}}
	for _, opt := range opts {
		opt(&t.cfg)
	}
	root := group(&cobra.Command{
		Use:   t.cfg.name,
		Short: "Manage tenants and their stores",
	})
	t.root = root
	root.AddCommand(
		t.migrateCommand(), t.rollbackCommand(), t.redoCommand(), t.baselineCommand(), t.statusCommand(),
		t.tenantCommand(), t.domainCommand(), t.storeCommand(), t.placeCommand(), t.citusCommand(), t.transferCommand(),
		t.execCommand(), t.sqlCommand(), t.doctorCommand(),
	)
	root.AddCommand(t.backupCommands()...)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage(cmd, "%w", err) })
	root.SetUsageTemplate(usageTemplate)
	root.SetHelpCommand(helpCommand())
	return root
}

// Execute runs the command that args name (without the program's name) and returns the exit status. What went wrong has
// been printed to stderr, and what open opened has been closed. Cancelling ctx stops what is going on cleanly; a command
// that works on many stores then says what is left to do.
func Execute(ctx context.Context, open Opener, args []string, stdin io.Reader, stdout, stderr io.Writer, opts ...Option) int {
	root := New(open, opts...)
	root.SilenceErrors = true
	root.SetArgs(append([]string{}, args...)) // cobra takes nil for the process's own
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if status := ExitStatus(err); status != ExitOK {
		fmt.Fprintf(stderr, "%s: %s\n", root.Name(), said(err))
		return status
	}
	return ExitOK
}

// ExitStatus returns the exit status that goes with what a command of the tree returned.
func ExitStatus(err error) int {
	var (
		many  *manyError
		wrong *usageError
	)
	switch {
	case err == nil, errors.Is(err, errHelp):
		return ExitOK
	case errors.As(err, &many):
		return many.status // what failed in one of them may match anything
	case errors.As(err, &wrong), errors.Is(err, tenancy.ErrInvalid), errors.Is(err, tenancy.ErrMalformedHost),
		errors.Is(err, migrate.ErrUnknownSource):
		return ExitUsage
	}
	return ExitFailed
}

// Usagef returns an error that says that a command was called in a wrong way, for a [Command] to return. Name the
// remedy. The verbs are those of [fmt.Errorf].
func Usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// manyError stands for failures in many places, which have been printed in full.
type manyError struct {
	text   string
	err    error
	status int
}

func (e *manyError) Error() string { return e.text }
func (e *manyError) Unwrap() error { return e.err }

// usage is Usagef with the command and the way to its help.
func usage(cmd *cobra.Command, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	subject := ""
	if cmd.HasParent() {
		subject = below(cmd) + ": "
	}
	return &usageError{fmt.Errorf("%s%w\nusage: %s\n%s --help says more", subject, err, cmd.UseLine(), cmd.CommandPath())}
}

// below is the path of a command without the root's name, which stands before every message.
func below(cmd *cobra.Command) string {
	_, path, _ := strings.Cut(cmd.CommandPath(), " ")
	return path
}

// tree is what the commands of one New have in common.
type tree struct {
	cfg  config
	open Opener
	root *cobra.Command
}

// with calls do with the tenants, opened for it.
func (t *tree) with(ctx context.Context, do func(app *tenancy.App) error) (err error) {
	if t.open == nil {
		return errors.New("manage: there are no tenants to manage: New was given no Opener")
	}
	app, closeAll, err := t.open(ctx)
	if err != nil {
		return err
	}
	if closeAll != nil {
		defer func() { err = errors.Join(err, closeAll()) }()
	}
	return do(app)
}

// run makes cobra's RunE of a command that needs the App.
func (t *tree) run(do func(cmd *cobra.Command, app *tenancy.App, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if tenancy.ActorFrom(cmd.Context()) == "" {
			cmd.SetContext(tenancy.WithActor(cmd.Context(), t.cfg.actor))
		}
		return t.with(cmd.Context(), func(app *tenancy.App) error { return t.advise(do(cmd, app, args)) })
	}
}

// change is run for a command that changes something. What was begun before and was interrupted is finished first, since
// that may be what the command is about.
func (t *tree) change(do func(cmd *cobra.Command, app *tenancy.App, args []string) error) func(*cobra.Command, []string) error {
	return t.run(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		finishOperations(cmd, app)
		return do(cmd, app, args)
	})
}

// finishOperations goes on with what was begun before.
func finishOperations(cmd *cobra.Command, app *tenancy.App) {
	if err := app.FinishOperations(cmd.Context()); err != nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "what was begun before could not be finished: %s\n", said(err))
	}
}

// notEmpty refuses a flag that is given and says nothing, as that of a variable which is not set does: it would be as if it
// were not given.
func notEmpty(cmd *cobra.Command, names ...string) error {
	for _, name := range names {
		if f := cmd.Flags().Lookup(name); f != nil && f.Changed && (f.Value.String() == "" || f.Value.String() == "[]") {
			return usage(cmd, "--%s is empty", name)
		}
	}
	return nil
}

// advise adds to an error what to do about it, where the error itself cannot know the commands.
func (t *tree) advise(err error) error {
	root := t.root.CommandPath()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, tenancy.ErrUnknownHost):
		return fmt.Errorf("%w\n%s domain list lists the domains", err, root)
	case errors.Is(err, tenancy.ErrNotFound):
		return fmt.Errorf("%w\n%s tenant list lists the tenants", err, root)
	case errors.Is(err, migrate.ErrSharedBehind):
		return fmt.Errorf("%w\n%s migrate --shared brings it up to date", err, root)
	case errors.Is(err, tenancy.ErrBehind):
		return fmt.Errorf("%w\n%s migrate brings stores up to date", err, root)
	}
	return err
}

// group makes cmd a command that only has others below it.
func group(cmd *cobra.Command) *cobra.Command {
	cmd.SilenceUsage = true
	cmd.DisableFlagsInUseLine = true
	cmd.Use += " COMMAND"
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		var names []string
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() {
				names = append(names, sub.Name())
			}
		}
		if len(args) == 0 {
			return usage(cmd, "a command is missing: one of %s", strings.Join(names, ", "))
		}
		if cmd.SuggestionsMinimumDistance <= 0 {
			cmd.SuggestionsMinimumDistance = 2
		}
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			return usage(cmd, "there is no command %q; did you mean %s?", args[0], strings.Join(near, " or "))
		}
		return usage(cmd, "there is no command %q; there are %s", args[0], strings.Join(names, ", "))
	}
	cmd.RunE = func(*cobra.Command, []string) error { return nil } // Args has refused whatever leads here
	return cmd
}

// leaf makes cmd a command that takes the arguments that its usage line names: capitals for one, in brackets when it
// may be left out, with … when there may be more.
func leaf(cmd *cobra.Command) *cobra.Command {
	cmd.SilenceUsage = true
	var names []string
	least, most := 0, 0
	for _, word := range strings.Fields(cmd.Use)[1:] {
		name, optional := strings.CutPrefix(strings.TrimSuffix(word, "]"), "[")
		if !optional {
			least++
		}
		if base, many := strings.CutSuffix(name, "…"); many {
			name, most = base, most+1<<20
		} else {
			most++
		}
		names = append(names, name)
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return usage(cmd, "%s is missing", names[len(args)])
		case len(args) > most && most == 0:
			return usage(cmd, "it takes no argument, and %q is one", args[0])
		case len(args) > most:
			return usage(cmd, "%q is one argument too many", args[most])
		}
		return nil
	}
	return cmd
}

// helpCommand is cobra's, except that a command that there is not is an error.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:          "help [COMMAND…]",
		Short:        "Say more about a command",
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err != nil {
				return err
			}
			if len(rest) > 0 {
				return usage(about, "there is no command %q", rest[0])
			}
			about.InitDefaultHelpFlag()
			return about.Help()
		},
	}
}

// defaultActor is whoever has started the program.
func defaultActor() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return "command line"
}

func programName() string {
	name := filepath.Base(os.Args[0])
	return strings.TrimSuffix(name, ".exe")
}

// usageTemplate is cobra's, without the line that a group of commands could be called by itself.
const usageTemplate = `Usage:
  {{.UseLine}}{{if .HasExample}}

Examples:
{{.Example}}{{end}}{{if .HasAvailableSubCommands}}

Commands:{{range .Commands}}{{if (or .IsAvailableCommand (eq .Name "help"))}}
  {{rpad .Name .NamePadding }} {{.Short}}{{end}}{{end}}{{end}}{{if .HasAvailableLocalFlags}}

Flags:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}{{if .HasAvailableSubCommands}}

{{.CommandPath}} COMMAND --help says more about a command.{{end}}
`
