package postgres

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenement-go/tenement/backend"
)

// remedy is what is done about a failure.
type remedy uint8

const (
	giveUp     remedy = iota
	exchange          // the connection, for another
	distrust          // what is prepared on the server: prepare it again
	reidentify        // the store, by its stamp
	missing           // there is no such store
	cleanfirst        // the connection, in a transaction of its own
	loserole          // the connection has not the role any more: set it in each prefix
	norole            // there is no such role, or it may not use the store
	settle            // bind the whole server session to the store, and run it outside of a transaction
	forget            // what is remembered of the statement, and run it again
)

// failure is how an attempt failed.
type failure struct {
	at     step   // what was not answered as it should be
	code   string // the server's SQLSTATE; "" when there is none
	fatal  bool   // the server ended the session with it
	closed bool   // the connection is gone
	unsent bool   // nothing was sent
	late   bool   // the context is over
	text   bool   // it was a text, ahead of which a cleaning is a message of its own
}

// neverRan reports whether the server executed nothing of the unit of work. Its answers come in order: when it says
// good-bye (57P01: shut down, 57P02: crash, 57P03: cannot serve now) instead of answering the prefix, nothing after that
// was executed. Nor was it behind a cleaning of the same message that the server says has failed. That there was no answer
// says nothing: it may have been lost on its way.
func (f failure) neverRan() bool {
	return f.unsent || f.at == stepClean && f.code != "" && !f.text || f.at <= stepPrefix && f.fatal && len(f.code) == 5 && f.code[:3] == "57P"
}

// knowledge is what a statement was run by.
type knowledge uint8

const (
	knownNot       knowledge = iota // parsed along, or not run at all
	knownHere                       // by what is remembered of it in this store
	knownElsewhere                  // by what is remembered of it in another
)

// standing is what decides, besides the failure, what is done about it.
type standing struct {
	alone   bool // the attempt was all of its unit of work: it can be made again
	inTx    bool // the application's transaction, which it began
	used    bool // the session has run something, and must stay what it is
	settled bool // the session as a whole is bound to the store: what was sent may have committed part of itself (CALL)
	byOID   bool // the store was checked by what is remembered of it
	replica bool // the server may be a standby
	role    bool // a role is assumed
	lost    bool // and the connection is known not to have it
	tidying bool // the message cleaned the connection in its own transaction
	known   knowledge
	// How often each was tried already.
	exchanged, distrusted, reidentified, forgotten, settles int
	maxExchanges                                            int
}

// mend decides what to do about a failure. It is the only place that does.
func mend(f failure, s standing) remedy {
	switch {
	case f.late, !s.alone:
		return giveUp
	case f.closed:
		if f.neverRan() && !s.used && !s.settled && s.exchanged < s.maxExchanges {
			return exchange
		}
		return giveUp
	case f.code == "":
		return giveUp
	case f.at <= stepPrefix, f.at == stepCheck:
		return mendPrefix(f, s)
	case (f.code == "25001" || f.code == "2D000") && !s.inTx && !s.settled:
		return settle // CREATE INDEX CONCURRENTLY, VACUUM, a procedure that commits
	case s.replica && s.forgotten == 0 && vanished(f.code):
		return forget // the prefix will tell
	case s.known != knownNot && !s.settled && s.forgotten < 2 && stale(f.code, s.known):
		return forget
	}
	return giveUp
}

// mendPrefix is mend for what comes ahead of the statement.
func mendPrefix(f failure, s standing) remedy {
	switch {
	case (f.code == "26000" || f.code == "42P05") && s.distrusted == 0:
		// Someone else who uses the connection (DISCARD ALL) took the prepared prefix away, or left one.
		return distrust
	case f.code == codeUntidy && s.tidying:
		return cleanfirst
	case refusesStore(f.code) && s.byOID && s.reidentified == 0:
		// Not the schema that it was: moved by a rename or a restore, or gone. The stamp decides.
		return reidentify
	case refusesStore(f.code):
		return missing
	case f.code == codeFence:
		return giveUp
	case s.role && f.code == codeNotRole && !s.lost:
		return loserole
	case s.role:
		return norole // if that is what it is; see roleFault
	}
	return giveUp
}

// stale reports whether a statement that failed would do better when it is parsed again: because the shape of its result
// (0A000) or the types of its parameters are not what they were when it was described.
func stale(code string, by knowledge) bool {
	switch {
	case code == codeStalePlan, code == "26000", code == "08P01":
		return true
	case code == "42804", code == "42883", code == "42846":
		return true // a column has another type now; the server keeps a parameter's as it was parsed
	case len(code) == 5 && code[:2] == "42" && code != "42501":
		return by == knownElsewhere
	}
	return false
}

// vanished reports whether a statement may have failed because its store went while it ran: its tables were not there any
// more, or their end was replayed and could not wait (a conflict with recovery).
func vanished(code string) bool {
	return code == "40001" || len(code) == 5 && code[:2] == "42" && code != "42501"
}

// refusesStore reports whether an SQLSTATE, known to come from the prefix, says that there is no such store for the route.
func refusesStore(code string) bool {
	return code == codeNoSchema || code == codeNoStore
}

// failed describes an error for mend.
func (c *conn) failed(err error, late bool) failure {
	f := failure{at: c.wire.at(), closed: c.pc.IsClosed(), late: late, text: c.wire.text}
	f.unsent = pgconn.SafeToRetry(err) || len(c.wire.steps) == 0
	var pe *pgconn.PgError
	if errors.As(err, &pe) {
		f.code = pe.Code
		f.fatal = pe.SeverityUnlocalized == "FATAL" || pe.Severity == "FATAL"
	}
	return f
}

// fault dresses an error: the database's own is returned as it is, but for what the contract has a name for; anything
// else says where it happened.
func (s *session) fault(op string, err error) error {
	var (
		pe   *pgconn.PgError
		ours *backend.Error
	)
	switch {
	case errors.As(err, &ours):
		return err
	case errors.As(err, &pe):
		if pe.Code == codeFence && s.c.unit.fence != nil && s.c.wire.at() <= stepPrefix {
			return &backend.Error{Op: op, Store: s.c.unit.rt.Store, Err: backend.ErrLockLost}
		}
		if pe.Code == codeReadOnly && s.c.unit.readOnly() {
			return &backend.Error{Op: op, Store: s.c.unit.rt.Store, Err: fmt.Errorf("%w: %w", backend.ErrReadOnly, err)}
		}
		if s.c.wire.at() == stepCheck && refusesStore(pe.Code) {
			return s.refusal(missing, op, err)
		}
		if pe.Routine == "RevalidateCachedQuery" && pe.Code == codeStalePlan && s.inTx {
			return fmt.Errorf("the store has been migrated since this statement was prepared; roll back and run the transaction again: %w", err)
		}
		if s.c.be.deniedShared(s.c.unit.access, pe) {
			return readOnlyFault(op, s.c.unit.rt.Store, err)
		}
		return err
	}
	return &backend.Error{Op: op, Store: s.c.unit.rt.Store, Err: err}
}
