// Package broken removes an invariant from the library, for a storm to show that it would notice: each constant is true
// only under the build tag of its name (`go build -tags tenement_break_check`). See `make storm-broken`.
package broken

// The constants. Where one is false, as in every build without tags, the compiler leaves nothing of it.
const (
	Check  = breakCheck  // the prefix does not ask whether the schema is there
	Stamp  = breakStamp  // whose store it is is not asked
	Queue  = breakQueue  // those who write to a SQLite file do not queue
	Ledger = breakLedger // a migration does not ask whether another migrator was there
)
