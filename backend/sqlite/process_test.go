package sqlite_test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	osexec "os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/sqlite"
	"github.com/tenement-go/tenement/internal/leak"
)

// childEnv has this test program run as another process over a directory: "MODE: DIR".
const childEnv = "TENEMENT_SQLITE_CHILD"

func TestMain(m *testing.M) {
	if what := os.Getenv(childEnv); what != "" {
		mode, dir, _ := strings.Cut(what, ": ")
		if err := child(mode, dir); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		return
	}
	leak.Main(m)
}

const marks = `CREATE TABLE marks (mark TEXT NOT NULL);
	CREATE TABLE counters (k TEXT PRIMARY KEY, n INTEGER NOT NULL); INSERT INTO counters VALUES ('all', 0)`

// child is the other process. "visit" opens each store, reads and leaves; "serve" writes until its input ends;
// "stuck" is in the middle of a write to one store (its path is in place of the directory) until its input ends, "alone" has
// the store's file for itself.
func child(mode, dir string) error {
	ctx := context.Background()
	if mode == "stuck" || mode == "alone" {
		return hinder(dir, mode == "alone")
	}
	if few, ok := strings.CutPrefix(mode, "few"); ok {
		return manyStores(ctx, dir, few != "")
	}
	b, err := sqlite.Open(ctx, dir, sqlite.Config{MaxOpenStores: 2, Synchronous: sqlite.Off})
	if err != nil {
		return err
	}
	switch mode {
	case "churn":
		return churn(ctx, b)
	case "visit":
		for info, err := range b.Stores(ctx) {
			var n int
			in := backend.WithStore(ctx, info.Store)
			if err == nil {
				err = b.DB().QueryRowContext(in, "SELECT count(*) FROM marks").Scan(&n)
			}
			if err != nil {
				return err
			}
			fmt.Println(info.Store, n)
		}
	case "serve":
		stop, cancel := context.WithCancel(ctx)
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			cancel()
		}()
		err = work(stop, b, fmt.Sprint("p", os.Getpid()), func(name, row string) { fmt.Println(name, row) })
		if err != nil {
			return err
		}
	}
	return b.Close()
}

var stores = []string{"a", "b", "c"}

// churn makes, renames, drops and backs up stores until it is killed.
func churn(ctx context.Context, b *sqlite.Backend) error {
	fmt.Println("started")
	build := func(ctx context.Context, db *sql.DB) error {
		_, err := db.ExecContext(ctx, marks+"; INSERT INTO marks VALUES (hex(randomblob(8)))") // so that each is built by itself
		return err
	}
	for n := 0; ; n++ {
		rt := func(name string) backend.Route {
			return backend.Route{Store: backend.MustParseStore(fmt.Sprintf("%s%d", name, os.Getpid())), Owner: fmt.Sprint(n)}
		}
		err := errors.Join(
			b.CreateFrom(ctx, rt("one"), fmt.Sprint("key", n%3), build),
			b.RunScripts(ctx, []backend.Script{{Route: rt("two"), Create: true, SQL: marks}}, backend.ScriptOptions{})[0],
			b.Rename(ctx, rt("one"), rt("three").Store),
			b.Backup(ctx, rt("three"), filepath.Join(b.Dir(), fmt.Sprint("backup", os.Getpid(), "-", n))),
			mark(ctx, b, rt("three").Store.String(), "mark"),
			b.Drop(ctx, rt("three")),
			b.Drop(ctx, rt("two")),
		)
		if err != nil {
			return err
		}
	}
}

// work commits rows until it is to stop, and beside that does all the time what opens and closes stores, or asks about
// them.
func work(stop context.Context, b *sqlite.Backend, who string, acknowledged func(name, row string)) error {
	ctx := context.Background()
	var g errgroup.Group
	for worker := range 3 {
		g.Go(func() error {
			for n := 0; stop.Err() == nil; n++ {
				name, row := stores[rand.IntN(len(stores))], fmt.Sprint(who, " ", worker*1_000_000+n)
				if err := mark(ctx, b, name, row); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				acknowledged(name, row)
			}
			return nil
		})
	}
	g.Go(func() error {
		for stop.Err() == nil {
			for _, err := range b.Stores(ctx) {
				if err != nil {
					return err
				}
			}
		}
		return nil
	})
	return g.Wait()
}

