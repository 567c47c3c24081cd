package tenement_test

import (
	"context"
	"fmt"
	"go/format"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/internal/pages"
	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/tenancy"
	"github.com/tenement-go/tenement/tenancy/tenancytest"
)

// The program that the pages use is the one that this page makes.
const programPage = "docs/from-one-customer.md"

func docPages(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob("docs/*.md")
	require.NoError(t, err)
	require.NotEmpty(t, found)
	return found
}

func blocksOf(t *testing.T, page string) []pages.Block {
	t.Helper()
	blocks, err := pages.Blocks(filepath.FromSlash(page))
	require.NoError(t, err)
	return blocks
}

// A page that begins with a line "run: sqlite postgres" in a comment is run on these: its files are written, its commands
// run in order in one shell, and what it says that they print they do.
func TestPagesRun(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds programs and runs them")
	}
	for _, program := range []string{"bash", "curl"} {
		if _, err := exec.LookPath(program); err != nil || runtime.GOOS == "windows" {
			t.Skip("the pages need bash and curl")
		}
	}
	t.Parallel()
	program := sync.OnceValue(func() string { return build(t) })
	ran := 0
	for _, page := range docPages(t) {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		line, _, _ := strings.Cut(string(text), "\n")
		backends := strings.Fields(strings.TrimSuffix(strings.TrimPrefix(line, "<!-- run:"), "-->"))
		blocks := blocksOf(t, page)
		if !strings.HasPrefix(line, "<!-- run:") {
			for _, b := range blocks {
				assert.NotEqual(t, "sh", b.Lang, "%s: commands, and the page does not begin with a comment that says on what it is run", b.At())
			}
			continue
		}
		for _, backend := range backends {
			ran++
			t.Run(filepath.Base(page)+"/"+backend, func(t *testing.T) {
				t.Parallel()
				url := "sqlite:data"
				if backend == "postgres" {
					url = pgtest.Shared(t).Database(t)
				}
				runPage(t, program(), blocks, url)
			})
		}
	}
	assert.NotZero(t, ran)
}

// build builds the program of the pages, and returns the directory that it and its files are in.
func build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, pages.WriteFiles(dir, blocksOf(t, programPage)))
	writeModule(t, dir)
	out, err := goCommand(t, dir, "build", "-o", "notes", ".").CombinedOutput()
	require.NoError(t, err, string(out))
	return dir
}

// writeModule makes a module of a directory that has what this one requires.
func writeModule(t *testing.T, dir string) {
	t.Helper()
	root, err := os.Getwd()
	require.NoError(t, err)
	mod, err := os.ReadFile("go.mod")
	require.NoError(t, err)
	text := strings.Replace(string(mod), "module github.com/tenement-go/tenement\n", "module notes\n", 1) +
		fmt.Sprintf("\nrequire github.com/tenement-go/tenement v0.0.0\n\nreplace github.com/tenement-go/tenement => %q\n", root)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.mod"), []byte(text), 0o600))
	sum, err := os.ReadFile("go.sum")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.sum"), sum, 0o600))
}

func goCommand(t *testing.T, dir string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
	return cmd
}

var elsewhere = regexp.MustCompile(`postgres://[a-z.]+/app\b`)

