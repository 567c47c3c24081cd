package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"modernc.org/libc"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/tenement-go/tenement/backend"
)

// The waits of SQLite. For nearly all locks it asks the busy handler, which the driver ends with the call's context. Two it
// sits out by itself, and no interrupt ends them.
//
// Whoever begins to read a store in WAL mode and finds the index of the log in the middle of a change tries again, a hundred
// times within ten seconds, and sleeps in between (wal.c, walTryBeginRead). It is for moments, but a process that is killed
// while it writes the index's header leaves it half written, and whoever has the right to write meanwhile keeps all others
// from mending it.
//
// Whoever opens a store that somebody has for himself waits as PRAGMA busy_timeout says: SQLite's own handler, which the
// driver replaces when the next call begins.
//
// So the sleeping is done here, by a VFS that is the system's own but for that (and for how files are opened: see writable.go), and
// ends with the context of the call: the tries that are left are then made at once.

// patientVFS is the name of the VFS, callerParam that of the URI's parameter by which an opening of a file is known.
const (
	patientVFS  = "tenement"
	callerParam = "tenement_caller"
)

// caller is the one whose call is under way on a connection of the driver.
type caller struct {
	// Only touched by the goroutine that is in SQLite.
	ctx context.Context
	cut bool // a sleep was ended, or not begun, for the context's sake

	tls  *libc.TLS // what the connection is known by there; nil: it has no file
	path string    // of its main file
}

var (
	callers  sync.Map // the *caller of a *libc.TLS
	openings sync.Map // the *caller of a number in callerParam
	opened   atomic.Uint64
)

// These are what the VFS is made of. SQLite keeps their addresses for good.
var (
	vfs       sqlite3.Tsqlite3_vfs
	systemVFS sqlite3.Tsqlite3_vfs
	paramName = sync.OnceValue(func() uintptr { return cString(callerParam) })
)

// registerVFS makes patientVFS known to SQLite.
var registerVFS = sync.OnceValue(func() error {
	tls := libc.NewTLS()
	defer tls.Close()
	system := sqlite3.Xsqlite3_vfs_find(tls, 0)
	if system == 0 {
		return errors.New("SQLite has no VFS for this system")
	}
	systemVFS = **(**sqlite3.Tsqlite3_vfs)(unsafe.Pointer(&system))
	vfs = systemVFS
	vfs.FpNext, vfs.FzName = 0, cString(patientVFS)
	vfs.FxOpen, vfs.FxSleep = pointerTo(openFile), pointerTo(sleep)
	if rc := sqlite3.Xsqlite3_vfs_register(tls, uintptr(unsafe.Pointer(&vfs)), 0); rc != sqlite3.SQLITE_OK {
		return fmt.Errorf("SQLite does not take the VFS: code %d", rc)
	}
	return nil
})

// pointerTo returns a function of the package as SQLite, translated, holds those of C: as a pointer to the func value, which
// is in the program's read-only data.
func pointerTo[F any](f F) uintptr { return *(*uintptr)(unsafe.Pointer(&f)) }

// cString returns a copy of s in C's memory.
func cString(s string) uintptr {
	p, err := libc.CString(s)
	if err != nil {
		panic(err) // there is no memory
	}
	return p
}

type openFunc = func(tls *libc.TLS, vfs, name, file uintptr, flags int32, outFlags uintptr) int32

// openFile is xOpen.
func openFile(tls *libc.TLS, self, name, file uintptr, flags int32, outFlags uintptr) int32 {
	own := name != 0 && flags&sqlite3.SQLITE_OPEN_MAIN_DB != 0 && noteCaller(tls, name)
	system := struct{ open uintptr }{systemVFS.FxOpen}
	rc := (*(*openFunc)(unsafe.Pointer(&system)))(tls, self, name, file, flags, outFlags)
	switch {
	case rc != sqlite3.SQLITE_OK:
	case onlyRead(tls, name, flags, outFlags):
		closeFile(tls, file)
		return sqlite3.SQLITE_CANTOPEN
	case descriptorsRunOut && own && flags&sqlite3.SQLITE_OPEN_READWRITE != 0:
		watchShm(tls, file)
	}
	return rc
}

