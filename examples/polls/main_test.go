package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/manage"
	"github.com/tenement-go/tenement/tenancy"
)

// asProcess, when set, makes the test binary the program.
const asProcess = "POLLS_TEST_AS_PROCESS"

// dieFounding, when set, makes the test binary a program that dies while it makes the tenant odin, whose founder has that
// password: the store is made, and not filled yet.
const dieFounding = "POLLS_TEST_DIE_FOUNDING"

func TestMain(m *testing.M) {
	if os.Getenv(asProcess) != "" {
		main()
	}
	if password := os.Getenv(dieFounding); password != "" {
		fmt.Fprintln(os.Stderr, "it did not die:", foundAndDie(context.Background(), password))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// onEach runs a test with DATABASE_URL naming fresh stores of each kind. The tests change the environment, as users do,
// and are therefore run one after the other.
func onEach(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	t.Setenv("POLLS_ADMIN_PASSWORD", "")
	t.Run("sqlite", func(t *testing.T) {
		t.Setenv("DATABASE_URL", "sqlite:"+filepath.Join(t.TempDir(), "data"))
		test(t)
	})
	t.Run("postgres", func(t *testing.T) {
		t.Setenv("DATABASE_URL", pgtest.Shared(t).Database(t))
		test(t)
	})
}

// server is a polls that is serving.
type server struct {
	t    *testing.T
	addr string
	said string // up to the address, and the tenants
	stop func() int
	http http.Client
}

// serving starts the program and waits until it says where it listens.
func serving(t *testing.T) *server {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out, in := io.Pipe()
	var stderr syncBuffer
	ended := make(chan int, 1)
	go func() {
		status := run(ctx, []string{"-addr", "127.0.0.1:0"}, strings.NewReader(""), in, &stderr)
		_ = in.Close()
		ended <- status
	}()
	s := &server{t: t}
	s.stop = sync.OnceValue(func() int {
		cancel()
		s.http.CloseIdleConnections()
		return <-ended
	})
	t.Cleanup(func() { s.stop() })
	lines := bufio.NewScanner(out)
	for s.addr == "" {
		require.True(t, lines.Scan(), "it ended: %s", &stderr)
		s.said += lines.Text() + "\n"
		s.addr, _ = strings.CutPrefix(lines.Text(), "listening on ")
		if s.addr == lines.Text() {
			s.addr = ""
		}
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	s.http.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", s.addr)
	}}
	return s
}

// call sends a request to a host, with JSON when body is not nil, and returns the answer's status and JSON.
func (s *server) call(method, host, path, token string, body any) (int, any) {
	s.t.Helper()
	var payload io.Reader = http.NoBody
	if body != nil {
		text, err := json.Marshal(body)
		require.NoError(s.t, err)
		payload = bytes.NewReader(text)
	}
	_, port, err := net.SplitHostPort(s.addr)
	require.NoError(s.t, err)
	r, err := http.NewRequestWithContext(s.t.Context(), method, "http://"+net.JoinHostPort(host, port)+path, payload)
	require.NoError(s.t, err)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		r.Header.Set("Authorization", "Token "+token)
	}
	answer, err := s.http.Do(r)
	require.NoError(s.t, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	require.NoError(s.t, err)
	var value any
	_ = json.Unmarshal(text, &value) // pages are not JSON
	return answer.StatusCode, value
}

// questions lists what is asked at a host.
func (s *server) questions(host string) (list []string) {
	s.t.Helper()
	status, value := s.call("GET", host, "/polls/", "", nil)
	require.Equal(s.t, http.StatusOK, status)
	for _, poll := range value.([]any) {
		list = append(list, poll.(map[string]any)["question"].(string))
	}
	return list
}

func (s *server) login(host, password string) (status int, token string) {
	s.t.Helper()
	status, value := s.call("POST", host, "/login/", "", map[string]string{"username": "admin", "password": password})
	if status == http.StatusOK {
		token = value.(map[string]any)["token"].(string)
	}
	return status, token
}

// The tour: the demo is made once, each host shows its own polls, and what was added is there after a restart.
func TestServes(t *testing.T) {
	onEach(t, func(t *testing.T) {
		const thor, potter = "thor.polls.localhost", "potter.polls.localhost"
		first := serving(t)
		match := regexp.MustCompile(`making the tenants thor and potter; .* password (\S+) in both`).FindStringSubmatch(first.said)
		require.Len(t, match, 2, first.said)
		password := match[1]

		thors, potters := first.questions(thor), first.questions(potter)
		require.NotEmpty(t, thors)
		require.NotEmpty(t, potters)
		for _, q := range thors {
			assert.NotContains(t, potters, q)
		}
		status, _ := first.call("GET", "polls.localhost", "/", "", nil)
		assert.Equal(t, http.StatusOK, status, "the public site")
		for _, host := range []string{"nobody.polls.localhost", "example.com", "polls.localhost.example.com"} {
			status, _ := first.call("GET", host, "/polls/", "", nil)
			assert.Equal(t, http.StatusNotFound, status, host)
		}

		status, token := first.login(thor, password)
		require.Equal(t, http.StatusOK, status)
		status, _ = first.login(potter, password+"x")
		assert.Equal(t, http.StatusUnauthorized, status)
		status, _ = first.call("POST", thor, "/polls/", token, map[string]string{"question": "Added?"})
		require.Equal(t, http.StatusCreated, status)
		status, _ = first.call("POST", potter, "/polls/", token, map[string]string{"question": "Added?"})
		assert.Equal(t, http.StatusUnauthorized, status, "thor's token is worth nothing at potter")
		assert.Zero(t, first.stop())

		second := serving(t)
		assert.NotContains(t, second.said, "making the tenants")
		assert.ElementsMatch(t, append(thors, "Added?"), second.questions(thor))
		assert.ElementsMatch(t, potters, second.questions(potter))
		assert.Zero(t, second.stop())
	})
}

// died is the status of a process that foundAndDie has ended.
const died = 42

func foundAndDie(ctx context.Context, password string) error {
	be, err := backend.Open(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	hash, err := newStore(be.DB()).HashPassword(ctx, "frigg", password)
	if err != nil {
		return err
	}
	app, err := tenancy.Open(ctx, be, config(func(context.Context, tenancy.Tenant, tenancy.Seed) error {
		os.Exit(died)
		return nil
	}, slog.New(slog.DiscardHandler)))
	if err != nil {
		return err
	}
	_, err = app.Create(ctx, tenancy.Spec{Slug: "odin", Domains: []string{"odin." + base}, Seed: founding{"frigg", hash}})
	return err
}

// S84: the process that signs somebody up dies, and the next one finishes what it began: nobody's tenant is without its
// founder.
func TestFounderSurvives(t *testing.T) {
	onEach(t, func(t *testing.T) {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), dieFounding+"=correct-horse")
		out, err := cmd.CombinedOutput()
		require.Error(t, err)
		require.Equal(t, died, cmd.ProcessState.ExitCode(), string(out))

		s := serving(t)
		assert.NotContains(t, s.said, "making the tenants", "the registry is not empty")
		require.Eventually(t, func() bool {
			status, _ := s.call("POST", "odin.polls.localhost", "/login/", "", map[string]string{"username": "frigg", "password": "correct-horse"})
			return status == http.StatusOK
		}, time.Minute, 50*time.Millisecond)
		assert.NotEmpty(t, s.questions("odin.polls.localhost"))
	})
}

