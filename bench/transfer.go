package main

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
	"github.com/tenement-go/tenement/transfer"
)

// The rows of tenants that go elsewhere: into a file and out of it, beside themselves, and from SQLite to Postgres.

var transferSuites = []suite{
	{
		name: "transfer_file", what: "a tenant of 1,000,000 rows, Postgres",
		rows: []row{
			{id: "export_postgres", what: "Export ÷ `COPY … TO` a file", ours: "export", ref: "copy to", bar: 2.5},
			{id: "import_postgres", what: "Import ÷ `COPY … FROM` into a table with the same index", ours: "import", ref: "copy from", bar: 1.5},
		},
		measure: transferFile,
	},
	{
		name: "transfer_memory", what: "live heap of an export, Postgres",
		rows: []row{
			{id: "export_memory", what: "of 1,000,000 rows ÷ of 10,000", metric: heap, ours: "all", ref: "a hundredth", bar: 1.2},
		},
		measure: transferMemory,
	},
	{
		name: "clone_postgres", what: "Clone of a tenant of 200,000 rows, Postgres",
		rows: []row{
			{id: "clone_postgres", what: "÷ `pg_dump | psql` into another database", ours: "clone", ref: "dump", bar: 0.7},
		},
		measure: clonePostgres,
	},
	{
		name: "clone_sqlite", what: "Clone of a tenant of 1 GB, SQLite",
		rows: []row{
			{id: "clone_sqlite", what: "÷ a copy of the file and fsync", ours: "clone", ref: "copy", bar: 1.1},
		},
		measure: cloneSQLite,
	},
	{
		name: "move", what: "1,000 tenants of 1,000 rows, SQLite → Postgres, a tenant",
		rows: []row{
			{id: "move", what: "÷ a hand-written COPY per table, two at once", ours: "move", ref: "by hand", bar: 1.5},
		},
		measure: moveAll,
	},
}

const (
	eventsTable = "CREATE TABLE events (id BIGINT PRIMARY KEY, kind TEXT NOT NULL, n BIGINT, note TEXT);\nCREATE INDEX events_kind ON events (kind);\n"
	eventsCols  = "id, kind, n, note"
)

// movable opens an app whose tenants have the table of these rows.
func (e *env) movable(ctx context.Context, be backend.Backend) (*tenancy.App, error) {
	fsys := fstest.MapFS{"00001_events.sql": {Data: []byte("-- +goose Up\n" + eventsTable)}}
	return e.app(ctx, be, tenancy.Config{Tenant: []migrate.Source{{Name: "events", FS: fsys}}})
}

// filled makes a tenant with rows.
func filled(ctx context.Context, app *tenancy.App, slug string, rows int) (t tenancy.Tenant, err error) {
	if t, err = app.Create(ctx, tenancy.Spec{Slug: slug}); err != nil {
		return t, err
	}
	series := fmt.Sprintf("generate_series(1, %d) s (i)", rows)
	if app.Backend().Dialect() == backend.SQLite {
		series = fmt.Sprintf("(WITH RECURSIVE s (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < %d) SELECT i FROM s) s", rows)
	}
	return t, app.Run(ctx, t, tenancy.Policy{}, func(ctx context.Context, _ *tenancy.Tenant) error {
		_, err := app.DB().ExecContext(ctx, "INSERT INTO events SELECT i, 'kind' || i % 10, i * 7, 'note of some length, number ' || i FROM "+series)
		return err
	})
}

// byHand connects to the database of a backend.
func (e *env) byHand(ctx context.Context, url string) (*pgx.Conn, error) {
	conn, err := pgx.Connect(ctx, url)
	if err == nil {
		e.cleanup(func() { _ = conn.Close(context.WithoutCancel(ctx)) })
	}
	return conn, err
}

// movablePostgres is movable on a new database, with a connection of one's own to it.
func (e *env) movablePostgres(ctx context.Context) (app *tenancy.App, conn *pgx.Conn, url string, err error) {
	if url, err = e.database(ctx); err != nil {
		return nil, nil, "", err
	}
	f := fleet{fleetKey: fleetKey{role: true}}
	be, err := f.open(ctx, url)
	if err != nil {
		return nil, nil, "", err
	}
	e.cleanup(func() { _ = be.Close() })
	if app, err = e.movable(ctx, be); err == nil {
		conn, err = e.byHand(ctx, url)
	}
	return app, conn, url, err
}

