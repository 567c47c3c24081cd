// Package tenement_test holds the README to its word.
package tenement_test

import (
	"context"
	"go/doc/comment"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/internal/pages"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// The quick start is what stands in the README, and nothing else: it is written into files as their names say, built, and
// serves two tenants, whose notes are their own, on both backends.
func TestQuickStart(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds a program and runs it")
	}
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, pages.WriteFiles(dir, blocksOf(t, "README.md")))
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

// The package documentation has the same program, for who reads nothing else.
func TestPackageDocumentation(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "doc.go", nil, parser.ParseComments|parser.PackageClauseOnly)
	require.NoError(t, err)
	var shown []string
	for _, block := range new(comment.Parser).Parse(file.Doc.Text()).Content {
		if code, isCode := block.(*comment.Code); isCode {
			shown = append(shown, code.Text)
		}
	}
	var files []string
	for _, b := range blocksOf(t, "README.md") {
		if b.File != "" {
			files = append(files, b.Text)
		}
	}
	assert.Equal(t, files, shown)
}

func servesNotes(t *testing.T, program, databaseURL string) {
	port, err := pages.FreePort(t.Context())
	require.NoError(t, err)
	addr := "127.0.0.1:" + port

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

// What the README says that each package requires is what it imports; and no driver comes with anything but its backend.
func TestDependencies(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("README.md")
	require.NoError(t, err)
	_, table, found := strings.Cut(string(text), "| package | requires |\n|---|---|\n")
	require.True(t, found)
	said := map[string]string{}
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) != 4 {
			break
		}
		modules := strings.Split(strings.NewReplacer("`", "", " ", "", "nothing", "").Replace(cells[2]), ",")
		slices.Sort(modules)
		said[strings.Trim(cells[1], " `")] = strings.Join(modules, " ")
	}
	const own = "github.com/tenement-go/tenement/"
	drivers := map[string]string{"github.com/jackc/pgx/v5": "backend/postgres", "modernc.org/sqlite": "backend/sqlite"}
	for pkg, want := range said {
		have := map[string]bool{}
		for _, goos := range []string{"linux", "windows"} {
			for _, module := range modulesOf(t, goos, "./"+pkg, false) {
				have[module] = true
			}
		}
		assert.Equal(t, want, strings.Join(slices.Sorted(maps.Keys(have)), " "), pkg)
		for _, module := range modulesOf(t, "linux", "./"+pkg, true) {
			if owner, driver := drivers[module]; driver {
				assert.Equal(t, owner, pkg, "%s brings %s along", pkg, module)
			}
		}
	}
	packages, err := exec.CommandContext(t.Context(), "go", "list", "./backend", "./backend/postgres", "./backend/sqlite", "./migrate", "./tenancy",
		"./httpx", "./transfer", "./manage").Output()
	require.NoError(t, err)
	for pkg := range strings.FieldsSeq(string(packages)) {
		assert.Contains(t, said, strings.TrimPrefix(pkg, own))
	}
}

// modulesOf lists the modules other than this one that a package imports, or with all that these import.
func modulesOf(t *testing.T, goos, pkg string, all bool) []string {
	t.Helper()
	list := func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), "go", append([]string{"list"}, args...)...)
		cmd.Env = append(os.Environ(), "GOOS="+goos)
		out, err := cmd.Output()
		require.NoError(t, err)
		return string(out)
	}
	const module = "{{with .Module}}{{if not .Main}}{{.Path}}{{end}}{{end}}"
	if all {
		return strings.Fields(list("-deps", "-f", module, pkg))
	}
	imports := strings.Fields(list("-f", "{{join .Imports \" \"}}", pkg))
	return strings.Fields(list(append([]string{"-f", module}, imports...)...))
}
