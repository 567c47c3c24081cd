package driver

import (
	"database/sql"
	"log/slog"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/tenement-go/tenement/backend"
)

// Handle keeps a handle that is the backend's: the one that [backend.Backend.DB] gives to whoever asks. A caller may close
// it all the same (gorm.Open closes what it was given when it fails), and a [database/sql.DB] cannot be opened again: then
// the log says who did, and the next who asks gets another. It is safe for concurrent use.
type Handle struct {
	open   func(onClose func()) *sql.DB
	log    *slog.Logger
	now    atomic.Pointer[sql.DB]
	closed atomic.Bool // by the backend
}

// NewHandle returns a Handle over src, as [OpenDB] with a zero route would open it. log gets what is said when a caller
// closes it; nil means [slog.Default].
func NewHandle(src Source, access Access, log *slog.Logger) *Handle {
	return newHandle(log, func(onClose func()) *sql.DB {
		return openDB(newConnector(src, Binding{Access: access}, onClose))
	})
}

func newHandle(log *slog.Logger, open func(onClose func()) *sql.DB) *Handle {
	h := &Handle{open: open, log: log}
	h.now.Store(h.make())
	return h
}

func (h *Handle) make() *sql.DB {
	var self *sql.DB
	self = h.open(func() { h.lost(self) })
	return self
}

// DB returns the handle, the same one each time for as long as nobody closes it.
func (h *Handle) DB() *sql.DB { return h.now.Load() }

// Close closes it for good. What it returns then is closed.
func (h *Handle) Close() error {
	h.closed.Store(true)
	return h.now.Load().Close()
}

// lost puts another in the place of one that was closed, by a caller if the backend did not do it.
func (h *Handle) lost(gone *sql.DB) {
	if h.closed.Load() || h.now.Load() != gone {
		return
	}
	log := h.log
	if log == nil {
		log = slog.Default()
	}
	log.Error("tenement: a caller closed the handle that is everybody's; what has kept it gets \"sql: database is closed\" "+
		"from now on, and who asks for it again gets another", "by", closer())
	fresh := h.make()
	if !h.now.CompareAndSwap(gone, fresh) || h.closed.Load() {
		// Closed by the backend meanwhile: no more handles.
		_ = fresh.Close()
	}
}

// closer names the functions that led to the Close of a handle, the innermost first.
func closer() string {
	var pcs [32]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	var names []string
	for len(names) < 6 {
		f, more := frames.Next()
		switch {
		case strings.HasPrefix(f.Function, "database/sql."):
			names = nil // what is ours, and its own way here, tells nothing
		case f.Function != "":
			names = append(names, f.Function+" ("+f.File+":"+strconv.Itoa(f.Line)+")")
		}
		if !more {
			break
		}
	}
	return strings.Join(names, ", ")
}

// OpenDB returns a handle over src. With AccessTenant and a zero route it is routed: each unit of work takes its route
// from its context. With a route it is bound to that store. The caller closes it; idle, it holds no session.
//
// This is for implementers of [backend.Backend]; the handles that are theirs to close are of [NewHandle].
func OpenDB(src Source, rt backend.Route, access Access) *sql.DB {
	return openDB(newConnector(src, Binding{Fixed: rt, Access: access}, nil))
}

func openDB(c *connector) *sql.DB {
	db := sql.OpenDB(c)
	// Idle connections of this handle are a few words each and hold nothing real; the pool that costs something is
	// underneath. Keeping them saves building one per call.
	db.SetMaxIdleConns(1024)
	return db
}
