package outbox_test

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
	"github.com/tenement-go/tenement/tenancy"
	"github.com/tenement-go/tenement/tenancy/outbox"
)

// A mail is ordered in the transaction that it is about, and sent afterwards: that of a transaction that was rolled back, never.
func Example() {
	dir, err := os.MkdirTemp("", "outbox")
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
	orders := fstest.MapFS{"00001_orders.sql": {Data: []byte("-- +goose Up\nCREATE TABLE orders (item TEXT NOT NULL);\n")}}
	app, err := tenancy.Open(ctx, be, tenancy.Config{
		Shared: []migrate.Source{outbox.Shared()},
		Tenant: []migrate.Source{{Name: "orders", FS: orders}, outbox.Tenant()},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer app.Close()
	if _, err := app.Migrator().Up(ctx, migrate.UpOptions{}); err != nil {
		log.Fatal(err)
	}
	thor, err := app.Create(ctx, tenancy.Spec{Slug: "thor"})
	if err != nil {
		log.Fatal(err)
	}

	box := outbox.New(app, outbox.Config{})
	order := func(item string, fault error) error {
		return app.Run(ctx, thor, tenancy.Policy{}, func(ctx context.Context, _ *tenancy.Tenant) error {
			return box.Tx(ctx, nil, func(tx *outbox.Tx) error {
				if _, err := tx.ExecContext(ctx, "INSERT INTO orders (item) VALUES ($1)", item); err != nil {
					return err
				}
				return errors.Join(tx.Add(ctx, "mail", item), fault)
			})
		})
	}
	fmt.Println(order("hammer", nil))
	fmt.Println(order("belt", errors.New("out of belts")))

	// One of the rounds that Run makes:
	sent, err := box.Dispatch(ctx, func(_ context.Context, t tenancy.Tenant, m outbox.Message) error {
		fmt.Printf("%s to %s: %s\n", m.Kind, t.Slug, m.Payload)
		return nil
	})
	fmt.Println(sent, err)
	// Output:
	// <nil>
	// out of belts
	// mail to thor: "hammer"
	// 1 <nil>
}