// runPage runs a page's commands in a copy of the program's directory.
func runPage(t *testing.T, program string, blocks []pages.Block, databaseURL string) {
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS(program)))
	require.NoError(t, os.Chmod(filepath.Join(dir, "notes"), 0o700))
	root, err := os.Getwd()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(root, filepath.Join(dir, "tenement"))) // the clone of who has one
	port, err := pages.FreePort(t.Context())
	require.NoError(t, err)

	var script strings.Builder
	script.WriteString("set -eu\ntrap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n")
	promised := map[string]string{}
	for i, b := range blocks {
		switch {
		case b.File != "":
			// Written when its turn comes, since a page may go on from an earlier state of it.
			name := filepath.Join("blocks", fmt.Sprint(i), filepath.FromSlash(b.File))
			b.File = name
			require.NoError(t, pages.WriteFiles(dir, []pages.Block{b}))
			fmt.Fprintf(&script, "cp -R blocks/%d/. .\n", i)
		case b.Lang == "sh":
			script.WriteString(b.Text)
			if strings.Contains(b.Text, "notes &\n") {
				script.WriteString("until curl -s -o /dev/null localhost:8080; do kill -0 %1; done\n")
			}
		case b.Lang == "":
			for line := range strings.SplitSeq(strings.TrimSpace(b.Text), "\n") {
				if line = strings.TrimSpace(line); line != "…" {
					promised[line] = b.At()
				}
			}
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	commands := strings.ReplaceAll(script.String(), "localhost:8080", "localhost:"+port)
	databases := map[string]string{} // an empty one for each Postgres that the page goes to beside its own
	commands = elsewhere.ReplaceAllStringFunc(commands, func(named string) string {
		if databases[named] == "" {
			databases[named] = pgtest.Shared(t).Database(t)
		}
		return "'" + databases[named] + "'"
	})
	cmd := exec.CommandContext(ctx, "bash", "-c", commands)
	cmd.Dir = dir
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // so that it ends what it has started
	cmd.WaitDelay = 20 * time.Second
	cmd.Env = append(os.Environ(), "PATH="+dir+string(os.PathListSeparator)+os.Getenv("PATH"), "GOFLAGS=-mod=mod", "GOWORK=off",
		"DATABASE_URL="+databaseURL, "ADDR=127.0.0.1:"+port)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	printed := steady(string(out))
	for line, at := range promised {
		assert.Contains(t, printed, steady(line), at)
	}
}

// steady replaces what is another at each run.
func steady(text string) string {
	for _, r := range []struct{ pattern, with string }{
		{`[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f-]{22}`, "ID"},
		{`20[0-9]{2}-[0-9]{2}-[0-9]{2}([T ][0-9:.]+Z?)?`, "DATE"},
		{`_[0-9a-f]{8}\b`, "_RANDOM"},
		{` +`, " "},
	} {
		text = regexp.MustCompile(r.pattern).ReplaceAllString(text, r.with)
	}
	return text
}

// What a snippet of a page may name without saying where it is from.
var snippetPackages = map[string]string{
	"backend": "github.com/tenement-go/tenement/backend", "postgres": "github.com/tenement-go/tenement/backend/postgres",
	"sqlite": "github.com/tenement-go/tenement/backend/sqlite", "httpx": "github.com/tenement-go/tenement/httpx",
	"manage": "github.com/tenement-go/tenement/manage", "migrate": "github.com/tenement-go/tenement/migrate",
	"tenancy": "github.com/tenement-go/tenement/tenancy", "tenancytest": "github.com/tenement-go/tenement/tenancy/tenancytest",
	"outbox":   "github.com/tenement-go/tenement/tenancy/outbox",
	"transfer": "github.com/tenement-go/tenement/transfer", "goose": "github.com/pressly/goose/v3",
	"context": "context", "sql": "database/sql", "errors": "errors", "fmt": "fmt", "log": "log", "http": "net/http",
	"fs": "io/fs", "os": "os", "json": "encoding/json", "slog": "log/slog", "testing": "testing", "time": "time", "filepath": "path/filepath",
}

var (
	declares = regexp.MustCompile(`(?m)^(func|type|const) `)
	selector = regexp.MustCompile(`\b([a-z]+)\.[A-Z]`)
)

// compilable is a file of package snippet that has the block in it.
func compilable(b pages.Block) string {
	body := b.Text
	if !declares.MatchString(body) {
		body = fmt.Sprintf(`func _(ctx context.Context, app *tenancy.App, be backend.Backend, db *sql.DB, handler http.Handler, migrations fs.FS,
	thor tenancy.Tenant, report func(context.Context, *sql.DB) error) (err error) {
%s
	return err
}
`, body)
	}
	var imports strings.Builder
	seen := map[string]bool{}
	for _, m := range selector.FindAllStringSubmatch(body, -1) {
		if path := snippetPackages[m[1]]; path != "" && !seen[m[1]] {
			seen[m[1]] = true
			fmt.Fprintf(&imports, "\t%q\n", path)
		}
	}
	return fmt.Sprintf("package snippet\n\nimport (\n%s)\n\n%s", imports.String(), body)
}

// What the pages show of Go compiles, given what surrounds it, and is formatted.
func TestPagesCompile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	n := 0
	for _, page := range append(docPages(t), "README.md") {
		if page == filepath.Join("docs", "integrations.md") {
			continue // that module compares it with its code
		}
		for _, b := range blocksOf(t, page) {
			if b.Lang != "go" {
				continue
			}
			n++
			if formatted, err := format.Source([]byte(b.Text)); assert.NoError(t, err, b.At()) {
				assert.Equal(t, string(formatted), b.Text, "%s: gofmt", b.At())
			}
			if b.File == "" {
				name := fmt.Sprintf("%s_%d.go", strings.TrimSuffix(filepath.Base(page), ".md"), b.Line)
				if strings.Contains(b.Text, "testing.") {
					name = strings.TrimSuffix(name, ".go") + "_test.go"
				}
				require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(compilable(b)), 0o600))
			}
		}
	}
	writeModule(t, dir)
	out, err := goCommand(t, dir, "vet", "-unusedresult=false", ".").CombinedOutput()
	assert.NoError(t, err, string(out))
	assert.NotZero(t, n)
}