// A password that was given is not printed.
func TestPasswordFromTheEnvironment(t *testing.T) {
	t.Setenv("DATABASE_URL", "sqlite:"+filepath.Join(t.TempDir(), "data"))
	t.Setenv("POLLS_ADMIN_PASSWORD", "correct-horse")
	s := serving(t)
	assert.NotContains(t, s.said, "correct-horse")
	status, _ := s.login("thor.polls.localhost", "correct-horse")
	assert.Equal(t, http.StatusOK, status)
}

// A request that is being answered when the end comes is answered to its end.
func TestStopsCleanly(t *testing.T) {
	t.Setenv("DATABASE_URL", "sqlite:"+filepath.Join(t.TempDir(), "data"))
	t.Setenv("POLLS_ADMIN_PASSWORD", "correct-horse")
	s := serving(t)
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.addr)
	require.NoError(t, err)
	defer conn.Close()
	body := `{"username": "admin", "password": "correct-horse"}`
	fmt.Fprintf(conn, "POST /login/ HTTP/1.1\r\nHost: thor.polls.localhost\r\nContent-Type: application/json\r\n"+
		"Expect: 100-continue\r\nConnection: close\r\nContent-Length: %d\r\n\r\n", len(body))
	in := bufio.NewReader(conn)
	line, err := in.ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, line, "100 Continue", "the handler is waiting for the body")
	_, err = in.ReadString('\n')
	require.NoError(t, err)

	ended := make(chan int, 1)
	go func() { ended <- s.stop() }()
	for {
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.addr)
		if err != nil {
			break // nobody is let in any more
		}
		_ = c.Close()
	}
	_, err = io.WriteString(conn, body)
	require.NoError(t, err)
	answer, err := http.ReadResponse(in, nil)
	require.NoError(t, err)
	defer answer.Body.Close()
	assert.Equal(t, http.StatusOK, answer.StatusCode)
	assert.Zero(t, <-ended)
}

