package manage_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/manage"
	"github.com/tenement-go/tenement/tenancy"
)

// An application with a command line of its own mounts the tree below its root, and gets plain errors from it.
func TestMountedBelowAnotherRoot(t *testing.T) {
	t.Parallel()
	p := newPlace(t, backend.SQLite)
	app, err := p.open(t.Context(), false)
	require.NoError(t, err)
	defer func() { require.NoError(t, app.Close()) }()
	run := func(args ...string) (string, string, error) {
		var stdout, stderr bytes.Buffer
		root := &cobra.Command{Use: "shop", SilenceErrors: true}
		root.AddCommand(&cobra.Command{Use: "serve", Run: func(*cobra.Command, []string) {}}, manage.New(manage.Opened(app), manage.WithName("admin")))
		root.SetArgs(args)
		root.SetOut(&stdout)
		root.SetErr(&stderr)
		err := root.ExecuteContext(t.Context())
		return stdout.String(), stderr.String(), err
	}
	stdout, stderr, err := run("admin", "tenant", "create", "thor")
	require.NoError(t, err)
	assert.Equal(t, "made tenant thor\n", stdout)
	assert.Empty(t, stderr)

	_, stderr, err = run("admin", "tenant", "show", "potter")
	require.ErrorIs(t, err, tenancy.ErrNotFound)
	assert.Equal(t, manage.ExitFailed, manage.ExitStatus(err))
	assert.Contains(t, err.Error(), "shop admin tenant list lists the tenants")
	assert.Empty(t, stderr)

	_, _, err = run("admin", "tenant", "shwo", "thor")
	assert.Equal(t, manage.ExitUsage, manage.ExitStatus(err))
	assert.Contains(t, err.Error(), "usage: shop admin tenant COMMAND")

	_, _, err = run("admin", "migrate", "--nothing")
	assert.Equal(t, manage.ExitUsage, manage.ExitStatus(err))
}

// Help, completion scripts and wrong calls need no database.
func TestNeedsNoTenantsForHelp(t *testing.T) {
	t.Parallel()
	refuse := func(context.Context) (*tenancy.App, func() error, error) {
		return nil, nil, errors.New("the database is down")
	}
	for args, want := range map[string]struct {
		status int
		says   string
	}{
		"help":            {manage.ExitOK, "tenant"},
		"migrate --help":  {manage.ExitOK, "--canary"},
		"completion bash": {manage.ExitOK, "__complete"},
		"completion zsh":  {manage.ExitOK, "#compdef app"},
		"completion fish": {manage.ExitOK, "complete -c app"},
		"tenant create":   {manage.ExitUsage, "SLUG is missing"},
		"migrate":         {manage.ExitFailed, "the database is down"},
		// A shell in the middle of a line is not bothered.
		"__complete tenant show t": {manage.ExitOK, ":4\n"},
	} {
		var out syncBuffer
		status := manage.Execute(t.Context(), refuse, strings.Fields(args), strings.NewReader(""), &out, &out, manage.WithName("app"))
		assert.Equal(t, want.status, status, args)
		assert.Contains(t, out.String(), want.says, args)
	}
	var out syncBuffer
	assert.Equal(t, manage.ExitFailed, manage.Execute(t.Context(), nil, []string{"status"}, strings.NewReader(""), &out, &out))
	assert.Contains(t, out.String(), "no Opener")
}

func TestExitStatus(t *testing.T) {
	t.Parallel()
	assert.Equal(t, manage.ExitOK, manage.ExitStatus(nil))
	assert.Equal(t, manage.ExitOK, manage.ExitStatus(fmt.Errorf("x: %w", flag.ErrHelp)))
	assert.Equal(t, manage.ExitUsage, manage.ExitStatus(fmt.Errorf("x: %w", manage.Usagef("no"))))
	assert.Equal(t, manage.ExitUsage, manage.ExitStatus(tenancy.ValidateSlug("-")))
	assert.Equal(t, manage.ExitFailed, manage.ExitStatus(tenancy.ErrNotFound))
}

// The later of two commands of one name counts; New does not change what the caller holds.
func TestCommandsOfOneName(t *testing.T) {
	t.Parallel()
	p := newPlace(t, backend.SQLite)
	p.must(t, "tenant", "create", "thor")
	command := func(says string) manage.Option {
		return manage.WithCommand(manage.Command{Name: "hello", Run: func(_ context.Context, _ *tenancy.App, _ []string, stdio manage.IO) error {
			_, err := fmt.Fprintln(stdio.Out, says)
			return err
		}})
	}
	c := p.run(t, &call{args: []string{"exec", "thor", "--", "hello"}, options: []manage.Option{command("first"), command("second")}})
	require.Zero(t, c.status, c.stderr.String())
	assert.Equal(t, "second\n", c.stdout.String())
}

