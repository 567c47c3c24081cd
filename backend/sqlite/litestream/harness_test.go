package litestream_test

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/sqlite"
	"github.com/tenement-go/tenement/backend/sqlite/litestream"
	"github.com/tenement-go/tenement/internal/leak"
	"github.com/tenement-go/tenement/manage"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
)

// childEnv has this test program run as another process: "MODE DIR TARGET".
const childEnv = "TENEMENT_LITESTREAM_CHILD"

func TestMain(m *testing.M) {
	_ = os.Unsetenv("AWS_CA_BUNDLE") // which Litestream's client cannot take
	_ = os.Setenv("AWS_ACCESS_KEY_ID", "key")
	_ = os.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	if what := os.Getenv(childEnv); what != "" {
		words := strings.Fields(what)
		if err := child(words[0], words[1], words[2]); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		return
	}
	_, err := litestream.New("file:///nowhere", litestream.Config{}) // for its locks, before any database is opened
	if err != nil {
		panic(err)
	}
	leak.Main(m)
}

// child is the other process. "backup" copies until it is killed; "serve" writes rows to thor until its input ends, and
// prints each that was acknowledged; "late" opens a database before it calls New.
func child(mode, dir, target string) error {
	ctx := context.Background()
	if mode == "backup" {
		b, err := litestream.New(target, quick)
		if err != nil {
			return err
		}
		return with(ctx, dir, func(app *tenancy.App) error {
			fmt.Println("started")
			return b.Run(ctx, app)
		})
	}
	return with(ctx, dir, func(app *tenancy.App) error { // on locks of the process, as programs have them by default
		if mode == "late" {
			b, err := litestream.New(target, quick)
			if err != nil {
				return err
			}
			if err := b.Run(ctx, app); !errors.Is(err, litestream.ErrLocks) {
				return fmt.Errorf("it ran: %w", err)
			}
			return nil
		}
		thor, err := app.BySlug(ctx, "thor")
		if err != nil {
			return err
		}
		in := bufio.NewScanner(os.Stdin)
		for in.Scan() {
			var last int
			for range 20 {
				if last, err = add(ctx, app, thor.ID); err != nil {
					return err
				}
			}
			fmt.Println(last)
		}
		return nil
	})
}

// start starts another process. What it prints is read by the caller.
func start(t *testing.T, mode, dir, target string) (cmd *exec.Cmd, in io.Writer, out *bufio.Scanner) {
	t.Helper()
	cmd = exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+strings.Join([]string{mode, dir, target}, " "))
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.Stderr = os.Stderr
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd, in, bufio.NewScanner(stdout)
}

// line is the next line that another process prints.
func line(t *testing.T, out *bufio.Scanner) string {
	t.Helper()
	require.True(t, out.Scan(), "it has ended")
	require.NotContains(t, out.Text(), "error")
	return out.Text()
}

func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
}

var quick = litestream.Config{Interval: 20 * time.Millisecond}

var config = tenancy.Config{
	Shared: []migrate.Source{{Name: "plans", FS: fstest.MapFS{"00001_plans.sql": {Data: []byte("-- +goose Up\nCREATE TABLE plans (name TEXT);\n")}}}},
	Tenant: []migrate.Source{{Name: "notes", FS: fstest.MapFS{"00001_notes.sql": {Data: []byte(
		"-- +goose Up\nCREATE TABLE notes (n INTEGER PRIMARY KEY, text TEXT NOT NULL);\n")}}}},
	ReservedSlugs: []string{},
}

// with opens the tenants in a directory for a function.
func with(ctx context.Context, dir string, do func(app *tenancy.App) error) (err error) {
	be, err := sqlite.Open(ctx, dir, sqlite.Config{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, be.Close()) }()
	app, err := tenancy.Open(ctx, be, config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, app.Close()) }()
	return do(app)
}

// open opens the tenants in a directory for a test.
func open(t *testing.T, dir string) *tenancy.App {
	t.Helper()
	be, err := sqlite.Open(t.Context(), dir, sqlite.Config{})
	require.NoError(t, err)
	app, err := tenancy.Open(t.Context(), be, config)
	require.NoError(t, err)
	_, err = app.Migrator().Up(t.Context(), migrate.UpOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, errors.Join(app.Close(), be.Close())) })
	return app
}

func create(t *testing.T, app *tenancy.App, slug string) tenancy.Tenant {
	t.Helper()
	tenant, err := app.Create(t.Context(), tenancy.Spec{Slug: slug})
	require.NoError(t, err)
	return tenant
}

// add writes the next row, and returns how many there are.
func add(ctx context.Context, app *tenancy.App, id tenancy.ID) (n int, err error) {
	err = app.Run(ctx, tenancy.Ref{ID: id}, tenancy.Policy{}, func(ctx context.Context, _ *tenancy.Tenant) error {
		return app.DB().QueryRowContext(ctx, `INSERT INTO notes (text) VALUES (hex(randomblob(500))) RETURNING n`).Scan(&n)
	})
	return n, err
}

