package migrate

import (
	"fmt"
	"strings"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/tenement-go/tenement/backend"
)

// dialect is what goose and the ledger need to know of a backend's SQL.
type dialect struct {
	name  backend.Dialect
	goose goose.Dialect
	// begin is what a transaction of goose's has to begin with, or empty: a bound on the wait for locks, behind which the
	// tenant's own statements queue.
	begin string
	// lockTimeout is the bound.
	lockTimeout time.Duration
}

func dialectOf(d backend.Dialect, lockTimeout time.Duration) (dialect, error) {
	lockTimeout = max(lockTimeout, time.Millisecond)
	switch d {
	case backend.SQLite:
		return dialect{name: d, goose: goose.DialectSQLite3, lockTimeout: lockTimeout}, nil
	case backend.Postgres:
		begin := fmt.Sprintf("SET LOCAL lock_timeout = %d;", lockTimeout.Milliseconds())
		return dialect{name: d, goose: goose.DialectPostgres, begin: begin, lockTimeout: lockTimeout}, nil
	}
	return dialect{}, fmt.Errorf("tenement: migrate: backend speaks %q; migrations need %s or %s", d, backend.SQLite, backend.Postgres)
}

// bind rewrites the placeholders of a query from ? to what the dialect has. The query has no other question marks.
func (d dialect) bind(query string) string {
	if d.name != backend.Postgres {
		return query
	}
	var b strings.Builder
	n := 0
	for {
		before, after, found := strings.Cut(query, "?")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		n++
		fmt.Fprintf(&b, "$%d", n)
		query = after
	}
}

// hasTable is a query that says whether the store at hand, and not one that its names also reach, has a table.
func (d dialect) hasTable() string {
	if d.name == backend.Postgres {
		return `SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_class WHERE relkind IN ('r', 'p') AND relnamespace = current_schema()::regnamespace AND relname = $1)`
	}
	return `SELECT EXISTS (SELECT 1 FROM main.sqlite_master WHERE type = 'table' AND name = ?)`
}
