package browsertest

import (
	"bufio"
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const demoPassword = "correct horse battery staple"

// build builds the tour as anybody would, without the race detector that this test may run under.
func build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "polls")
	if runtime.GOOS == "windows" {
		binary += ".exe"
	}
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".")
	cmd.Dir = ".." // a package of the module around this one
	output, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", output)
	return binary
}

// server is the tour's binary, serving.
type server struct {
	binary      string
	dir         string // its working directory
	databaseURL string
	port        string
}

var listening = regexp.MustCompile(`^listening on (\S+)$`)

// anyPort lets the server choose a free one.
const anyPort = "127.0.0.1:0"

// serve starts the binary and returns when it says that it listens. When the test ends it is interrupted, and must then
// end by itself, without an error.
func serve(t *testing.T, binary, databaseURL, addr string) *server {
	t.Helper()
	s := &server{binary: binary, dir: t.TempDir(), databaseURL: databaseURL}
	cmd := s.command(context.Background(), "-addr", addr)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	var stderr bytes.Buffer // read only after Wait
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Start())

	lines := bufio.NewScanner(stdout)
	for s.port == "" && lines.Scan() {
		if match := listening.FindStringSubmatch(lines.Text()); match != nil {
			_, s.port, err = net.SplitHostPort(match[1])
			require.NoError(t, err)
		}
	}
	rest := make(chan struct{})
	go func() {
		defer close(rest)
		for lines.Scan() { // A full pipe would stop it.
		}
	}()
	t.Cleanup(func() {
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			_ = cmd.Process.Kill()
		}
		<-rest // Wait closes the pipe.
		assert.NoError(t, cmd.Wait(), "the server's end")
		if t.Failed() {
			t.Logf("the server's log:\n%s", stderr.String())
		}
	})
	require.NotEmpty(t, s.port, "the server did not start")
	return s
}

func (s *server) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.binary, args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "DATABASE_URL="+s.databaseURL, "POLLS_ADMIN_PASSWORD="+demoPassword)
	return cmd
}

// manage runs a management command beside the server, and returns what it printed.
func (s *server) manage(t *testing.T, args ...string) string {
	t.Helper()
	output, err := s.command(t.Context(), args...).CombinedOutput()
	require.NoError(t, err, "polls %s:\n%s", strings.Join(args, " "), output)
	return string(output)
}

// public and tenant return addresses. A browser takes every name under localhost for this machine.
func (s *server) public(path string) string {
	return "http://polls.localhost:" + s.port + path
}

func (s *server) tenant(slug, path string) string {
	return "http://" + slug + ".polls.localhost:" + s.port + path
}
