package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/sqlite"
)

// Stores without package tenancy: each is a file, and the context says which is meant.
func ExampleOpen() {
	dir, err := os.MkdirTemp("", "sqlite")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	be, err := sqlite.Open(ctx, dir, sqlite.Config{Synchronous: sqlite.Normal})
	if err != nil {
		log.Fatal(err)
	}
	defer be.Close()

	thor := backend.MustParseStore("thor")
	if err := be.Create(ctx, backend.Route{Store: thor}); err != nil {
		log.Fatal(err)
	}
	inThor := backend.WithStore(ctx, thor)
	if _, err := be.DB().ExecContext(inThor, "CREATE TABLE notes (text TEXT NOT NULL)"); err != nil {
		log.Fatal(err)
	}
	for info, err := range be.Stores(ctx) {
		fmt.Println(info.Store, err)
	}
	_, err = be.DB().ExecContext(inThor, "ATTACH DATABASE 'other.db' AS other")
	fmt.Println("refused:", errors.Is(err, backend.ErrReadOnlyShared))
	// Output:
	// thor <nil>
	// refused: true
}
