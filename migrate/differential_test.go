package migrate_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/pressly/goose/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/migrate"
)

const corpusSize = 40

// notAsText are the migrations of the corpus that must go through goose.
var notAsText = map[backend.Dialect]map[int]string{
	backend.SQLite:   {31: "NO TRANSACTION", 32: "ENVSUB", 33: "changes the session"},
	backend.Postgres: {31: "NO TRANSACTION", 32: "ENVSUB"},
}

// corpusFiles returns the first n migrations.
func corpusFiles(t testing.TB, n int) fs.FS {
	t.Helper()
	m := fstest.MapFS{}
	names, err := filepath.Glob("testdata/corpus/*.sql")
	require.NoError(t, err)
	for _, name := range names {
		version, err := goose.NumericComponent(name)
		require.NoError(t, err)
		if version <= int64(n) {
			text, err := os.ReadFile(name)
			require.NoError(t, err)
			m[filepath.Base(name)] = &fstest.MapFile{Data: text}
		}
	}
	return m
}

// ofDialect is what a user of goose alone would have: the files of one dialect, in names that goose takes.
func ofDialect(t testing.TB, all fs.FS, d backend.Dialect) fs.FS {
	t.Helper()
	m := fstest.MapFS{}
	names, err := fs.Glob(all, "*.sql")
	require.NoError(t, err)
	for _, name := range names {
		text, err := fs.ReadFile(all, name)
		require.NoError(t, err)
		other := backend.SQLite
		if d == backend.SQLite {
			other = backend.Postgres
		}
		if !strings.HasSuffix(name, "."+string(other)+".sql") {
			m[strings.Replace(name, "."+string(d)+".sql", ".sql", 1)] = &fstest.MapFile{Data: text}
		}
	}
	return m
}

// plainGoose is goose as it is, with nothing of ours but the connection.
func plainGoose(t testing.TB, be backend.Backend, db *sql.DB, files fs.FS) *goose.Provider {
	t.Helper()
	d := goose.DialectSQLite3
	if be.Dialect() == backend.Postgres {
		d = goose.DialectPostgres
	}
	p, err := goose.NewProvider(d, db, ofDialect(t, files, be.Dialect()), goose.WithDisableGlobalRegistry(true))
	require.NoError(t, err)
	return p
}

// fallbacks counts the stores in which the text failed.
type fallbacks struct {
	slog.Handler
	mu    sync.Mutex
	lines []string
}

func (f *fallbacks) Enabled(context.Context, slog.Level) bool { return true }

func (f *fallbacks) Handle(_ context.Context, r slog.Record) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	line := r.Message
	r.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	f.lines = append(f.lines, line)
	return nil
}

// scriptCounter is a backend that counts the scripts that were run.
type scriptCounter struct {
	*site
	backend.ScriptRunner
	mu  sync.Mutex
	ran int
}

func (s *scriptCounter) RunScripts(ctx context.Context, scripts []backend.Script, opt backend.ScriptOptions) []error {
	errs := s.ScriptRunner.RunScripts(ctx, scripts, opt)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, err := range errs {
		if err == nil {
			s.ran++
		}
	}
	return errs
}

func (s *scriptCounter) Lock(ctx context.Context, key string) (backend.Lock, error) {
	return s.Backend.(backend.Locker).Lock(ctx, key)
}

func (s *scriptCounter) TryLock(ctx context.Context, key string) (backend.Lock, error) {
	return s.Backend.(backend.Locker).TryLock(ctx, key)
}

func counted(t testing.TB, be *site) *scriptCounter {
	t.Helper()
	runner, ok := be.Backend.(backend.ScriptRunner)
	if !ok {
		t.Skip("the backend runs no scripts")
	}
	return &scriptCounter{site: be, ScriptRunner: runner}
}

