package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenement-go/tenement/backend"
)

// settle binds the whole server session to the store, for what cannot run in the transaction that the prefix needs.
// That holds for one unit of work, see [session.do], and the connection is closed when it is given back. Behind a pooler, which would run the next statement on whichever server
// connection is free, it changes nothing and returns errPooled.
func (c *conn) settle(ctx context.Context) error {
	u := &c.unit
	if u.readOnly() {
		// A session can only be read-only by default, which a text may set back before its first query.
		return errAlone
	}
	c.doomed = true
	// A pooler makes up its own process numbers.
	direct := fmt.Sprintf("(pg_catalog.pg_backend_pid() operator(pg_catalog.=) %d)", c.pc.PID())
	// The share of the store that the prefix takes ends with this message. The one that follows it lasts as long as the
	// connection.
	message := c.prefixText("(not "+direct+")") + "select " + direct + ";"
	if u.kind != prefixShared {
		message += fmt.Sprintf("select case when %s then pg_catalog.pg_advisory_lock_shared(%s,%s) end;", direct, storeSpace, u.key)
	}
	is := false
	_, err := c.commands(ctx, stepPrefix, message, func(result int, values [][]byte) {
		switch result {
		case 0:
			c.prefixDone(false, values)
		case 1:
			is = string(values[0]) == "t"
		}
	}, nil)
	switch {
	case err != nil:
		return err
	case !is:
		return errPooled
	}
	c.settled = true
	return nil
}

// errAlone: what would bind a whole session to a read-only tenant could be undone.
var errAlone = fmt.Errorf("%w: what cannot run in a transaction, or may end it, cannot be kept from writing", backend.ErrReadOnly)

var errPooled = errors.New("it cannot run in a transaction, and a pooler stands between us and the server; " +
	"run it over a direct connection to the database")

// settleFault explains why a statement that needs a session of its own did not get one.
func (s *session) settleFault(err, cause error) error {
	var pe *pgconn.PgError
	switch {
	case errors.Is(err, errPooled):
		return &backend.Error{Op: "exec", Store: s.c.unit.rt.Store, Err: fmt.Errorf("%w: %w", cause, err)}
	case errors.As(err, &pe) && refusesStore(pe.Code):
		return s.refusal(missing, "exec", err)
	}
	return s.fault("exec", err)
}
