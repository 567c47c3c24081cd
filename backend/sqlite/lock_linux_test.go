package sqlite

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// What a key's lock costs is a system call: no file is made for it, and none removed.
func TestLocksMakeNoFiles(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir())
	entries := func() (names []string) {
		list, err := os.ReadDir(filepath.Join(b.dir, "locks"))
		require.NoError(t, err)
		for _, e := range list {
			names = append(names, e.Name())
		}
		return names
	}
	first, err := b.lock(t.Context(), "a")
	require.NoError(t, err)
	second, err := b.lock(t.Context(), "b")
	require.NoError(t, err)
	require.Equal(t, []string{rangeName}, entries())
	second()
	first()
	require.Equal(t, []string{rangeName}, entries())
}

// Two Backends over one directory exclude each other, in one process too, and also after the file was removed; each key is
// a lock of its own.
func TestLocksOfTwoBackends(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir())
	other, err := Open(t.Context(), b.dir, Config{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, other.Close()) })
	ctx := t.Context()
	require.NoError(t, remove(filepath.Join(b.dir, "locks", rangeName)))
	mine, err := b.lock(ctx, "a")
	require.NoError(t, err)
	_, err = other.tryLock(ctx, "a")
	require.ErrorIs(t, err, errLocked)
	theirs, err := other.tryLock(ctx, "b")
	require.NoError(t, err)
	_, err = b.tryLock(ctx, "b")
	require.ErrorIs(t, err, errLocked)
	mine()
	again, err := other.tryLock(ctx, "a")
	require.NoError(t, err)
	again()
	theirs()

	// A lock outlives the Backend's Close: whoever holds it is at work.
	late, err := b.lock(ctx, "late")
	require.NoError(t, err)
	require.NoError(t, b.Close())
	_, err = other.tryLock(ctx, "late")
	require.ErrorIs(t, err, errLocked)
	late()
	free, err := other.tryLock(ctx, "late")
	require.NoError(t, err)
	free()
	require.Nil(t, b.locks.keys.file, "its file is closed")
}
