package litestream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/tenement-go/tenement/backend/sqlite"
	"github.com/tenement-go/tenement/backend/sqlite/litestream"
	"github.com/tenement-go/tenement/manage"
	"github.com/tenement-go/tenement/tenancy"
)

// What main does with its arguments, typed several times: stores are backed up, here once, and a tenant is put back.
func Example() {
	dir, err := os.MkdirTemp("", "litestream")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	backups, err := litestream.New("file://"+filepath.ToSlash(dir)+"/backup", litestream.Config{})
	if err != nil {
		log.Fatal(err)
	}
	open := func(ctx context.Context) (*tenancy.App, func() error, error) {
		be, err := sqlite.Open(ctx, filepath.Join(dir, "data"), sqlite.Config{})
		if err != nil {
			return nil, nil, err
		}
		app, err := tenancy.Open(ctx, be, config)
		if err != nil {
			return nil, nil, errors.Join(err, be.Close())
		}
		return app, func() error { return errors.Join(app.Close(), be.Close()) }, nil
	}
	notes := func(out io.Writer, args ...string) {
		manage.Execute(context.Background(), open, args, os.Stdin, out, io.Discard, manage.WithName("notes"), manage.WithBackups(backups))
	}

	notes(io.Discard, "migrate", "--shared")
	notes(io.Discard, "tenant", "create", "thor")
	notes(io.Discard, "sql", "thor", "INSERT INTO notes (text) VALUES ('hammer')")
	notes(io.Discard, "backup", "run", "--once")
	moment := time.Now().Format(time.RFC3339Nano)
	notes(io.Discard, "sql", "thor", "UPDATE notes SET text = 'lost'")
	notes(io.Discard, "backup", "run", "--once")
	notes(io.Discard, "restore", "thor", "--at", moment, "--as", "thor-then")
	notes(os.Stdout, "sql", "thor-then", "SELECT text FROM notes")
	fmt.Println("and now:")
	notes(os.Stdout, "sql", "thor", "SELECT text FROM notes")

	// Output:
	// text
	// hammer
	// (1 row)
	// and now:
	// text
	// lost
	// (1 row)
}
