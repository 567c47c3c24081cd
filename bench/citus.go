package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/postgres"
	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
)

// The rows of a Citus cluster that TENEMENT_TEST_CITUS names, a superuser's URL of the coordinator: the same binary on it and
// on a plain Postgres on this machine.

var citusSuites = []suite{
	{
		name: "citus_fleet", what: "200 tenants of 3 tables on a Citus cluster; per tenant",
		rows: []row{
			{id: "citus_create", what: "App.Create ÷ the same on plain Postgres", ours: "create, Citus", ref: "create, plain", bar: 10},
			{id: "citus_add_column", what: "ADD COLUMN ÷ the same on plain Postgres", ours: "add column, Citus", ref: "add column, plain", bar: 14},
			{id: "citus_create_index", what: "CREATE INDEX ÷ the same on plain Postgres", ours: "create index, Citus", ref: "create index, plain", bar: 14},
			{id: "citus_drop_column", what: "DROP COLUMN ÷ the same on plain Postgres", ours: "drop column, Citus", ref: "drop column, plain", bar: 14},
			{id: "citus_placement", what: "tenants on the fullest node ÷ an even share", metric: count, ours: "fullest node", ref: "even share", bar: 1.1},
		},
		needs:   needsCitus,
		measure: citusFleet,
	},
	{
		name: "citus_read", what: "one statement, the same tenant on Citus, 8 goroutines",
		rows: []row{
			{id: "citus_read_sql", what: "`*sql.DB` ÷ `stdlib`, search_path fixed", ours: "sql", ref: "stdlib", bar: 1.15},
			{id: "citus_read_native", what: "native ÷ `pgxpool`, search_path fixed", ours: "native", ref: "pgxpool", bar: 1.15},
		},
		needs:   needsCitus,
		measure: citusRead,
	},
}

func needsCitus() string {
	if !pgtest.HasCitus() {
		return pgtest.EnvCitus + " names no Citus cluster"
	}
	return ""
}

// citusDatabase returns the URL of a new database on all nodes. It goes when the suite has ended.
func (e *env) citusDatabase(ctx context.Context) (string, error) {
	cluster, err := pgtest.AttachCitus()
	if err != nil {
		return "", err
	}
	u, drop, err := cluster.NewDatabase(ctx)
	if err != nil {
		return "", err
	}
	e.cleanup(func() { _ = drop(context.WithoutCancel(ctx)) })
	return u, nil
}

// citusTables is the first migration; the others come by round.
const citusTables = "CREATE TABLE polls (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, question TEXT NOT NULL);\n" +
	"CREATE TABLE choices (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, poll BIGINT NOT NULL REFERENCES polls, text TEXT NOT NULL);\n" +
	"CREATE INDEX choices_poll ON choices (poll);\n" +
	"CREATE TABLE votes (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, choice BIGINT NOT NULL REFERENCES choices)"

// citusChanges are what a round migrates, a version each.
var citusChanges = []struct{ name, sql string }{
	{"add column", "ALTER TABLE polls ADD COLUMN c%d TEXT"},
	{"create index", "CREATE INDEX polls_c%d ON polls (question)"},
	{"drop column", "ALTER TABLE polls DROP COLUMN c%d"},
}

// citusVersion returns the migrations up to one: the tables, and so many changes.
func citusVersion(changes int) fs.FS {
	return versions(citusTables, changes+1, func(version int) string {
		i := version - 2
		return fmt.Sprintf(citusChanges[i%len(citusChanges)].sql, i/len(citusChanges))
	})
}

// citusSide is one of the two that are compared.
type citusSide struct {
	name string
	be   *postgres.Backend
	app  *tenancy.App
	made int
}

func (e *env) citusSide(ctx context.Context, name, u string) (*citusSide, error) {
	be, err := postgres.Open(ctx, u, postgres.Config{})
	if err != nil {
		return nil, err
	}
	e.cleanup(func() { _ = be.Close() })
	app, err := e.app(ctx, be, tenancy.Config{Tenant: []migrate.Source{{Name: "polls", FS: citusVersion(0)}}})
	return &citusSide{name: name, be: be, app: app}, err
}

