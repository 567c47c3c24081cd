package frameworks

import (
	"context"
	"database/sql"
	"time"

	"github.com/alexedwards/scs/v2"

	"github.com/tenement-go/tenement/tenancy"
)

// sessions is the scs.CtxStore of all tenants. open is one of scs's own stores: postgresstore, sqlite3store.
type sessions struct {
	app  *tenancy.App
	open func(*sql.DB) scs.Store
}

func (s sessions) in(ctx context.Context, do func(scs.Store) error) error {
	t, ok := tenancy.From(ctx)
	if !ok {
		return tenancy.ErrNoTenant
	}
	db := s.app.Backend().DBFor(t.Route()) // costs no connection; who asked for it closes it
	defer db.Close()
	return do(s.open(db))
}

func (s sessions) FindCtx(ctx context.Context, token string) (b []byte, found bool, err error) {
	err = s.in(ctx, func(store scs.Store) (err error) {
		b, found, err = store.Find(token)
		return err
	})
	return b, found, err
}

func (s sessions) CommitCtx(ctx context.Context, token string, b []byte, expiry time.Time) error {
	return s.in(ctx, func(store scs.Store) error { return store.Commit(token, b, expiry) })
}

func (s sessions) DeleteCtx(ctx context.Context, token string) error {
	return s.in(ctx, func(store scs.Store) error { return store.Delete(token) })
}

// Without a context there is no tenant. scs calls these of a store that has no methods with one.
func (s sessions) Find(string) ([]byte, bool, error)      { return nil, false, tenancy.ErrNoTenant }
func (s sessions) Commit(string, []byte, time.Time) error { return tenancy.ErrNoTenant }
func (s sessions) Delete(string) error                    { return tenancy.ErrNoTenant }

var _ scs.CtxStore = sessions{}
