package sqlite

import (
	"errors"
	"fmt"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/tenement-go/tenement/backend"
)

// ErrBusy means that the wait for the store's writer, or for a free reader, lasted longer than Config.BusyTimeout on a call whose
// context has no deadline. Usually one goroutine holds a transaction and waits for a call outside of it.
var ErrBusy = fmt.Errorf("%w", backend.ErrBusy)

var errReadOnlyTx = errors.New("the transaction is read-only; begin it without sql.TxOptions.ReadOnly")

// explain turns an error of the driver into one that says what the store, or the caller, has to do with it.
func (s *session) explain(op string, err error) error {
	if err == nil {
		return nil
	}
	var own *backend.Error
	if errors.As(err, &own) {
		return err
	}
	if c := s.c; c != nil {
		why := c.denied
		c.denied = notDenied
		switch why {
		case deniedForGood:
			if c.tenant {
				return s.fail(op, fmt.Errorf("%w, and what could get around that is refused: %w", backend.ErrReadOnlyShared, err))
			}
			return s.fail(op, fmt.Errorf("on the shared handle name the tables to be written unqualified; ATTACH, DETACH and "+
				"settings that reach other stores or the process are refused: %w", err))
		case deniedInReadOnlyTx:
			if s.frozen {
				return s.fail(op, fmt.Errorf("%w: %w", backend.ErrReadOnly, err))
			}
			return s.fail(op, fmt.Errorf("%w: %w", errReadOnlyTx, err))
		case deniedEverywhere:
			return s.fail(op, fmt.Errorf("in a text of several statements say which database is meant: PRAGMA main.wal_checkpoint, "+
				"PRAGMA main.optimize: %w", err))
		case deniedInScript:
			return s.fail(op, fmt.Errorf("a script runs in a transaction already; take its BEGIN, COMMIT or ROLLBACK out: %w", err))
		}
	}
	var locked *logBusyError
	if s.st.fault(err) || errors.As(err, &locked) {
		return s.fail(op, err)
	}
	return err
}

// fault reports whether an error is the store's fault rather than the statement's.
func (st *store) fault(err error) bool {
	if errors.Is(err, backend.ErrStoreMissing) || errors.Is(err, backend.ErrClosed) {
		return true
	}
	switch code(err) & 0xff {
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL,
		sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM:
		return true
	}
	return false
}