// SIGTERM ends the process with status 0.
func TestSIGTERM(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there are no signals")
	}
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-addr", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), asProcess+"=1", "DATABASE_URL=sqlite:"+filepath.Join(t.TempDir(), "data"))
	var stderr syncBuffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "listening on ") {
	}
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	_, _ = io.Copy(io.Discard, out)
	require.NoError(t, cmd.Wait(), &stderr)
}

// The same binary is the management command, with nothing served before.
func TestCommands(t *testing.T) {
	onEach(t, func(t *testing.T) {
		must := func(args ...string) string {
			t.Helper()
			var stdout, stderr syncBuffer
			require.Zero(t, run(t.Context(), args, strings.NewReader(""), &stdout, &stderr), "%v: %s", args, &stderr)
			return stdout.String()
		}
		must("migrate")
		must("tenant", "create", "odin", "--domain", "odin.polls.localhost", "--meta", "plan=free")
		must("status", "--check")
		assert.Regexp(t, `^made the superuser admin with the password \S+ \(shown only now\)\n$`, must("exec", "odin", "--", "createsuperuser"))
		assert.Equal(t, "made the superuser root\n", must("exec", "odin", "--", "createsuperuser", "-username", "root", "-password", "correct-horse"))
		must("exec", "--all", "--", "seed")
		assert.Regexp(t, `(?m)^[1-9]`, must("sql", "odin", "SELECT count(*) FROM polls"))
		assert.Equal(t, "everything fits\n", must("doctor"))

		var stdout, stderr syncBuffer
		assert.Equal(t, 1, run(t.Context(), []string{"exec", "odin", "--", "createsuperuser"}, strings.NewReader(""), &stdout, &stderr))
		assert.Contains(t, stderr.String(), "taken")
		assert.Equal(t, 2, run(t.Context(), []string{"exec", "odin", "--", "createsuperuser", "-nme", "x"}, strings.NewReader(""), &stdout, &stderr))
		assert.Equal(t, 2, run(t.Context(), []string{"exec", "odin", "--", "seed", "much"}, strings.NewReader(""), &stdout, &stderr))

		s := serving(t)
		assert.NotContains(t, s.said, "making the tenants", "the demo is for an empty registry")
		assert.NotEmpty(t, s.questions("odin.polls.localhost"))
		status, _ := s.call("POST", "odin.polls.localhost", "/login/", "", map[string]string{"username": "root", "password": "correct-horse"})
		assert.Equal(t, http.StatusOK, status)
	})
}

