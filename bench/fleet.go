package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"runtime"
	"testing/fstest"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/postgres"
	"github.com/tenement-go/tenement/internal/wireproxy"
	"github.com/tenement-go/tenement/migrate"
)

// The rows of a fleet: one ADD COLUMN in every store. All figures are per store.

var fleetSuites = []suite{
	{
		name: "fleet_postgres", what: "one ADD COLUMN in 2,048 schemas; per store",
		rows: []row{
			{id: "fleet_postgres", what: "÷ the same DDL and version rows by hand, asking and recording nothing else, 32 stores a message, 2 connections kept", ours: "fleet", ref: "by hand", bar: 1.25},
			{id: "fleet_postgres_goose", what: "÷ a goose provider per store, one connection kept", ours: "fleet", ref: "goose", bar: 0.10},
			{id: "fleet_postgres_nothing", what: "nothing pending ÷ the same of goose", ours: "fleet, nothing", ref: "goose, nothing", bar: 0.01},
		},
		measure: fleetPostgres,
	},
	{
		name: "fleet_latency", what: "one ADD COLUMN in 2,048 schemas, a round trip of 1 ms; per store",
		rows: []row{
			{id: "fleet_latency_goose", what: "÷ a goose provider per store, one connection kept", ours: "fleet", ref: "goose", bar: 0.05},
		},
		measure: fleetLatency,
	},
	{
		name: "fleet_sqlite", what: "one ADD COLUMN in 2,000 files; per store",
		rows: []row{
			{id: "fleet_sqlite", what: "÷ open, one script, close on the bare driver, as many workers", ours: "fleet", ref: "by hand", bar: 1.3},
		},
		measure: fleetSQLite,
	},
	{
		name: "fleet_memory", what: "live heap of a run, SQLite",
		rows: []row{
			{id: "fleet_memory", what: "of 10,000 stores ÷ of 1,000", metric: heap, ours: "fleet", ref: "a tenth of it", bar: 2},
		},
		measure: fleetMemory,
	},
}

// versions returns goose migrations: the first is given, and change says what each later one up to last does.
func versions(first string, last int, change func(version int) string) fs.FS {
	files := fstest.MapFS{"00001_tables.sql": {Data: []byte("-- +goose Up\n" + first + ";\n")}}
	for v := 2; v <= last; v++ {
		files[fmt.Sprintf("%05d_change.sql", v)] = &fstest.MapFile{Data: []byte("-- +goose Up\n" + change(v) + ";\n")}
	}
	return files
}

// columns returns goose migrations: version 1 makes a table, each later one up to last adds a column.
func columns(last int) fs.FS { return versions(pointTable, last, addColumn) }

func addColumn(v int) string { return fmt.Sprintf("ALTER TABLE polls ADD COLUMN c%d TEXT", v) }

// gooseRow is the row that goose writes for a version.
func gooseRow(v int) string {
	return fmt.Sprintf("INSERT INTO goose_db_version (version_id, is_applied) VALUES (%d, true)", v)
}

func migrator(be backend.Backend, source fs.FS) (*migrate.Migrator, error) {
	return migrate.New(be, migrate.Config{Tenant: []migrate.Source{{Name: "polls", FS: source}}})
}

// provisioned makes a fleet at version 1.
func provisioned(ctx context.Context, be backend.Backend, stores int) error {
	m, err := migrator(be, columns(1))
	if err != nil {
		return err
	}
	defer m.Close()
	if _, err := m.Up(ctx, migrate.UpOptions{Scope: migrate.SharedOnly}); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2)
	for i := range stores {
		g.Go(func() error { return m.Provision(ctx, routeTo(i)) })
	}
	return g.Wait()
}

// migrateFleet brings the fleet to a version.
func migrateFleet(ctx context.Context, be backend.Backend, version int) error {
	return migrateTo(ctx, be, columns(version))
}

// migrateTo brings all stores to the newest of the versions.
func migrateTo(ctx context.Context, be backend.Backend, source fs.FS) error {
	m, err := migrator(be, source)
	if err != nil {
		return err
	}
	defer m.Close()
	_, err = m.Up(ctx, migrate.UpOptions{})
	return err
}

// upgrades is a contender that goes one version further with each operation, of so many stores.
func upgrades(name string, stores int, to func(ctx context.Context, version int) error) contender {
	version := 1
	return contender{name: name, per: float64(stores), worker: alike(func(ctx context.Context) error {
		version++
		return to(ctx, version)
	})}
}

// idle is a contender that finds nothing to do at version 1.
func idle(name string, stores int, to func(ctx context.Context, version int) error) contender {
	return contender{name: name, per: float64(stores), worker: alike(func(ctx context.Context) error { return to(ctx, 1) })}
}