func mark(ctx context.Context, b *sqlite.Backend, name, row string) error {
	rt := backend.Route{Store: backend.MustParseStore(name)}
	if rand.IntN(8) == 0 {
		err := errors.Join(b.RunScripts(ctx, []backend.Script{{Route: rt, SQL: "INSERT INTO marks VALUES ('" + row + "'); UPDATE counters SET n = n + 1"}},
			backend.ScriptOptions{Async: true})...)
		if err == nil {
			err = b.Flush(ctx)
		}
		return err
	}
	tx, err := b.DB().BeginTx(backend.WithRoute(ctx, rt), nil)
	if err != nil {
		return err
	}
	_, err = tx.Exec("INSERT INTO marks VALUES (?)", row)
	if err == nil {
		_, err = tx.Exec("UPDATE counters SET n = n + 1")
	}
	return errors.Join(err, tx.Commit())
}

// another starts this program as another process.
func another(t *testing.T, mode, dir string) *osexec.Cmd {
	t.Helper()
	cmd := osexec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+mode+": "+dir)
	cmd.Stderr = os.Stderr
	return cmd
}

// started is another that runs, what it is told by closing, and the lines that it says.
func started(t *testing.T, mode, dir string) (cmd *osexec.Cmd, in io.Closer, lines *bufio.Scanner) {
	t.Helper()
	cmd = another(t, mode, dir)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	return cmd, in, bufio.NewScanner(out)
}

func served(t *testing.T, dir string, maxOpen int) *sqlite.Backend {
	t.Helper()
	b, err := sqlite.Open(t.Context(), dir, sqlite.Config{MaxOpenStores: maxOpen, Synchronous: sqlite.Off})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	for _, name := range stores {
		exec(t, tenant(t, b, name), b.DB(), marks)
	}
	return b
}

// What a process asks about a store that it has open does not cost it its locks: another process that comes and goes does
// not take itself for the last user.
func TestVisitorLeavesTheWAL(t *testing.T) { // S72
	t.Parallel()
	dir := t.TempDir()
	b := served(t, dir, 0)
	a := backend.MustParseStore("a")
	in := backend.WithStore(t.Context(), a)
	for _, ask := range []struct {
		name string
		do   func() error
	}{
		{"Stat", func() error { _, err := b.Stat(t.Context(), a); return err }},
		{"Stores", func() (err error) {
			for _, serr := range b.Stores(t.Context()) {
				err = errors.Join(err, serr)
			}
			return err
		}},
		{"Drop of another owner's", func() error {
			err := b.Drop(t.Context(), backend.Route{Store: a, Owner: "nobody"})
			if errors.Is(err, backend.ErrStoreMissing) {
				return nil
			}
			return fmt.Errorf("unexpected: %w", err)
		}},
		{"Rename to a name that is taken", func() error {
			err := b.Rename(t.Context(), backend.Route{Store: a}, backend.MustParseStore("b"))
			if errors.Is(err, backend.ErrStoreExists) {
				return nil
			}
			return fmt.Errorf("unexpected: %w", err)
		}},
		{"scripts", func() error {
			err := errors.Join(b.RunScripts(t.Context(), []backend.Script{{Route: backend.Route{Store: a}, SQL: "UPDATE counters SET n = 0"}}, backend.ScriptOptions{Async: true})...)
			return errors.Join(err, b.Flush(t.Context()))
		}},
		{"ClientCommand", func() error {
			_, err := b.ClientCommand(t.Context(), backend.Route{Store: a})
			return err
		}},
		{"Leftovers", func() error { _, err := b.Leftovers(t.Context()); return err }},
		{"Create of one more", func() error {
			return b.Create(t.Context(), backend.Route{Store: backend.MustParseStore("more")})
		}},
	} {
		exec(t, in, b.DB(), "INSERT INTO marks VALUES ('before')")
		before := locks(t, filepath.Join(dir, "tenants", "a.db"))
		require.NoError(t, ask.do(), ask.name)
		require.Equal(t, before, locks(t, filepath.Join(dir, "tenants", "a.db")), "locks of this process after %s", ask.name)
		if ask.name == "Create of one more" {
			exec(t, backend.WithStore(t.Context(), backend.MustParseStore("more")), b.DB(), marks)
		}
		out, err := another(t, "visit", dir).Output()
		require.NoError(t, err, "after %s: %s", ask.name, out)
		require.FileExists(t, filepath.Join(dir, "tenants", "a.db-wal"), "after %s, with a visitor come and gone", ask.name)
		exec(t, in, b.DB(), "INSERT INTO marks VALUES ('after')")
		out, err = another(t, "visit", dir).Output()
		require.NoError(t, err, "%s", out)
		require.Contains(t, string(out), fmt.Sprintln("a", number(t, in, b.DB(), "SELECT count(*) FROM marks")), "after %s", ask.name)
	}
}