// On a terminal the password is asked for, until there is one that can be used and was typed twice.
func TestChoosePassword(t *testing.T) {
	var said strings.Builder
	typed := "short\ncorrect-horse\ncorrect-hose\ncorrect-horse\ncorrect-horse\n"
	password, err := choosePassword(t.Context(), "admin", manage.IO{In: strings.NewReader(typed), Err: &said})
	require.NoError(t, err)
	assert.Equal(t, "correct-horse", password)
	assert.Contains(t, said.String(), "at least 8 characters")
	assert.Contains(t, said.String(), "two different ones")
	_, err = choosePassword(t.Context(), "admin", manage.IO{In: strings.NewReader("short\n"), Err: io.Discard})
	require.ErrorIs(t, err, io.EOF, "nobody is there to ask")
}

// Help touches nothing; what cannot work says why, and how it would.
func TestBadInput(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer busy.Close()
	for _, c := range []struct {
		url    string
		args   []string
		status int
		says   string
	}{
		{"sqlite:" + dir, []string{"help"}, 0, "tenant"},
		{"sqlite:" + dir, []string{"-h"}, 0, "polls help lists the commands"},
		{"sqlite:" + dir, []string{"migrat"}, 2, "migrate"},
		{"sqlite:" + dir, []string{"-port", "80"}, 2, "-addr"},
		{"mysql://localhost/x", nil, 1, "mysql"},
		{"mysql://localhost/x", []string{"status"}, 1, "mysql"},
		{"sqlite:" + filepath.Join(t.TempDir(), "other"), []string{"-addr", busy.Addr().String()}, 1, "in use"},
	} {
		t.Setenv("DATABASE_URL", c.url)
		var out syncBuffer
		assert.Equal(t, c.status, run(t.Context(), c.args, strings.NewReader(""), &out, &out), "%v: %s", c.args, &out)
		assert.Contains(t, out.String(), c.says, c.args)
	}
	assert.NoDirExists(t, dir)
}

// syncBuffer is a buffer that several goroutines may use.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// What cannot be done in a tenant that is read-only it says, with 403, as JSON and on a page; it can be read as before.
func TestReadOnly(t *testing.T) {
	onEach(t, func(t *testing.T) {
		for _, args := range [][]string{{"migrate"}, {"tenant", "create", "odin", "--domain", "odin.polls.localhost"}, {"tenant", "read-only", "odin"}} {
			var stdout, stderr syncBuffer
			require.Zero(t, run(t.Context(), args, strings.NewReader(""), &stdout, &stderr), "%v: %s", args, &stderr)
		}
		const odin = "odin.polls.localhost"
		s := serving(t)
		assert.Empty(t, s.questions(odin))
		user := map[string]string{"username": "loki", "email": "loki@asgard.example", "password": "mistletoe and wine"}
		status, answer := s.call("POST", odin, "/users/", "", user)
		assert.Equal(t, http.StatusForbidden, status)
		assert.Contains(t, fmt.Sprint(answer), "nothing changed")

		_, port, err := net.SplitHostPort(s.addr)
		require.NoError(t, err)
		form := url.Values{}
		for name, value := range user {
			form.Set(name, value)
		}
		form.Set("password_again", user["password"])
		r, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+net.JoinHostPort(odin, port)+"/signup/", strings.NewReader(form.Encode()))
		require.NoError(t, err)
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Accept", "text/html")
		page, err := s.http.Do(r)
		require.NoError(t, err)
		defer page.Body.Close()
		text, err := io.ReadAll(page.Body)
		require.NoError(t, err)
		assert.Equal(t, http.StatusForbidden, page.StatusCode)
		assert.Contains(t, string(text), "nothing changed")
	})
}
