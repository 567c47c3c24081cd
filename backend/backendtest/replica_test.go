package backendtest

import (
	"context"
	"database/sql"
	sqldriver "database/sql/driver"
	"strings"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
)

var _ backend.Replicator = (*model)(nil)

func (m *model) Replica() *sql.DB {
	m.state.Lock()
	defer m.state.Unlock()
	if m.reader == nil {
		m.reader = driver.OpenDB(modelReader{m}, backend.Route{}, driver.AccessTenant)
	}
	return m.reader
}

func (m *model) Position(context.Context) (backend.Position, error) { return "", m.open("position") }

// modelReader is the model, which only reads but for its fault.
type modelReader struct{ *model }

func (r modelReader) Session(ctx context.Context, rt backend.Route, access driver.Access) (driver.Session, error) {
	s, err := r.model.Session(ctx, rt, access)
	if err != nil || r.faults[replicaWrites] {
		return s, err
	}
	return readingSession{s, rt.Store}, nil
}

type readingSession struct {
	driver.Session
	store backend.Store
}

func (s readingSession) refuse(query string) error {
	if strings.HasPrefix(query, "SELECT") {
		return nil
	}
	return fail("exec", s.store, backend.ErrReadOnly)
}

func (s readingSession) ExecContext(ctx context.Context, query string, args []sqldriver.NamedValue) (sqldriver.Result, error) {
	if err := s.refuse(query); err != nil {
		return nil, err
	}
	return s.Session.ExecContext(ctx, query, args)
}

func (s readingSession) QueryContext(ctx context.Context, query string, args []sqldriver.NamedValue) (sqldriver.Rows, error) {
	if err := s.refuse(query); err != nil {
		return nil, err
	}
	return s.Session.QueryContext(ctx, query, args)
}
