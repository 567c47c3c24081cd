package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/tenement-go/tenement/backend/postgres"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// The rows of connections that are not to be lost, or not to be had.

var scaleConnSuites = []suite{
	{
		name: "scale_cancelled", what: "a read after a statement that was cancelled, one connection",
		rows: []row{
			{id: "scale_cancelled", what: "÷ a read after a statement as long that was not", metric: p50, ours: "ours, cancelled before", ref: "ours", bar: 1.5},
			{id: "scale_cancelled_sessions", what: "sessions that were lost", metric: count, ours: "ours, cancelled before", none: true},
			{id: "scale_cancelled_pgxpool", what: "the same of `pgxpool`", metric: p50, ours: "pgxpool, cancelled before", ref: "pgxpool"},
		},
		measure: afterCancel,
	},
	{
		name: "scale_full", what: "48 goroutines in two processes, pools of 16, a server of 20 connections, statements of 20 ms",
		rows: []row{
			{id: "scale_full", what: "failed statements", metric: count, ours: "ours, failed", none: true},
			{id: "scale_full_pgxpool", what: "failed statements of 100 ÷ those of `pgxpool`", metric: count, ours: "ours, % failed", ref: "pgxpool, % failed"},
		},
		measure: fullServer,
	},
}

// reader reads a row or, told so, sleeps until it is cancelled.
type reader interface {
	read(ctx context.Context) error
	sleep(ctx context.Context, d time.Duration) error
	session(ctx context.Context) (pid int, err error)
}

type ourReader struct{ be *postgres.Backend }

func (r ourReader) read(context.Context) error { return readSQL(routes(1)[0], r.be.DB(), 0) }

func (r ourReader) sleep(ctx context.Context, d time.Duration) error {
	_, err := r.be.DB().ExecContext(routeContext(ctx, 0), `SELECT pg_sleep($1)`, d.Seconds())
	return err
}

func (r ourReader) session(context.Context) (pid int, err error) {
	return pid, r.be.DB().QueryRowContext(routes(1)[0], `SELECT pg_backend_pid()`).Scan(&pid)
}

type poolReader struct{ pool *pgxpool.Pool }

func (r poolReader) read(ctx context.Context) error { return readPGX(ctx, r.pool, 0) }

func (r poolReader) sleep(ctx context.Context, d time.Duration) error {
	_, err := r.pool.Exec(ctx, `SELECT pg_sleep($1)`, d.Seconds())
	return err
}

func (r poolReader) session(ctx context.Context) (pid int, err error) {
	return pid, r.pool.QueryRow(ctx, `SELECT pg_backend_pid()`).Scan(&pid)
}

// afterCancel times reads by themselves, so it does not use a contest: what comes ahead of each is not to count.
func afterCancel(ctx context.Context, e *env, s *scores) error {
	f, err := e.scaleFleet(ctx, 1)
	if err != nil {
		return err
	}
	be, err := e.ours(ctx, f, f.socket, "ours", "pool_max_conns", "1")
	if err != nil {
		return err
	}
	pool, err := e.pool(ctx, f.socket, "pgxpool", numbered(0).String(), "pool_max_conns", "1")
	if err != nil {
		return err
	}
	for range e.rounds {
		for _, k := range []struct {
			name string
			reader
		}{{"ours", ourReader{be}}, {"pgxpool", poolReader{pool}}} {
			// As long: after some milliseconds of doing nothing, a read of its own takes several times as long.
			m, err := readsAfter(ctx, k, e.pick(30, 5), func() error { return k.sleep(ctx, cancelAfter) })
			if err != nil {
				return fmt.Errorf("%s: %w", k.name, err)
			}
			s.add(k.name, m)
			m, err = readsAfter(ctx, k, e.pick(30, 5), func() error { return cancelled(ctx, k) })
			if err != nil {
				return fmt.Errorf("%s: %w", k.name, err)
			}
			s.add(k.name+", cancelled before", m)
		}
	}
	return nil
}

// readsAfter times n reads, each of them after something else, and counts the sessions that were lost.
func readsAfter(ctx context.Context, r reader, n int, before func() error) (measured, error) {
	pid, err := r.session(ctx)
	if err != nil {
		return nil, err
	}
	var times []float64
	lost := 0.0
	for range n {
		if err := before(); err != nil {
			return nil, err
		}
		began := time.Now()
		if err := r.read(ctx); err != nil {
			return nil, err
		}
		times = append(times, float64(time.Since(began)))
		now, err := r.session(ctx)
		if err != nil {
			return nil, err
		}
		if now != pid {
			lost, pid = lost+1, now
		}
	}
	return measured{p50: median(times), count: lost}, nil
}

