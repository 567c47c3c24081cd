package sqlite

import (
	"sync"
	"unsafe"

	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"
)

// What SQLite cannot open for writing it opens for reading only (os_unix.c: unixOpen, and unixOpenSharedMemory for the -shm): also
// for want of a descriptor, when there is one again a moment later. Whoever writes would be told so, and not why. So a file that
// the process may write to is had for writing or not at all, by the VFS; whoever opens it then makes room and tries again (see
// [Backend.withDescriptors]).

type (
	accessFunc = func(tls *libc.TLS, vfs, name uintptr, flags int32, out uintptr) int32
	closeFunc  = func(tls *libc.TLS, file uintptr) int32
	shmMapFunc = func(tls *libc.TLS, file uintptr, region, size, extend int32, out uintptr) int32
)

// onlyRead reports whether a file that was to be opened for writing is open for reading only, though it may be written.
func onlyRead(tls *libc.TLS, name uintptr, flags int32, outFlags uintptr) bool {
	return descriptorsRunOut && name != 0 && outFlags != 0 && flags&sqlite3.SQLITE_OPEN_READWRITE != 0 &&
		**(**int32)(unsafe.Pointer(&outFlags))&sqlite3.SQLITE_OPEN_READONLY != 0 && mayWrite(tls, name)
}

// mayWrite asks for the permissions of a file. It does not open it: closing it would end the process's locks on it.
func mayWrite(tls *libc.TLS, name uintptr) bool {
	const size = 4
	out := tls.Alloc(size)
	defer tls.Free(size)
	system := struct{ access uintptr }{systemVFS.FxAccess}
	rc := (*(*accessFunc)(unsafe.Pointer(&system)))(tls, uintptr(unsafe.Pointer(&vfs)), name, sqlite3.SQLITE_ACCESS_READWRITE, out)
	return rc == sqlite3.SQLITE_OK && **(**int32)(unsafe.Pointer(&out)) != 0
}

// methodsOf returns the pointer to the methods of an open file.
func methodsOf(file uintptr) *uintptr { return *(**uintptr)(unsafe.Pointer(&file)) }

// closeFile is xClose of a file that the system's xOpen has opened.
func closeFile(tls *libc.TLS, file uintptr) {
	system := *(**sqlite3.Tsqlite3_io_methods)(unsafe.Pointer(methodsOf(file)))
	_ = (*(*closeFunc)(unsafe.Pointer(&system.FxClose)))(tls, file)
}

// fileMethods are those of a main file: the system's, but for xShmMap.
type fileMethods struct {
	sqlite3.Tsqlite3_io_methods // first: SQLite has a pointer to it
	system                      sqlite3.Tsqlite3_io_methods
}

// watched are pointers to fileMethods, which are SQLite's memory for good, by the pointers to the system's.
var watched = struct {
	mu      sync.Mutex
	methods map[uintptr]uintptr
}{methods: map[uintptr]uintptr{}}

// watchShm has the -shm of a main file, which no xOpen is asked for, mapped by mapShm.
func watchShm(tls *libc.TLS, file uintptr) {
	watched.mu.Lock()
	defer watched.mu.Unlock()
	at := methodsOf(file)
	own := watched.methods[*at]
	if own == 0 {
		system := **(**sqlite3.Tsqlite3_io_methods)(unsafe.Pointer(at))
		if system.FiVersion < 2 || system.FxShmMap == 0 {
			return
		}
		if own = sqlite3.Xsqlite3_malloc64(tls, uint64(unsafe.Sizeof(fileMethods{}))); own == 0 {
			return
		}
		m := fileMethods{system, system}
		m.FxShmMap = pointerTo(mapShm)
		**(**fileMethods)(unsafe.Pointer(&own)) = m
		watched.methods[*at] = own
	}
	*at = own
}

// mapShm is xShmMap.
func mapShm(tls *libc.TLS, file uintptr, region, size, extend int32, out uintptr) int32 {
	m := *(**fileMethods)(unsafe.Pointer(methodsOf(file)))
	rc := (*(*shmMapFunc)(unsafe.Pointer(&m.system.FxShmMap)))(tls, file, region, size, extend, out)
	if rc&0xff != sqlite3.SQLITE_READONLY {
		return rc
	}
	if c, ok := callers.Load(tls); ok {
		shm := cString(c.(*caller).path + "-shm")
		defer libc.Xfree(tls, shm)
		if mayWrite(tls, shm) {
			return sqlite3.SQLITE_CANTOPEN
		}
	}
	return rc
}
