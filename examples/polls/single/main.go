// Command single is the polls application for one customer, as it was before there were tenants: one database, one
// *sql.DB. The command in the directory above serves the same package to any number of customers; comparing the two main
// functions shows what it takes.
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite"

	"github.com/tenement-go/tenement/examples/polls/migrations"
	"github.com/tenement-go/tenement/examples/polls/polls"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8000", "where to listen, HOST:PORT")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *addr, cmp.Or(os.Getenv("DATABASE_URL"), "sqlite:polls.db")); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, addr, databaseURL string) (err error) {
	db, dialect, err := open(databaseURL)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := migrate(ctx, db, dialect); err != nil {
		return err
	}
	store := polls.NewStore(db)
	password := cmp.Or(os.Getenv("POLLS_ADMIN_PASSWORD"), rand.Text())
	switch _, err := polls.CreateSuperuser(ctx, store, "admin", password); {
	case err == nil:
		fmt.Println("admin's password:", password)
	case !errors.Is(err, polls.ErrUsernameTaken):
		return err
	}
	if err := polls.SeedDemo(ctx, store, polls.Demo{Superuser: "admin", Polls: polls.DemoPolls("")}); err != nil {
		return err
	}
	return serve(ctx, addr, polls.Handler(store, polls.Config{}))
}

// open opens sqlite:FILE or a Postgres URL.
func open(databaseURL string) (*sql.DB, goose.Dialect, error) {
	if file, ok := strings.CutPrefix(databaseURL, "sqlite:"); ok {
		db, err := sql.Open("sqlite", "file:"+file+"?_txlock=immediate&_pragma=foreign_keys(1)&_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)")
		return db, goose.DialectSQLite3, err
	}
	db, err := sql.Open("pgx", databaseURL)
	return db, goose.DialectPostgres, err
}

// migrate brings the three sets of migrations up to date, each with a version table of its own.
func migrate(ctx context.Context, db *sql.DB, dialect goose.Dialect) error {
	suffix := map[goose.Dialect]string{goose.DialectSQLite3: "sqlite", goose.DialectPostgres: "postgres"}[dialect]
	for _, set := range []struct {
		table string
		files fs.FS
	}{
		{"goose_plans", migrations.Shared()},
		{"goose_db_version", migrations.Auth()},
		{"goose_polls", migrations.Polls()},
	} {
		files, err := migrations.ForDialect(set.files, suffix)
		if err != nil {
			return err
		}
		provider, err := goose.NewProvider(dialect, db, files, goose.WithTableName(set.table), goose.WithDisableGlobalRegistry(true))
		if err != nil {
			return fmt.Errorf("migrations of %s: %w", set.table, err)
		}
		if _, err := provider.Up(ctx); err != nil {
			return fmt.Errorf("migrations of %s: %w", set.table, err)
		}
	}
	return nil
}

func serve(ctx context.Context, addr string, handler http.Handler) error {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Printf("http://%s\n", listener.Addr())
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, IdleTimeout: 2 * time.Minute}
	go func() {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = server.Shutdown(grace)
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
