package driver

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/tenement-go/tenement/backend"
)

// Nowhere is the ability of a [Source] to answer a query from a place where the database's functions and catalogs are and
// no table of anyone's.
type Nowhere interface {
	// QueryNowhere runs one query, which may not change anything. Closing the rows gives back whatever it took. A query
	// that finds nothing there fails; one that reaches a table of anyone's must fail, before it delivers a row.
	QueryNowhere(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error)
}

// NewNowhereHandle returns a Handle as [NewHandle] does, routed, whose queries outside of transactions are answered from
// nowhere when their context names no tenant. Whatever fails there fails with ErrNoTenant.
func NewNowhereHandle(src interface {
	Source
	Nowhere
}, log *slog.Logger,
) *Handle {
	return newHandle(log, func(onClose func()) *sql.DB {
		return openDB(&connector{src: src, nowhere: src, onClose: onClose})
	})
}

// queryNowhere answers a query whose context names no tenant.
func (c *conn) queryNowhere(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	rows, err := c.nowhere.QueryNowhere(ctx, query, args)
	if err != nil {
		return nil, noTenant(err)
	}
	return &nowhereRows{rows}, nil
}

// nowhereRows are rows whose errors say that there was no tenant.
type nowhereRows struct{ driver.Rows }

func (r *nowhereRows) Next(dest []driver.Value) error {
	err := r.Rows.Next(dest)
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return noTenant(err)
}

func noTenant(err error) error {
	return &backend.Error{Op: "query", Err: fmt.Errorf("%w, and from nowhere: %w", backend.ErrNoTenant, err)}
}
