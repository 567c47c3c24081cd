package manage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	_ "github.com/tenement-go/tenement/backend/postgres"
	_ "github.com/tenement-go/tenement/backend/sqlite"
	"github.com/tenement-go/tenement/internal/leak"
	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/manage"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
)

func TestMain(m *testing.M) { leak.Main(m) }

// files makes migrations from pairs of name and text.
func files(nameAndText ...string) fs.FS {
	m := fstest.MapFS{}
	for i := 0; i < len(nameAndText); i += 2 {
		m[nameAndText[i]] = &fstest.MapFile{Data: []byte(nameAndText[i+1])}
	}
	return m
}

// The migrations of the application under test. Its old binary has the first of each only; the new one has a
// migration that fails where a question was asked twice.
var (
	plans = []string{
		"00001_plans.sql", "-- +goose Up\nCREATE TABLE plans (name TEXT PRIMARY KEY);\n-- +goose Down\nDROP TABLE plans;\n",
		"00002_price.sql", "-- +goose Up\nALTER TABLE plans ADD COLUMN price INTEGER;\n-- +goose Down\nALTER TABLE plans DROP COLUMN price;\n",
	}
	polls = []string{
		"00001_polls.sql", "-- +goose Up\nCREATE TABLE polls (id INTEGER PRIMARY KEY, question TEXT NOT NULL);\n-- +goose Down\nDROP TABLE polls;\n",
		"00002_once.sql", "-- +goose Up\nCREATE UNIQUE INDEX polls_once ON polls (question);\n-- +goose Down\nDROP INDEX polls_once;\n",
	}
	users = []string{
		"00001_users.sql", "-- +goose Up\nCREATE TABLE users (name TEXT PRIMARY KEY);\n-- +goose Down\nDROP TABLE users;\n",
	}
)

// config is that of the new binary, or of the old one.
func config(old bool) tenancy.Config {
	plans, polls := plans, polls
	if old {
		plans, polls = plans[:2], polls[:2]
	}
	return tenancy.Config{
		Shared: []migrate.Source{{Name: "plans", FS: files(plans...)}},
		Tenant: []migrate.Source{{Name: "polls", FS: files(polls...)}, {Name: "users", FS: files(users...)}},
		Hooks: tenancy.Hooks{OnCreate: func(_ context.Context, t tenancy.Tenant, _ tenancy.Seed) error {
			if t.Slug == "cursed" {
				return errors.New("the hook has a bad day")
			}
			return nil
		}},
	}
}

// place is the stores of one test, or of several that change nothing.
type place struct {
	// backend opens them, when they are first needed: a wrong call does not get that far.
	backend func() backend.Backend
	url     func() string
	files   string // the directory of tenants' files, if they have any
}

func newPlace(t testing.TB, dialect backend.Dialect) *place {
	if dialect == backend.Postgres {
		pgtest.Shared(t) // may skip the test, which nobody may do within a sync.OnceValue
	}
	p := &place{url: sync.OnceValue(func() string {
		if dialect == backend.Postgres {
			return pgtest.Shared(t).Database(t)
		}
		return "sqlite:" + t.TempDir()
	})}
	p.backend = sync.OnceValue(func() backend.Backend {
		be, err := backend.Open(t.Context(), p.url())
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, be.Close()) })
		return be
	})
	return p
}

// onEach runs a test on each backend.
func onEach(t *testing.T, test func(t *testing.T, p *place)) {
	t.Helper()
	for _, d := range []backend.Dialect{backend.SQLite, backend.Postgres} {
		t.Run(string(d), func(t *testing.T) {
			t.Parallel()
			test(t, newPlace(t, d))
		})
	}
}

// open opens the tenants, as a process of its own does. The caller closes them.
func (p *place) open(ctx context.Context, old bool) (*tenancy.App, error) {
	cfg := config(old)
	cfg.FilesDir = p.files
	return tenancy.Open(ctx, p.backend(), cfg)
}

