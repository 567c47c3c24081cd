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
	"database/sql"
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
	_ "github.com/tenement-go/tenement/backend/placed"
	_ "github.com/tenement-go/tenement/backend/postgres"
	_ "github.com/tenement-go/tenement/backend/sqlite"
	"github.com/tenement-go/tenement/examples/polls/client"
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
	var proxies client.Proxies
	flags.Var(&proxies, "proxies", "`NETWORKS` of the proxies in front, whose X-Forwarded headers are believed: 10.0.0.0/8,::1")
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: polls [-addr HOST:PORT] [-migrate=false] [-proxies NETWORKS]    serve\n"+
			"       polls COMMAND [ARGUMENT…]                                       manage; polls help lists the commands\n\nflags:")
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
	if err := serve(ctx, *addr, *update, proxies, stdout, log); err != nil {
		fmt.Fprintln(stderr, "polls:", err)
		return 1
	}
	return 0
}

// program is the tenants, and the one store of the application over all of them.
type program struct {
	be    backend.Backend
	app   *tenancy.App
	store *polls.Store
}

// open opens the backend that DATABASE_URL names, and the tenants that are in it.
func open(ctx context.Context, log *slog.Logger) (*program, error) {
	be, err := backend.Open(ctx, cmp.Or(os.Getenv("DATABASE_URL"), "sqlite:data"))
	if err != nil {
		return nil, fmt.Errorf("DATABASE_URL: %w", err)
	}
	store := newStore(be.DB())
	app, err := tenancy.Open(ctx, be, config(fill(store), log))
	if err != nil {
		return nil, errors.Join(err, be.Close())
	}
	return &program{be, app, store}, nil
}

func config(onCreate func(context.Context, tenancy.Tenant, tenancy.Seed) error, log *slog.Logger) tenancy.Config {
	return tenancy.Config{
		Shared: []migrate.Source{{Name: "plans", FS: migrations.Shared()}},
		Tenant: []migrate.Source{{Name: "auth", FS: migrations.Auth()}, {Name: "polls", FS: migrations.Polls()}},
		Hooks:  tenancy.Hooks{OnCreate: onCreate},
		Logger: log,
	}
}

func (p *program) Close() error { return errors.Join(p.app.Close(), p.be.Close()) }

// newStore is the application's store over a handle on all tenants.
func newStore(db *sql.DB) *polls.Store {
	return polls.NewStore(db, polls.WithKey(key), polls.WithPlan(plan))
}

// key keeps apart what the store remembers of each tenant, and of the public site, which is none.
func key(ctx context.Context, parts ...string) string {
	if key, err := tenancy.Key(ctx, parts...); err == nil {
		return key
	}
	return strings.Join(append([]string{"public"}, parts...), "\x00")
}

// metadata is what the registry keeps of a tenant for this application.
type metadata struct {
	Plan string `json:"plan,omitempty"` // the ID of a plan; empty: as many polls as they like
}

// plan is the ID of the plan of the tenant that ctx is in.
func plan(ctx context.Context) (string, error) {
	t, ok := tenancy.From(ctx)
	if !ok {
		return "", tenancy.ErrNoTenant
	}
	meta, err := tenancy.MetaAs[metadata](*t)
	return meta.Plan, err
}

// serve brings the stores up to date, fills an empty registry with the demo, and serves until ctx is done. It takes the
// port first, so that nothing has been made when another process has it.
func serve(ctx context.Context, addr string, update bool, proxies client.Proxies, stdout io.Writer, log *slog.Logger) (err error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("%w; -addr HOST:PORT says where to listen instead, such as -addr 127.0.0.1:8001", err)
	}
	defer func() { _ = listener.Close() }()
	p, err := open(ctx, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	if update {
		if _, err := p.app.Migrator().Up(ctx, migrate.UpOptions{}); err != nil {
			return err
		}
	}
	if err := demo(ctx, p, stdout); err != nil {
		return err
	}
	server := &http.Server{
		Handler:           handler(p, listener.Addr(), proxies, log),
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
	for t, err := range p.app.Tenants(ctx, inService) {
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
func handler(p *program, listen net.Addr, proxies client.Proxies, log *slog.Logger) http.Handler {
	tenants := polls.Handler(p.store, polls.Config{
		Site: func(ctx context.Context) polls.SiteInfo {
			t, _ := tenancy.From(ctx)
			return polls.SiteInfo{Name: t.Name}
		},
		URL:      httpx.URL,
		Proxies:  proxies,
		ReadOnly: func(err error) bool { return errors.Is(err, tenancy.ErrReadOnly) },
		Logger:   log,
	})
	public := site.Handler(site.Config{
		Name:        "Polls",
		Address:     strings.TrimPrefix(address("x", listen), "http://x"),
		FormTargets: []string{strings.Replace(address("x", listen), "//x.", "//*.", 1)},
		Plans:       polls.NewStore(p.app.Shared()).Plans,
		List:        func(ctx context.Context) ([]site.Tenant, error) { return list(ctx, p.app, listen) },
		Create:      func(ctx context.Context, s site.Signup) (string, error) { return signUp(ctx, p, listen, s) },
		Proxies:     proxies,
		Logger:      log,
	})
	options := []httpx.Option{httpx.WithPublic(public, base), httpx.WithLogger(log)}
	if len(proxies) > 0 {
		options = append(options, httpx.WithForwarded(httpx.XForwardedHost, proxies...))
	}
	return httpx.Middleware(p.app, options...)(tenants)
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