func mustAdd(t *testing.T, app *tenancy.App, id tenancy.ID) int {
	t.Helper()
	n, err := add(t.Context(), app, id)
	require.NoError(t, err)
	return n
}

// content is everything in a tenant's table, and that its file is whole.
func content(t *testing.T, app *tenancy.App, id tenancy.ID) []string {
	t.Helper()
	tenant, err := app.ByID(t.Context(), id)
	require.NoError(t, err)
	return inStore(t, app, tenant.Route())
}

func inStore(t *testing.T, app *tenancy.App, rt backend.Route) []string {
	t.Helper()
	db := app.Backend().DBFor(rt)
	rows := read(t, db)
	require.NoError(t, db.Close())
	return rows
}

func read(t *testing.T, db *sql.DB) (rows []string) {
	t.Helper()
	var whole string
	require.NoError(t, db.QueryRowContext(t.Context(), "PRAGMA integrity_check").Scan(&whole))
	require.Equal(t, "ok", whole)
	found, err := db.QueryContext(t.Context(), "SELECT n || ' ' || substr(text, 1, 8) FROM notes ORDER BY n")
	require.NoError(t, err)
	defer func() { require.NoError(t, found.Close()) }()
	for found.Next() {
		var row string
		require.NoError(t, found.Scan(&row))
		rows = append(rows, row)
	}
	require.NoError(t, found.Err())
	return rows
}

// replicating runs a backup until the test ends, or until stop.
func replicating(t *testing.T, app *tenancy.App, url string, cfg litestream.Config) (b *litestream.Backups, stop func()) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("there are no locks for it")
	}
	b, err := litestream.New(url, cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	over := make(chan error, 1)
	go func() { over <- b.Run(ctx, app) }()
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-over)
	})
	t.Cleanup(stop)
	return b, stop
}

// await asks again until it is so, within the test's time.
func await(t *testing.T, so func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(time.Minute)
	for !so() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("it does not come about")
		}
	}
}

// copied waits until all rows of a tenant are in the backup, and returns a moment from then.
func copied(t *testing.T, b *litestream.Backups, app *tenancy.App, id tenancy.ID) (at time.Time) {
	t.Helper()
	want := content(t, app, id)
	await(t, func() bool {
		at = time.Now().Truncate(time.Millisecond).Add(time.Millisecond)
		rows, err := restored(t, b, app, id, at)
		return err == nil && len(rows) == len(want)
	})
	await(t, func() bool { return time.Now().After(at) })
	return at
}

// restored is what there was in a tenant's table.
func restored(t *testing.T, b *litestream.Backups, app *tenancy.App, id tenancy.ID, at time.Time) ([]string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "restored.db")
	if err := b.RestoreFile(t.Context(), app, id, at, file); err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", file)
	require.NoError(t, err)
	rows := read(t, db)
	require.NoError(t, db.Close())
	return rows, nil
}

func status(t *testing.T, b *litestream.Backups, app *tenancy.App, id tenancy.ID) (s manage.BackupStatus) {
	t.Helper()
	tenant := tenancy.Tenant{}
	if id != "" {
		var err error
		tenant, err = app.ByID(t.Context(), id)
		require.NoError(t, err)
	}
	for found, err := range b.Status(t.Context(), app, []tenancy.Tenant{tenant}) {
		require.NoError(t, err)
		s = found
	}
	return s
}

// server is an S3 server that counts what is asked of it, by path.
type server struct {
	*httptest.Server
	down     atomic.Bool
	mu       sync.Mutex
	requests []string
	refused  int
}

func newServer(t *testing.T) *server {
	t.Helper()
	fake := gofakes3.New(s3mem.New(), gofakes3.WithAutoBucket(true), gofakes3.WithLogger(gofakes3.DiscardLog())).Server()
	s := &server{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.requests = append(s.requests, r.Method+" "+r.URL.String())
		down := s.down.Load()
		if down {
			s.refused++
		}
		s.mu.Unlock()
		if down {
			http.Error(w, "down", http.StatusForbidden)
			return
		}
		fake.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *server) url() string { return "s3://backups/app?endpoint=" + s.URL }

// about is what was asked about a tenant.
func (s *server) about(id tenancy.ID) (found []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.requests {
		if strings.Contains(r, string(id)) {
			found = append(found, r)
		}
	}
	return found
}

func fileURL(t *testing.T) string { return "file://" + filepath.ToSlash(t.TempDir()) }

// onEach runs a test with files and with the S3 server.
func onEach(t *testing.T, test func(t *testing.T, url string)) {
	t.Helper()
	for name, url := range map[string]func(t *testing.T) string{
		"file": fileURL, "s3": func(t *testing.T) string { return newServer(t).url() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, url(t))
		})
	}
}

func command(t *testing.T, b *litestream.Backups, app *tenancy.App, args ...string) (code int, out string) {
	t.Helper()
	var buf bytes.Buffer
	opts := []manage.Option{manage.WithName("notes")}
	if b != nil {
		opts = append(opts, manage.WithBackups(b))
	}
	code = manage.Execute(t.Context(), manage.Opened(app), args, strings.NewReader(""), &buf, &buf, opts...)
	return code, buf.String()
}
