// Package driver is for implementers of [backend.Backend]: what a backend provides ([Source], [Session]) to get its
// handles ([OpenDB]), and what decides for every handle, native ones included, which store a call belongs to
// ([Binding]). Applications have no use for it.
package driver

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"

	"github.com/tenement-go/tenement/backend"
)

// Access says with which rights a session works.
type Access uint8

// The kinds of access.
const (
	// AccessTenant: the tenant's own tables, read and write; the shared ones, read only.
	AccessTenant Access = iota
	// AccessMaintenance: upkeep of one store; see [backend.Backend.Maintenance].
	AccessMaintenance
	// AccessShared: the shared store, read and write. There is no route.
	AccessShared
)

// Source gives out real connections. It is what a backend implements to get its [database/sql.DB] handles from
// [OpenDB]. Implementations are safe for concurrent use.
//
// A source that is also a [driver.NamedValueChecker] checks the arguments; it must be safe for concurrent use too.
type Source interface {
	// Session takes a connection for one unit of work, or for a series of them when a *sql.Conn is held. rt is zero
	// with AccessShared. It may put off taking a connection to the session's first operation. It waits for a free
	// connection no longer than ctx allows, and returns ErrStoreMissing, ErrClosed as [backend.Backend] says.
	Session(ctx context.Context, rt backend.Route, access Access) (Session, error)
	// Ping checks that the backend answers; no store is involved.
	Ping(ctx context.Context) error
	// Driver is returned by [database/sql.DB.Driver].
	Driver() driver.Driver
}

// Session is a real connection bound to one store. It is used by one goroutine at a time.
//
// Statements between BeginTx and the end of its [driver.Tx] belong to that transaction. A session does not return
// [driver.ErrBadConn]: whether repeating is safe is for the session to know, and it does that itself.
type Session interface {
	driver.ExecerContext
	driver.QueryerContext
	driver.ConnBeginTx
	// SetReadOnly says whether the route of the next statement, or transaction, is read-only. It is called with AccessTenant,
	// ahead of each but the first on a session that is held, and not within a transaction of BeginTx. What a statement's text
	// has begun goes on as it began.
	SetReadOnly(bool)
	// Ping checks that this very connection answers.
	driver.Pinger
	// Release gives the connection back, exactly once, when no rows and no transaction are open any more. The session
	// drops the connection instead when it may not serve another store, or its state is in doubt.
	Release()
}

// Rawer is the ability of a session to show what it runs on, for [database/sql.Conn.Raw].
type Rawer interface {
	// Raw returns the driver's own connection. It is valid until the session is released.
	Raw() any
}

// Copier is the ability of a session to move rows in bulk within its transaction, by the server's COPY, without giving out
// the driver's connection. On [database/sql.Conn.Raw] it is found by an assertion on what that hands out.
type Copier interface {
	// CopyOut writes what query, a COPY … TO STDOUT, sends, and returns the number of rows.
	CopyOut(ctx context.Context, w io.Writer, query string) (rows int64, err error)
	// CopyIn has query, a COPY … FROM STDIN, read r to its end, and returns the number of rows. An error of r is in the chain
	// of the one returned, and ends the transaction.
	CopyIn(ctx context.Context, r io.Reader, query string) (rows int64, err error)
}

// Binding decides to which store a call on a handle belongs. It is a value without state: what the handle's unit of work
// is bound to already is passed in.
type Binding struct {
	Fixed    backend.Route // the store that the handle is bound to; zero: the context decides
	Access   Access
	ReadOnly bool // whatever the routes say; see [ReadOnly]
}

// Unit is the unit of work that a call would be part of.
type Unit struct {
	Route backend.Route // zero: nothing is bound yet
	InTx  bool          // it is a transaction, which carries its tenant
}

// Route returns the route of a call whose context is ctx, within unit. It returns an [*backend.Error] of ErrNoTenant
// when nothing says which store is meant, and of ErrTenantMismatch when the context names another than the handle's or
// the unit's.
func (b Binding) Route(ctx context.Context, unit Unit) (backend.Route, error) {
	if b.Access != AccessTenant {
		return b.Fixed, nil
	}
	rt, err := b.route(ctx, unit)
	rt.ReadOnly = rt.ReadOnly || err == nil && b.ReadOnly
	return rt, err
}

func (b Binding) route(ctx context.Context, unit Unit) (backend.Route, error) {
	rt, named := backend.RouteFrom(ctx)
	switch {
	case !b.Fixed.IsZero():
		if named && !permits(b.Fixed, rt) {
			return backend.Route{}, &backend.Error{Op: "use bound handle of", Store: b.Fixed.Store, Err: backend.ErrTenantMismatch}
		}
		fixed := b.Fixed
		fixed.ReadOnly = fixed.ReadOnly || named && rt.ReadOnly
		return fixed, nil
	case unit.Route.IsZero() && named:
		return rt, nil
	case named && !same(unit.Route, rt):
		return backend.Route{}, &backend.Error{Op: "use", Store: unit.Route.Store, Err: backend.ErrTenantMismatch}
	case !named && !unit.InTx:
		// A transaction carries its tenant, so tx.Exec (which has no context) is unambiguous. A held connection does
		// not: each statement on it is a unit of work and must say where it belongs.
		return backend.Route{}, &backend.Error{Op: "route", Err: backend.ErrNoTenant}
	}
	if !unit.InTx {
		unit.Route.ReadOnly = rt.ReadOnly
	}
	return unit.Route, nil
}

// same reports whether a context that names rt may go on with a unit of work of that route: the same store, or one that
// was renamed in between, whose owner is the same. The unit stays with the route that it began with, which fails by
// itself when its store is elsewhere.
func same(unit, rt backend.Route) bool {
	return unit.Owner == rt.Owner && (unit.Store == rt.Store || unit.Owner != "")
}

// permits reports whether a context that names rt may use a handle bound to fixed. An owner that either leaves open
// matches any.
func permits(fixed, rt backend.Route) bool {
	return fixed.Store == rt.Store && (fixed.Owner == "" || rt.Owner == "" || fixed.Owner == rt.Owner)
}

// unnamed is a driver.Driver for handles that are never opened by name.
type unnamed struct{}

// Unnamed returns a [driver.Driver] whose Open always fails, for [Source.Driver] of backends whose handles cannot be
// opened by name.
func Unnamed() driver.Driver { return unnamed{} }

func (unnamed) Open(string) (driver.Conn, error) {
	return nil, &backend.Error{Op: "open", Err: errors.New("this driver has no data source names; use backend.Open")}
}
