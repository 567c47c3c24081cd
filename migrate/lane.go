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
	// settle makes durable what was done, and has the ledger know. Unless all is set it may be put off. It returns those
	// rows of which the ledger knows better, or worse: their stores have to be looked at.
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
	return nil, flush(ctx, l.scripts)
}

func (*postgresLane) workers() int { return 2 }

// sqliteLane corrects the ledger afterwards, many stores at a time: no transaction spans two files. Until then the file is
// the truth, and a script is refused by its guard alone.
type sqliteLane struct {
	scripts backend.ScriptRunner
	ledger  *ledger

	mu  sync.Mutex
	due map[move][]entry
	n   int
}

// move is a change of the ledger.
type move struct{ from, to string }

var _ lane = (*sqliteLane)(nil)

func (*sqliteLane) claim(backend.Store, string, string) (string, []string) { return "", nil }

func (*sqliteLane) birth(backend.Route, string) string { return "" }

func (*sqliteLane) refused(error) bool { return false } // the ledger knows no better; goose asks the file

func (l *sqliteLane) done(row entry, to string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.due == nil {
		l.due = map[move][]entry{}
	}
	key := move{from: row.fingerprint, to: to}
	l.due[key] = append(l.due[key], row)
	l.n++
}

func (l *sqliteLane) settle(ctx context.Context, all bool) (missed []entry, err error) {
	l.mu.Lock()
	due := l.due
	if l.n == 0 || !all && l.n < pageSize {
		l.mu.Unlock()
		return nil, nil
	}
	l.due, l.n = nil, 0
	l.mu.Unlock()
	// First the stores, then the ledger: a row that outlived a migration which a power failure undid would be a lie.
	if err := flush(ctx, l.scripts); err != nil {
		return nil, err
	}
	for key, rows := range due {
		some, err := l.ledger.move(ctx, key, rows)
		if err != nil {
			return nil, err
		}
		missed = append(missed, some...)
	}
	return missed, nil
}

func (*sqliteLane) workers() int { return max(runtime.GOMAXPROCS(0), 2) }

func flush(ctx context.Context, scripts backend.ScriptRunner) error {
	if err := scripts.Flush(ctx); err != nil {
		return fmt.Errorf("tenement: migrate: making the migrations durable: %w", err)
	}
	return nil
}