// locks lists this process's locks on a file, as the kernel sees them. The list is read while other processes change it,
// so a line may be there twice, or missing: it is read several times.
func locks(t *testing.T, path string) (held []string) {
	t.Helper()
	if runtime.GOOS != "linux" {
		return nil
	}
	inode := inodeOf(t, path)
	for range 20 {
		all, err := os.ReadFile("/proc/locks")
		require.NoError(t, err)
		for line := range strings.Lines(string(all)) {
			f := strings.Fields(line)
			if len(f) > 5 && f[4] == fmt.Sprint(os.Getpid()) && strings.HasSuffix(f[5], ":"+inode) {
				held = append(held, strings.Join(f[1:], " "))
			}
		}
	}
	slices.Sort(held)
	return slices.Compact(held)
}

// Two processes serve one directory; one comes and goes, or is killed.
func TestTwoProcessesLoseNothing(t *testing.T) { // S72
	t.Parallel()
	dir := t.TempDir()
	b := served(t, dir, 2)
	var mu sync.Mutex
	acknowledged := map[string]map[string]bool{}
	note := func(name, row string) {
		mu.Lock()
		defer mu.Unlock()
		if acknowledged[name] == nil {
			acknowledged[name] = map[string]bool{}
		}
		acknowledged[name][row] = true
	}
	ctx, cancel := context.WithCancel(t.Context())
	var here sync.WaitGroup
	here.Go(func() { assert.NoError(t, work(ctx, b, "here", note)) })
	defer here.Wait()
	defer cancel()
	for round := range 6 {
		cmd, in, lines := started(t, "serve", dir)
		for n := 0; lines.Scan(); n++ {
			name, row, _ := strings.Cut(lines.Text(), " ")
			require.NotEqual(t, "error", name, row)
			note(name, row)
			if n == 500 {
				if round%2 == 0 {
					require.NoError(t, in.Close())
				} else {
					require.NoError(t, cmd.Process.Kill())
				}
			}
		}
		err := cmd.Wait()
		require.Equal(t, round%2 == 0, err == nil, "%v", err)
	}
	cancel()
	here.Wait()
	require.NoError(t, b.Close())
	b, err := sqlite.Open(t.Context(), dir, sqlite.Config{})
	require.NoError(t, err)
	defer b.Close()
	for _, name := range stores {
		in := backend.WithStore(t.Context(), backend.MustParseStore(name))
		rows, err := b.DB().QueryContext(in, "SELECT mark FROM marks")
		require.NoError(t, err)
		found := 0
		for rows.Next() {
			var row string
			require.NoError(t, rows.Scan(&row))
			if acknowledged[name][row] {
				found++
			}
		}
		require.NoError(t, rows.Err())
		require.Equal(t, len(acknowledged[name]), found, "acknowledged rows that are still in store %s", name)
		var verdict string
		require.NoError(t, b.DB().QueryRowContext(in, "PRAGMA integrity_check").Scan(&verdict))
		require.Equal(t, "ok", verdict)
	}
}

// A process that is killed at any point leaves whole stores, and leftovers that are listed and can be swept.
func TestKilledAnywhere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := served(t, dir, 0)
	for range 10 {
		cmd := another(t, "churn", dir)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		lines := bufio.NewScanner(out)
		require.True(t, lines.Scan())
		require.Equal(t, "started", lines.Text())
		for range rand.IntN(200) {
			exec(t, backend.WithStore(t.Context(), backend.MustParseStore("a")), b.DB(), "INSERT INTO marks VALUES ('meanwhile')")
		}
		require.NoError(t, cmd.Process.Kill())
		for lines.Scan() {
			assert.NotContains(t, lines.Text(), "error")
		}
		_ = cmd.Wait()
	}
	left, err := b.Leftovers(t.Context())
	require.NoError(t, err)
	for _, l := range left {
		require.NoError(t, b.Sweep(t.Context(), l))
	}
	left, err = b.Leftovers(t.Context())
	require.NoError(t, err)
	require.Empty(t, left)
	for info, err := range b.Stores(t.Context()) {
		require.NoError(t, err)
		rt := backend.Route{Store: info.Store, Owner: info.Owner}
		in := backend.WithRoute(t.Context(), rt)
		var verdict string
		require.NoError(t, b.DB().QueryRowContext(in, "PRAGMA integrity_check").Scan(&verdict))
		require.Equal(t, "ok", verdict)
		number(t, in, b.DB(), "SELECT count(*) FROM marks, counters")
		require.NoError(t, b.Rename(t.Context(), rt, backend.MustParseStore("moved")))
		require.NoError(t, b.Drop(t.Context(), backend.Route{Store: backend.MustParseStore("moved")}))
	}
	entries, err := os.ReadDir(filepath.Join(dir, "tenants"))
	require.NoError(t, err)
	require.Empty(t, entries)
}
