package litestream_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend/sqlite"
	"github.com/tenement-go/tenement/backend/sqlite/litestream"
)

// A process that serves, and one that copies, are killed again and again; what was acknowledged is in the store, and in the
// end in the backup.
func TestKilled(t *testing.T) {
	t.Parallel()
	dir, url := t.TempDir(), fileURL(t)
	app := open(t, dir)
	thor := create(t, app, "thor")
	backup, _, started := start(t, "backup", dir, url)
	line(t, started)
	serve, in, out := start(t, "serve", dir, "-")
	for i := range 12 {
		_, err := fmt.Fprintln(in)
		require.NoError(t, err)
		acknowledged, err := strconv.Atoi(line(t, out))
		require.NoError(t, err)
		require.Len(t, content(t, app, thor.ID), acknowledged)
		switch {
		case i%3 == 2:
			kill(t, serve)
			serve, in, out = start(t, "serve", dir, "-")
		case rand.IntN(2) == 0:
			kill(t, backup)
			backup, _, started = start(t, "backup", dir, url)
			line(t, started)
		}
	}
	kill(t, backup)
	b, stop := replicating(t, app, url, quick)
	copied(t, b, app, thor.ID)
	stop()
	rows, err := restored(t, b, app, thor.ID, time.Now())
	require.NoError(t, err)
	require.Equal(t, content(t, app, thor.ID), rows)
}

// locks are those of a process that are on a file, by /proc/locks: their kinds. Locks of an open file have no process there.
func locks(t *testing.T, process int, path string) (kinds []string) {
	t.Helper()
	info, err := os.Stat(path)
	require.NoError(t, err)
	inode := fmt.Sprint(":", info.Sys().(*syscall.Stat_t).Ino)
	text, err := os.ReadFile("/proc/locks")
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) >= 8 && words[4] == fmt.Sprint(process) && strings.HasSuffix(words[5], inode) {
			kinds = append(kinds, strings.Join([]string{words[1], words[3], words[6], words[7]}, " "))
		}
	}
	slices.Sort(kinds)
	return kinds
}

// The locks of a process that serves are what they were after the backup has opened and closed its store, in another
// process or in this one. Without locks of open files the latter would lose them (S: fault B).
func TestLocksStay(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	app := open(t, dir)
	thor := create(t, app, "thor")
	path := app.Backend().(*sqlite.Backend).Path(thor.Store)
	mustAdd(t, app, thor.ID)
	const shared = "OFDLCK READ 1073741826 1073742335"
	require.Contains(t, locks(t, -1, path), shared, "this process has it open")
	mine := len(locks(t, -1, path))

	serve, in, out := start(t, "serve", dir, "-")
	_, err := fmt.Fprintln(in)
	require.NoError(t, err)
	line(t, out)
	theirs := locks(t, serve.Process.Pid, path)
	require.Contains(t, theirs, "POSIX READ 1073741826 1073742335")

	cfg := quick
	cfg.Idle = 40 * time.Millisecond
	b, stop := replicating(t, app, fileURL(t), cfg)
	copied(t, b, app, thor.ID)
	await(t, func() bool { return exists(note(dir, thor)) }) // it was opened and closed
	stop()
	require.Len(t, locks(t, -1, path), mine)
	require.Equal(t, theirs, locks(t, serve.Process.Pid, path))

	// And so its commits are safe from those of others: the serving process ends, and does not take the -wal away.
	kill(t, serve)
	mustAdd(t, app, thor.ID)
	require.Len(t, content(t, app, thor.ID), 22)
}

// A process that would lose locks says so, and copies nothing.
func TestLocksUnsafe(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	create(t, open(t, dir), "thor")
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+"late "+dir+" "+fileURL(t))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
}

// A rename, in this process or in another, is not kept waiting for long, and neither is the backup.
func TestRenamedElsewhere(t *testing.T) {
	t.Parallel()
	dir, url := t.TempDir(), fileURL(t)
	app := open(t, dir)
	thor := create(t, app, "thor")
	_, _, started := start(t, "backup", dir, url)
	line(t, started)
	b, err := litestream.New(url, quick)
	require.NoError(t, err)
	for i := range 5 {
		mustAdd(t, app, thor.ID)
		copied(t, b, app, thor.ID)
		_, err := app.Rename(t.Context(), thor.ID, fmt.Sprint("thor", i))
		require.NoError(t, err)
	}
	mustAdd(t, app, thor.ID)
	copied(t, b, app, thor.ID)
}