// noteCaller notes whose connection it is that opens its main file.
func noteCaller(tls *libc.TLS, name uintptr) bool {
	p := sqlite3.Xsqlite3_uri_parameter(tls, name, paramName())
	if p == 0 {
		return false
	}
	v, ok := openings.LoadAndDelete(libc.GoString(p))
	if ok {
		c := v.(*caller)
		c.tls, c.path = tls, libc.GoString(name)
		callers.Store(tls, c)
	}
	return ok
}

// sleep is xSleep. It runs on the goroutine whose call it is.
func sleep(tls *libc.TLS, _ uintptr, micros int32) int32 {
	d := time.Duration(micros) * time.Microsecond
	if c, ok := callers.Load(tls); ok {
		c.(*caller).sleep(d)
	} else {
		time.Sleep(d)
	}
	return micros
}

func (c *caller) sleep(d time.Duration) {
	if c.ctx == nil || c.ctx.Done() == nil {
		time.Sleep(d)
		return
	}
	if c.ctx.Err() == nil {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-c.ctx.Done():
		case <-t.C:
			return
		}
	}
	c.cut = true
}

// begin and end are around a call into SQLite that ends with ctx.
func (c *caller) begin(ctx context.Context) { c.ctx, c.cut = ctx, false }

// end says what an error is of which SQLite knows only that it tried a hundred times.
func (c *caller) end(ctx context.Context, err error) error {
	c.ctx = nil
	if err == nil {
		return nil
	}
	gaveUp := code(err)&0xff == sqlite3.SQLITE_PROTOCOL
	switch {
	case c.cut && (gaveUp || errors.Is(err, ctx.Err())):
		return &logBusyError{ctx.Err()}
	case gaveUp:
		return &logBusyError{fmt.Errorf("%w: %w", backend.ErrBusy, err)}
	}
	return err
}

// logBusyError is of a wait for the index of a store's log.
type logBusyError struct{ err error }

func (e *logBusyError) Error() string {
	return "waiting for the log of the store, which others have locked: " + e.err.Error()
}
func (e *logBusyError) Unwrap() error { return e.err }

// patientConn is a connection of the driver whose calls end with their context.
type patientConn struct {
	raw
	c *caller
}

// connect opens a connection to the file that dsn names.
func (c *caller) connect(ctx context.Context, dsn string) (driver.Conn, error) {
	if err := registerVFS(); err != nil {
		return nil, err
	}
	number := strconv.FormatUint(opened.Add(1), 10)
	connector, err := sqlite.NewConnector(dsn + "&vfs=" + patientVFS + "&" + callerParam + "=" + number)
	if err != nil {
		return nil, err
	}
	openings.Store(number, c)
	defer openings.Delete(number) // of a database in memory no file is opened
	c.begin(ctx)
	dc, err := connector.Connect(ctx)
	if err = c.end(ctx, err); err != nil {
		c.forget()
		return nil, err
	}
	return dc, nil
}

func (c *caller) forget() {
	if c.tls != nil {
		callers.Delete(c.tls)
	}
}

func (p *patientConn) Close() error {
	err := p.raw.Close()
	p.c.forget()
	return err
}

func (p *patientConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	p.c.begin(ctx)
	res, err := p.raw.ExecContext(ctx, query, args)
	return res, p.c.end(ctx, err)
}

func (p *patientConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	p.c.begin(ctx)
	rows, err := p.raw.QueryContext(ctx, query, args)
	return rows, p.c.end(ctx, err)
}

func (p *patientConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	p.c.begin(ctx)
	ds, err := p.raw.PrepareContext(ctx, query)
	if err = p.c.end(ctx, err); err != nil {
		return nil, err
	}
	return &patientStmt{ds.(prepared), p.c}, nil
}

// prepared is what the driver's statements are.
type prepared interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// patientStmt is patientConn's.
type patientStmt struct {
	prepared
	c *caller
}

func (p *patientStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	p.c.begin(ctx)
	res, err := p.prepared.ExecContext(ctx, args)
	return res, p.c.end(ctx, err)
}

func (p *patientStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	p.c.begin(ctx)
	rows, err := p.prepared.QueryContext(ctx, args)
	return rows, p.c.end(ctx, err)
}