// S61: each migration of the corpus, applied as text to one store and by goose alone to another, leaves the same.
func TestTextAndGooseAgree(t *testing.T) {
	t.Setenv("TENEMENT_CORPUS_NAME", "from; the environment")
	for _, d := range []backend.Dialect{backend.SQLite, backend.Postgres} {
		t.Run(string(d), func(t *testing.T) {
			ctx := context.Background()
			open := sqliteSite
			if d == backend.Postgres {
				open = postgresSite
			}
			// Two databases, so that the stores can have one name.
			ours, theirs := counted(t, open(t)), open(t)
			rt := backend.Route{Store: store(1)}
			require.NoError(t, theirs.Create(ctx, rt))
			db := theirs.Maintenance(rt)
			defer func() { require.NoError(t, db.Close()) }()
			log := &fallbacks{}

			for n := 1; n <= corpusSize; n++ {
				files := corpusFiles(t, n)
				m := migrator(t, ours, migrate.Config{Tenant: []migrate.Source{{Name: "corpus", FS: files}}, Logger: slog.New(log)})
				if n == 1 {
					require.NoError(t, m.Provision(ctx, rt))
				}
				before := ours.ran
				res, err := m.Up(ctx, migrate.UpOptions{Scope: migrate.TenantsOnly})
				require.NoError(t, err, "version %d", n)
				if n > 1 {
					require.Equal(t, 1, res.Applied, "version %d", n)
					if why := notAsText[d][n]; why == "" {
						require.Equal(t, before+1, ours.ran, "version %d was not sent as text; log: %v", n, log.lines)
					} else {
						require.Equal(t, before, ours.ran, "version %d was sent as text, but: %s", n, why)
					}
				}
				_, err = plainGoose(t, theirs, db, files).Up(ctx)
				require.NoError(t, err, "version %d", n)
				if d == backend.SQLite || n%10 == 0 {
					require.Equal(t, dump(t, theirs, rt), dump(t, ours.site, rt), "version %d", n)
				}
			}

			// All at once: provisioned, and from the first version on.
			all := tenants(migrate.Source{Name: "corpus", FS: corpusFiles(t, corpusSize)})
			want := dump(t, theirs, rt)
			fresh := open(t)
			require.NoError(t, migrator(t, fresh, all).Provision(ctx, rt))
			assert.Equal(t, want, dump(t, fresh, rt), "provisioned")
			late := open(t)
			require.NoError(t, migrator(t, late, tenants(migrate.Source{Name: "corpus", FS: corpusFiles(t, 1)})).Provision(ctx, rt))
			_, err := migrator(t, late, all).Up(ctx, migrate.UpOptions{Scope: migrate.TenantsOnly})
			require.NoError(t, err)
			assert.Equal(t, want, dump(t, late, rt), "from the first version")

			// S62, one way: goose sees nothing to do in our store.
			owner := ours.Maintenance(rt)
			defer func() { require.NoError(t, owner.Close()) }()
			pending, err := plainGoose(t, ours, owner, corpusFiles(t, corpusSize)).HasPending(ctx)
			require.NoError(t, err)
			assert.False(t, pending)
		})
	}
}

// dump returns everything that is in a store, but for times.
func dump(t testing.TB, be *site, rt backend.Route) string {
	t.Helper()
	var b strings.Builder
	fmt.Fprintln(&b, "versions:", query(t, be, rt, `SELECT id || ':' || version_id || ':' || is_applied FROM goose_db_version ORDER BY id`))
	if be.Dialect() == backend.Postgres {
		pgDump, err := pgtest.Client(t.Context(), be.url, "pg_dump")
		if errors.Is(err, pgtest.ErrNotInstalled) {
			t.Skip(err) // no other version's says the same
		}
		require.NoError(t, err)
		args := []string{"--no-owner", "--schema", rt.Store.String(), "--inserts", "--exclude-table-data", "*.goose_*", be.url}
		cmd := exec.Command(pgDump, args...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		require.NoError(t, err, stderr.String())
		for line := range strings.Lines(string(out)) {
			if !strings.HasPrefix(line, `\restrict`) && !strings.HasPrefix(line, `\unrestrict`) { // a new word each time
				b.WriteString(roleName.ReplaceAllString(line, "tenants"))
			}
		}
		return b.String()
	}
	db := be.Maintenance(rt)
	defer func() { require.NoError(t, db.Close()) }()
	rows, err := db.Query(`SELECT type, name, coalesce(sql, '') FROM main.sqlite_master WHERE name NOT IN ('tenement_store') AND name NOT LIKE 'sqlite_stat%' ORDER BY type, name`)
	require.NoError(t, err)
	defer rows.Close()
	var names []string
	for rows.Next() {
		var kind, name, text string
		require.NoError(t, rows.Scan(&kind, &name, &text))
		fmt.Fprintln(&b, kind, name, text)
		if kind == "table" && name != "goose_db_version" {
			names = append(names, name)
		}
	}
	require.NoError(t, rows.Err())
	for _, name := range names {
		fmt.Fprintln(&b, name, strings.Join(allRows(t, db, name), "\n"))
	}
	fmt.Fprintln(&b, query(t, be, rt, "PRAGMA user_version"), query(t, be, rt, "PRAGMA integrity_check"), query(t, be, rt, "PRAGMA foreign_key_check"))
	return b.String()
}

func allRows(t testing.TB, db *sql.DB, table string) []string {
	t.Helper()
	rows, err := db.Query(`SELECT * FROM main."` + table + `"`)
	require.NoError(t, err)
	defer rows.Close()
	columns, err := rows.Columns()
	require.NoError(t, err)
	var list []string
	for rows.Next() {
		values := make([]any, len(columns))
		for i := range values {
			values[i] = new(any)
		}
		require.NoError(t, rows.Scan(values...))
		line := ""
		for _, v := range values {
			line += fmt.Sprintf(" %#v", *v.(*any))
		}
		list = append(list, line)
	}
	require.NoError(t, rows.Err())
	sort.Strings(list)
	return list
}

// roleName is that of the tenants' role, which is another one in each database.
var roleName = regexp.MustCompile(`"tenants:\w+"`)
