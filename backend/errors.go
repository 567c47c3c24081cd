package backend

import (
	"errors"
	"strings"
)

// The errors that every backend returns, to be tested for with [errors.Is]. They usually arrive inside an [*Error].
var (
	// ErrNoTenant: the call was made on a routed handle and its context names no store. Nothing was reached.
	// The remedy is to pass down the context that the tenancy middleware (or [WithStore]) made.
	ErrNoTenant = errors.New("no tenant in the context")
	// ErrStoreExists: a store of that name is already there.
	ErrStoreExists = errors.New("store already exists")
	// ErrStoreMissing: there is no such store, or the store of that name belongs to another owner than the route says
	// (the tenant it was made for is gone and its name was given to a new one).
	ErrStoreMissing = errors.New("store does not exist")
	// ErrTenantMismatch: a transaction, a held connection or a pinned handle of one store was used with a context that
	// names another. The statement did not run; a transaction stays usable for its own store.
	ErrTenantMismatch = errors.New("context names another tenant than the one this unit of work belongs to")
	// ErrInvalidName: the text cannot be a store name; see [ParseStore].
	ErrInvalidName = errors.New("invalid store name")
	// ErrBusy: somebody else kept the store for longer than the backend waits, or has the key that [Locker] was asked for
	// without waiting. Nothing was done; try again later.
	ErrBusy = errors.New("store is busy")
	// ErrLockLost: the lock that an operation stands on is not held any more (its connection was lost), so the operation
	// did nothing. Whoever holds it now goes on.
	ErrLockLost = errors.New("lock was lost")
	// ErrClosed: the backend was closed.
	ErrClosed = errors.New("backend is closed")
	// ErrInvalidURL: the URL given to [Open] has an unknown scheme, a wrong option or a wrong value.
	ErrInvalidURL = errors.New("invalid backend URL")
	// ErrReadOnly: the route is read-only (see [Route]), and the statement would have changed the store.
	ErrReadOnly = errors.New("store is read-only")
	// ErrReadOnlyShared: a statement run inside a tenant tried to change the shared store, or to get around that rule.
	// Write shared tables through [Backend.Shared].
	ErrReadOnlyShared = errors.New("shared tables are read-only inside a tenant")
)

// Error says which operation failed on which store. It unwraps to the cause, so errors.Is and errors.As see both the
// sentinels of this package and the database driver's own error.
type Error struct {
	Op    string // what was tried: "open", "create", "query", …
	Store Store  // the store concerned; zero for the shared store or the whole backend
	Err   error  // the cause; never nil
}

// Error returns "tenement: OP STORE: cause".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("tenement: ")
	b.WriteString(e.Op)
	if !e.Store.IsZero() {
		b.WriteString(" store ")
		b.WriteString(e.Store.String())
	}
	b.WriteString(": ")
	b.WriteString(e.Err.Error())
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }
