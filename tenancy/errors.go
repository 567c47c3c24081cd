package tenancy

import (
	"errors"
	"fmt"
	"strings"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/migrate"
)

// The errors of this package, to be tested for with [errors.Is].
var (
	// ErrNotFound: the registry has no such tenant.
	ErrNotFound = errors.New("no such tenant")
	// ErrUnknownHost: the host leads to no tenant. A server answers 404. ErrNotFound matches it too.
	ErrUnknownHost = fmt.Errorf("host leads to no tenant: %w", ErrNotFound)
	// ErrUnavailable: the registry could not be asked, and the answer is not in the cache. Trying again later may
	// help; a server answers 503. The cause is in the chain.
	ErrUnavailable = errors.New("the registry cannot be reached")
	// ErrNotActive: the tenant may not be entered, not being in service; see [*NotActiveError].
	ErrNotActive = errors.New("tenant is not active")
	// ErrBehind: the tenant's store is behind the migrations that this binary needs. A server answers 503 until the
	// migrator has been there.
	ErrBehind = migrate.ErrBehind
	// ErrInvalid: a value is not allowed; see [*FieldError].
	ErrInvalid = errors.New("invalid value")
	// ErrConflict: a name is taken; see [*ConflictError].
	ErrConflict = errors.New("already taken")
	// ErrSlugTaken: another tenant has the slug. It comes as a [*ConflictError].
	ErrSlugTaken = fmt.Errorf("slug %w", ErrConflict)
	// ErrDomainTaken: the host leads to another tenant. It comes as a [*ConflictError].
	ErrDomainTaken = fmt.Errorf("domain %w", ErrConflict)
	// ErrStoreTaken: the store belongs to another tenant, or to none that is known. It comes as a [*ConflictError].
	ErrStoreTaken = fmt.Errorf("store %w", ErrConflict)
	// ErrStatus: the tenant is in a state in which this cannot be done to it; see [*StatusError].
	ErrStatus = errors.New("not possible in the tenant's state")
	// ErrChanged: the tenant was changed since it was read; see [Patch].
	ErrChanged = errors.New("the tenant was changed meanwhile")
	// ErrDomainPending: the domain was not approved yet; see [*DomainPendingError].
	ErrDomainPending = errors.New("domain is not approved yet")
	// ErrReadOnly: the tenant is read-only, and the call would have changed its store. It is [backend.ErrReadOnly].
	ErrReadOnly = backend.ErrReadOnly
	// ErrClosed: the App was closed.
	ErrClosed = errors.New("tenancy: the App was closed")
	// ErrNoTenant: the context is in no tenant. It is [backend.ErrNoTenant].
	ErrNoTenant = backend.ErrNoTenant
	// ErrTenantMismatch: the context is in another tenant already. It is [backend.ErrTenantMismatch].
	ErrTenantMismatch = backend.ErrTenantMismatch
)

// FieldError is the refusal of a value. errors.Is(err, [ErrInvalid]) holds for it.
type FieldError struct {
	Field string // "slug", "name", "domain", "store", "meta", "id", "reason"
	Value string // as given
	Rule  string // the rule that it breaks
	err   error
}

// Error names field, value and rule.
func (e *FieldError) Error() string {
	value := e.Value
	if len(value) > 100 {
		value = value[:100] + "…"
	}
	return fmt.Sprintf("tenement: %s %q: %s", e.Field, value, e.Rule)
}

// Is reports whether target is ErrInvalid.
func (e *FieldError) Is(target error) bool { return target == ErrInvalid }

// Unwrap returns the cause, which may be nil.
func (e *FieldError) Unwrap() error { return e.err }

// ConflictError says which name is taken. errors.Is holds for [ErrConflict] and, depending on Field, for
// [ErrSlugTaken], [ErrDomainTaken] or [ErrStoreTaken].
type ConflictError struct {
	Field string // "slug", "domain" or "store"
	Value string // the name
	By    string // the slug of the tenant that has it; may be empty

	nobodys bool // a store that was there, and that no tenant was found to have
}

// Error names what is taken and by whom.
func (e *ConflictError) Error() string {
	if e.By != "" && e.By != e.Value {
		return fmt.Sprintf("tenement: %s %q is taken by tenant %s", e.Field, e.Value, e.By)
	}
	remedy := ""
	if e.nobodys {
		remedy = ": there is one that this registry has no tenant for; adopt it, or set it aside (App.Adopt, App.SetAside)"
	}
	return fmt.Sprintf("tenement: %s %q is taken%s", e.Field, e.Value, remedy)
}

// Unwrap returns the sentinel of the field.
func (e *ConflictError) Unwrap() error {
	switch e.Field {
	case "slug":
		return ErrSlugTaken
	case "domain":
		return ErrDomainTaken
	case "store":
		return ErrStoreTaken
	}
	return ErrConflict
}

// NotActiveError says why a tenant may not be entered. errors.Is(err, [ErrNotActive]) holds for it.
type NotActiveError struct {
	Slug   string
	Status Status // Deleted also stands for a tenant that was purged
	Reason string
}

// Error names the tenant and its state.
func (e *NotActiveError) Error() string {
	if e.Reason != "" && e.Status == Suspended {
		return fmt.Sprintf("tenement: tenant %s is %s: %s", e.Slug, e.Status, e.Reason)
	}
	return fmt.Sprintf("tenement: tenant %s is %s", e.Slug, e.Status)
}

// Is reports whether target is ErrNotActive.
func (e *NotActiveError) Is(target error) bool { return target == ErrNotActive }

// StatusError says that an operation is not possible in a tenant's state. errors.Is(err, [ErrStatus]) holds for it.
type StatusError struct {
	Op     string // "rename", "suspend", …
	Slug   string
	Status Status
	Remedy string // what to do instead
}

// Error names the operation, the tenant, its state and the remedy.
func (e *StatusError) Error() string {
	return fmt.Sprintf("tenement: %s tenant %s: it is %s; %s", e.Op, e.Slug, e.Status, e.Remedy)
}

// Is reports whether target is ErrStatus.
func (e *StatusError) Is(target error) bool { return target == ErrStatus }

// OpError says which operation on which tenant failed. It unwraps to the cause.
type OpError struct {
	Op   string // "create", "rename", …
	Slug string
	Err  error
}

// Error names the operation, the tenant and the cause.
func (e *OpError) Error() string {
	what := "tenement: " + e.Op + " tenant " + e.Slug + ": "
	return what + strings.TrimPrefix(e.Err.Error(), what) // a StatusError says it itself
}

// Unwrap returns the cause.
func (e *OpError) Unwrap() error { return e.Err }

func opError(op, slug string, err error) error {
	if err == nil {
		return nil
	}
	return &OpError{Op: op, Slug: slug, Err: err}
}
