package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

func TestMissingStoreIsNotMade(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir())
	ctx := backend.WithStore(t.Context(), backend.MustParseStore("nobody"))
	for range 2 {
		_, err := b.DB().ExecContext(ctx, "CREATE TABLE x (a)")
		require.ErrorIs(t, err, backend.ErrStoreMissing) // S08
	}
	entries, err := os.ReadDir(b.tenants())
	require.NoError(t, err)
	require.Empty(t, entries)
}

func TestStaleSideFilesAreRemoved(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir())
	ctx, rt := withTable(t, b, "a")
	mustExec(t, ctx, b.DB(), "INSERT INTO notes (mark) VALUES ('old tenant')")
	wal, err := os.ReadFile(b.path(rt.Store) + "-wal")
	require.NoError(t, err)
	require.NotEmpty(t, wal)
	require.NoError(t, b.Drop(t.Context(), rt))
	for _, ext := range sideExts {
		require.NoFileExists(t, b.path(rt.Store)+ext)
	}
	// S27: what a crash left behind beside the name does not come back with the next store.
	require.NoError(t, os.WriteFile(b.path(rt.Store)+"-wal", wal, 0o600))
	next := backend.Route{Store: rt.Store, Owner: "next"}
	require.NoError(t, b.Create(t.Context(), next))
	nctx := backend.WithRoute(t.Context(), next)
	require.Equal(t, 0, count(t, nctx, b.DB(), "SELECT count(*) FROM sqlite_schema WHERE name = 'notes'"))
	_, err = b.DB().ExecContext(ctx, "SELECT 1")
	require.ErrorIs(t, err, backend.ErrStoreMissing, "the old tenant's context")
}

func TestAnotherTenantsFileIsRefused(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir())
	a, art := withTable(t, b, "a")
	_, crt := withTable(t, b, "c")
	require.NoError(t, b.fold(t.Context(), fresh(t, b, crt)))
	other, err := os.ReadFile(b.path(crt.Store))
	require.NoError(t, err)
	mine := b.path(art.Store) + ".new"
	require.NoError(t, os.WriteFile(mine, other, 0o600))
	fresh(t, b, art)
	require.NoError(t, os.Rename(mine, b.path(art.Store)))
	_, err = b.DB().ExecContext(a, "SELECT 1")
	require.ErrorIs(t, err, backend.ErrStoreMissing)
	require.ErrorContains(t, err, "another owner")
	info, err := b.Stat(t.Context(), art.Store)
	require.NoError(t, err)
	require.Equal(t, "id-c", info.Owner)
}

func TestUnstampedFileIsNoStore(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir())
	rt := backend.Route{Store: backend.MustParseStore("billing")}
	db, err := sql.Open("sqlite", b.path(rt.Store))
	require.NoError(t, err)
	mustExec(t, t.Context(), db, "CREATE TABLE notes (a)")
	require.NoError(t, db.Close())
	whole, err := os.ReadFile(b.path(rt.Store))
	require.NoError(t, err)
	for name, err := range map[string]error{
		"read":   b.DB().QueryRowContext(backend.WithRoute(t.Context(), rt), "SELECT count(*) FROM notes").Err(),
		"Drop":   b.Drop(t.Context(), rt),
		"Rename": b.Rename(t.Context(), rt, backend.MustParseStore("other")),
		"script": b.RunScripts(t.Context(), []backend.Script{{Route: rt, SQL: "DROP TABLE notes"}}, backend.ScriptOptions{})[0],
	} {
		require.ErrorIs(t, err, backend.ErrStoreMissing, name)
	}
	_, err = b.Stat(t.Context(), rt.Store)
	require.ErrorIs(t, err, backend.ErrStoreMissing)
	for info, err := range b.Stores(t.Context()) {
		require.NoError(t, err)
		require.Fail(t, "a store was listed", info.Store)
	}
	require.ErrorIs(t, b.Create(t.Context(), rt), backend.ErrStoreExists, "its name is not free either")
	same, err := os.ReadFile(b.path(rt.Store))
	require.NoError(t, err)
	require.Equal(t, whole, same)
}

