package migrate

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tenement-go/tenement/backend"
)

// The errors of this package, to be tested for with [errors.Is].
var (
	// ErrBehind: the store has not got all the migrations that this binary carries. Migrate it, then try again.
	ErrBehind = errors.New("store is behind the migrations of this binary")
	// ErrUnentered: the ledger does not have the store. It may be new, or may have another name by now.
	ErrUnentered = errors.New("the ledger does not know what it has")
	// ErrSharedBehind: the shared set is not applied, and the tenant set may need it. Apply the shared set first.
	ErrSharedBehind = errors.New("shared set is behind; apply it first")
	// ErrOutOfOrder: a pending migration has a lower version than one that is applied. Give it a higher number, or
	// allow it with Config.AllowOutOfOrder.
	ErrOutOfOrder = errors.New("migration is out of order")
	// ErrCanary: a canary failed, so the other stores were left alone.
	ErrCanary = errors.New("a canary store failed")
	// ErrStopped: the run stopped after a failure (FailFast, MaxFailures); other stores were left alone.
	ErrStopped = errors.New("stopped after a failure")
	// ErrInvalidIndex: a migration would be recorded as applied whose index is there and cannot be used, because a CREATE
	// INDEX CONCURRENTLY failed. Drop the index, then migrate again.
	ErrInvalidIndex = errors.New("index is invalid")
	// ErrNoDown: a migration is to be undone that does not say how (an SQL file without statements after '-- +goose Down', a
	// Go migration without such a function). Write it, or set DownOptions.Forget; where there is nothing to undo, SELECT 1
	// says so.
	ErrNoDown = errors.New("the migration does not say how it is undone")
	// ErrUnknownSource: the options name a source or a version that the set has not got, or name none where it has several.
	ErrUnknownSource = errors.New("no such source or version")
)

// StoreError is the failure of one store.
type StoreError struct {
	Store     backend.Store // zero for the shared store
	Set       Set
	Source    string // the source of the migration that failed; empty when none was reached
	Version   int64
	File      string // the migration's file; empty for a Go migration without one
	Line      int    // where Statement begins in File; 0 when it is not known
	Statement string // the statement that failed; empty for Go migrations
	SQLState  string // of the database's error; empty on SQLite
	Err       error  // the database's own error is in its chain

	halfDone bool // the migration has no transaction, and something of it has stayed
	noTx     bool // the migration has no transaction: nobody knows what stays of it when the connection is lost
}

// Error names the store, the migration and the cause.
func (e *StoreError) Error() string {
	var b strings.Builder
	b.WriteString("tenement: migrate ")
	if e.Store.IsZero() {
		b.WriteString("shared store")
	} else {
		b.WriteString("store " + e.Store.String())
	}
	if e.Source != "" {
		fmt.Fprintf(&b, ": %s version %d", e.Source, e.Version)
	}
	if e.File != "" {
		fmt.Fprintf(&b, " (%s", e.File)
		if e.Line > 0 {
			fmt.Fprintf(&b, ":%d", e.Line)
		}
		b.WriteByte(')')
	}
	b.WriteString(": " + e.Err.Error())
	return b.String()
}

// Unwrap returns the cause.
func (e *StoreError) Unwrap() error { return e.Err }

// maxFailuresKept bounds the memory of a result. The ledger has the last failure of every store.
const maxFailuresKept = 1000

// Result says what a run did. Its size does not depend on the number of stores.
type Result struct {
	Set        Set           `json:"set"`
	Total      int           `json:"total"`             // stores that had something to do when the run began
	Applied    int           `json:"applied"`           // stores that this run brought to where it was told to
	Skipped    int           `json:"skipped"`           // stores that turned out to be there already: another migrator, or goose
	Missing    int           `json:"missing,omitempty"` // stores of the ledger that were gone when their turn came, and have no other name
	Failed     int           `json:"failed"`            // stores that failed
	Left       int           `json:"left"`              // stores that the run did not come to
	Current    int           `json:"current"`           // stores that had nothing to do when the run began
	Migrations int           `json:"migrations"`        // migrations applied, over all stores
	Elapsed    time.Duration `json:"elapsed_ns"`

	// Failures are the first 1,000.
	Failures []*StoreError `json:"-"`

	// Drift is where the ledger was wrong, in the result of Verify.
	Drift []Drift `json:"drift,omitempty"`

	// Shared is the result of the shared set, in that of Up.
	Shared *Result `json:"shared,omitempty"`
}

// RunError is returned by a run that did not do all it was to do. Its Result says what was done. [errors.Is] and
// [errors.As] see the reason for stopping and the failures of all stores.
type RunError struct {
	Result *Result
	Err    error // why the run stopped early; nil when it went through all stores
}

// Error gives the counts and the first failure.
func (e *RunError) Error() string {
	r := e.Result
	var b strings.Builder
	fmt.Fprintf(&b, "tenement: migrate: %s set: %d applied, %d skipped, %d failed, %d left", r.Set, r.Applied, r.Skipped, r.Failed, r.Left)
	if r.Missing > 0 {
		fmt.Fprintf(&b, ", %d missing", r.Missing)
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	if len(r.Failures) > 0 {
		fmt.Fprintf(&b, "; first failure: %v", r.Failures[0])
	}
	return b.String()
}

// Unwrap returns the reason for stopping and the failures.
func (e *RunError) Unwrap() []error {
	var errs []error
	if e.Err != nil {
		errs = append(errs, e.Err)
	}
	for _, f := range e.Result.Failures {
		errs = append(errs, f)
	}
	return errs
}

// EventKind says what an Event is about.
type EventKind uint8

// The kinds of events.
const (
	EventStarted  EventKind = iota // the run knows how much there is to do
	EventApplied                   // a store was migrated
	EventSkipped                   // a store turned out to need nothing
	EventFailed                    // a store failed; Err says why
	EventRetrying                  // a store's tables were locked; it is put aside and tried again
	EventDone                      // the run is over
	EventMissing                   // a store that the ledger has is gone; an Up says so at its end
)

// String returns the kind in lower case.
func (k EventKind) String() string {
	return [...]string{"started", "applied", "skipped", "failed", "retrying", "done", "missing"}[k]
}

// MarshalText returns what String does.
func (k EventKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Event reports progress.
type Event struct {
	Kind    EventKind
	Set     Set
	Store   backend.Store // zero for the shared store and for the run as a whole
	Done    int           // stores done so far: applied, skipped, missing and failed
	Failed  int           // of which failed
	Total   int           // stores to do
	Elapsed time.Duration // since the run began
	Err     error         // EventFailed: a *StoreError; EventRetrying: why
}