// create makes one tenant.
func (s *citusSide) create(ctx context.Context) error {
	s.made++
	_, err := s.app.Create(ctx, tenancy.Spec{Slug: fmt.Sprintf("c%d", s.made)})
	return err
}

// migrate brings the tenants to so many changes, and returns how long that took for each.
func (s *citusSide) migrate(ctx context.Context, changes int) (time.Duration, error) {
	m, err := migrator(s.be, citusVersion(changes))
	if err != nil {
		return 0, err
	}
	began := time.Now()
	res, err := m.Up(ctx, migrate.UpOptions{Scope: migrate.TenantsOnly})
	took := time.Since(began)
	if err == nil && res.Applied != s.made {
		err = fmt.Errorf("%d of %d tenants were migrated", res.Applied, s.made)
	}
	return took / time.Duration(s.made), errors.Join(err, m.Close())
}

func citusFleet(ctx context.Context, e *env, s *scores) error {
	tenants, rounds := e.pick(200, 8), min(e.rounds, 4)
	onCitus, err := e.citusDatabase(ctx)
	if err != nil {
		return err
	}
	plain, err := e.database(ctx)
	if err != nil {
		return err
	}
	var sides []*citusSide
	for _, u := range []struct{ name, url string }{{"Citus", onCitus}, {"plain", plain}} {
		side, err := e.citusSide(ctx, u.name, u.url)
		if err != nil {
			return err
		}
		sides = append(sides, side)
	}
	var makers []contender
	for _, side := range sides {
		makers = append(makers, contender{name: "create, " + side.name, worker: alike(side.create)})
	}
	each := tenants / (rounds + 1) // and to warm up
	if err := e.contest(ctx, s, contest{ops: each, rounds: rounds}, makers...); err != nil {
		return err
	}
	for _, side := range sides {
		for side.made < tenants {
			if err := side.create(ctx); err != nil {
				return err
			}
		}
	}
	if err := placement(ctx, sides[0].be, s); err != nil {
		return err
	}
	for version := 1; version <= rounds*len(citusChanges); version++ {
		for i := range sides {
			side := sides[(i+version)%len(sides)]
			took, err := side.migrate(ctx, version)
			if err != nil {
				return fmt.Errorf("%s: %w", side.name, err)
			}
			s.add(citusChanges[(version-1)%len(citusChanges)].name+", "+side.name, measured{wall: float64(took)})
		}
	}
	return nil
}

// placement adds how the stores are spread.
func placement(ctx context.Context, be *postgres.Backend, s *scores) error {
	nodes, err := backend.NodesOf(ctx, be)
	if err != nil {
		return err
	}
	total, most := 0, 0
	for _, n := range nodes {
		total, most = total+len(n.Stores), max(most, len(n.Stores))
		s.note("%s has %d stores.", n.Name, len(n.Stores))
	}
	s.add("fullest node", measured{count: float64(most)})
	s.add("even share", measured{count: float64(total) / float64(len(nodes))})
	return nil
}

func citusRead(ctx context.Context, e *env, s *scores) error {
	u, err := e.citusDatabase(ctx)
	if err != nil {
		return err
	}
	f := &fleet{fleetKey: fleetKey{role: true}, url: u, socket: u}
	if err := f.grow(ctx, 1); err != nil {
		return err
	}
	be, err := e.ours(ctx, f, u, "ours")
	if err != nil {
		return err
	}
	b, err := e.bare(ctx, u)
	if err != nil {
		return err
	}
	ours := oursSQL("sql", be, sameStore())
	ours.app = "" // the connections are another server's
	return e.contest(ctx, s, contest{goroutines: saturating}, b.readStd(), b.readPool(), ours, oursNative("native", be, sameStore()))
}
