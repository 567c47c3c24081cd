package main

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"testing/fstest"

	"github.com/jackc/pgx/v5"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/postgres"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
)

// The rows of new tenants: what the tables take, and what a whole sign-up takes on top.

var provisionSuites = []suite{
	{
		name: "provision_postgres", what: "a new store of 20 tables and 40 indexes, by the migrator",
		rows: []row{
			{id: "provision_postgres", what: "÷ the same DDL sent as one message", ours: "store", ref: "one message", bar: 1.15},
		},
		measure: provisionPostgres,
	},
	{
		name: "create_postgres", what: "App.Create with 20 tables and 40 indexes, one domain",
		rows: []row{
			{id: "create_postgres", what: "÷ the same DDL sent as one message", ours: "create", ref: "one message", bar: 1.15},
			{id: "create_concurrently", what: "with one index made CONCURRENTLY ÷ without", ours: "create, concurrently", ref: "create", bar: 1.2},
		},
		measure: createPostgres,
	},
	{
		name: "create_sqlite", what: "App.Create with 20 tables and 40 indexes, one domain",
		rows: []row{
			{id: "create_sqlite", what: "÷ copy and fsync of the template and two commits", ours: "create", ref: "copy", bar: 1.5},
		},
		measure: createSQLite,
	},
}

// twentyTables is the schema of these rows: 20 tables with two indexes each.
func twentyTables(idType string) string {
	var ddl strings.Builder
	for i := range 20 {
		fmt.Fprintf(&ddl, "CREATE TABLE t%[1]d (id %[2]s PRIMARY KEY, a TEXT NOT NULL, b TEXT, c INTEGER);\n"+
			"CREATE INDEX t%[1]d_a ON t%[1]d (a);\nCREATE INDEX t%[1]d_bc ON t%[1]d (b, c);\n", i, idType)
	}
	return ddl.String()
}

// twentyTablesSource is the same as goose migrations.
func twentyTablesSource(idType string) fs.FS {
	return fstest.MapFS{"00001_tables.sql": {Data: []byte("-- +goose Up\n" + twentyTables(idType))}}
}

// withConcurrentIndex adds a migration that cannot run in a transaction.
func withConcurrentIndex() fs.FS {
	const file = "-- +goose NO TRANSACTION\n-- +goose Up\nCREATE INDEX CONCURRENTLY t0_c ON t0 (c);\n"
	return fstest.MapFS{
		"00001_tables.sql": {Data: []byte("-- +goose Up\n" + twentyTables("BIGINT"))},
		"00002_index.sql":  {Data: []byte(file)},
	}
}

// signUps makes tenants in an app whose tenants have the given tables.
func (e *env) signUps(ctx context.Context, be backend.Backend, tables fs.FS) (operation, error) {
	app, err := e.app(ctx, be, tenancy.Config{Tenant: []migrate.Source{{Name: "tables", FS: tables}}})
	if err != nil {
		return nil, err
	}
	made := 0
	return func(ctx context.Context) error {
		made++
		_, err := app.Create(ctx, tenancy.Spec{Slug: fmt.Sprintf("c%d", made), Domains: []string{fmt.Sprintf("c%d.bench.example", made)}})
		return err
	}, nil
}

func (e *env) app(ctx context.Context, be backend.Backend, cfg tenancy.Config) (*tenancy.App, error) {
	app, err := tenancy.Open(ctx, be, cfg)
	if err == nil {
		e.cleanup(func() { _ = app.Close() })
	}
	return app, err
}

// postgres opens a backend, as it is shipped, on a new database.
func (e *env) postgres(ctx context.Context) (*postgres.Backend, error) {
	u, err := e.database(ctx)
	if err != nil {
		return nil, err
	}
	f := fleet{fleetKey: fleetKey{role: true}}
	be, err := f.open(ctx, u)
	if err == nil {
		e.cleanup(func() { _ = be.Close() })
	}
	return be, err
}

