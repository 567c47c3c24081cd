package backend_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/tenement-go/tenement/backend"
	_ "github.com/tenement-go/tenement/backend/sqlite"
)

// Two stores, one handle: the context says which of them answers. Most applications leave this to package tenancy.
func Example() {
	dir, err := os.MkdirTemp("", "backend")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	be, err := backend.Open(ctx, "sqlite:"+dir) // or postgres://…
	if err != nil {
		log.Fatal(err)
	}
	defer be.Close()

	for _, name := range []string{"thor", "potter"} {
		store, err := backend.ParseStore(name)
		if err != nil {
			log.Fatal(err)
		}
		route := backend.Route{Store: store, Owner: "the ID of " + name}
		if err := be.Create(ctx, route); err != nil {
			log.Fatal(err)
		}
		inside := backend.WithRoute(ctx, route)
		if _, err := be.DB().ExecContext(inside, "CREATE TABLE notes (text TEXT NOT NULL)"); err != nil {
			log.Fatal(err)
		}
		if _, err := be.DB().ExecContext(inside, "INSERT INTO notes VALUES ($1)", name+"'s note"); err != nil {
			log.Fatal(err)
		}
	}

	var text string
	thor := backend.WithStore(ctx, backend.MustParseStore("thor"))
	err = be.DB().QueryRowContext(thor, "SELECT text FROM notes").Scan(&text)
	fmt.Println(text, err)

	err = be.DB().QueryRowContext(ctx, "SELECT text FROM notes").Scan(&text)
	fmt.Println(errors.Is(err, backend.ErrNoTenant))

	odin := backend.WithStore(ctx, backend.MustParseStore("odin"))
	err = be.DB().QueryRowContext(odin, "SELECT text FROM notes").Scan(&text)
	fmt.Println(errors.Is(err, backend.ErrStoreMissing))
	// Output:
	// thor's note <nil>
	// true
	// true
}

// A name that could be two, or that a database has its own use for, is refused and never altered.
func ExampleParseStore() {
	for _, name := range []string{"thor", "Thor", "public", "../etc"} {
		store, err := backend.ParseStore(name)
		fmt.Printf("%q %v\n", store, err != nil)
	}
	// Output:
	// "thor" false
	// "" true
	// "" true
	// "" true
}

// A handle for what loses the context is bound to one store.
func ExampleBackend_bound() {
	dir, err := os.MkdirTemp("", "backend")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	be, err := backend.Open(ctx, "sqlite:"+dir)
	if err != nil {
		log.Fatal(err)
	}
	defer be.Close()
	thor := backend.Route{Store: backend.MustParseStore("thor"), Owner: "1"}
	if err := be.Create(ctx, thor); err != nil {
		log.Fatal(err)
	}

	db := be.DBFor(thor) // costs no connection; whoever asked for it closes it
	defer db.Close()
	var n int
	err = db.QueryRowContext(ctx, "SELECT 1").Scan(&n)
	fmt.Println(n, err)
	// Output:
	// 1 <nil>
}
