package postgres

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/tenement-go/tenement/backend"
)

// A pooler that knows prepared statements keeps them itself: it gives one statement of a server connection to all its
// clients that prepare the same text with the same types of parameters, whatever they call it, for as long as that
// connection lasts (PgBouncer since 1.21, prepare.c). Two things follow. What it has prepared may be of another store,
// with the types that the columns have there; and it may be older than a migration, and than this process. So, behind a
// pooler,
//
//   - a text is described without a name, which goes to the server as it is, and then prepared with the types that it was
//     found to have;
//   - what is prepared says in its text which store it is for;
//   - where the server refuses what the pooler has prepared (codeStalePlan), the text goes on without a name in that
//     store: under any other name it would get the same again.

// codeStalePlan is the SQLSTATE of "cached plan must not change result type", among others.
const codeStalePlan = "0A000"

// pooledText returns a text as it is prepared under a name.
func (c *conn) pooledText(name, sql string) string {
	if name == "" || !c.be.pooled.Load() || c.unit.rt.Store.IsZero() {
		return sql
	}
	return sql + "\n/* " + c.unit.rt.Store.String() + " */" // the newline ends a comment
}

// stalePlans are texts that are not prepared in a store because the pooler has a stale plan of them. The zero value is
// ready, and safe for concurrent use.
type stalePlans struct {
	any   atomic.Bool
	mu    sync.RWMutex
	since time.Time
	m     map[statementKey]struct{}
}

const (
	// stalePlansAge is for how long it is remembered: PgBouncer's server_lifetime, unless it is configured.
	stalePlansAge = time.Hour
	maxStalePlans = 4096
)

func (p *stalePlans) has(sql string, store backend.Store) bool {
	if !p.any.Load() {
		return false
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	_, has := p.m[statementKey{sql: sql, store: store}]
	return has && time.Since(p.since) < stalePlansAge
}

func (p *stalePlans) add(sql string, store backend.Store) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.m) >= maxStalePlans || time.Since(p.since) >= stalePlansAge {
		p.m, p.since = make(map[statementKey]struct{}), time.Now()
	}
	p.m[statementKey{sql: sql, store: store}] = struct{}{}
	p.any.Store(true)
}
