package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
	"github.com/tenement-go/tenement/internal/sqltext"
)

// When a store is given its own of something that so far was the shared one's (a table, a sequence, a function, a type),
// plans that were made before go on with the shared one: a plan is bound to what its names meant, and is looked at again
// only when search_path is another than the one it was made under, or when the server sends word that something it
// depends on has changed (plancache.c). A new table is nothing that an old plan depends on, so no word is sent. Neither
// are the plans of functions' bodies in our reach.
//
// So whoever defines something in a store through this package, and with it a name that the shared store has too, sends
// the word in the same transaction. See renewSQL.
//
// What another program defines, or an EXECUTE out of our sight, is noticed for the names in a statement's own text
// (namesSQL), and not for those in the bodies of functions. For that no sound check was found which a statement could
// afford. Measured on Postgres 15, in the server, for each statement:
//
//   - how many objects a schema has (pg_depend): 5 µs for 30 of them, and more with more; a rename does not change it;
//   - the highest OID in pg_class: 11 µs; objects of transactions that commit later have lower ones;
//   - the statistics of pg_class (pg_stat_get_tuples_inserted): 1 µs at most, but they are told up to 10 s late, 60 s under
//     load, each temporary table counts, and on Postgres 14 and before they are read from a file;
//   - a comment on the schema: 72 µs, and the other program would have to change it;
//   - DISCARD PLANS at intervals: every statement of every store is planned anew (25 µs) as often, which random reads over
//     many stores would pay for nearly each; behind a pooler it reaches one server connection of many.
//
// To ask once a second for each process costs nothing, but the first statement after a pause would go by the old plan.

// renewSQL makes every connection of every process, behind poolers too, plan anew what it has planned. The row of a schema
// in pg_namespace is what every plan depends on (PlanCacheSysCallback), and a GRANT writes that row also where it changes
// nothing. Tried on Postgres 15: a table, a sequence (nextval in text and in plpgsql), a function, plpgsql and SQL bodies.
// The lock keeps two of them from writing the row at the same time, which would fail.
func (be *Backend) renewSQL(s backend.Store) string {
	return be.roles.resetSQL() + fmt.Sprintf("select pg_catalog.pg_advisory_xact_lock(%s,%d)%s;", renewSpace, storeKey(s), sqlLook) +
		"grant usage on schema " + quote(s.String()) + " to session_user;"
}

// renewSpace is the first half of the advisory locks for renewSQL.
const renewSpace = "1953394287"

// renew sends the word for what the transaction defined, before it is committed.
func (s *session) renew(ctx context.Context) error {
	c := s.c
	made := s.made
	s.made = s.made[:0]
	if len(made) > 0 && c.unit.access == driver.AccessShared {
		c.be.varied.forget()
	}
	if len(made) == 0 || c.pc.TxStatus() != 'T' || c.unit.access == driver.AccessShared {
		return nil
	}
	ask, always := renewAsk(made)
	if !always {
		hides := false
		err := c.texts(ctx, ask, func(_ int, values [][]byte) { hides = string(values[0]) == "t" })
		if err != nil || !hides {
			return err
		}
	}
	// Deferred triggers run with the rights that the transaction has, and so before these change.
	return c.texts(ctx, "set constraints all immediate;"+c.be.renewSQL(c.unit.rt.Store), nil)
}

// errUnheard: the statement is not what failed.
var errUnheard = errors.New("the statement was executed and committed, but other connections could not be told, and may go on using what is shared under the same name")

// renewAlone sends the word for what statements outside of a transaction defined. They have been committed: when it fails
// the word is still owed.
func (s *session) renewAlone(ctx context.Context) error {
	c := s.c
	switch {
	case len(s.made) == 0 || s.inTx || !c.idle():
		return nil
	case c.unit.access == driver.AccessShared:
		return s.renew(ctx)
	}
	owed := s.made
	err := c.texts(ctx, "begin", nil)
	if err == nil {
		err = s.renew(ctx)
	}
	if err == nil {
		err = c.texts(ctx, "commit", nil)
	}
	if err == nil {
		return nil
	}
	s.made = owed
	if !c.idle() {
		_ = c.rollback(ctx)
	}
	return &backend.Error{Op: "exec", Store: c.unit.rt.Store, Err: fmt.Errorf("%w: %w", errUnheard, err)}
}

// settleMade is renewAlone at the end of a session, for what did not come by exec or could not be told then. It reports
// whether the word is to go by another connection, since this one was lost: perhaps with the answer to what defined.
func (s *session) settleMade() (lost bool) {
	c := s.c
	if len(s.made) == 0 || s.inTx {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), rollbackTimeout)
	defer cancel()
	err := s.renewAlone(ctx)
	if lost = c.pc.IsClosed() && len(s.made) > 0; err != nil && !lost {
		c.be.unheard(c.unit.rt, err)
	}
	return lost
}

// renewElsewhere sends the word that a connection which was lost still owes.
func (be *Backend) renewElsewhere(rt backend.Route) {
	ctx, cancel := context.WithTimeout(context.Background(), rollbackTimeout)
	defer cancel()
	if err := be.upkeep(ctx, "renew", rt, be.renewSQL(rt.Store)); err != nil && !errors.Is(err, backend.ErrStoreMissing) {
		be.unheard(rt, err)
	}
}

func (be *Backend) unheard(rt backend.Route, err error) {
	be.cfg.Logger.Warn("tenement: other connections could not be told of what was made in a store; GRANT USAGE ON SCHEMA … TO CURRENT_USER tells them",
		"store", rt.Store.String(), "reason", err)
}

// renewAsk returns the question whether texts name something that the shared store has; always says that they cannot
// be told.
func renewAsk(texts []string) (sql string, always bool) {
	var all []string
	for _, text := range texts {
		if classify(text)&control != 0 { // CALL
			return "", true
		}
		names, whole := definedNames(text)
		if !whole {
			return "", true
		}
		all = append(all, names...)
	}
	return strings.ReplaceAll(namesSQL, "$1", literal(string(textArray(all)))), false
}

// definedNames is words, with those in the bodies of DO and of functions.
func definedNames(text string) (names []string, whole bool) {
	names, whole = words(text)
	s := sqltext.New(sqltext.Postgres, text)
	for t := s.Next(); t.Kind != sqltext.End; t = s.Next() {
		if body := s.Text(t); t.Kind == sqltext.String && body[0] == '$' {
			tag := strings.IndexByte(body[1:], '$') + 2
			inner, all := words(strings.TrimSuffix(body[tag:], body[:tag]))
			names, whole = append(names, inner...), whole && all
		}
	}
	slices.Sort(names)
	return slices.Compact(names), whole
}
