package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"

	"modernc.org/sqlite"

	"github.com/tenement-go/tenement/backend"
)

// nowhereDSN is a database in memory, a new one for each connection.
const nowhereDSN = "file::memory:?_error_rc=1&_defensive=1"

// QueryNowhere implements [driver.Nowhere]: an empty database of this query's own, which may only be read.
func (b *Backend) QueryNowhere(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if b.isClosed() {
		return nil, backend.ErrClosed
	}
	if err := formatTimes(args); err != nil {
		return nil, err
	}
	r, err := dial(ctx, nowhereDSN)
	if err != nil {
		return nil, err
	}
	if _, err = r.ExecContext(ctx, b.setup+"; PRAGMA query_only=1", nil); err == nil {
		err = r.RegisterAuthorizer(readsOnly)
	}
	var rows driver.Rows
	if err == nil {
		rows, err = r.QueryContext(ctx, query, args)
	}
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return &nowhereRows{rows, r}, nil
}

// readsOnly is the authorizer of nowhere. There is nothing to be changed there; this keeps out ATTACH, VACUUM INTO and
// what else reaches a file.
func readsOnly(action sqlite.AuthorizerActionCode, _, arg2, _, _ string) sqlite.AuthorizerReturnCode {
	switch action {
	case sqlite.AuthSelect, sqlite.AuthRecursive, sqlite.AuthRead:
		return sqlite.AuthorizerOK
	case sqlite.AuthFunction:
		if arg2 != "load_extension" {
			return sqlite.AuthorizerOK
		}
	case sqlite.AuthPragma:
		if arg2 == "" { // it asks
			return sqlite.AuthorizerOK
		}
	}
	return sqlite.AuthorizerDeny
}

// nowhereRows close their connection with themselves.
type nowhereRows struct {
	driver.Rows
	conn raw
}

func (r *nowhereRows) Close() error { return errors.Join(r.Rows.Close(), r.conn.Close()) }