func fleetPostgres(ctx context.Context, e *env, s *scores) error {
	stores := e.pick(2048, 64)
	sample := e.pick(128, 8) // goose is slow: its time per store is taken from fewer stores
	be, err := e.postgres(ctx)
	if err != nil {
		return err
	}
	if err := provisioned(ctx, be, stores); err != nil {
		return err
	}
	byHand, err := e.fleetByHand(ctx, stores)
	if err != nil {
		return err
	}
	peer, err := e.fleetByHand(ctx, sample)
	if err != nil {
		return err
	}
	ours := func(ctx context.Context, version int) error { return migrateFleet(ctx, be, version) }
	goose, err := peer.goose(ctx, e, peer.url)
	if err != nil {
		return err
	}
	if err := e.contest(ctx, s, contest{ops: 1}, idle("fleet, nothing", stores, ours), idle("goose, nothing", sample, goose)); err != nil {
		return err
	}
	return e.contest(ctx, s, contest{ops: 1},
		upgrades("fleet", stores, ours), upgrades("by hand", stores, byHand.migrate), upgrades("goose", sample, goose))
}

func fleetLatency(ctx context.Context, e *env, s *scores) error {
	stores, sample := e.pick(2048, 64), e.pick(48, 4)
	u, err := e.database(ctx)
	if err != nil {
		return err
	}
	peer, err := e.fleetByHand(ctx, sample)
	if err != nil {
		return err
	}
	near, err := postgres.Open(ctx, u, postgres.Config{})
	if err != nil {
		return err
	}
	defer near.Close()
	if err := provisioned(ctx, near, stores); err != nil {
		return err
	}
	proxy, err := wireproxy.NewURL(u)
	if err != nil {
		return err
	}
	e.cleanup(func() { _ = proxy.Close() })
	proxy.SetLatency(500 * time.Microsecond) // each way
	far, err := postgres.Open(ctx, proxy.URL(u), postgres.Config{})
	if err != nil {
		return err
	}
	e.cleanup(func() { _ = far.Close() })
	goose, err := peer.goose(ctx, e, proxy.URL(peer.url))
	if err != nil {
		return err
	}
	return e.contest(ctx, s, contest{ops: 1, rounds: min(e.rounds, 5)},
		upgrades("fleet", stores, func(ctx context.Context, version int) error { return migrateFleet(ctx, far, version) }),
		upgrades("goose", sample, goose))
}

func fleetSQLite(ctx context.Context, e *env, s *scores) error {
	stores := e.pick(2000, 30)
	be, dir, err := e.sqlite(ctx, "", 0)
	if err != nil {
		return err
	}
	if err := provisioned(ctx, be, stores); err != nil {
		return err
	}
	// The reference's files are copies of ours, made before any of them is changed.
	bareDir, err := e.dir()
	if err != nil {
		return err
	}
	bareFile := func(store int) string { return filepath.Join(bareDir, numbered(store).String()+".db") }
	for i := range stores {
		if err := copyFile(fileOf(dir, i), bareFile(i)); err != nil {
			return err
		}
	}
	byHand := func(ctx context.Context, version int) error {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(runtime.GOMAXPROCS(0))
		for i := range stores {
			g.Go(func() error {
				db, err := openBare(bareFile(i), "")
				if err != nil {
					return err
				}
				_, err = db.ExecContext(ctx, "BEGIN IMMEDIATE;"+addColumn(version)+";"+gooseRow(version)+";COMMIT")
				return errors.Join(err, db.Close())
			})
		}
		return g.Wait()
	}
	return e.contest(ctx, s, contest{ops: 1},
		upgrades("fleet", stores, func(ctx context.Context, version int) error { return migrateFleet(ctx, be, version) }),
		upgrades("by hand", stores, byHand))
}

// fleetMemory compares the peak of the heap during a run over a fleet with that over a tenth of it.
func fleetMemory(ctx context.Context, e *env, s *scores) error {
	large := e.pick(10000, 100)
	for _, size := range []struct {
		name   string
		stores int
	}{{"fleet", large}, {"a tenth of it", large / 10}} {
		be, _, err := e.sqlite(ctx, "", 0)
		if err != nil {
			return err
		}
		if err := provisioned(ctx, be, size.stores); err != nil {
			return err
		}
		if err := migrateFleet(ctx, be, 2); err != nil { // so that what is kept from run to run is there before
			return err
		}
		grown, err := peakHeap(func() error { return migrateFleet(ctx, be, 3) })
		if err != nil {
			return err
		}
		s.add(size.name, measured{heap: grown})
	}
	return nil
}

// peakHeap returns how far the live heap grows while f runs: at least 100 kB, since what is less is noise.
func peakHeap(f func() error) (float64, error) {
	before := liveHeap()
	highest := before
	done, sampled := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(sampled)
		for {
			highest = max(highest, liveHeap())
			select {
			case <-done:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	err := f()
	close(done)
	<-sampled
	return max(highest-before, 1e5), err
}

// liveHeap collects twice: once, and what goose reads files into (4 MB each) lives on in its sync.Pool.
func liveHeap() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
