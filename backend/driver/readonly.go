package driver

import (
	"context"
	"database/sql/driver"

	"github.com/tenement-go/tenement/backend"
)

// ReadOnly returns src with every route read-only: what a [backend.Replicator] without copies makes its handle of.
func ReadOnly(src Source) Source { return readOnly{src} }

type readOnly struct{ Source }

var _ driver.NamedValueChecker = readOnly{}

func (r readOnly) Session(ctx context.Context, rt backend.Route, access Access) (Session, error) {
	rt.ReadOnly = true
	return r.Source.Session(ctx, rt, access)
}

// CheckNamedValue leaves it to the source, and to database/sql where that has no opinion.
func (r readOnly) CheckNamedValue(v *driver.NamedValue) error {
	if c, ok := r.Source.(driver.NamedValueChecker); ok {
		return c.CheckNamedValue(v)
	}
	return driver.ErrSkip
}
