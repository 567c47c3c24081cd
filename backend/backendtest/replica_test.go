package backendtest

import (
	"context"
	"database/sql"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
)

var _ backend.Replicator = (*model)(nil)

// Replica reads the stores themselves.
func (m *model) Replica() *sql.DB {
	m.state.Lock()
	defer m.state.Unlock()
	if m.reader == nil {
		src := driver.ReadOnly(m)
		if m.faults[replicaWrites] {
			src = m
		}
		m.reader = driver.OpenDB(src, backend.Route{}, driver.AccessTenant)
	}
	return m.reader
}

func (m *model) Position(context.Context) (backend.Position, error) { return "", m.open("position") }
