package sqlite

import (
	"os"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"
)

// What TestShortageMakesNoStoreReadOnly puts in the place of the system's xOpen.
var (
	systemOpen struct{ open uintptr }
	shortOf    atomic.Pointer[string] // the file that is opened for reading only, once
)

func openShort(tls *libc.TLS, self, name, file uintptr, flags int32, outFlags uintptr) int32 {
	path := shortOf.Load()
	if flags&sqlite3.SQLITE_OPEN_READWRITE != 0 && name != 0 && path != nil && libc.GoString(name) == *path && shortOf.CompareAndSwap(path, nil) {
		flags = flags&^(sqlite3.SQLITE_OPEN_READWRITE|sqlite3.SQLITE_OPEN_CREATE) | sqlite3.SQLITE_OPEN_READONLY
	}
	return (*(*openFunc)(unsafe.Pointer(&systemOpen)))(tls, self, name, file, flags, outFlags)
}

// A store of which SQLite could not open a file for writing, since there was no descriptor at that moment, is not one that can
// only be read.
func TestShortageMakesNoStoreReadOnly(t *testing.T) { // not parallel: it changes what opens all files
	if !descriptorsRunOut {
		t.Skip("there is no limit")
	}
	require.NoError(t, registerVFS())
	systemOpen.open = systemVFS.FxOpen
	systemVFS.FxOpen = pointerTo(openShort)
	defer func() { systemVFS.FxOpen = systemOpen.open }()
	for _, ext := range []string{"", "-wal"} {
		t.Run(storeExt+ext, func(t *testing.T) {
			b := openIn(t, t.TempDir())
			a, rt := withTable(t, b, "a")
			b.stores.retireName(rt.Store)
			path := b.path(rt.Store) + ext
			f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) // or there is nothing to read
			require.NoError(t, err)
			require.NoError(t, f.Close())
			shortOf.Store(&path)
			require.Equal(t, 0, count(t, a, b.DB(), "SELECT count(*) FROM notes"))
			require.Nil(t, shortOf.Load())
			mustExec(t, a, b.DB(), "INSERT INTO notes (mark) VALUES ('x')")
		})
	}
	t.Run(storeExt+"-shm", func(t *testing.T) {
		b := openIn(t, t.TempDir())
		_, rt := withTable(t, b, "a")
		b.stores.retireName(rt.Store)
		require.NoError(t, os.WriteFile(b.path(rt.Store)+"-shm", nil, 0o600))
		r, err := dial(t.Context(), dsn(b.path(rt.Store), "rw")+"&readonly_shm=1")
		require.NoError(t, err)
		defer r.Close()
		_, err = ask(t.Context(), r, "SELECT count(*) FROM notes")
		require.Equal(t, sqlite3.SQLITE_CANTOPEN, code(err)&0xff, "%v", err)
	})
}
