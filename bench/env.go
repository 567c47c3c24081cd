package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenement-go/tenement/internal/machine"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// env is what the suites share: how much to measure, the Postgres server, and what is to be cleaned up.
type env struct {
	quick  bool
	rounds int
	slice  time.Duration // of one contender in one round
	seed   uint64

	cluster *pgtest.Cluster // started when a suite first needs it
	server  server
	bouncer string              // version of the PgBouncer that was used
	fleets  map[fleetKey]*fleet // made when a suite first needs them

	atEnd      []func() // of the run
	afterSuite []func()
}

func newEnv(quick bool) *env {
	e := &env{rounds: 9, slice: time.Second, seed: 1, fleets: make(map[fleetKey]*fleet)}
	if quick {
		e.quick, e.rounds, e.slice = true, 3, 15*time.Millisecond
	}
	return e
}

// pick returns full, or with -quick the smaller size.
func (e *env) pick(full, quick int) int {
	if e.quick {
		return quick
	}
	return full
}

// cleanup has f called when the suite under way has ended; what was registered last comes first.
func (e *env) cleanup(f func()) { e.afterSuite = append(e.afterSuite, f) }

func (e *env) endSuite() { e.afterSuite = inReverse(e.afterSuite) }

func (e *env) close() { e.endSuite(); e.atEnd = inReverse(e.atEnd) }

func inReverse(functions []func()) []func() {
	for _, f := range slices.Backward(functions) {
		f()
	}
	return nil
}

// dir returns a new directory that is removed when the suite has ended.
func (e *env) dir() (string, error) {
	d, err := os.MkdirTemp("", "tenement-bench-")
	if err != nil {
		return "", err
	}
	e.cleanup(func() { _ = os.RemoveAll(d) })
	return filepath.EvalSymlinks(d)
}

// startCluster starts the server that all suites share. A pool per tenant needs many connections. With -quick, and where
// thousands of schemas are made, nothing waits for the disk.
func (e *env) startCluster(ctx context.Context, settings ...string) (err error) {
	if e.cluster != nil {
		return nil
	}
	if adminURL := os.Getenv(pgtest.EnvURL); adminURL != "" {
		e.cluster, err = pgtest.Attach(ctx, adminURL)
	} else {
		e.cluster, err = pgtest.Start(ctx, append([]string{"max_connections=900"}, settings...)...)
	}
	if err != nil {
		return err
	}
	e.atEnd = append(e.atEnd, func() { _ = e.cluster.Stop() })
	return e.asAdmin(ctx, func(conn *pgx.Conn) error {
		e.server = serverOf(int(conn.PgConn().PID()))
		return nil
	})
}

// database returns the URL of a new database in the shared cluster, by TCP. It goes with the cluster, or when the run ends.
func (e *env) database(ctx context.Context) (string, error) {
	var settings []string
	if e.quick {
		settings = []string{"fsync=off"}
	}
	if err := e.startCluster(ctx, settings...); err != nil {
		return "", err
	}
	u, drop, err := e.cluster.NewDatabase(ctx)
	if err != nil {
		return "", err
	}
	if os.Getenv(pgtest.EnvURL) != "" {
		e.atEnd = append(e.atEnd, func() { _ = drop(context.WithoutCancel(ctx)) })
	}
	return u, nil
}

func (e *env) asAdmin(ctx context.Context, f func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, e.cluster.AdminURL())
	if err != nil {
		return err
	}
	return errors.Join(f(conn), conn.Close(context.WithoutCancel(ctx)))
}

// serverMemory returns the anonymous memory of the server's processes behind the connections of one application_name;
// false where it cannot be seen, since the server is not on this machine.
func (e *env) serverMemory(ctx context.Context, app string) (bytes float64, ok bool, err error) {
	if !e.server.here() {
		return 0, false, nil
	}
	err = e.asAdmin(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `SELECT pid FROM pg_stat_activity WHERE application_name = $1`, app)
		if err != nil {
			return err
		}
		pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			return fmt.Errorf("nobody calls himself %q", app)
		}
		for _, pid := range pids {
			n, err := machine.Anonymous(pid)
			if err != nil {
				return err
			}
			bytes += n
		}
		return nil
	})
	return bytes, err == nil, err
}

// usage is what this process and the server have used so far. Looking at the server costs this process something, so it
// comes first at the beginning and last at the end.
type usage struct {
	client, server           time.Duration
	mallocs                  uint64
	clientKnown, serverKnown bool
}

func (e *env) usage() (u usage) {
	u.server, u.serverKnown = e.server.cpu()
	u.client, u.clientKnown = processCPU()
	u.mallocs = mallocs()
	return u
}

// since returns what was used since.
func (e *env) since(before usage) measured {
	m := measured{allocs: float64(mallocs() - before.mallocs)}
	if now, known := processCPU(); known && before.clientKnown {
		m[clientCPU] = float64(now - before.client)
	}
	if now, known := e.server.cpu(); known && before.serverKnown {
		m[serverCPU] = float64(now - before.server)
	}
	return m
}

func mallocs() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}

// withParams adds query parameters to a database URL.
func withParams(databaseURL string, kv ...string) (string, error) {
	u, err := url.Parse(databaseURL)
	if err != nil {
		return "", err
	}
	q := u.Query()
	for i := 0; i < len(kv); i += 2 {
		q.Set(kv[i], kv[i+1])
	}
	u.RawQuery = strings.ReplaceAll(q.Encode(), "+", "%20") // a plus sign is one to pgconn, as to libpq
	return u.String(), nil
}
