package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/internal/wireproxy"
)

// stage is a set-up that a storm goes over.
type stage struct {
	name   string
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
	st.faults = []faultKind{faultKill, faultMigrate, faultMigrKill}
	if mountSmall(st.stores) == nil {
		st.faults = append(st.faults, faultDisk)
		st.onEnd(func() error { return unmount(st.stores) })
	}
	st.direct = "sqlite:" + st.stores
	st.url = st.direct + "?max_open=60&max_readers=4"
	return nil
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
	bouncer, err := pgtest.StartBouncer(ctx, st.direct, pgtest.BouncerConfig{PoolSize: 8})
	if err != nil {
		return err
	}
	st.onEnd(bouncer.Stop)
	return st.wire(bouncer.URL() + "&default_query_exec_mode=exec") // an old one knows nothing of prepared statements
}

// company is the processes of a storm.
type company struct {
	st    *stage
	order order

	version     int // of the last fleet migration
	incarnation int
	serving     []*process
	migrating   []*process
}

// process is one of them.
type process struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  io.Reader
	done chan struct{}
	err  error
}

func (c *company) start(change func(*order)) (*process, error) {
	c.incarnation++
	o := c.order
	o.Incarnation = c.incarnation
	change(&o)
	text, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(self), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), envOrder+"="+string(text))
	p.cmd.Stderr = os.Stderr
	if p.out, err = p.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// ready waits until the process says something, or is over.
func (p *process) ready() { _, _ = p.out.Read(make([]byte, 1)) }

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// stop has the process end by itself, and returns an error when it does not.
func (p *process) stop(within time.Duration) error {
	_ = p.in.Close()
	select {
	case <-p.done:
		return p.err
	case <-time.After(within):
		p.kill()
		return fmt.Errorf("hung: a process did not end within %v", within)
	}
}

func (c *company) serve() error {
	p, err := c.start(func(*order) {})
	if err == nil {
		c.serving = append(c.serving, p)
	}
	return err
}

// inflict does one fault.
func (c *company) inflict(ctx context.Context, f fault) error {
	switch f.kind {
	case faultKill:
		i := int(f.arg % uint64(len(c.serving)))
		c.serving[i].kill()
		c.serving = append(c.serving[:i], c.serving[i+1:]...)
		return c.serve()
	case faultTerminate:
		return c.st.terminate(ctx, f.arg)
	case faultCut:
		c.st.proxy.CutAll()
	case faultCrash:
		return errors.Join(c.st.cluster.Kill(ctx), c.st.cluster.Revive(ctx))
	case faultMigrate, faultMigrKill:
		return c.migrate(f)
	case faultDisk:
		return fillDisk(c.st.stores, time.Duration(200+f.arg%600)*time.Millisecond)
	}
	return nil
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

// migrate has three processes bring all stores to the next version at once.
func (c *company) migrate(f fault) error {
	c.version = min(c.version+1, newest)
	var both []*process
	for range 3 {
		p, err := c.start(func(o *order) { o.Migrate = c.version })
		if err != nil {
			return err
		}
		both = append(both, p)
	}
	c.migrating = append(c.migrating, both...)
	go func() {
		for _, p := range both {
			p.ready()
		}
		for _, p := range both { // all at once
			_, _ = p.in.Write([]byte{'\n'})
		}
		if f.kind == faultMigrKill {
			time.Sleep(time.Duration(f.arg % uint64(400*time.Millisecond)))
			_ = both[0].cmd.Process.Kill()
		}
	}()
	return nil
}