// Whose a store is says what a reader of it would see: not what a process that died in a transaction has written to the file, and
// what one that is at work has committed to its log.
func TestOwnerIsThatOfAReader(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir())
	_, rt := withTable(t, b, "a")
	path := fresh(t, b, rt)
	require.NoError(t, b.fold(t.Context(), path))
	stamp, err := encodeStamp("another")
	require.NoError(t, err)
	restamp := fmt.Sprintf("UPDATE %s SET owner = x'%x';", stampTable, stamp)
	at, err := dial(t.Context(), uri(path, "rw"))
	require.NoError(t, err)
	defer func() { require.NoError(t, at.Close()) }()

	_, err = at.ExecContext(t.Context(), "PRAGMA cache_size=1; BEGIN IMMEDIATE;"+restamp+`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL
		SELECT i + 1 FROM n WHERE i < 100) INSERT INTO notes (mark) SELECT hex(randomblob(2000)) FROM n`, nil)
	require.NoError(t, err)
	left := backend.MustParseStore("left") // as it would be left if the process died now
	for _, ext := range []string{"", "-journal"} {
		text, err := os.ReadFile(path + ext)
		require.NoError(t, err)
		if ext == "" {
			require.Contains(t, string(text), stampMagic+"another", "there was no room for it in memory")
		}
		require.NoError(t, os.WriteFile(b.path(left)+ext, text, 0o600))
	}
	info, err := b.Stat(t.Context(), left)
	require.NoError(t, err)
	require.Equal(t, "id-a", info.Owner)
	require.NoFileExists(t, b.path(left)+"-journal", "it was rolled back")

	_, err = at.ExecContext(t.Context(), "ROLLBACK; PRAGMA journal_mode=WAL;"+restamp, nil)
	require.NoError(t, err)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NotContains(t, string(text), stampMagic+"another")
	info, err = b.Stat(t.Context(), rt.Store)
	require.NoError(t, err)
	require.Equal(t, "another", info.Owner)
}

func TestWriteToAReplacedFileIsNotReportedAsDone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b, other := openIn(t, dir), openIn(t, dir)
	a, rt := withTable(t, b, "a")
	tx, err := b.DB().BeginTx(a, nil)
	require.NoError(t, err)
	_, err = tx.Exec("INSERT INTO notes (mark) VALUES ('vanishes')")
	require.NoError(t, err)
	require.NoError(t, other.Drop(t.Context(), rt)) // as another process would
	require.ErrorIs(t, tx.Commit(), backend.ErrStoreMissing)
	_, err = b.DB().ExecContext(a, "INSERT INTO notes (mark) VALUES ('vanishes')")
	require.ErrorIs(t, err, backend.ErrStoreMissing)
}

// The shared store is no exception, and it is the same again when its file is put back.
func TestWriteToAReplacedSharedStoreIsNotReportedAsDone(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("an open file keeps its name")
	}
	dir := t.TempDir()
	b := openIn(t, dir)
	ctx := t.Context()
	mustExec(t, ctx, b.Shared(), "CREATE TABLE plans (id INTEGER PRIMARY KEY)")
	path, aside := filepath.Join(dir, "shared.db"), filepath.Join(dir, "aside.db")
	for what, replace := range map[string]func() error{
		"gone":     func() error { return nil },
		"replaced": func() error { return os.WriteFile(path, nil, 0o600) },
	} {
		tx, err := b.Shared().Begin()
		require.NoError(t, err, what)
		_, err = tx.Exec("INSERT INTO plans DEFAULT VALUES")
		require.NoError(t, err, what)
		require.NoError(t, os.Rename(path, aside), what)
		require.NoError(t, replace(), what)
		require.Error(t, tx.Commit(), what)
		_, err = b.Shared().Exec("INSERT INTO plans DEFAULT VALUES")
		require.ErrorContains(t, err, "shared", what)
		require.NotErrorIs(t, err, backend.ErrStoreMissing, "that is said of a tenant")
		require.Error(t, b.Ping(ctx), what)
		require.NoError(t, os.Rename(aside, path), what)
		mustExec(t, ctx, b.Shared(), "INSERT INTO plans DEFAULT VALUES")
		require.NoError(t, b.Ping(ctx), what)
	}
}

func TestRenameWhileAnotherProcessHasItOpen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b, other := openIn(t, dir), openIn(t, dir)
	a, rt := withTable(t, b, "a")
	mustExec(t, a, b.DB(), "INSERT INTO notes (mark) VALUES ('1')")
	to := backend.Route{Store: backend.MustParseStore("z"), Owner: rt.Owner}
	require.NoError(t, other.Rename(t.Context(), rt, to.Store)) // S25
	z := backend.WithRoute(t.Context(), to)
	for _, be := range []*Backend{b, other} {
		require.Equal(t, 1, count(t, z, be.DB(), "SELECT count(*) FROM notes"))
		mustExec(t, z, be.DB(), "INSERT INTO notes (mark) VALUES ('2')")
		mustExec(t, z, be.DB(), "DELETE FROM notes WHERE mark = '2'")
		_, err := be.DB().ExecContext(a, "INSERT INTO notes (mark) VALUES ('x')")
		require.ErrorIs(t, err, backend.ErrStoreMissing)
	}
	left, err := b.Leftovers(t.Context())
	require.NoError(t, err)
	require.Empty(t, left)

	// A unit of work that goes on there makes it fail, and nothing is changed.
	tx, err := b.DB().BeginTx(z, nil)
	require.NoError(t, err)
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, other.Rename(short, to, rt.Store), context.DeadlineExceeded)
	_, err = tx.Exec("INSERT INTO notes (mark) VALUES ('2')")
	require.NoError(t, err)
	require.NoError(t, tx.Commit())
	require.Equal(t, 2, count(t, z, other.DB(), "SELECT count(*) FROM notes"))
}

func TestMarkerOfADeadRenameDoesNotBlock(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir())
	a, rt := withTable(t, b, "a")
	fresh(t, b, rt)
	require.NoError(t, os.WriteFile(b.marker(backend.MustParseStore("a")), nil, 0o600))
	require.Equal(t, 0, count(t, a, b.DB(), "SELECT count(*) FROM notes"))
	require.NoFileExists(t, b.marker(backend.MustParseStore("a")))
}

func TestLeftovers(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir())
	a, _ := withTable(t, b, "a")
	write := func(rel string) {
		require.NoError(t, os.WriteFile(filepath.Join(b.dir, rel), []byte("x"), 0o600))
	}
	old := time.Now().Add(-2 * templateAge)
	write("templates/0000.db")
	require.NoError(t, os.Chtimes(filepath.Join(b.dir, "templates/0000.db"), old, old))
	write("tenants/notes.txt") // the operator's: none of our business
	want := map[string]string{
		"moving/q": "marker", "templates/.1111.tmp": "temporary file", "templates/0000.db": "template",
		"tenants/.b.abc.dropped": "tombstone", "tenants/.b.abc.tmp": "temporary file", "tenants/.b.abc.tmp-wal": "temporary file",
		"tenants/b.db-journal": "side file", "tenants/b.db-wal": "side file",
	}
	for rel := range want {
		if rel != "templates/0000.db" {
			write(rel)
		}
	}
	busy, err := b.lock(t.Context(), storeKey(backend.MustParseStore("busy")))
	require.NoError(t, err)
	write("tenants/.busy.abc.tmp") // somebody is making it right now
	left, err := b.Leftovers(t.Context())
	require.NoError(t, err)
	got := map[string]string{}
	for _, l := range left {
		got[l.Name] = l.Kind
	}
	require.Equal(t, want, got)
	for _, l := range left {
		require.NoError(t, b.Sweep(t.Context(), l))
		require.NoError(t, b.Sweep(t.Context(), l), "it is gone already")
	}
	for _, name := range []string{"tenants/a.db", "tenants/a.db-wal", "shared.db", "../x", "/etc/passwd", "tenants/../shared.db", "tenants/notes.txt"} {
		err := b.Sweep(t.Context(), backend.Leftover{Name: name})
		require.Error(t, err, name)
	}
	busy()
	left, err = b.Leftovers(t.Context())
	require.NoError(t, err)
	require.Len(t, left, 1)
	require.Equal(t, 0, count(t, a, b.DB(), "SELECT count(*) FROM notes"))
}

func TestTemplateIsBuiltOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var mu sync.Mutex
	built := 0
	build := func(ctx context.Context, db *sql.DB) error {
		mu.Lock()
		built++
		mu.Unlock()
		_, err := db.ExecContext(ctx, "CREATE TABLE notes (id INTEGER PRIMARY KEY); INSERT INTO notes VALUES (1), (2)")
		return err
	}
	create := func(b *Backend, name string) error {
		return b.CreateFrom(t.Context(), backend.Route{Store: backend.MustParseStore(name), Owner: name}, "key", build)
	}
	b, other := openIn(t, dir), openIn(t, dir)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() { assert.NoError(t, create([]*Backend{b, other}[i%2], fmt.Sprintf("s%d", i))) })
	}
	wg.Wait()
	require.Equal(t, 1, built)
	for info, err := range b.Stores(t.Context()) {
		require.NoError(t, err)
		require.Equal(t, info.Store.String(), info.Owner)
		require.Equal(t, 2, count(t, backend.WithRoute(t.Context(), backend.Route{Store: info.Store, Owner: info.Owner}), b.DB(), "SELECT count(*) FROM notes"))
	}
	// One that is damaged on disk is built again by the next process, not copied.
	files, err := filepath.Glob(filepath.Join(b.templateDir(), "*.db"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	require.NoError(t, os.Truncate(files[0], 5000))
	require.NoError(t, create(openIn(t, dir), "after"))
	require.Equal(t, 2, built)
	// One that was swept is built again.
	require.NoError(t, os.Remove(files[0]))
	require.NoError(t, create(b, "swept"))
	require.Equal(t, 3, built)

	failure := errors.New("no")
	rt := backend.Route{Store: backend.MustParseStore("failed")}
	err = b.CreateFrom(t.Context(), rt, "other", func(context.Context, *sql.DB) error { return failure })
	require.ErrorIs(t, err, failure)
	_, err = b.Stat(t.Context(), rt.Store)
	require.ErrorIs(t, err, backend.ErrStoreMissing)
	left, err := b.Leftovers(t.Context())
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestReadOnlyDirectory(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 || runtime.GOOS == "windows" {
		t.Skip("permissions do not hold root back")
	}
	b := openIn(t, t.TempDir())
	a, _ := withTable(t, b, "a")
	require.NoError(t, os.Chmod(b.tenants(), 0o500))
	t.Cleanup(func() { _ = os.Chmod(b.tenants(), 0o700) })
	var own *backend.Error
	require.ErrorAs(t, b.Create(t.Context(), backend.Route{Store: backend.MustParseStore("new")}), &own)
	mustExec(t, a, b.DB(), "INSERT INTO notes (mark) VALUES ('it is open already')")
}

func FuzzStamp(f *testing.F) {
	f.Add("")
	f.Add("0198c5d4-0000-7000-8000-000000000000")
	f.Fuzz(func(t *testing.T, owner string) {
		// What is taken for a stamp is one.
		found := make([]byte, stampLen)
		copy(found, stampMagic)
		copy(found[len(stampMagic):], owner)
		if got, ok := decodeStamp(found); ok {
			made, err := encodeStamp(got)
			require.NoError(t, err)
			require.Equal(t, found, made)
		}
		stamp, err := encodeStamp(owner)
		if err != nil {
			require.True(t, len(owner) > maxOwner || strings.ContainsRune(owner, 0))
			return
		}
		got, ok := decodeStamp(stamp)
		require.True(t, ok)
		require.Equal(t, owner, got)
	})
}