// Names and rows are other people's: what a terminal would obey is shown instead.
func TestEscapesWhatATerminalWouldObey(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, p *place) {
		p.must(t, "tenant", "create", "thor")
		p.must(t, "exec", "thor", "--", "ask", "red: \x1b[31m, title: \x1b]0;x\a, backwards: \u202e")
		assert.Equal(t, "question\n"+`red: \u001b[31m, title: \u001b]0;x\u0007, backwards: \u202e`+"\n(1 row)\n",
			p.must(t, "sql", "thor", "SELECT question FROM polls"))
		c := p.run(t, &call{args: []string{"tenant", "show", "\x1b[31m"}})
		assert.NotContains(t, c.stderr.String(), "\x1b")
	})
}

// A statement that fails is reported with what the database said.
func TestSQLError(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, p *place) {
		p.must(t, "tenant", "create", "thor")
		c := p.run(t, &call{args: []string{"sql", "thor", "SELECT id FROM nowhere"}})
		assert.Equal(t, manage.ExitFailed, c.status)
		assert.Contains(t, c.stderr.String(), "nowhere")
		assert.Empty(t, c.stdout.String())
	})
}

// More rows than are measured come out all the same, and JSON stays JSON.
func TestManyRows(t *testing.T) {
	t.Parallel()
	p := newPlace(t, backend.SQLite)
	p.must(t, "tenant", "create", "thor")
	query := "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500) SELECT i, x'ff00' AS bytes, 1.5 AS half FROM n"
	out := p.must(t, "sql", "thor", query)
	assert.Equal(t, 2502, strings.Count(out, "\n"))
	assert.Contains(t, out, "\n2500  \\xff00  1.5\n(2500 rows)\n")
	var rows []struct {
		I     int
		Bytes string
		Half  float64
	}
	require.NoError(t, json.Unmarshal([]byte(p.must(t, "sql", "thor", query, "--json")), &rows))
	require.Len(t, rows, 2500)
	assert.Equal(t, 2500, rows[2499].I)
	assert.Equal(t, "/wA=", rows[0].Bytes)
}

// Without a query the database's own client is started, on the right store.
func TestSQLStartsTheClient(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, p *place) {
		client := map[backend.Dialect]string{backend.SQLite: "sqlite3", backend.Postgres: "psql"}[p.backend().Dialect()]
		if _, err := exec.LookPath(client); err != nil {
			t.Skip(client + " is not installed")
		}
		p.must(t, "tenant", "create", "thor")
		p.must(t, "tenant", "create", "potter")
		p.must(t, "exec", "thor", "--", "ask", "Hammer?")
		c := p.run(t, &call{args: []string{"sql", "thor"}, stdin: "SELECT question FROM polls;\n"})
		require.Zero(t, c.status, c.stderr.String())
		assert.Contains(t, c.stdout.String(), "Hammer?")
		c = p.run(t, &call{args: []string{"sql", "potter"}, stdin: "SELECT question FROM polls;\nSELECT 'n=' || count(*) FROM plans;\n"})
		require.Zero(t, c.status, c.stderr.String())
		assert.NotContains(t, c.stdout.String(), "Hammer?")
		assert.Contains(t, c.stdout.String(), "n=0", "shared tables are beside it")
	})
}

// What doctor finds it repairs, and asks before it gives somebody's data another place. Nothing is removed but by name.
func TestDoctorRepairs(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, p *place) {
		p.must(t, "tenant", "create", "thor")
		require.NoError(t, p.backend().Create(t.Context(), backend.Route{Store: backend.MustParseStore("stray"), Owner: "nobody"}))

		c := p.run(t, &call{args: []string{"doctor"}})
		assert.Equal(t, manage.ExitFailed, c.status)
		assert.Contains(t, c.stdout.String(), "store-orphan")
		assert.Contains(t, c.stdout.String(), "stray")
		assert.Contains(t, c.stderr.String(), "app doctor --repair")

		c = p.run(t, &call{args: []string{"doctor", "--repair", "--json"}})
		assert.Equal(t, manage.ExitFailed, c.status)
		var report struct {
			Findings []struct {
				Code     string
				Repaired bool
				Error    string
			}
		}
		require.NoError(t, json.Unmarshal([]byte(c.stdout.String()), &report))
		require.Len(t, report.Findings, 1)
		assert.False(t, report.Findings[0].Repaired)
		assert.Contains(t, report.Findings[0].Error, "--yes")

		c = p.run(t, &call{args: []string{"doctor", "--repair"}, terminal: true, stdin: "no\n"})
		assert.Equal(t, manage.ExitFailed, c.status)
		_, err := p.backend().Stat(t.Context(), backend.MustParseStore("stray"))
		require.NoError(t, err)

		c = p.run(t, &call{args: []string{"doctor", "--repair"}, terminal: true, stdin: "stray\n"})
		require.Zero(t, c.status, "%s%s", c.stdout.String(), c.stderr.String())
		assert.Equal(t, "everything fits\n", p.must(t, "doctor"))
		assert.Contains(t, p.must(t, "tenant", "list", "--status", "suspended")+p.must(t, "store", "list"), "stray", "nothing of it is lost")
	})
}