// What a page says of PgBouncer's settings is what one runs with here, in front of the program of the pages.
func TestPagesPooler(t *testing.T) {
	t.Parallel()
	n := 0
	for _, page := range docPages(t) {
		for _, b := range blocksOf(t, page) {
			if b.Lang != "ini" {
				continue
			}
			n++
			prepared := regexp.MustCompile(`(?m)^max_prepared_statements = (\d+)\n`)
			config := pgtest.BouncerConfig{Settings: prepared.ReplaceAllString(b.Text, "")}
			options := "&default_query_exec_mode=exec"
			if able, err := pgtest.BouncerPrepares(t.Context()); err == nil && able {
				m := prepared.FindStringSubmatch(b.Text)
				require.NotNil(t, m, b.At())
				config.PreparedStatements, err = strconv.Atoi(m[1])
				require.NoError(t, err)
				options = ""
			}
			url := pgtest.Bouncer(t, pgtest.Shared(t).Database(t), config)
			tt := tenancytest.New(t, tenancy.Config{}, tenancytest.WithURL(url+options))
			thor, potter := tt.Tenant(t), tt.Tenant(t)
			for _, tenant := range []*tenancytest.Tenant{thor, potter, thor} {
				var schema string
				require.NoError(t, tt.DB().QueryRowContext(tenant.Context(), "SELECT current_schema()").Scan(&schema))
				assert.Equal(t, tenant.Store.String(), schema)
			}
		}
	}
	assert.NotZero(t, n)
}

// Every fence says what is in it, and is of a kind that a test knows.
func TestPagesHaveNothingUntested(t *testing.T) {
	t.Parallel()
	tested := map[string]bool{"go": true, "sh": true, "": true, "ini": true, "sql": true}
	for _, page := range docPages(t) {
		for _, b := range blocksOf(t, page) {
			assert.True(t, tested[b.Lang], "%s: %q", b.At(), b.Lang)
			assert.True(t, b.Lang != "sql" || b.File != "", "%s: SQL that is run is a file, or in a command", b.At())
		}
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		assert.NotRegexp(t, "(?m)^[ \t]+```", string(text), "%s: an indented block, which no test sees", page)
	}
}

// Links lead somewhere, to the headings too.
func TestLinks(t *testing.T) {
	t.Parallel()
	files, err := exec.CommandContext(t.Context(), "git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md").Output()
	if err != nil {
		t.Skip("this is no repository: ", err)
	}
	for page := range strings.FieldsSeq(string(files)) {
		if _, err := os.Stat(page); os.IsNotExist(err) {
			continue // deleted, and not committed yet
		}
		dead, err := pages.DeadLinks(filepath.FromSlash(page))
		require.NoError(t, err)
		assert.Empty(t, dead)
	}
}

// A test that a page names is there: a promise without one is a sentence.
func TestNamedTestsExist(t *testing.T) {
	t.Parallel()
	declared, named := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`), regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w+)`")
	there := map[string]bool{}
	require.NoError(t, filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range declared.FindAllSubmatch(text, -1) {
			there[string(m[1])] = true
		}
		return err
	}))
	n := 0
	for _, page := range append(docPages(t), "README.md", "CONTRIBUTING.md") {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, m := range named.FindAllStringSubmatch(string(text), -1) {
			n++
			assert.True(t, there[m[1]], "%s names %s, which is no test", page, m[1])
		}
	}
	assert.NotZero(t, n)
}
