package transfer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
	"github.com/tenement-go/tenement/migrate"
)

// load is what is put into a store that its migrations have made.
type load struct {
	from     reader
	dialect  backend.Dialect // of what is read
	leave    map[string]bool // tables that are left alone
	later    bool            // on Postgres the commit does not wait for the disk
	shared   bool            // it is the shared store, in which there are tables of the library's own
	mappings []Mapping
	told     func(Progress)
	planned  func(plans []*tablePlan) // may add to the plans; may be nil
	// arrived sees to it, ahead of the commit, that the target has what was sent; may be nil. It reads in the transaction
	// that has loaded the rows: those that it sees are those that are committed, or none are.
	arrived func(to reader, plans []*tablePlan) error
}

// beforeLoad are the terms on which a store is made that is loaded next: the commit of the load, in the same database, takes
// the store along to the disk.
var beforeLoad = migrate.ProvisionOptions{Async: true}

// closer is a writer that has something to put back.
type closer interface {
	writer
	finish(ctx context.Context) error
}

// into loads all of it in one transaction: the store is as its migrations made it, or whole.
func (l *load) into(ctx context.Context, be backend.Backend, rt backend.Route) error {
	db := be.Maintenance(rt)
	defer db.Close()
	return l.intoDB(driver.OwnStatements(ctx), be.Dialect(), db)
}

func (l *load) intoDB(ctx context.Context, d backend.Dialect, db *sql.DB) error {
	in, put := within, l.intoSQLite
	switch {
	case d == backend.Postgres:
		put = l.intoPostgres
	case l.shared:
		in = withinUnenforced
	}
	return in(ctx, db, nil, func(conn *sql.Conn, tx *sql.Tx) error { return put(ctx, conn, tx) })
}

func (l *load) verify(to reader, plans []*tablePlan) error {
	if l.arrived == nil {
		return nil
	}
	return l.arrived(to, plans)
}

func (l *load) intoSQLite(ctx context.Context, conn *sql.Conn, tx *sql.Tx) error {
	list, err := sqliteSchema(ctx, tx, l.leave)
	if err != nil {
		return err
	}
	list, plans, err := l.plan(list)
	if err != nil {
		return err
	}
	w, err := openSQLiteWriter(ctx, conn, tx, list)
	if err != nil {
		return err
	}
	if err := l.run(ctx, w, plans); err != nil {
		return err
	}
	return l.verify(&sqliteReader{q: tx, schema: "main.", list: list}, plans)
}

func (l *load) intoPostgres(ctx context.Context, conn *sql.Conn, tx *sql.Tx) error {
	settings := textSettings
	if l.later {
		settings += `; SET LOCAL synchronous_commit = off`
	}
	if _, err := tx.ExecContext(ctx, settings); err != nil {
		return err
	}
	list, err := postgresSchema(ctx, tx, l.leave)
	if err != nil {
		return err
	}
	list, plans, err := l.plan(list)
	if err != nil {
		return err
	}
	w, err := openPostgresWriter(ctx, conn, tx, list, l.shared)
	if err != nil {
		return err
	}
	if err := l.run(ctx, w, plans); err != nil {
		return err
	}
	if l.dialect == backend.SQLite {
		if err := w.catchUp(ctx); err != nil {
			return err
		}
	}
	return l.verify(&postgresReader{conn: conn, tx: tx, list: list}, plans)
}

// plan says how the target's tables are filled, those of them that are the application's.
func (l *load) plan(list []Table) (own []Table, plans []*tablePlan, err error) {
	if l.shared {
		list, _ = notOwn(list, nil)
	}
	plans, err = plan(l.from.tables(), list, l.mappings)
	if err == nil && l.planned != nil {
		l.planned(plans)
	}
	return list, plans, err
}

func (l *load) run(ctx context.Context, w closer, plans []*tablePlan) error {
	for _, p := range plans {
		rows, err := l.table(ctx, w, p)
		if err != nil {
			return err
		}
		if l.told != nil {
			l.told(Progress{Table: p.from.Name, Rows: rows})
		}
	}
	for _, s := range l.from.sequences() {
		if err := w.sequence(ctx, s); err != nil {
			return fmt.Errorf("sequence of table %s: %w", s.Table, err)
		}
	}
	if err := w.finish(ctx); err != nil {
		return errors.Join(errors.New("the rows are there, and do not hold together"), err)
	}
	return nil
}

// table moves the rows of a table: those of Postgres to Postgres without looking at them, where they need not change.
func (l *load) table(ctx context.Context, w closer, p *tablePlan) (rows int64, err error) {
	if from, to, piped := l.piped(w, p); piped {
		rows, err := pipe(ctx, from, to, p)
		if err != nil {
			return 0, p.located(err)
		}
		return rows, nil
	}
	sum, err := p.run(ctx, l.from, w)
	if err != nil {
		return 0, err
	}
	return sum.rows, nil
}

func (l *load) piped(w closer, p *tablePlan) (from *postgresReader, to *postgresWriter, ok bool) {
	if from, ok = l.from.(*postgresReader); !ok || !p.unchanged() {
		return nil, nil, false
	}
	to, ok = w.(*postgresWriter)
	return from, to, ok
}