// A store that is nobody's is put out of the way, and removed only when its name is typed.
func TestStoreAside(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, p *place) {
		p.must(t, "tenant", "create", "thor")
		require.NoError(t, p.backend().Create(t.Context(), backend.Route{Store: backend.MustParseStore("stray"), Owner: "nobody"}))
		c := p.run(t, &call{args: []string{"store", "aside", "thor"}})
		assert.Equal(t, manage.ExitFailed, c.status, "it is a tenant's")
		assert.Contains(t, p.must(t, "store", "aside", "stray"), "stray is set aside as ")
		_, err := p.backend().Stat(t.Context(), backend.MustParseStore("stray"))
		require.ErrorIs(t, err, backend.ErrStoreMissing)
		assert.Equal(t, "everything fits\n", p.must(t, "doctor"))

		var aside []struct{ Store, Was, Owner string }
		require.NoError(t, json.Unmarshal([]byte(p.must(t, "store", "list", "--json")), &aside))
		require.Len(t, aside, 1)
		assert.Equal(t, "stray", aside[0].Was)
		assert.Equal(t, "nobody", aside[0].Owner)
		c = p.run(t, &call{args: []string{"store", "purge", aside[0].Store}})
		assert.Equal(t, manage.ExitUsage, c.status)
		assert.Contains(t, c.stderr.String(), "--confirm "+aside[0].Store)
		c = p.run(t, &call{args: []string{"store", "purge", "thor", "--confirm", "thor"}})
		assert.Equal(t, manage.ExitFailed, c.status, "it is not one of those")
		assert.Contains(t, p.must(t, "store", "purge", aside[0].Store, "--confirm", aside[0].Store), "is gone")
		assert.Empty(t, p.must(t, "store", "list"))
		assert.NotEmpty(t, p.must(t, "sql", "thor", "SELECT count(*) FROM polls"))
	})
}

// So is a directory of files.
func TestFilesAside(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, p *place) {
		p.files = t.TempDir()
		const nobody = "01900000-0000-7000-8000-000000000000"
		require.NoError(t, os.Mkdir(filepath.Join(p.files, nobody), 0o700))
		p.must(t, "doctor", "--repair", "--yes")
		assert.Equal(t, "everything fits\n", p.must(t, "doctor"))
		var aside []struct{ Store, Files, Owner string }
		require.NoError(t, json.Unmarshal([]byte(p.must(t, "store", "list", "--json")), &aside))
		require.Len(t, aside, 1)
		name := aside[0].Files
		assert.Empty(t, aside[0].Store)
		assert.Equal(t, nobody, aside[0].Owner)
		assert.Contains(t, p.must(t, "store", "list"), name)
		assert.DirExists(t, filepath.Join(p.files, name))
		assert.Contains(t, p.must(t, "store", "purge", name, "--confirm", name), "is gone")
		assert.NoDirExists(t, filepath.Join(p.files, name))
		assert.Empty(t, p.must(t, "store", "list"))
	})
}

