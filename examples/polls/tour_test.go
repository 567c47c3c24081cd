package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/internal/pages"
	"github.com/tenement-go/tenement/internal/pgtest"
)

func tourBlocks(t *testing.T) []pages.Block {
	t.Helper()
	all, err := pages.Blocks("README.md")
	require.NoError(t, err)
	require.NotEmpty(t, all)
	return all
}

// The tour as it stands in the README, every command of it in order, in a copy of the repository; and what it says comes of
// them is what does. Other than there are the port and, in place of a database server to be thrown away, the tests' own.
func TestTourIsTrue(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds the program several times")
	}
	for _, program := range []string{"bash", "curl"} {
		if _, err := exec.LookPath(program); err != nil || runtime.GOOS == "windows" {
			t.Skip("the tour needs bash and curl")
		}
	}
	t.Parallel()
	dir := copyOfRepository(t)
	port, err := pages.FreePort(t.Context())
	require.NoError(t, err)

	var script strings.Builder
	script.WriteString("set -eu\ntrap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n")
	var promised []string
	await := "until curl -s -o /dev/null thor.polls.localhost:8000/polls/; do kill -0 %1; done\n"
	for _, b := range tourBlocks(t) {
		switch {
		case b.Lang == "" && !strings.Contains(b.Text, "createdb"):
			promised = append(promised, strings.Split(strings.TrimSpace(b.Text), "\n")...)
		case b.Lang != "sh" || strings.Contains(b.Text, "make deps"):
		case strings.Contains(b.Text, "kill %1"): // and exit
			script.WriteString("kill %1\nwait %1\n")
		case strings.Contains(b.Text, "go run ./examples/polls\n"):
			fmt.Fprintf(&script, "go build -o bin/first ./examples/polls\nbin/first -addr 127.0.0.1:8000 &\n%s", await)
		case strings.Contains(b.Text, "DATABASE_URL"):
			script.WriteString("kill %1\nwait %1\n" + strings.Replace(b.Text, "bin/polls &", "bin/polls -addr 127.0.0.1:8000 &", 1) + await)
		default:
			script.WriteString(b.Text)
		}
	}
	text := strings.ReplaceAll(script.String(), "8000", port)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", text)
	cmd.Dir = dir
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // so that it ends what it has started
	cmd.WaitDelay = 20 * time.Second
	cmd.Env = append(os.Environ(), "TENEMENT_TEST_POSTGRES="+pgtest.Shared(t).Database(t))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))

	printed := steady(string(out))
	for _, line := range promised {
		if strings.HasPrefix(line, "data/") { // files that it makes, with a word about each
			_, err := os.Stat(filepath.Join(dir, strings.Fields(line)[0]))
			assert.NoError(t, err, line)
			continue
		}
		assert.Contains(t, printed, strings.TrimSpace(strings.ReplaceAll(steady(line), "8000", port)))
	}
	assert.NotContains(t, printed, "doctor --repair")
}

// steady replaces what is another at each run.
func steady(text string) string {
	for _, r := range []struct{ pattern, with string }{
		{`password [A-Z0-9]{26}`, "password PASSWORD"},
		{`"token":"[^"]+"`, `"token":"TOKEN"`},
		{`20[0-9]{2}-[0-9]{2}-[0-9]{2}(T[0-9:.]+Z)?`, "DATE"},
		{` +`, " "},
	} {
		text = regexp.MustCompile(r.pattern).ReplaceAllString(text, r.with)
	}
	return text
}

// copyOfRepository is what somebody has who has just fetched it.
func copyOfRepository(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join("..", "..")
	files, err := exec.CommandContext(context.Background(), "git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		t.Skip("this is no repository: ", err)
	}
	for file := range strings.SplitSeq(strings.TrimSuffix(string(files), "\x00"), "\x00") {
		data, err := os.ReadFile(filepath.Join(root, file))
		if os.IsNotExist(err) {
			continue // deleted, and not committed yet
		}
		require.NoError(t, err)
		target := filepath.Join(dir, file)
		require.NoError(t, os.MkdirAll(filepath.Dir(target), 0o750))
		require.NoError(t, os.WriteFile(target, data, 0o600))
	}
	return dir
}