func transferFile(ctx context.Context, e *env, s *scores) error {
	app, conn, _, err := e.movablePostgres(ctx)
	if err != nil {
		return err
	}
	big, err := filled(ctx, app, "big", e.pick(1_000_000, 2000))
	if err != nil {
		return err
	}
	dir, err := e.dir()
	if err != nil {
		return err
	}
	made, text := filepath.Join(dir, "big.db"), filepath.Join(dir, "big.txt")
	export := func(ctx context.Context) error {
		if err := os.Remove(made); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		_, err := transfer.Export(ctx, app, big.ID, made, transfer.ExportOptions{})
		return err
	}
	copyTo := func(ctx context.Context) error {
		f, err := os.Create(text)
		if err != nil {
			return err
		}
		_, err = conn.PgConn().CopyTo(ctx, f, "COPY big.events TO STDOUT")
		return errors.Join(err, f.Sync(), f.Close())
	}
	once := contest{ops: 1, warm: 1, rounds: min(e.rounds, 5)}
	if err := e.contest(ctx, s, once, contender{name: "export", worker: alike(export)}, contender{name: "copy to", worker: alike(copyTo)}); err != nil {
		return err
	}
	n := 0
	load := func(ctx context.Context) error {
		n++
		_, err := transfer.Import(ctx, app, made, transfer.ImportOptions{Spec: tenancy.Spec{Slug: fmt.Sprintf("import-%d", n)}, NoDomains: true})
		return err
	}
	copyFrom := func(ctx context.Context) error {
		n++
		f, err := os.Open(text)
		if err != nil {
			return err
		}
		defer f.Close()
		schema := fmt.Sprintf("by_hand_%d", n)
		_, err = conn.PgConn().Exec(ctx, "BEGIN; CREATE SCHEMA "+schema+"; SET LOCAL search_path = "+schema+"; "+eventsTable).ReadAll()
		if err != nil {
			return err
		}
		if _, err := conn.PgConn().CopyFrom(ctx, f, "COPY "+schema+".events FROM STDIN"); err != nil {
			return err
		}
		_, err = conn.Exec(ctx, "COMMIT")
		return err
	}
	return e.contest(ctx, s, once, contender{name: "import", worker: alike(load)}, contender{name: "copy from", worker: alike(copyFrom)})
}

func transferMemory(ctx context.Context, e *env, s *scores) error {
	app, _, _, err := e.movablePostgres(ctx)
	if err != nil {
		return err
	}
	dir, err := e.dir()
	if err != nil {
		return err
	}
	all := e.pick(1_000_000, 20_000)
	// The short one is repeated until as many rows have gone by: once, it would be over between two looks at the heap.
	for _, size := range []struct {
		name  string
		times int
	}{{"a hundredth", 100}, {"all", 1}} {
		rows := all / size.times
		t, err := filled(ctx, app, fmt.Sprintf("rows-%d", rows), rows)
		if err != nil {
			return err
		}
		export := func() error {
			for range size.times {
				made := filepath.Join(dir, t.Slug)
				if _, err := transfer.Export(ctx, app, t.ID, made, transfer.ExportOptions{}); err != nil {
					return err
				}
				if err := os.Remove(made); err != nil {
					return err
				}
			}
			return nil
		}
		// What stays once the first has been made (statements, connections) is no part of it.
		if err := export(); err != nil {
			return err
		}
		grown, err := peakHeap(export)
		if err != nil {
			return err
		}
		s.add(size.name, measured{heap: grown})
	}
	return nil
}

func clonePostgres(ctx context.Context, e *env, s *scores) error {
	app, _, url, err := e.movablePostgres(ctx)
	if err != nil {
		return err
	}
	t, err := filled(ctx, app, "big", e.pick(200_000, 1000))
	if err != nil {
		return err
	}
	target, err := e.database(ctx)
	if err != nil {
		return err
	}
	there, err := e.byHand(ctx, target)
	if err != nil {
		return err
	}
	n := 0
	clone := func(ctx context.Context) error {
		n++
		_, err := transfer.Clone(ctx, app, t.ID, transfer.CloneOptions{Spec: tenancy.Spec{Slug: fmt.Sprintf("clone-%d", n)}})
		return err
	}
	dump := func(ctx context.Context) error {
		if _, err := there.Exec(ctx, "DROP SCHEMA IF EXISTS big CASCADE"); err != nil {
			return err
		}
		var said bytes.Buffer
		from := exec.CommandContext(ctx, "pg_dump", "--no-owner", "--no-privileges", "--schema=big", url)
		into := exec.CommandContext(ctx, "psql", "--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--output="+os.DevNull, target)
		from.Stderr, into.Stderr = &said, &said
		if into.Stdin, err = from.StdoutPipe(); err != nil {
			return err
		}
		if err := into.Start(); err != nil {
			return err
		}
		if err := errors.Join(from.Run(), into.Wait()); err != nil {
			return fmt.Errorf("%w: %s", err, strings.TrimSpace(said.String()))
		}
		return nil
	}
	return e.contest(ctx, s, contest{ops: 1, warm: 1}, contender{name: "clone", worker: alike(clone)}, contender{name: "dump", worker: alike(dump)})
}