// A schema or a file from before there were tenants becomes one, with its tables as they are; what was done is kept, with
// who did it.
func TestAdopt(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, p *place) {
		p.must(t, "tenant", "create", "thor")
		if _, ok := p.backend().(backend.Adopter); !ok {
			c := p.run(t, &call{args: []string{"tenant", "adopt", "stray"}})
			assert.Equal(t, manage.ExitFailed, c.status)
			t.Skip("this backend takes in nothing that it did not make")
		}
		if p.backend().Dialect() == backend.Postgres {
			_, err := p.backend().Shared().ExecContext(t.Context(), "CREATE SCHEMA stray")
			require.NoError(t, err)
		} else {
			require.NoError(t, p.backend().Create(t.Context(), backend.Route{Store: backend.MustParseStore("stray"), Owner: "nobody"}))
		}

		c := p.run(t, &call{args: []string{"tenant", "adopt", "thor"}})
		assert.Equal(t, manage.ExitFailed, c.status)
		assert.Contains(t, c.stderr.String(), "taken")
		c = p.run(t, &call{args: []string{"tenant", "adopt", "nowhere"}})
		assert.Equal(t, manage.ExitFailed, c.status)

		c = p.run(t, &call{args: []string{"tenant", "adopt", "stray", "found", "--domain", "found.example.com"}})
		require.Zero(t, c.status, c.stderr.String())
		assert.Equal(t, "store stray is that of tenant found at found.example.com\n", c.stdout.String())
		assert.Contains(t, c.stderr.String(), "app migrate --tenant found")
		p.must(t, "migrate", "--tenant", "found")
		p.must(t, "exec", "found", "--", "ask", "Anybody?")
		assert.Contains(t, p.must(t, "tenant", "history", "found"), "tester")
	})
}

func mustID(t *testing.T, p *place, slug string) tenancy.ID {
	t.Helper()
	var shown struct{ ID tenancy.ID }
	require.NoError(t, json.Unmarshal([]byte(p.must(t, "tenant", "show", slug, "--json")), &shown))
	return shown.ID
}

// S26: what was done to a tenant is listed, the latest first, by its ID too when it is gone.
func TestHistory(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, p *place) {
		p.must(t, "tenant", "create", "thor", "--domain", "thor.example.com")
		p.must(t, "tenant", "suspend", "thor", "--reason", "unpaid")
		p.must(t, "tenant", "resume", "thor")
		id := string(mustID(t, p, "thor"))
		kinds := func(args ...string) (list []string) {
			var changes []tenancy.Change
			require.NoError(t, json.Unmarshal([]byte(p.must(t, args...)), &changes))
			for _, c := range changes {
				assert.Equal(t, "tester", c.Actor, c.Kind)
				list = append(list, string(c.Kind))
			}
			return list
		}
		all := kinds("tenant", "history", "thor", "--json")
		require.GreaterOrEqual(t, len(all), 4)
		assert.Equal(t, []string{"activated", "suspended"}, all[:2])
		assert.Equal(t, "claimed", all[len(all)-1])
		assert.Equal(t, all[:1], kinds("tenant", "history", "thor", "--limit", "1", "--json"))
		p.must(t, "tenant", "delete", "thor", "--yes")
		p.must(t, "tenant", "purge", "thor", "--confirm", "thor")
		assert.Equal(t, "purged", kinds("tenant", "history", id, "--json")[0])
	})
}

// A rollback that was stopped is not advised to be given again: that would undo one more in the stores where it was done.
func TestStoppedRollback(t *testing.T) {
	t.Parallel()
	p := newPlace(t, backend.SQLite)
	for _, slug := range []string{"a", "b", "c"} {
		p.must(t, "tenant", "create", slug)
	}
	p.must(t, "sql", "b", "DROP INDEX polls_once")
	for args, says := range map[string]string{
		"rollback --yes --source polls":        "app rollback --to V goes on",
		"rollback --yes --source polls --to 1": "app rollback goes on with them",
		"redo --yes --source polls":            "app redo --tenant SLUG",
	} {
		c := p.run(t, &call{args: append(strings.Fields(args), "--fail-fast", "--parallel", "1")})
		assert.Equal(t, manage.ExitFailed, c.status, args)
		assert.Contains(t, c.stderr.String(), says, args)
		p.must(t, "migrate", "--tenant", "a")
	}
}

// What could not be written is not done.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	p := newPlace(t, backend.SQLite)
	p.mustOld(t, "tenant", "create", "potter")
	for _, args := range [][]string{{"status"}, {"migrate", "--dry-run"}, {"migrate"}, {"migrate", "--json"}, {"redo", "--yes", "--source", "polls"}, {"tenant", "list"}, {"doctor"}} {
		var stderr bytes.Buffer
		open := func(ctx context.Context) (*tenancy.App, func() error, error) {
			app, err := p.open(ctx, false)
			return app, func() error { return app.Close() }, err
		}
		assert.Equal(t, manage.ExitFailed, manage.Execute(t.Context(), open, args, strings.NewReader(""), full{}, &stderr), args)
		assert.Contains(t, stderr.String(), errFull.Error(), args)
	}
}

var errFull = errors.New("no space left")

// full is a file on a disk that is full.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }
