package httpx_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"testing/fstest"

	"github.com/tenement-go/tenement/backend"
	_ "github.com/tenement-go/tenement/backend/sqlite"
	"github.com/tenement-go/tenement/httpx"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
)

// openPolls opens an application with the tenants thor and potter on SQLite. The caller calls closeAll.
func openPolls(ctx context.Context) (app *tenancy.App, closeAll func()) {
	dir, err := os.MkdirTemp("", "polls")
	if err != nil {
		log.Fatal(err)
	}
	be, err := backend.Open(ctx, "sqlite:"+dir)
	if err != nil {
		log.Fatal(err)
	}
	app, err = tenancy.Open(ctx, be, tenancy.Config{
		Tenant: []migrate.Source{{Name: "polls", FS: fstest.MapFS{"00001_polls.sql": {Data: []byte(
			"-- +goose Up\nCREATE TABLE polls (id INTEGER PRIMARY KEY, question TEXT NOT NULL);\n",
		)}}}},
		Hooks: tenancy.Hooks{OnCreate: func(ctx context.Context, t tenancy.Tenant, _ tenancy.Seed) error {
			_, err := be.DB().ExecContext(ctx, "INSERT INTO polls (question) VALUES ($1)", "Who is "+t.Name+"?")
			return err
		}},
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, slug := range []string{"thor", "potter"} {
		if _, err := app.Create(ctx, tenancy.Spec{Slug: slug, Domains: []string{slug + ".polls.local"}}); err != nil {
			log.Fatal(err)
		}
	}
	return app, func() {
		_ = app.Close()
		_ = be.Close()
		_ = os.RemoveAll(dir)
	}
}

// poll is a handler of an application for one customer: it knows nothing of tenants.
func poll(app *tenancy.App) http.Handler {
	db := app.DB()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /polls/{id}", func(w http.ResponseWriter, r *http.Request) {
		var question string
		err := db.QueryRowContext(r.Context(), "SELECT question FROM polls WHERE id = $1", r.PathValue("id")).Scan(&question)
		if err != nil {
			http.Error(w, "no such poll", http.StatusNotFound)
			return
		}
		_, _ = fmt.Fprintf(w, "%s (%s)\n", question, httpx.URL(r.Context(), r.URL.Path))
	})
	return mux
}

// ask prints the answer to a request.
func ask(h http.Handler, url string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, url, nil))
	fmt.Print(w.Code, " ", w.Body)
}

// Tenants by their hosts, which is the default, and a public site beside them.
func Example() {
	app, closeAll := openPolls(context.Background())
	defer closeAll()

	home := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "Get polls of your own!\n")
	})
	h := httpx.Middleware(app, httpx.WithPublic(home, "polls.local"))(poll(app))

	ask(h, "http://thor.polls.local:8000/polls/1")
	ask(h, "http://POTTER.polls.local/polls/1")
	ask(h, "http://polls.local/")
	ask(h, "http://odin.polls.local/polls/1")
	// Output:
	// 200 Who is thor? (/polls/1)
	// 200 Who is potter? (/polls/1)
	// 200 Get polls of your own!
	// 404 There is nothing at this address.
}

// Tenants by a path prefix: the handler sees the path without it, and URL puts it back.
func ExampleByPathPrefix() {
	app, closeAll := openPolls(context.Background())
	defer closeAll()

	h := httpx.Middleware(app, httpx.WithStrategy(httpx.ByPathPrefix("/t/")))(poll(app))

	ask(h, "http://polls.local/t/thor/polls/1")
	ask(h, "http://polls.local/t/potter/polls/1")
	ask(h, "http://polls.local/polls/1")
	// Output:
	// 200 Who is thor? (/t/thor/polls/1)
	// 200 Who is potter? (/t/potter/polls/1)
	// 404 There is nothing at this address.
}

// A header for the clients of an API, subdomains for everyone else.
func ExampleFirst() {
	app, closeAll := openPolls(context.Background())
	defer closeAll()

	g, err := httpx.New(app, httpx.WithStrategy(httpx.First(httpx.ByHeader("X-Tenant"), httpx.BySubdomain("polls.local"))))
	if err != nil {
		log.Fatal(err)
	}
	for _, header := range []string{"", "potter", "../potter"} {
		r := httptest.NewRequest(http.MethodGet, "http://thor.polls.local/", nil)
		if header != "" {
			r.Header.Set("X-Tenant", header)
		}
		if d := g.Check(r); d.Outcome == httpx.Tenant {
			fmt.Println(d.Outcome, d.Tenant.Slug)
		} else {
			fmt.Println(d.Outcome, d.Code)
		}
	}
	// Output:
	// tenant thor
	// tenant potter
	// malformed 400
}

// The application's own page for tenants that are suspended.
func ExampleWithRefusal() {
	ctx := context.Background()
	app, closeAll := openPolls(ctx)
	defer closeAll()
	thor, err := app.BySlug(ctx, "thor")
	if err != nil {
		log.Fatal(err)
	}
	if _, err := app.Suspend(ctx, thor.ID, "unpaid since May"); err != nil {
		log.Fatal(err)
	}

	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d, _ := httpx.DecisionFrom(r.Context())
		w.WriteHeader(d.Code)
		_, _ = fmt.Fprintf(w, "%s is having a rest.\n", d.Tenant.Name)
	})
	h := httpx.Middleware(app, httpx.WithRefusal(httpx.Inactive, page))(poll(app))

	ask(h, "http://thor.polls.local/polls/1")
	ask(h, "http://potter.polls.local/polls/1")
	// Output:
	// 403 thor is having a rest.
	// 200 Who is potter? (/polls/1)
}
