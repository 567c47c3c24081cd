package postgres

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/tenement-go/tenement/backend/driver"
)

// key is under which a text is remembered: where only descriptions are kept, each store has its own.
func (c *conn) key(sql string) statementKey {
	k := statementKey{sql: sql}
	if c.be.mode == pgx.QueryExecModeCacheDescribe {
		k.store = c.unit.rt.Store
	}
	return k
}

// describe has the server parse and describe queries in this store, in one round trip, bound to it as the queries will be.
func (c *conn) describe(ctx context.Context, queries []*query) error {
	w := &c.wire
	if err := w.start(ctx); err != nil {
		return err
	}
	pooled := c.be.pooled.Load()
	var fresh []*query // each text once
	for _, q := range queries {
		if !slices.ContainsFunc(fresh, func(f *query) bool { return f.sql == q.sql }) {
			q.plan = plan{name: c.nameFor(q)}
			if !pooled {
				c.closeDropped(q.plan.name)
			}
			fresh = append(fresh, q)
		}
	}
	one := make([]query, 0, 1)
	if len(queries) == 1 {
		one = append(one, *queries[0])
	}
	c.queueAhead(one)
	for _, q := range fresh {
		if c.mayVary(q) {
			c.queueNames(q.sql)
		}
		name := q.plan.name
		if pooled {
			name = "" // what the pooler has prepared may be stale
		}
		c.fe.SendParse(&pgproto3.Parse{Name: name, Query: q.sql})
		c.fe.SendDescribe(&pgproto3.Describe{ObjectType: 'S', Name: name})
		w.queue(stepPrepare)
		w.size += len(q.sql)
	}
	c.queueCheckBehind(one)
	c.fe.SendSync(&syncAll)
	if err := w.flush(); err != nil {
		return err
	}
	if err := c.readDescriptions(fresh); err != nil {
		w.drain()
		for _, q := range fresh {
			c.statements.drop(q.plan.name) // the Parse may have been executed all the same
		}
		return err
	}
	for _, q := range queries {
		i := slices.IndexFunc(fresh, func(f *query) bool { return f.sql == q.sql })
		q.st, q.plan = fresh[i].st, fresh[i].plan
	}
	return nil
}

// nameFor returns the name that a query is prepared under, or "".
func (c *conn) nameFor(q *query) string {
	switch {
	case !c.named() || c.statements.texts == nil:
		return ""
	case q.st == nil:
		return statementName(q.sql)
	case c.statements.room > 0 && !q.st.varied:
		return variantName(q.sql, c.unit.rt.Store)
	}
	return ""
}

// mayVary reports whether it is to be asked if a text names something shared.
func (c *conn) mayVary(q *query) bool {
	// COMMIT and ROLLBACK name nothing, and may be run where nothing can be asked: in a transaction that has failed.
	if q.st != nil || q.plan.name == "" || c.unit.access == driver.AccessShared || q.traits&control != 0 {
		return false
	}
	varied, known := c.be.varied.get(q.sql)
	q.varied = varied
	return !known
}

// answers remembers which texts name something shared, for a while: each is asked about once, and not on every connection.
type answers struct {
	mu    sync.Mutex
	since time.Time
	m     map[string]bool
}

const (
	answersAge = time.Minute
	maxAnswers = 4096
)

func (a *answers) get(sql string) (varied, known bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	varied, known = a.m[sql]
	return varied, known && time.Since(a.since) < answersAge
}

func (a *answers) put(sql string, varied bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.m) >= maxAnswers || time.Since(a.since) >= answersAge {
		a.m, a.since = make(map[string]bool), time.Now()
	}
	a.m[sql] = varied
}

// forget is for when something shared was made.
func (a *answers) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.m = nil
}

