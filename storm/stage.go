package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/jackc/pgx/v5"

	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/internal/wireproxy"
)

// stage is a set-up that a storm goes over.
type stage struct {
	name   string
	what   string // with versions
	url    string // for those who serve
	direct string // for the judge
	faults []faultKind
	dir    string // of the journals

	cluster *pgtest.Cluster  // nil on SQLite
	admin   string           // of the superuser, in the database
	proxy   *wireproxy.Proxy // nil on SQLite
	stores  string           // SQLite's directory
	end     []func() error
}

func (st *stage) onEnd(fn func() error) { st.end = append(st.end, fn) }

func (st *stage) close() error {
	var errs []error
	for i := len(st.end) - 1; i >= 0; i-- {
		errs = append(errs, st.end[i]())
	}
	return errors.Join(errs...)
}

var stages = map[string]func(ctx context.Context, st *stage) error{
	"sqlite":   sqliteStage,
	"postgres": postgresStage,
	"pooler":   poolerStage,
}

// onStage runs fn over a set-up of its own.
func onStage[T any](ctx context.Context, name string, fn func(st *stage) (T, error)) (result T, err error) {
	st, err := newStage(ctx, name)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, st.close()) }()
	return fn(st)
}

func newStage(ctx context.Context, name string) (*stage, error) {
	st := &stage{name: name}
	dir, err := os.MkdirTemp("", "storm-")
	if err != nil {
		return nil, err
	}
	st.onEnd(func() error { return os.RemoveAll(dir) })
	st.dir = filepath.Join(dir, "journals")
	st.stores = filepath.Join(dir, "stores")
	if err = errors.Join(os.Mkdir(st.dir, 0o700), os.Mkdir(st.stores, 0o700)); err == nil {
		err = stages[name](ctx, st)
	}
	if err != nil {
		return nil, errors.Join(err, st.close())
	}
	return st, nil
}

func sqliteStage(_ context.Context, st *stage) error {
	st.what = "SQLite"
	st.faults = []faultKind{faultKill, faultMigrate, faultMigrKill}
	st.direct = "sqlite:" + st.stores
	st.url = st.direct + "?max_open=60&max_readers=4"
	return nil
}

// diskSize holds the stores of a storm, which take 100 MB, several times, and is filled in less than a second.
const diskSize = 512 << 20

// smallDisk has SQLite's stores, of which there are none yet, on a disk of their own that can be filled; where this process
// may not have that, there is no such fault.
func (st *stage) smallDisk() {
	if st.cluster == nil && mountSmall(st.stores, diskSize) == nil {
		st.faults = append(st.faults, faultDisk)
		st.onEnd(func() error { return unmount(st.stores) })
	}
}

func postgresStage(ctx context.Context, st *stage) (err error) {
	st.faults = []faultKind{faultKill, faultTerminate, faultCut, faultCrash, faultMigrate, faultMigrKill}
	// Not with wal_level=minimal, pgtest's default: a sequence that was made and used in one transaction gives numbers out
	// twice after a crash then.
	if st.cluster, err = pgtest.Start(ctx, append([]string{"fsync=off"}, pgtest.Primary...)...); err != nil {
		return err
	}
	st.onEnd(st.cluster.Stop)
	if st.direct, _, err = st.cluster.NewDatabase(ctx); err != nil {
		return err
	}
	if st.admin, err = st.cluster.AdminURLOf(st.direct); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, st.admin)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if err := conn.QueryRow(ctx, `SELECT 'Postgres ' || current_setting('server_version')`).Scan(&st.what); err != nil {
		return err
	}
	return st.wire(st.direct)
}

// wire puts a proxy between those who serve and their server.
func (st *stage) wire(url string) (err error) {
	if st.proxy, err = wireproxy.NewURL(url); err != nil {
		return err
	}
	st.onEnd(st.proxy.Close)
	st.url = st.proxy.URL(url) + "&pool_max_conns=6"
	return nil
}

func poolerStage(ctx context.Context, st *stage) error {
	if err := postgresStage(ctx, st); err != nil {
		return err
	}
	// Two who serve and three who migrate keep five of these at most for their locks.
	config, query := pgtest.BouncerConfig{PoolSize: 8, PreparedStatements: 1000, Settings: "server_login_retry = 1\n"}, ""
	newer, err := pgtest.BouncerPrepares(ctx)
	if err != nil {
		return err
	}
	if !newer { // it knows nothing of prepared statements, and may end when clients cancel much: all is refused from then on
		config.PreparedStatements, query = 0, "&default_query_exec_mode=exec"
	}
	bouncer, err := pgtest.StartBouncer(ctx, st.direct, config)
	if err != nil {
		return err
	}
	st.onEnd(bouncer.Stop)
	st.what = "PgBouncer " + bouncer.Version() + ", " + st.what
	return st.wire(bouncer.URL() + query)
}

// terminate ends some of the application's connections at the server.
func (st *stage) terminate(ctx context.Context, arg uint64) error {
	conn, err := pgx.Connect(ctx, st.admin)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND pid <> pg_backend_pid() AND (pid + $1::int) % 3 = 0`, int32(arg%3))
	return err
}

// connections counts those of the application at the server.
func (st *stage) connections(ctx context.Context) (n int, err error) {
	conn, err := pgx.Connect(ctx, st.admin)
	if err != nil {
		return 0, err
	}
	defer conn.Close(ctx)
	err = conn.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
		AND backend_type = 'client backend'`).Scan(&n)
	return n, err
}
