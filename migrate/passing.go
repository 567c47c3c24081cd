package migrate

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"strings"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/sqltext"
)

// passing reports whether a failure may be over when the same is tried again: somebody else held a lock, or the connection
// was lost. A migration without a transaction of which something has stayed is not tried again: it would fail with that.
func passing(err error, d dialect) bool {
	var failure *StoreError
	if errors.As(err, &failure) && failure.halfDone {
		return false
	}
	return locked(err) || lost(err, d) && (failure == nil || !failure.noTx)
}

// locked reports whether a failure was for a lock that somebody else held.
func locked(err error) bool {
	switch sqltext.State(err) {
	case "55P03", // lock_not_available
		"40P01", // deadlock_detected
		"40001": // serialization_failure
		return true
	}
	var sqlite interface{ Code() int }
	if errors.As(err, &sqlite) {
		switch sqlite.Code() & 0xff {
		case 5, 6: // SQLITE_BUSY, SQLITE_LOCKED
			return true
		}
	}
	return errors.Is(err, backend.ErrBusy)
}

// lost reports whether a failure was the loss of the connection, or that there was none to be had.
func lost(err error, d dialect) bool {
	if d.name != backend.Postgres || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	switch code := sqltext.State(err); {
	case strings.HasPrefix(code, "08"), strings.HasPrefix(code, "57P0"), // connection exceptions; shut down, crashed, not up yet
		code == "53300": // too_many_connections
		return true
	case code != "":
		return false
	}
	var network net.Error
	var safe interface{ SafeToRetry() bool }
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, driver.ErrBadConn) ||
		errors.Is(err, backend.ErrOutcomeUnknown) || errors.Is(err, backend.ErrLockLost) || errors.As(err, &network) ||
		errors.As(err, &safe) && safe.SafeToRetry()
}