// cancelAfter is how long a statement runs before it is cancelled.
const cancelAfter = 3 * time.Millisecond

// cancelled sleeps at the server until its context ends.
func cancelled(ctx context.Context, r reader) error {
	ctx, cancel := context.WithTimeout(ctx, cancelAfter)
	defer cancel()
	switch err := r.sleep(ctx, 10*time.Second); {
	case err == nil:
		return errors.New("a statement of 10 s ended by itself")
	case ctx.Err() == nil:
		return err
	}
	return nil
}

// crowd is what a process of the crowd found.
type crowd struct {
	Done, Failed int
	First        string // error
}

// fullServer has two processes of this program use a server that has fewer places than they want.
func fullServer(ctx context.Context, e *env, s *scores) error {
	c, err := pgtest.Start(ctx, "max_connections=20", "fsync=off")
	if err != nil {
		return err
	}
	e.cleanup(func() { _ = c.Stop() })
	u, _, err := c.NewDatabase(ctx)
	if err != nil {
		return err
	}
	f := &fleet{fleetKey: fleetKey{role: true}, url: u, socket: u}
	if err := f.grow(ctx, 8); err != nil {
		return err
	}
	for range e.rounds {
		for _, who := range []string{"ours", "pgxpool"} {
			sum, err := twoProcesses(ctx, who, u, e.slice)
			if err != nil {
				return err
			}
			s.add(who+", failed", measured{count: float64(sum.Failed)})
			s.add(who+", % failed", measured{count: 100 * float64(sum.Failed) / float64(sum.Done+sum.Failed)})
			if sum.Failed > 0 {
				s.note("%s failed first with: %s", who, sum.First)
			}
		}
	}
	return nil
}

func twoProcesses(ctx context.Context, who, databaseURL string, slice time.Duration) (sum crowd, err error) {
	self, err := os.Executable()
	if err != nil {
		return sum, err
	}
	var found [2]crowd
	g, ctx := errgroup.WithContext(ctx)
	for i := range found {
		g.Go(func() error {
			cmd := exec.CommandContext(ctx, self)
			cmd.Env = append(os.Environ(), crowdVariable+"="+who, "DATABASE_URL="+databaseURL, "SLICE="+slice.String())
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			if err != nil {
				return fmt.Errorf("a process of the crowd: %w", err)
			}
			return json.Unmarshal(out, &found[i])
		})
	}
	err = g.Wait()
	for _, c := range found {
		sum.Done, sum.Failed = sum.Done+c.Done, sum.Failed+c.Failed
		if sum.First == "" {
			sum.First = c.First
		}
	}
	return sum, err
}

// crowdVariable makes this program one process of the crowd. It says of which: "ours" or "pgxpool".
const crowdVariable = "TENEMENT_BENCH_CROWD"

// runCrowd has 24 goroutines run statements of 20 ms for a while, through a pool of 16.
func runCrowd(ctx context.Context, stdout io.Writer) error {
	slice, err := time.ParseDuration(os.Getenv("SLICE"))
	if err != nil {
		return err
	}
	op, err := crowdOperation(ctx, os.Getenv(crowdVariable), os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	var (
		done, failed atomic.Int64
		first        atomic.Pointer[string]
		g            errgroup.Group
	)
	end := time.Now().Add(max(slice, time.Second))
	for i := range 24 {
		g.Go(func() error {
			for time.Now().Before(end) {
				if err := op(ctx, i); err != nil {
					text := err.Error()
					first.CompareAndSwap(nil, &text)
					failed.Add(1)
					continue
				}
				done.Add(1)
			}
			return nil
		})
	}
	_ = g.Wait()
	found := crowd{Done: int(done.Load()), Failed: int(failed.Load())}
	if text := first.Load(); text != nil {
		found.First = *text
	}
	return json.NewEncoder(stdout).Encode(found)
}

func crowdOperation(ctx context.Context, who, databaseURL string) (func(ctx context.Context, i int) error, error) {
	const sleep = `SELECT pg_sleep($1)`
	if who == "ours" {
		f := fleet{fleetKey: fleetKey{role: true}}
		be, err := f.open(ctx, databaseURL, "pool_max_conns", "16")
		if err != nil {
			return nil, err
		}
		to := routes(8)
		return func(_ context.Context, i int) error {
			_, err := be.DB().ExecContext(to[i%len(to)], sleep, 0.02)
			return err
		}, nil
	}
	u, err := withParams(databaseURL, "pool_max_conns", strconv.Itoa(16))
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.New(ctx, u)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, _ int) error {
		_, err := pool.Exec(ctx, sleep, 0.02)
		return err
	}, nil
}
