//go:build unix

package pgtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// supervised is a server under a shell that lives as long as the pipe to its standard input. The kernel closes the pipe
// with this process, whether it returns, panics or is killed: that is what makes the server end and its directory go
// in every case.
type supervised struct {
	dir string
	cmd *exec.Cmd

	stopping sync.Mutex
	stdin    io.Closer // nil once stopped
	result   error
}

// supervise runs a shell script in a new temporary directory, as an unprivileged user when this process is root. The
// script has variables as its variables, finds there the files that files returns, and says "ready" on its standard
// output; what it and its server have to say goes to the file "log". The directory is removed when it ends.
func supervise(ctx context.Context, name, script string, variables map[string]string, files func(dir string) (map[string]string, error)) (*supervised, error) {
	credential, err := unprivileged()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "tenement-"+name+"-")
	if err != nil {
		return nil, fmt.Errorf("pgtest: %w", err)
	}
	var s *supervised
	contents, err := files(dir)
	if err == nil {
		s, err = superviseIn(ctx, dir, name, script, variables, contents, credential)
	}
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	return s, nil
}

func superviseIn(ctx context.Context, dir, name, script string, variables, files map[string]string, credential *syscall.Credential) (*supervised, error) {
	// Other users reach the unix socket in it; the data directory inside is the server's alone.
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, fmt.Errorf("pgtest: %w", err)
	}
	for file, content := range files {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644); err != nil {
			return nil, fmt.Errorf("pgtest: %w", err)
		}
	}
	if credential != nil {
		if err := os.Chown(dir, int(credential.Uid), int(credential.Gid)); err != nil {
			return nil, fmt.Errorf("pgtest: %w", err)
		}
	}

	// When the script fails, the end of the log follows in the place of "ready".
	const prologue = `
unset PGDATA PGHOST PGPORT PGUSER PGPASSWORD PGOPTIONS PGSSLMODE PGSERVICE
trap 'code=$?; log=$(tail -c 4000 log 2>&1); cd /; rm -rf "$dir"; test $code = 0 || echo "$log"' EXIT
`
	cmd := exec.Command("/bin/sh", "-c", prologue+script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "dir="+dir, "LC_ALL=C")
	for variable, value := range variables {
		cmd.Env = append(cmd.Env, variable+"="+value)
	}
	// A session of its own: an interrupt typed at the terminal stops the tests, and these then stop the server.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: credential}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("pgtest: %w", err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("pgtest: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("pgtest: %s: %w", name, err)
	}
	s := &supervised{dir: dir, cmd: cmd, stdin: stdin}

	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	disarm := context.AfterFunc(ctx, func() {
		_ = stdout.(*os.File).SetReadDeadline(time.Unix(1, 0))
	})
	output := bufio.NewReader(stdout)
	line, err := output.ReadString('\n')
	if err == nil && line == "ready\n" && disarm() {
		return s, nil
	}
	rest, _ := io.ReadAll(output) // ends with the script, or with ctx
	failure := fmt.Errorf("pgtest: %s did not start: %s%s", name, line, rest)
	if ctx.Err() != nil {
		failure = fmt.Errorf("pgtest: %s did not start: %w: %s", name, context.Cause(ctx), s.log())
	}
	_ = s.stop() // which failed as well
	return nil, failure
}

// stop closes the pipe and waits until server and directory are gone. Later calls return what the first did.
func (s *supervised) stop() error {
	s.stopping.Lock()
	defer s.stopping.Unlock()
	if s.stdin == nil {
		return s.result
	}
	_ = s.stdin.Close()
	s.stdin = nil
	if err := s.cmd.Wait(); err != nil {
		s.result = fmt.Errorf("pgtest: stopping: %w", err)
	}
	return s.result
}

// run runs a command in the server's directory, as its user.
func (s *supervised) run(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = s.dir, s.cmd.Env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: s.cmd.SysProcAttr.Credential}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("pgtest: %s: %w: %s", filepath.Base(name), err, s.log())
	}
	return nil
}

// log returns the end of what the server logged.
func (s *supervised) log() string {
	log, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil {
		return "" // the script removes the directory when it ends
	}
	return string(log[max(0, len(log)-4000):])
}

// unprivileged returns whom to run a server as: nil when this process is not root, who may not run one.
func unprivileged() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(uidErr, gidErr); err != nil {
			return nil, fmt.Errorf("pgtest: user %s: %w", name, err)
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, fmt.Errorf("pgtest: the user postgres is %w, and the server does not run as root: create it or run as another user", ErrNotInstalled)
}
