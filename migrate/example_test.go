package migrate_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"testing/fstest"

	"github.com/tenement-go/tenement/backend"
	_ "github.com/tenement-go/tenement/backend/sqlite"
	"github.com/tenement-go/tenement/migrate"
)

// openExample opens stores in a temporary directory.
func openExample(ctx context.Context) (be backend.Backend, closeAll func()) {
	dir, err := os.MkdirTemp("", "migrate")
	if err != nil {
		log.Fatal(err)
	}
	if be, err = backend.Open(ctx, "sqlite:"+dir); err != nil {
		log.Fatal(err)
	}
	return be, func() {
		_ = be.Close()
		_ = os.RemoveAll(dir)
	}
}

// file is what is usually embedded.
func file(up string) *fstest.MapFile {
	return &fstest.MapFile{Data: []byte("-- +goose Up\n" + up + "\n")}
}

// Two stores are made at the first version, and brought to the second. Package tenancy does the same for its tenants.
func Example() {
	ctx := context.Background()
	be, closeAll := openExample(ctx)
	defer closeAll()

	files := fstest.MapFS{"00001_polls.sql": file("CREATE TABLE polls (question TEXT NOT NULL);")}
	m, err := migrate.New(be, migrate.Config{Tenant: []migrate.Source{{Name: "polls", FS: files}}})
	if err != nil {
		log.Fatal(err)
	}
	for _, name := range []string{"thor", "potter"} {
		if err := m.Provision(ctx, backend.Route{Store: backend.MustParseStore(name), Owner: name}); err != nil {
			log.Fatal(err)
		}
	}

	// The next version of the program carries one more migration.
	files["00002_closing.sql"] = file("ALTER TABLE polls ADD COLUMN closes_at TEXT;")
	if m, err = migrate.New(be, migrate.Config{Tenant: []migrate.Source{{Name: "polls", FS: files}}}); err != nil {
		log.Fatal(err)
	}
	err = m.Ready(ctx, backend.Route{Store: backend.MustParseStore("thor"), Owner: "thor"})
	fmt.Println(errors.Is(err, migrate.ErrBehind))

	result, err := m.Up(ctx, migrate.UpOptions{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(result.Applied, "stores migrated,", result.Failed, "failed")

	status, err := m.Status(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(status.Tenants.Current, "current")
	// Output:
	// true
	// 2 stores migrated, 0 failed
	// 2 current
}

// What the two databases spell differently has a file for each, of one version; what is the same in both has one file.
func ExampleSource() {
	ctx := context.Background()
	be, closeAll := openExample(ctx) // SQLite
	defer closeAll()

	m, err := migrate.New(be, migrate.Config{Tenant: []migrate.Source{{Name: "notes", FS: fstest.MapFS{
		"00001_notes.sqlite.sql":   file("CREATE TABLE notes (id INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT NOT NULL);"),
		"00001_notes.postgres.sql": file("CREATE TABLE notes (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text TEXT NOT NULL);"),
		"00002_tags.sql":           file("CREATE TABLE tags (note BIGINT NOT NULL REFERENCES notes (id), tag TEXT NOT NULL);"),
	}}}})
	if err != nil {
		log.Fatal(err)
	}
	thor := backend.Route{Store: backend.MustParseStore("thor"), Owner: "thor"}
	if err := m.Provision(ctx, thor); err != nil {
		log.Fatal(err)
	}
	var id int
	err = be.DB().QueryRowContext(backend.WithRoute(ctx, thor), "INSERT INTO notes (text) VALUES ($1) RETURNING id", "Hammer?").Scan(&id)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("note", id)
	// Output:
	// note 1
}

// A store that fails does not stop the others; the error says which, and where.
func ExampleMigrator_Up() {
	ctx := context.Background()
	be, closeAll := openExample(ctx)
	defer closeAll()

	files := fstest.MapFS{"00001_polls.sql": file("CREATE TABLE polls (question TEXT NOT NULL);")}
	m, err := migrate.New(be, migrate.Config{Tenant: []migrate.Source{{Name: "polls", FS: files}}})
	if err != nil {
		log.Fatal(err)
	}
	for _, name := range []string{"potter", "thor"} {
		route := backend.Route{Store: backend.MustParseStore(name), Owner: name}
		if err := m.Provision(ctx, route); err != nil {
			log.Fatal(err)
		}
		if name == "thor" {
			if _, err := be.DB().ExecContext(backend.WithRoute(ctx, route), "INSERT INTO polls VALUES ('Hammer?'), ('Hammer?')"); err != nil {
				log.Fatal(err)
			}
		}
	}

	files["00002_unique.sql"] = file("CREATE UNIQUE INDEX polls_question ON polls (question);")
	if m, err = migrate.New(be, migrate.Config{Tenant: []migrate.Source{{Name: "polls", FS: files}}}); err != nil {
		log.Fatal(err)
	}
	result, err := m.Up(ctx, migrate.UpOptions{})
	fmt.Println(result.Applied, result.Failed, err != nil)
	for _, failure := range result.Failures {
		fmt.Println(failure.Store, failure.Source, failure.Version, failure.File, failure.Line)
	}
	// Output:
	// 1 1 true
	// thor polls 2 00002_unique.sql 2
}

// What cannot be right is refused when the files are loaded, before any store is touched.
func ExampleSourceError() {
	ctx := context.Background()
	be, closeAll := openExample(ctx)
	defer closeAll()

	_, err := migrate.New(be, migrate.Config{Tenant: []migrate.Source{{Name: "polls", FS: fstest.MapFS{
		"00001_polls.sql": file("BEGIN;\nCREATE TABLE polls (question TEXT NOT NULL);\nCOMMIT;"),
	}}}})
	var fault *migrate.SourceError
	if errors.As(err, &fault) {
		fmt.Println(fault.File, fault.Line)
	}
	// Output:
	// 00001_polls.sql 2
}
