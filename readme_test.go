// Package tenement_test holds the README to its word.
package tenement_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/internal/pgtest"
)

func readme(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("README.md")
	require.NoError(t, err)
	return string(text)
}

// The quick start is what stands in the README, and nothing else: it is written into files as their names say, built, and
// serves two tenants, whose notes are their own, on both backends.
func TestQuickStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	blocks := regexp.MustCompile("(?s)`([a-z0-9_./]+)`:\n\n```[a-z]+\n(.*?)```\n").FindAllStringSubmatch(readme(t), -1)
	require.Len(t, blocks, 3, "two migrations and main.go")
	for _, b := range blocks {
		file := filepath.Join(dir, filepath.FromSlash(b[1]))
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o750))
		require.NoError(t, os.WriteFile(file, []byte(b[2]), 0o600))
	}
	program := filepath.Join(dir, "notes")
	if runtime.GOOS == "windows" {
		program += ".exe"
	}
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, filepath.Join(dir, "main.go")).CombinedOutput()
	require.NoError(t, err, string(out))
	for name, database := range map[string]func(t *testing.T) string{
		"sqlite":   func(t *testing.T) string { return "sqlite:" + t.TempDir() },
		"postgres": func(t *testing.T) string { return pgtest.Shared(t).Database(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			servesNotes(t, program, database(t))
		})
	}
}

func servesNotes(t *testing.T, program, databaseURL string) {
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := listener.Addr().String()
	require.NoError(t, listener.Close())

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	cmd := exec.CommandContext(ctx, program)
	cmd.Env = append(os.Environ(), "DATABASE_URL="+databaseURL, "ADDR="+addr)
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	require.NoError(t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // killed
	}()
	defer func() {
		stop()
		<-ended
	}()
	client := http.Client{Timeout: 30 * time.Second}
	send := func(method, slug, body string) (int, string) {
		r, err := http.NewRequestWithContext(t.Context(), method, "http://"+addr+"/", strings.NewReader(body))
		require.NoError(t, err)
		r.Host = slug + ".localhost:8080"
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		answer, err := client.Do(r)
		if err != nil {
			return 0, err.Error()
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		return answer.StatusCode, string(text)
	}
	require.Eventually(t, func() bool {
		select {
		case <-ended:
			return true // what follows tells
		default:
			status, _ := send(http.MethodGet, "thor", "")
			return status == http.StatusOK
		}
	}, time.Minute, 20*time.Millisecond)
	// POST redirects to the page that shows it, which http.Client opens by the address it knows: of no tenant's.
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	note := "Where is the <hammer>?"
	status, _ := send(http.MethodPost, "thor", url.Values{"text": {note}}.Encode())
	require.Equal(t, http.StatusSeeOther, status)
	_, page := send(http.MethodGet, "thor", "")
	assert.Contains(t, page, "<p>Where is the &lt;hammer&gt;?</p>")
	status, page = send(http.MethodGet, "potter", "")
	assert.Equal(t, http.StatusOK, status)
	assert.NotContains(t, page, "hammer")
	status, _ = send(http.MethodGet, "odin", "")
	assert.Equal(t, http.StatusNotFound, status)
}

// What follows the quick start compiles too, given what surrounds it.
func TestSnippetsCompile(t *testing.T) {
	t.Parallel()
	n := 0
	for _, b := range regexp.MustCompile("(?s)```go\n(.*?)```\n").FindAllStringSubmatch(readme(t), -1) {
		if strings.Contains(b[1], "package main") || strings.Contains(b[1], "scs.") {
			continue // TestQuickStart has the one, httpx/frameworks the other
		}
		n++
		file := filepath.Join(t.TempDir(), "snippet.go")
		require.NoError(t, os.WriteFile(file, []byte(`package snippet

import (
	"context"
	"database/sql"

	"github.com/tenement-go/tenement/tenancy"
)

func _(ctx context.Context, app *tenancy.App, report func(context.Context, *sql.DB) error) error {
`+b[1]+`
	return err
}
`), 0o600))
		out, err := exec.CommandContext(t.Context(), "go", "vet", file).CombinedOutput()
		assert.NoError(t, err, "%s\n%s", b[1], out)
	}
	assert.NotZero(t, n)
}

// Links to files lead somewhere.
func TestLinks(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"README.md", "CHANGELOG.md", "docs/integrations.md", "examples/polls/README.md"} {
		text, err := os.ReadFile(filepath.FromSlash(file))
		require.NoError(t, err)
		for _, link := range regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`).FindAllStringSubmatch(string(text), -1) {
			target := filepath.Join(filepath.Dir(filepath.FromSlash(file)), filepath.FromSlash(link[1]))
			_, err := os.Stat(target)
			assert.NoError(t, err, "%s links to %s", file, link[1])
		}
	}
}
