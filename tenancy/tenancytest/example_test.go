package tenancytest_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"testing"
	"testing/fstest"

	"github.com/tenement-go/tenement/httpx"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
	"github.com/tenement-go/tenement/tenancy/tenancytest"
)

// A test of a handler, with two tenants. It is a test of this package's too; call it TestNotes in yours.
func testNotes(t testing.TB) {
	tt := tenancytest.New(t, tenancy.Config{
		Tenant: []migrate.Source{{Name: "notes", FS: fstest.MapFS{
			"00001_notes.sql": {Data: []byte("-- +goose Up\nCREATE TABLE notes (text TEXT NOT NULL);\n")},
		}}},
	})
	handler := httpx.Middleware(tt.App)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var n int
		if err := tt.DB().QueryRowContext(r.Context(), "SELECT count(*) FROM notes").Scan(&n); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprint(w, n, " notes")
	}))

	thor, potter := tt.Tenant(t), tt.Tenant(t)
	if _, err := tt.DB().ExecContext(thor.Context(), "INSERT INTO notes VALUES ('hammer')"); err != nil {
		t.Fatal(err)
	}
	for tenant, want := range map[*tenancytest.Tenant]string{thor: "1 notes", potter: "0 notes"} {
		res, err := tenant.Client(handler).Get(tenant.URL("/"))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil || string(body) != want {
			t.Errorf("%q, %v; want %q", body, err, want)
		}
	}
}

func Example() {
	// func TestNotes(t *testing.T) …
	_ = testNotes
}

// The tests of a package share one App, which TestMain opens and closes.
func ExampleOpen() {
	ctx := context.Background()
	tt, closeAll, err := tenancytest.Open(ctx, tenancy.Config{
		Tenant: []migrate.Source{{Name: "notes", FS: fstest.MapFS{
			"00001_notes.sql": {Data: []byte("-- +goose Up\nCREATE TABLE notes (text TEXT NOT NULL);\n")},
		}}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = closeAll() }() // after m.Run()

	// A test calls tt.Tenant(t), which is this with a name of its own:
	thor, err := tt.Create(ctx, tenancy.Spec{Slug: "thor", Domains: []string{"thor.test"}})
	if err != nil {
		log.Fatal(err)
	}
	err = tt.Run(ctx, thor, tenancy.Policy{}, func(ctx context.Context, t *tenancy.Tenant) error {
		var n int
		err := tt.DB().QueryRowContext(ctx, "SELECT count(*) FROM notes").Scan(&n)
		fmt.Println(t.Slug, "has", n, "notes")
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// thor has 0 notes
}
