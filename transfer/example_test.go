package transfer_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"testing/fstest"

	"github.com/tenement-go/tenement/backend"
	_ "github.com/tenement-go/tenement/backend/sqlite"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
	"github.com/tenement-go/tenement/transfer"
)

// openApp opens an application's tenants. Its caller closes both.
func openApp(ctx context.Context, url string) (*tenancy.App, backend.Backend) {
	be, err := backend.Open(ctx, url)
	if err != nil {
		log.Fatal(err)
	}
	app, err := tenancy.Open(ctx, be, tenancy.Config{
		Tenant: []migrate.Source{{Name: "notes", FS: fstest.MapFS{
			"00001_notes.sql": {Data: []byte("-- +goose Up\nCREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL);\n")},
		}}},
	})
	if err != nil {
		log.Fatal(err)
	}
	return app, be
}

// write adds a note to a tenant's.
func write(ctx context.Context, app *tenancy.App, id tenancy.ID, text string) {
	err := app.Run(ctx, id, tenancy.Policy{}, func(ctx context.Context, _ *tenancy.Tenant) error {
		_, err := app.DB().ExecContext(ctx, "INSERT INTO notes (text) VALUES ($1)", text)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
}

// read prints a tenant's notes.
func read(ctx context.Context, app *tenancy.App, id tenancy.ID) {
	err := app.Run(ctx, id, tenancy.Policy{}, func(ctx context.Context, t *tenancy.Tenant) error {
		var text sql.NullString
		err := app.DB().QueryRowContext(ctx, "SELECT group_concat(text, ', ') FROM notes").Scan(&text)
		fmt.Printf("%s: %s\n", t.Slug, text.String)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
}

// A tenant goes into a file, and from there into another installation.
func Example() {
	dir, err := os.MkdirTemp("", "transfer")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	app, be := openApp(ctx, "sqlite:"+filepath.Join(dir, "here")) // or postgres://…
	defer be.Close()
	defer app.Close()
	elsewhere, there := openApp(ctx, "sqlite:"+filepath.Join(dir, "there"))
	defer there.Close()
	defer elsewhere.Close()

	thor, err := app.Create(ctx, tenancy.Spec{Slug: "thor", Domains: []string{"thor.example.com"}})
	if err != nil {
		log.Fatal(err)
	}
	write(ctx, app, thor.ID, "hammer")

	file := filepath.Join(dir, "thor.db")
	if _, err := transfer.Export(ctx, app, thor.ID, file, transfer.ExportOptions{}); err != nil {
		log.Fatal(err)
	}
	copied, err := transfer.Import(ctx, elsewhere, file, transfer.ImportOptions{})
	if err != nil {
		log.Fatal(err)
	}
	read(ctx, elsewhere, copied.ID)

	write(ctx, elsewhere, copied.ID, "belt")
	compared, err := transfer.Verify(ctx, transfer.InStore(elsewhere, copied.ID), transfer.InFile(file), transfer.VerifyOptions{})
	if err != nil {
		log.Fatal(err)
	}
	for _, table := range compared.Tables {
		fmt.Println(table)
	}
	// Output:
	// thor: hammer
	// table notes: 2 rows and 1 rows
}

// A copy for a developer, with other texts in the place of the customer's.
func ExampleClone() {
	dir, err := os.MkdirTemp("", "transfer")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	app, be := openApp(ctx, "sqlite:"+dir)
	defer be.Close()
	defer app.Close()

	thor, err := app.Create(ctx, tenancy.Spec{Slug: "thor"})
	if err != nil {
		log.Fatal(err)
	}
	write(ctx, app, thor.ID, "the hammer is in the shed")
	clone, err := transfer.Clone(ctx, app, thor.ID, transfer.CloneOptions{
		Spec:  tenancy.Spec{Slug: "thor-debug"},
		Masks: []transfer.Mask{{Table: "notes", Column: "text", With: transfer.Expr("'note ' || id")}, {Table: "*", Column: "id", With: transfer.Keep()}},
	})
	if err != nil {
		log.Fatal(err)
	}
	read(ctx, app, clone.ID)
	read(ctx, app, thor.ID)
	// Output:
	// thor-debug: note 1
	// thor: the hammer is in the shed
}

// All tenants go to another database: such as from SQLite to Postgres, with postgres://… in the second place.
func ExampleMove() {
	dir, err := os.MkdirTemp("", "transfer")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	app, be := openApp(ctx, "sqlite:"+filepath.Join(dir, "here"))
	defer be.Close()
	defer app.Close()
	for _, slug := range []string{"thor", "potter"} {
		t, err := app.Create(ctx, tenancy.Spec{Slug: slug})
		if err != nil {
			log.Fatal(err)
		}
		write(ctx, app, t.ID, "a note of "+slug+"'s")
	}

	there, err := backend.Open(ctx, "sqlite:"+filepath.Join(dir, "there"))
	if err != nil {
		log.Fatal(err)
	}
	defer there.Close()
	elsewhere, err := app.Elsewhere(ctx, there) // the same application, in another place
	if err != nil {
		log.Fatal(err)
	}
	defer elsewhere.Close()
	moved, err := transfer.Move(ctx, app, elsewhere, transfer.MoveOptions{})
	if err != nil {
		log.Fatal(err)
	}
	for _, m := range moved.Tenants {
		read(ctx, elsewhere, m.Tenant.ID)
	}
	fmt.Println("in service there:", moved.InService)
	// Output:
	// thor: a note of thor's
	// potter: a note of potter's
	// in service there: true
}