func cloneSQLite(ctx context.Context, e *env, s *scores) error {
	be, dir, err := e.sqlite(ctx, "", 0)
	if err != nil {
		return err
	}
	app, err := e.movable(ctx, be)
	if err != nil {
		return err
	}
	t, err := filled(ctx, app, "big", e.pick(12_000_000, 1000)) // of about 90 bytes, with their index
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "tenants", "big.db")
	if info, err := os.Stat(file); err == nil {
		s.note("the file has %d MB", info.Size()>>20)
	}
	var made []tenancy.ID
	n := 0
	clone := func(ctx context.Context) error {
		n++
		c, err := transfer.Clone(ctx, app, t.ID, transfer.CloneOptions{Spec: tenancy.Spec{Slug: fmt.Sprintf("clone-%d", n)}})
		made = append(made, c.ID)
		return err
	}
	copied := func(context.Context) error { return copyFile(file, filepath.Join(dir, "copy.db")) }
	// What was cloned is removed between the rounds, or the disk would fill up.
	for range min(e.rounds, 5) {
		if err := e.contest(ctx, s, contest{ops: 1, rounds: 1}, contender{name: "clone", worker: alike(clone)}, contender{name: "copy", worker: alike(copied)}); err != nil {
			return err
		}
		for _, id := range made {
			if _, err := app.Delete(ctx, id); err != nil {
				return err
			}
			if err := app.Purge(ctx, id); err != nil {
				return err
			}
		}
		made = nil
	}
	return nil
}

func moveAll(ctx context.Context, e *env, s *scores) error {
	be, dir, err := e.sqlite(ctx, "", 0)
	if err != nil {
		return err
	}
	from, err := e.movable(ctx, be)
	if err != nil {
		return err
	}
	tenants, rows := e.pick(1000, 5), e.pick(1000, 10)
	var slugs []string
	for i := range tenants {
		slug := fmt.Sprintf("t%d", i)
		if _, err := filled(ctx, from, slug, rows); err != nil {
			return err
		}
		slugs = append(slugs, slug)
	}
	move := func(ctx context.Context) error {
		to, _, _, err := e.movablePostgres(ctx)
		if err == nil {
			_, err = transfer.Move(ctx, from, to, transfer.MoveOptions{NoShared: true})
		}
		return err
	}
	byHand := func(ctx context.Context) error {
		url, err := e.database(ctx)
		if err != nil {
			return err
		}
		g, ctx := errgroup.WithContext(ctx)
		for half := range 2 {
			g.Go(func() error {
				conn, err := pgx.Connect(ctx, url)
				if err != nil {
					return err
				}
				defer conn.Close(context.WithoutCancel(ctx))
				for i := half; i < len(slugs); i += 2 {
					if err := copyEvents(ctx, conn, filepath.Join(dir, "tenants", slugs[i]+".db"), slugs[i]); err != nil {
						return err
					}
				}
				return nil
			})
		}
		return g.Wait()
	}
	per := float64(tenants)
	return e.contest(ctx, s, contest{ops: 1, warm: 1, rounds: min(e.rounds, 3)},
		contender{name: "move", worker: alike(move), per: per}, contender{name: "by hand", worker: alike(byHand), per: per})
}

// copyEvents makes a schema with the table of a file in it.
func copyEvents(ctx context.Context, conn *pgx.Conn, file, schema string) error {
	db, err := openBare(file, "")
	if err != nil {
		return err
	}
	defer db.Close()
	rows, err := db.QueryContext(ctx, "SELECT "+eventsCols+" FROM events")
	if err != nil {
		return err
	}
	defer rows.Close()
	_, err = conn.PgConn().Exec(ctx, "BEGIN; CREATE SCHEMA "+schema+"; SET LOCAL search_path = "+schema+"; "+eventsTable).ReadAll()
	if err != nil {
		return err
	}
	if _, err := conn.CopyFrom(ctx, pgx.Identifier{schema, "events"}, strings.Split(eventsCols, ", "), copySource{rows}); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "COMMIT")
	return err
}

// copySource gives rows of SQLite to a COPY.
type copySource struct{ *sql.Rows }

func (s copySource) Values() ([]any, error) {
	var (
		id, n      int64
		kind, note string
	)
	err := s.Scan(&id, &kind, &n, &note)
	return []any{id, kind, n, note}, err
}
