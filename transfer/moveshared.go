package transfer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/sqltext"
	"github.com/tenement-go/tenement/tenancy"
)

// shared makes the target's shared tables those of the source. A target in which other tenants see them keeps its own.
func (m *move) shared(ctx context.Context) error {
	if m.opt.NoShared {
		return nil
	}
	same := false
	err := m.withShared(ctx, func(here, there *snapshot) (err error) {
		if !sameVersions(here.sources, there.sources) {
			return fmt.Errorf("%w: they are at other versions; migrate the source first (migrate --shared)", ErrSharedDiffer)
		}
		_, same, err = equalRows(ctx, here.reader, there.reader, m.out())
		return err
	})
	if err != nil || same {
		return err
	}
	// From here on with one connection of each pool at a time.
	if used, err := m.inUse(ctx); err != nil || used {
		return errors.Join(err, fmt.Errorf("%w: tenants in the target see other rows in them; leave them out where that is right", ErrSharedDiffer))
	}
	return m.sharedSnapshot(ctx, m.from, func(here *snapshot) error { return m.loadShared(ctx, here) })
}

// sharedStill returns ErrSharedDiffer when the source's shared tables have changed since they were copied.
func (m *move) sharedStill(ctx context.Context) error {
	if m.opt.NoShared {
		return nil
	}
	return m.withShared(ctx, func(here, there *snapshot) error {
		_, same, err := equalRows(ctx, here.reader, there.reader, m.out())
		if err == nil && !same {
			err = fmt.Errorf("%w: they were changed in the source meanwhile; resume the move when nobody changes them", ErrSharedDiffer)
		}
		return err
	})
}

// inUse reports whether the target has tenants.
func (m *move) inUse(ctx context.Context) (bool, error) {
	for _, err := range m.to.Tenants(ctx, tenancy.Filter{}) {
		return true, err
	}
	return false, nil
}

// out are the tables of the shared store that are not moved: goose's, and the library's own.
func (m *move) out() map[string]bool {
	set := leave(nil, m.opt.Without)
	for _, app := range []*tenancy.App{m.from, m.to} {
		for _, name := range app.Migrator().SharedVersionTables() {
			set[name] = true
		}
	}
	return set
}

func (m *move) withShared(ctx context.Context, fn func(here, there *snapshot) error) error {
	return m.sharedSnapshot(ctx, m.from, func(here *snapshot) error {
		return m.sharedSnapshot(ctx, m.to, func(there *snapshot) error { return fn(here, there) })
	})
}

// sharedSnapshot reads a shared store as of one moment.
func (m *move) sharedSnapshot(ctx context.Context, app *tenancy.App, fn func(s *snapshot) error) error {
	opt := &sql.TxOptions{ReadOnly: true}
	if app.Backend().Dialect() == backend.Postgres {
		opt.Isolation = sql.LevelRepeatableRead
	}
	applied, err := app.Migrator().AppliedShared(ctx)
	if err != nil {
		return err
	}
	return within(ctx, app.Shared(), opt, func(conn *sql.Conn, tx *sql.Tx) error {
		s := &snapshot{}
		var err error
		if s.sources, err = applied(ctx, tx); err != nil {
			return err
		}
		out := m.out()
		if app.Backend().Dialect() == backend.Postgres {
			var r *postgresReader
			if r, err = openPostgres(ctx, conn, tx, out); err == nil {
				r.list, r.series = notOwn(r.list, r.series)
				s.reader = r
			}
		} else {
			var r *sqliteReader
			if r, err = openSQLite(ctx, tx, out); err == nil {
				r.list, r.series = notOwn(r.list, r.series)
				s.reader = r
			}
		}
		if err != nil {
			return err
		}
		return s.readBy(ctx, fn)
	})
}

// notOwn leaves out what is the library's.
func notOwn(tables []Table, series []Sequence) ([]Table, []Sequence) {
	return slices.DeleteFunc(tables, func(t Table) bool { return isOwn(t.Name) }),
		slices.DeleteFunc(series, func(s Sequence) bool { return isOwn(s.Table) || isOwn(s.Name) })
}

// loadShared replaces the target's shared rows. On Postgres that fails where a tenant's table refers to them already, that is
// when they are changed between two runs of one move.
func (m *move) loadShared(ctx context.Context, here *snapshot) error {
	var rows int64
	l := m.loads(m.lock.Fence(ctx), here, tenancy.Tenant{}, &rows)
	l.leave = m.out()
	l.shared = true
	err := l.intoDB(m.lock.Fence(ctx), m.to.Backend().Dialect(), m.to.Shared())
	if sqltext.State(err) == "0A000" { // feature_not_supported: TRUNCATE of what is referred to
		return fmt.Errorf("%w: they were changed in the source since tenants that refer to them were copied; remove what was copied "+
			"(the target has no tenants yet), and begin anew: %w", ErrSharedDiffer, err)
	}
	return err
}
