package manage_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"testing/fstest"

	"github.com/tenement-go/tenement/backend"
	_ "github.com/tenement-go/tenement/backend/sqlite"
	"github.com/tenement-go/tenement/manage"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
)

// openNotes is the [manage.Opener] of an application.
func openNotes(dir string) manage.Opener {
	return func(ctx context.Context) (*tenancy.App, func() error, error) {
		be, err := backend.Open(ctx, "sqlite:"+dir)
		if err != nil {
			return nil, nil, err
		}
		app, err := tenancy.Open(ctx, be, tenancy.Config{
			Tenant: []migrate.Source{{Name: "notes", FS: fstest.MapFS{
				"00001_notes.sql": {Data: []byte("-- +goose Up\nCREATE TABLE notes (text TEXT NOT NULL);\n")},
			}}},
		})
		if err != nil {
			return nil, nil, errors.Join(err, be.Close())
		}
		return app, func() error { return errors.Join(app.Close(), be.Close()) }, nil
	}
}

// What an application's main does with its arguments, typed four times.
func Example() {
	dir, err := os.MkdirTemp("", "manage")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for _, args := range [][]string{
		{"tenant", "create", "thor", "--name", "Thor", "--domain", "thor.example.com"},
		{"sql", "thor", "SELECT 1 AS one"},
		{"status"},
		{"tenant", "suspend", "thor", "--reason", "the bill"},
	} {
		if code := manage.Execute(context.Background(), openNotes(dir), args, os.Stdin, os.Stdout, os.Stdout, manage.WithName("notes")); code != manage.ExitOK {
			fmt.Println("exit status", code)
		}
	}
	// Output:
	// made tenant thor at thor.example.com
	// one
	// 1
	// (1 row)
	// shared store     current
	// tenants' stores  1: 1 current, 0 pending, 0 failed
	// thor is suspended
}

// A command of the application's own, run inside a tenant, or with --all inside each.
func ExampleWithCommand() {
	dir, err := os.MkdirTemp("", "manage")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	count := manage.Command{
		Name: "count", Short: "count the notes",
		Run: func(ctx context.Context, app *tenancy.App, _ []string, stdio manage.IO) error {
			var n int
			if err := app.DB().QueryRowContext(ctx, "SELECT count(*) FROM notes").Scan(&n); err != nil {
				return err
			}
			_, err := fmt.Fprintln(stdio.Out, n, "notes")
			return err
		},
	}
	for _, args := range [][]string{{"tenant", "create", "thor"}, {"exec", "thor", "--", "count"}} {
		manage.Execute(context.Background(), openNotes(dir), args, os.Stdin, os.Stdout, os.Stdout, manage.WithName("notes"), manage.WithCommand(count))
	}
	// Output:
	// made tenant thor
	// 0 notes
}

// A command that is called in a wrong way says how it is called, and its status tells scripts. Nothing is opened for it.
func ExampleExecute() {
	code := manage.Execute(context.Background(), nil, []string{"tenant", "rename", "thor"}, os.Stdin, os.Stdout, os.Stdout, manage.WithName("notes"))
	fmt.Println(code == manage.ExitUsage)
	// Output:
	// notes: tenant rename: NEWSLUG is missing
	// usage: notes tenant rename SLUG NEWSLUG [flags]
	// notes tenant rename --help says more
	// true
}