func (c *conn) readDescriptions(queries []*query) error {
	w := &c.wire
	if err := c.answerAhead(); err != nil {
		return err
	}
	var varied, asked bool
	for i := 0; w.open; {
		at := w.at()
		switch w.receive() {
		case eventRow:
			varied, asked = string(w.values[0]) == "t", true
		case eventDone:
			if at != stepPrepare {
				continue
			}
			q := queries[i]
			i++
			st := c.newStatement(&pgconn.StatementDescription{
				Name: q.plan.name, SQL: q.sql, ParamOIDs: w.params, Fields: w.fields,
			}, q.traits)
			if st.varied = q.varied; asked {
				st.varied = varied
				c.be.varied.put(q.sql, varied)
			}
			st.unparsed = st.sd.Name != "" && c.be.pooled.Load()
			w.params, w.fields, asked = nil, nil, false
			c.described(q, st)
		case eventReady:
			if w.err != nil || i < len(queries) {
				return cmp.Or(w.err, errNoAnswer)
			}
		}
	}
	return nil
}

// described remembers what a query means in this store, and plans its execution.
func (c *conn) described(q *query, st *statement) {
	base := q.st
	stale := st.unparsed && c.be.stalePlans.has(q.sql, st.store)
	q.plan = plan{st: st, name: st.sd.Name, parse: st.sd.Name == "" || st.varied || st.unparsed, binary: true}
	switch {
	case base == nil:
		q.st = st
		st.same = c.be.alike.of(st.sd)
		st.same.add(st.store)
		if c.be.mode == pgx.QueryExecModeCacheStatement || c.be.mode == pgx.QueryExecModeCacheDescribe {
			c.statements.put(c.key(q.sql), st)
		}
	case st.sd.Name != "":
		c.statements.putVariant(base, st)
		fallthrough
	default:
		if sameTypes(st.sd, base.sd) {
			base.same.add(st.store)
		}
	}
	if st.varied && base == nil || stale {
		q.plan.name, q.plan.parse = "", true
	}
}

// namesSQL asks whether one of the names in a text is that of something shared that a store could have its own of. What
// extensions made, in the shared store as a rule, is not counted: nobody takes the place of that.
//
// A plan that was made while a name meant the shared one goes on meaning that after the store was given its own, as long
// as search_path is the same. For what was done through this package see renewed.go; this is for what was done past it.
const namesSQL = "select exists(select from pg_catalog.pg_class c where c.relnamespace operator(pg_catalog.=) " + publicOID +
	" and c.relname operator(pg_catalog.=) any($1::pg_catalog.text[]::pg_catalog.name[]))" +
	" or exists(select from pg_catalog.pg_proc p where p.pronamespace operator(pg_catalog.=) " + publicOID +
	" and p.proname operator(pg_catalog.=) any($1::pg_catalog.text[]::pg_catalog.name[])" +
	" and not exists(select from pg_catalog.pg_depend d where d.classid operator(pg_catalog.=) 1255::pg_catalog.oid" +
	" and d.objid operator(pg_catalog.=) p.oid and d.deptype operator(pg_catalog.=) 'e'))" +
	" or exists(select from pg_catalog.pg_type t where t.typnamespace operator(pg_catalog.=) " + publicOID +
	" and t.typname operator(pg_catalog.=) any($1::pg_catalog.text[]::pg_catalog.name[])" +
	" and not exists(select from pg_catalog.pg_depend d where d.classid operator(pg_catalog.=) 1247::pg_catalog.oid" +
	" and d.objid operator(pg_catalog.=) t.oid and d.deptype operator(pg_catalog.=) 'e'))"

const publicOID = "(select n.oid from pg_catalog.pg_namespace n where n.nspname operator(pg_catalog.=) 'public')"

// queueNames asks namesSQL about a text; the answer is a row.
func (c *conn) queueNames(sql string) {
	names, _ := words(sql)
	c.fe.SendParse(&pgproto3.Parse{Query: namesSQL})
	c.fe.SendBind(&pgproto3.Bind{Parameters: [][]byte{textArray(names)}})
	c.fe.SendExecute(&executeAll)
	c.wire.queue(stepOurs)
}

// textArray writes an array of text as Postgres reads it.
func textArray(values []string) []byte {
	b := []byte{'{'}
	for i, v := range values {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		for j := range len(v) {
			if v[j] == '"' || v[j] == '\\' {
				b = append(b, '\\')
			}
			b = append(b, v[j])
		}
		b = append(b, '"')
	}
	return append(b, '}')
}
