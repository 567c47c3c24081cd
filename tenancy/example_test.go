package tenancy_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"testing/fstest"

	"github.com/tenement-go/tenement/backend"
	_ "github.com/tenement-go/tenement/backend/sqlite"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
)

// migrations are usually embedded files.
var migrations = fstest.MapFS{"00001_polls.sql": {Data: []byte("-- +goose Up\nCREATE TABLE polls (question TEXT NOT NULL);\n")}}

func Example() {
	dir, err := os.MkdirTemp("", "polls")
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
	app, err := tenancy.Open(ctx, be, tenancy.Config{
		Tenant: []migrate.Source{{Name: "polls", FS: migrations}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer app.Close()

	for _, slug := range []string{"thor", "loki"} {
		if _, err := app.Create(ctx, tenancy.Spec{Slug: slug, Domains: []string{slug + ".polls.example"}}); err != nil {
			log.Fatal(err)
		}
	}

	// What the middleware of package httpx does for a request:
	t, err := app.Resolve(ctx, "Thor.polls.example:8080")
	if err != nil {
		log.Fatal(err)
	}
	inThor, _, done, err := app.Enter(ctx, t, tenancy.Policy{})
	if err != nil {
		log.Fatal(err)
	}
	defer done()
	if _, err := app.DB().ExecContext(inThor, "INSERT INTO polls (question) VALUES ('Hammer?')"); err != nil {
		log.Fatal(err)
	}

	// What a job does for all of them:
	err = app.ForEach(ctx, func(ctx context.Context, t tenancy.Tenant) error {
		var n int
		if err := app.DB().QueryRowContext(ctx, "SELECT count(*) FROM polls").Scan(&n); err != nil {
			return err
		}
		fmt.Println(t.Slug, n)
		return nil
	}, tenancy.Parallel(1))
	if err != nil {
		log.Fatal(err)
	}

	// And without a tenant nothing is reached:
	_, err = app.DB().ExecContext(ctx, "DELETE FROM polls")
	fmt.Println(err)
	// Output:
	// thor 1
	// loki 0
	// tenement: route: no tenant in the context
}