// oneMessage makes schemas of 20 tables in a database of its own, each by one hand-written message.
func (e *env) oneMessage(ctx context.Context) (contender, error) {
	u, err := e.database(ctx)
	if err != nil {
		return contender{}, err
	}
	conn, err := pgx.Connect(ctx, u)
	if err != nil {
		return contender{}, err
	}
	e.cleanup(func() { _ = conn.Close(context.WithoutCancel(ctx)) })
	made := 0
	return contender{name: "one message", worker: alike(func(ctx context.Context) error {
		made++
		_, err := conn.PgConn().Exec(ctx, fmt.Sprintf("BEGIN; CREATE SCHEMA %[1]s; SET LOCAL search_path = %[1]s; %[2]s COMMIT",
			numbered(made), twentyTables("BIGINT"))).ReadAll()
		return err
	})}, nil
}

func provisionPostgres(ctx context.Context, e *env, s *scores) error {
	be, err := e.postgres(ctx)
	if err != nil {
		return err
	}
	m, err := migrator(be, twentyTablesSource("BIGINT"))
	if err != nil {
		return err
	}
	e.cleanup(func() { _ = m.Close() })
	if _, err := m.Up(ctx, migrate.UpOptions{Scope: migrate.SharedOnly}); err != nil {
		return err
	}
	byHand, err := e.oneMessage(ctx)
	if err != nil {
		return err
	}
	made := 0
	provision := func(ctx context.Context) error {
		made++
		return m.Provision(ctx, routeTo(made))
	}
	return e.contest(ctx, s, contest{ops: e.pick(30, 2)}, contender{name: "store", worker: alike(provision)}, byHand)
}

func createPostgres(ctx context.Context, e *env, s *scores) error {
	var contenders []contender
	for _, tenants := range []struct {
		name   string
		tables fs.FS
	}{{"create", twentyTablesSource("BIGINT")}, {"create, concurrently", withConcurrentIndex()}} {
		be, err := e.postgres(ctx)
		if err != nil {
			return err
		}
		create, err := e.signUps(ctx, be, tenants.tables)
		if err != nil {
			return err
		}
		contenders = append(contenders, contender{name: tenants.name, worker: alike(create)})
	}
	byHand, err := e.oneMessage(ctx)
	if err != nil {
		return err
	}
	return e.contest(ctx, s, contest{ops: e.pick(30, 2)}, append(contenders, byHand)...)
}

func createSQLite(ctx context.Context, e *env, s *scores) error {
	be, dir, err := e.sqlite(ctx, "", 0)
	if err != nil {
		return err
	}
	create, err := e.signUps(ctx, be, twentyTablesSource("INTEGER"))
	if err != nil {
		return err
	}
	if err := create(ctx); err != nil {
		return err
	}
	byHand, err := e.registryByHand(ctx, filepath.Join(dir, "tenants", "c1.db"))
	if err != nil {
		return err
	}
	return e.contest(ctx, s, contest{ops: e.pick(100, 5)},
		contender{name: "create", worker: alike(create)}, contender{name: "copy", worker: alike(byHand)})
}

// registryByHand is the floor of a sign-up: the file, and two commits in a registry of the same kind.
func (e *env) registryByHand(ctx context.Context, template string) (operation, error) {
	dir, err := e.dir()
	if err != nil {
		return nil, err
	}
	registry, err := sql.Open("sqlite", "file:"+filepath.ToSlash(filepath.Join(dir, "shared.db"))+"?_txlock=immediate"+barePragmas)
	if err != nil {
		return nil, err
	}
	e.cleanup(func() { _ = registry.Close() })
	registry.SetMaxOpenConns(1)
	if _, err := registry.ExecContext(ctx, `CREATE TABLE tenants (id TEXT PRIMARY KEY, slug TEXT UNIQUE, status TEXT);
		CREATE TABLE domains (host TEXT PRIMARY KEY, tenant TEXT)`); err != nil {
		return nil, err
	}
	copies := 0
	return func(ctx context.Context) error {
		copies++
		id := fmt.Sprint(copies)
		if _, err := registry.ExecContext(ctx, `BEGIN IMMEDIATE; INSERT INTO tenants VALUES ('`+id+`', '`+id+`', 'provisioning');
			INSERT INTO domains VALUES ('`+id+`', '`+id+`'); COMMIT`); err != nil {
			return err
		}
		if err := copyFile(template, filepath.Join(dir, id+".db")); err != nil {
			return err
		}
		_, err := registry.ExecContext(ctx, `BEGIN IMMEDIATE; UPDATE tenants SET status = 'active' WHERE id = '`+id+`'; COMMIT`)
		return err
	}, nil
}