// call is one command line and what came of it.
type call struct {
	args          []string
	stdin         string
	in            io.Reader // instead of stdin
	old, terminal bool
	ctx           context.Context
	options       []manage.Option

	stdout, stderr syncBuffer
	status         int
}

// run executes the call.
func (p *place) run(t testing.TB, c *call) *call {
	t.Helper()
	ctx := c.ctx
	if ctx == nil {
		ctx = t.Context()
	}
	opened, closed := 0, 0
	open := func(ctx context.Context) (*tenancy.App, func() error, error) {
		app, err := p.open(ctx, c.old)
		if err != nil {
			return nil, nil, err
		}
		opened++
		return app, func() error { closed++; return app.Close() }, nil
	}
	options := []manage.Option{manage.WithName("app"), manage.WithActor("tester"), manage.WithTerminal(func(any) bool { return c.terminal })}
	for _, cmd := range commands {
		options = append(options, manage.WithCommand(cmd))
	}
	options = append(options, c.options...) // after those of the application, which they may replace
	if c.in == nil {
		c.in = strings.NewReader(c.stdin)
	}
	c.status = manage.Execute(ctx, open, c.args, c.in, &c.stdout, &c.stderr, options...)
	require.LessOrEqual(t, opened, 1, "a command opens the tenants once")
	require.Equal(t, opened, closed, "what was opened is closed when Execute returns")
	return c
}

// must runs a command line that has to succeed.
func (p *place) must(t testing.TB, args ...string) string {
	t.Helper()
	c := p.run(t, &call{args: args})
	require.Zero(t, c.status, c.stderr.String())
	return c.stdout.String()
}

// mustOld is must with the old binary.
func (p *place) mustOld(t testing.TB, args ...string) {
	t.Helper()
	c := p.run(t, &call{args: args, old: true})
	require.Zero(t, c.status, c.stderr.String())
}

// commands are those of the application under test.
var commands = []manage.Command{
	{Name: "ask", Short: "add questions", Run: func(ctx context.Context, app *tenancy.App, args []string, _ manage.IO) error {
		if len(args) == 0 {
			return manage.Usagef("ask needs a question")
		}
		for _, question := range args {
			_, err := app.DB().ExecContext(ctx, "INSERT INTO polls (id, question) SELECT count(*) + 1, $1 FROM polls", question)
			if err != nil {
				return err
			}
		}
		return nil
	}},
	{Name: "questions", Short: "print the questions", Run: func(ctx context.Context, app *tenancy.App, _ []string, stdio manage.IO) error {
		rows, err := app.DB().QueryContext(ctx, "SELECT question FROM polls ORDER BY id")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var question string
			if err := rows.Scan(&question); err != nil {
				return err
			}
			fmt.Fprintln(stdio.Out, question)
		}
		return rows.Err()
	}},
	{Name: "echo", Short: "print what it reads, and its arguments", Run: func(ctx context.Context, _ *tenancy.App, args []string, stdio manage.IO) error {
		in, err := io.ReadAll(stdio.In)
		if err != nil {
			return err
		}
		t, _ := tenancy.From(ctx)
		fmt.Fprintf(stdio.Out, "%s: %q %q\nno line break", t.Slug, in, args)
		fmt.Fprintf(stdio.Err, "a complaint\n")
		return nil
	}},
	{Name: "fail", Short: "fail in one tenant", Run: func(ctx context.Context, app *tenancy.App, args []string, _ manage.IO) error {
		if t, _ := tenancy.From(ctx); len(args) == 0 || args[0] == t.Slug {
			return errors.New("it was told to")
		}
		return nil
	}},
}

// syncBuffer is a buffer that several goroutines may use.
type syncBuffer struct {
	mu      sync.Mutex
	b       bytes.Buffer
	onWrite func() // called when something is written; may be nil

	failNext error // of the next write; may be nil
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.onWrite != nil {
		s.onWrite()
	}
	if err := s.failNext; err != nil {
		s.failNext = nil
		return 0, err
	}
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
