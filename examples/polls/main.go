// Command polls is the tour: the polls application, served to any number of customers from one process.
//
//	go run ./examples/polls                          serves it
//	go run ./examples/polls COMMAND [ARGUMENT…]      runs a management command: migrate, status, tenant, exec, …
//
// DATABASE_URL says where the data is: sqlite:DIR (default sqlite:data) or postgres://…. Package polls, which has the
// queries, the handlers and the pages, knows nothing of tenants; this directory is all that the many customers take.
// Compare it with the directory single, the same application for one.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/tenement-go/tenement/backend"
	_ "github.com/tenement-go/tenement/backend/postgres"
	_ "github.com/tenement-go/tenement/backend/sqlite"
	"github.com/tenement-go/tenement/examples/polls/migrations"
	"github.com/tenement-go/tenement/examples/polls/polls"
	"github.com/tenement-go/tenement/examples/polls/site"
	"github.com/tenement-go/tenement/httpx"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
)

// base is the domain of the public site; each tenant has a name under it. Browsers take every name that ends in
// .localhost for this machine, so there is nothing to set up.
const base = "polls.localhost"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is main without the process: it returns the exit status.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("polls", flag.ContinueOnError)
	flags.SetOutput(stderr)
	addr := flags.String("addr", "127.0.0.1:8000", "where to listen, `HOST:PORT`")
	update := flags.Bool("migrate", true, "bring shared tables and tenants up to date before serving")
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: polls [-addr HOST:PORT] [-migrate=false]    serve\n"+
			"       polls COMMAND [ARGUMENT…]                   manage; polls help lists the commands\n\nflags:")
		flags.PrintDefaults()
	}
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	log := slog.New(tenancy.NewLogHandler(slog.NewTextHandler(stderr, nil)))
	if flags.NArg() > 0 {
		return command(ctx, log, flags.Args(), stdin, stdout, stderr)
	}
	if err := serve(ctx, *addr, *update, stdout, log); err != nil {
		fmt.Fprintln(stderr, "polls:", err)
		return 1
	}
	return 0
}

// open opens the backend that DATABASE_URL names, and the tenants that are in it.
func open(ctx context.Context, log *slog.Logger) (_ *tenancy.App, closeAll func(), err error) {
	be, err := backend.Open(ctx, cmp.Or(os.Getenv("DATABASE_URL"), "sqlite:data"))
	if err != nil {
		return nil, nil, fmt.Errorf("DATABASE_URL: %w", err)
	}
	cfg := tenancy.Config{
		Shared: []migrate.Source{{Name: "plans", FS: migrations.Shared()}},
		Tenant: []migrate.Source{{Name: "auth", FS: migrations.Auth()}, {Name: "polls", FS: migrations.Polls()}},
		Hooks:  tenancy.Hooks{OnCreate: fill(polls.NewStore(be.DB()))},
		Logger: log,
	}
	app, err := tenancy.Open(ctx, be, cfg)
	if err != nil {
		return nil, nil, errors.Join(err, be.Close())
	}
	return app, func() { _ = app.Close(); _ = be.Close() }, nil
}

// serve brings the stores up to date, fills an empty registry with the demo, and serves until ctx is done. It takes the
// port first, so that nothing has been made when another process has it.
func serve(ctx context.Context, addr string, update bool, stdout io.Writer, log *slog.Logger) error {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("%w; -addr HOST:PORT says where to listen instead, such as -addr 127.0.0.1:8001", err)
	}
	defer func() { _ = listener.Close() }()
	app, closeApp, err := open(ctx, log)
	if err != nil {
		return err
	}
	defer closeApp()
	if update {
		if _, err := app.Migrator().Up(ctx, migrate.UpOptions{}); err != nil {
			return err
		}
	}
	if err := demo(ctx, app, stdout); err != nil {
		return err
	}
	server := &http.Server{
		Handler:           handler(app, listener.Addr(), log),
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, IdleTimeout: 2 * time.Minute,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	// Serve returns as soon as the end begins; what is being answered then still needs the stores.
	drained := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		drained <- server.Shutdown(grace)
	})
	fmt.Fprintf(stdout, "listening on %s\n", listener.Addr())
	fmt.Fprintf(stdout, "  public site  %s\n", address("", listener.Addr()))
	const listed = 10
	n := 0
	for t, err := range app.Tenants(ctx, tenancy.Filter{Status: []tenancy.Status{tenancy.Active}}) {
		if err != nil {
			break // The listing is a courtesy; what is wrong with the registry, requests will tell.
		}
		if n++; n > listed {
			fmt.Fprintln(stdout, "  … polls tenant list shows the others")
			break
		}
		fmt.Fprintf(stdout, "  %-11s  %s/polls/\n", t.Slug, address(t.Slug, listener.Addr()))
	}
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		stop()
		return err
	}
	return <-drained
}

// handler is the whole application: the polls inside each tenant, the public site outside.
func handler(app *tenancy.App, listen net.Addr, log *slog.Logger) http.Handler {
	tenants := polls.Handler(polls.NewStore(app.DB()), polls.Config{
		Site: func(ctx context.Context) polls.SiteInfo {
			t, _ := tenancy.From(ctx)
			return polls.SiteInfo{Name: t.Name}
		},
		URL: httpx.URL,
		Key: func(ctx context.Context, parts ...string) string {
			key, err := tenancy.Key(ctx, parts...)
			if err != nil {
				panic(err) // Unreachable: the middleware lets no request in without a tenant.
			}
			return key
		},
		Logger: log,
	})
	public := site.Handler(site.Config{
		Name:        "Polls",
		Address:     strings.TrimPrefix(address("x", listen), "http://x"),
		FormTargets: []string{strings.Replace(address("x", listen), "//x.", "//*.", 1)},
		Plans:       polls.NewStore(app.Shared()).Plans,
		List:        func(ctx context.Context) ([]site.Tenant, error) { return list(ctx, app, listen) },
		Create:      func(ctx context.Context, s site.Signup) (string, error) { return signUp(ctx, app, listen, s) },
		Logger:      log,
	})
	return httpx.Middleware(app, httpx.WithPublic(public, base), httpx.WithLogger(log))(tenants)
}

// address returns the URL of a tenant, or of the public site when slug is empty.
func address(slug string, listen net.Addr) string {
	host := base
	if slug != "" {
		host = slug + "." + base
	}
	if _, port, err := net.SplitHostPort(listen.String()); err == nil && port != "80" {
		host = net.JoinHostPort(host, port)
	}
	return "http://" + host
}
