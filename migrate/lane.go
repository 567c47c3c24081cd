package migrate

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/broken"
	"github.com/tenement-go/tenement/internal/sqltext"
)

// lane is how text gets into the stores of one dialect so that ledger and store agree, for one run. It is safe for
// concurrent use.
type lane interface {
	// claim returns what goes ahead of a script that brings a store from one fingerprint to another, with the rights of
	// the log-in: it moves the ledger's row on, or makes the script fail. Empty where a script cannot reach the ledger.
	claim(store backend.Store, from, to string) (head string, args []string)
	// birth returns the same for a script that makes the store.
	birth(rt backend.Route, to string) string
	// refused reports whether a script failed because ledger or store were not at what it was made for. A migration may
	// fail in the same way: whoever sees it looks again.
	refused(err error) bool
	// done notes that a script was committed which took a store from what its row says to another fingerprint.
	done(row entry, to string)
	// settle makes durable what was done, and has the ledger know. Unless all is set, and nobody is at work any more, it may
	// be put off. It returns those rows of which the ledger knows better, or worse: their stores have to be looked at. What
	// an error kept from it is done by the next.
	settle(ctx context.Context, all bool) (missed []entry, err error)
	// workers is how many there are when nobody says.
	workers() int
}

func (m *Migrator) newLane() lane {
	if m.dialect.name == backend.Postgres {
		return &postgresLane{scripts: m.scripts}
	}
	return &sqliteLane{scripts: m.scripts, ledger: m.ledger}
}

// postgresLane writes the ledger's row in the migration's transaction. Whoever comes second waits for the row, no longer
// than the script's lock timeout, and is then refused.
type postgresLane struct {
	scripts backend.ScriptRunner
	async   atomic.Bool // something may not be on disk yet
}

var _ lane = (*postgresLane)(nil)

// notNullViolation is how a script is refused: by the ledger's row, or by the guard of a version table.
const notNullViolation = "23502"

// claimSQL moves on the row of the store $1 when it is at $2; of another one it makes NULL. (A row that is gone refuses
// nothing: then the store is gone, which the script finds itself.)
const claimSQL = `UPDATE public.tenement_ledger SET fingerprint = CASE fingerprint WHEN $2 THEN $3 END, updated_at = $4,
failed_source = '', failed_version = 0, failed_state = '', failed_error = '' WHERE store = $1`

func (*postgresLane) claim(store backend.Store, from, to string) (head string, args []string) {
	if broken.Ledger {
		return "", nil
	}
	return claimSQL, []string{store.String(), from, to, strconv.FormatInt(time.Now().UnixMilli(), 10)}
}

func (*postgresLane) birth(rt backend.Route, to string) string {
	// The row of an earlier store of that name, if one was left, is nobody's any more.
	return fmt.Sprintf(`INSERT INTO public.tenement_ledger (store, owner, fingerprint, updated_at) VALUES ('%s', '%s', '%s', %d)
ON CONFLICT (store) DO UPDATE SET owner = excluded.owner, fingerprint = excluded.fingerprint, updated_at = excluded.updated_at,
failed_source = '', failed_version = 0, failed_state = '', failed_error = '';
`, rt.Store, strings.ReplaceAll(rt.Owner, "'", "''"), to, time.Now().UnixMilli())
}

func (*postgresLane) refused(err error) bool {
	return sqltext.State(err) == notNullViolation
}

func (l *postgresLane) done(entry, string) { l.async.Store(true) }

func (l *postgresLane) settle(ctx context.Context, all bool) ([]entry, error) {
	if !all || !l.async.Swap(false) {
		return nil, nil
	}
	err := flush(ctx, l.scripts)
	if err != nil {
		l.async.Store(true)
	}
	return nil, err
}

func (*postgresLane) workers() int { return 2 }

// sqliteLane corrects the ledger afterwards, many stores at a time: no transaction spans two files. Until then the file is
// the truth, and a script is refused by its guard alone.
type sqliteLane struct {
	scripts backend.ScriptRunner
	ledger  *ledger

	settling sync.Mutex // what somebody else has begun to flush is not durable yet

	mu  sync.Mutex
	due map[move][]entry
	n   int // how many are due
	few int // how many of them could not be settled the last time
}

// move is a change of the ledger.
type move struct{ from, to string }

var _ lane = (*sqliteLane)(nil)

func (*sqliteLane) claim(backend.Store, string, string) (string, []string) { return "", nil }

func (*sqliteLane) birth(backend.Route, string) string { return "" }

func (*sqliteLane) refused(error) bool { return false } // the ledger knows no better; goose asks the file

func (l *sqliteLane) done(row entry, to string) {
	l.owe(move{from: row.fingerprint, to: to}, row)
}

func (l *sqliteLane) owe(change move, rows ...entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.due == nil {
		l.due = map[move][]entry{}
	}
	l.due[change] = append(l.due[change], rows...)
	l.n += len(rows)
}

func (l *sqliteLane) settle(ctx context.Context, all bool) (missed []entry, err error) {
	if !l.settling.TryLock() { // another worker is at it
		return nil, nil
	}
	defer l.settling.Unlock()
	due := l.take(all)
	if len(due) == 0 {
		return nil, nil
	}
	// First the stores, then the ledger: a row that outlived a migration which a power failure undid would be a lie.
	err = flush(ctx, l.scripts)
	for change, rows := range due {
		if err != nil {
			break
		}
		var some []entry
		if some, err = l.ledger.move(ctx, change, rows); err == nil {
			missed = append(missed, some...)
			delete(due, change)
		}
	}
	if err != nil {
		l.putBack(due) // of these, those that were moved are missed the next time, and looked at
	}
	return missed, err
}

// take returns what is due, if it is worth the trouble or all is meant.
func (l *sqliteLane) take(all bool) map[move][]entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !all && l.n < l.few+pageSize {
		return nil
	}
	due := l.due
	l.due, l.n, l.few = nil, 0, 0
	return due
}

// putBack has due again what was taken. It is worth the trouble once there is a page more.
func (l *sqliteLane) putBack(due map[move][]entry) {
	for change, rows := range due {
		l.owe(change, rows...)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.few = l.n
}

func (*sqliteLane) workers() int { return max(runtime.GOMAXPROCS(0), 2) }

func flush(ctx context.Context, scripts backend.ScriptRunner) error {
	if err := scripts.Flush(ctx); err != nil {
		return fmt.Errorf("tenement: migrate: making the migrations durable: %w", err)
	}
	return nil
}
