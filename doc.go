// Package tenement turns a single-tenant application into a multi-tenant one: each tenant's data has a store of its own, a
// SQLite file or a Postgres schema, and one [database/sql.DB] sends each call to the store of the tenant that is in the call's
// context. This package has no code; it is where to begin.
//
// # A whole program
//
// Three files in a directory of their own. After go mod init notes and go mod tidy, go run . serves http://thor.localhost:8080
// and http://potter.localhost:8080, each with notes of its own. Nothing has to be set up: an empty directory or database gets
// what it needs when it is opened. DATABASE_URL=postgres://localhost/app go run . does the same on Postgres.
//
// migrations/00001_notes.sqlite.sql:
//
//	-- +goose Up
//	CREATE TABLE notes (id INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT NOT NULL);
//
// migrations/00001_notes.postgres.sql:
//
//	-- +goose Up
//	CREATE TABLE notes (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text TEXT NOT NULL);
//
// How a column numbers itself is written differently on the two databases, so this migration has a file for each. What is the same
// on both needs one file, 00002_tags.sql. They are files of goose's, whose documentation says what may be in them.
//
// main.go:
//
//	package main
//
//	import (
//		"cmp"
//		"context"
//		"database/sql"
//		"embed"
//		"errors"
//		"fmt"
//		"html"
//		"io/fs"
//		"log"
//		"net/http"
//		"os"
//
//		"github.com/tenement-go/tenement/backend"
//		_ "github.com/tenement-go/tenement/backend/postgres" // postgres://user@host/app
//		_ "github.com/tenement-go/tenement/backend/sqlite"   // sqlite:DIR
//		"github.com/tenement-go/tenement/httpx"
//		"github.com/tenement-go/tenement/migrate"
//		"github.com/tenement-go/tenement/tenancy"
//	)
//
//	//go:embed migrations
//	var files embed.FS
//
//	func main() {
//		if err := run(context.Background()); err != nil {
//			log.Fatal(err)
//		}
//	}
//
//	func run(ctx context.Context) error {
//		be, err := backend.Open(ctx, cmp.Or(os.Getenv("DATABASE_URL"), "sqlite:data"))
//		if err != nil {
//			return err
//		}
//		defer be.Close()
//		migrations, err := fs.Sub(files, "migrations")
//		if err != nil {
//			return err
//		}
//		app, err := tenancy.Open(ctx, be, tenancy.Config{
//			Tenant: []migrate.Source{{Name: "notes", FS: migrations}},
//		})
//		if err != nil {
//			return err
//		}
//		defer app.Close()
//		if _, err := app.Migrator().Up(ctx, migrate.UpOptions{}); err != nil {
//			return err
//		}
//		for _, slug := range []string{"thor", "potter"} {
//			_, err := app.Create(ctx, tenancy.Spec{Slug: slug, Domains: []string{slug + ".localhost"}})
//			if err != nil && !errors.Is(err, tenancy.ErrConflict) { // it is there already
//				return err
//			}
//		}
//		handler := notes(app.DB()) // one *sql.DB for all tenants
//		return http.ListenAndServe(cmp.Or(os.Getenv("ADDR"), "localhost:8080"), httpx.Middleware(app)(handler))
//	}
//
//	// notes is what there was before: it knows a database, and passes the context down.
//	func notes(db *sql.DB) http.Handler {
//		mux := http.NewServeMux()
//		mux.HandleFunc("POST /", func(w http.ResponseWriter, r *http.Request) {
//			if _, err := db.ExecContext(r.Context(), "INSERT INTO notes (text) VALUES ($1)", r.FormValue("text")); err != nil {
//				http.Error(w, err.Error(), http.StatusInternalServerError)
//				return
//			}
//			http.Redirect(w, r, "/", http.StatusSeeOther)
//		})
//		mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
//			rows, err := db.QueryContext(r.Context(), "SELECT text FROM notes ORDER BY id")
//			if err != nil {
//				http.Error(w, err.Error(), http.StatusInternalServerError)
//				return
//			}
//			defer rows.Close()
//			w.Header().Set("Content-Type", "text/html; charset=utf-8")
//			fmt.Fprint(w, `<form method="post"><input name="text"><button>Add</button></form>`)
//			for rows.Next() {
//				var text string
//				if err := rows.Scan(&text); err != nil {
//					log.Print(err)
//					return
//				}
//				fmt.Fprintf(w, "<p>%s</p>\n", html.EscapeString(text))
//			}
//		})
//		return mux
//	}
//
// # What it is made of
//
//   - Package tenancy: who the tenants are, which host leads to which, how they come and go. An App of it is what an application
//     holds.
//   - Package httpx: the middleware that puts a request's tenant into its context.
//   - Package migrate: migrations, of shared tables and of all tenants' tables. Tenants that are made get them at once; Up
//     brings those that were there to a new version.
//   - Package backend: the contract of the stores. An application imports backend/sqlite, backend/postgres or both, for their URLs;
//     backend/placed is several databases behind one.
//   - Package manage: the command line (migrate, status, tenant, domain, doctor), mounted in the application's own binary.
//   - Package transfer: a tenant in a file, and in another database. Package tenancy/outbox: jobs in a tenant's own transaction.
//     Package tenancy/tenancytest: a tenant for each test.
//
// Jobs and commands enter a tenant by tenancy's App.Run and App.ForEach. A call whose context is in no tenant fails, and reaches no
// store.
package tenement
