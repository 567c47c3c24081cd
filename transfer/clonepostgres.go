package transfer

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
	"github.com/tenement-go/tenement/internal/sqltext"
)

// onServer makes the store by its migrations, and has the server copy the rows. The role that owns all tenants' tables may
// read the one and write the other.
func (c *cloning) onServer(ctx context.Context, to backend.Route) error {
	if err := c.provision(ctx, to); err != nil {
		return err
	}
	db := c.app.Backend().Maintenance(to)
	defer db.Close()
	if c.masks == nil { // what a mask's expression calls may do anything, and is looked at
		ctx = driver.OwnStatements(ctx)
	}
	// One snapshot for all tables: REPEATABLE READ.
	opt := &sql.TxOptions{Isolation: sql.LevelRepeatableRead}
	return within(ctx, db, opt, func(conn *sql.Conn, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, textSettings); err != nil {
			return err
		}
		if err := c.unmoved(ctx, tx); err != nil {
			return err
		}
		list, err := postgresSchema(ctx, tx, leave(c.sources, nil))
		if err != nil {
			return err
		}
		plans, err := plan(c.list, list, nil)
		if err != nil {
			return err
		}
		w, err := openPostgresWriter(ctx, conn, tx, list, false)
		if err != nil {
			return err
		}
		if err := c.copyRows(ctx, tx, w, plans); err != nil {
			return err
		}
		if err := c.unrewritten(ctx, tx, plans); err != nil {
			return err
		}
		if err := c.setSequences(ctx, tx, w); err != nil {
			return err
		}
		return w.finish(ctx)
	})
}

func (c *cloning) copyRows(ctx context.Context, tx *sql.Tx, w *postgresWriter, plans []*tablePlan) error {
	names := make([]string, len(plans))
	for i, p := range plans {
		names[i] = c.from(p.from.Name)
	}
	large, err := largeTables(ctx, tx, names)
	if err != nil {
		return err
	}
	for i, p := range plans {
		fill := func() error {
			_, err := tx.ExecContext(ctx, c.insertSelect(p))
			return err
		}
		if large[names[i]] {
			err = w.fillLarge(ctx, p.to.Name, fill)
		} else {
			err = fill()
		}
		if err != nil {
			return p.located(err)
		}
	}
	return nil
}

// unmoved fails when the tenant has been migrated since its versions were read: the clone was made at those, and would be
// migrated again over rows that are beyond them.
func (c *cloning) unmoved(ctx context.Context, tx *sql.Tx) error {
	for _, s := range c.sources {
		var known []int64
		for _, v := range s.Versions {
			known = append(known, v.Version)
		}
		var same bool
		err := tx.QueryRowContext(ctx, "SELECT coalesce(array_agg(DISTINCT version_id) FILTER (WHERE version_id > 0), '{}') @> $1::bigint[] AND "+
			"count(DISTINCT version_id) FILTER (WHERE version_id > 0) = cardinality($1::bigint[]) FROM "+c.from(s.Table)+" WHERE is_applied", known).Scan(&same)
		if err != nil {
			return err
		}
		if !same {
			return fmt.Errorf("%w (source %s)", ErrMigrated, s.Source)
		}
	}
	return nil
}

// unrewritten fails when one of the tables was not covered by the snapshot that they were copied by.
func (c *cloning) unrewritten(ctx context.Context, tx *sql.Tx, plans []*tablePlan) error {
	schema, names := c.t.Store.String(), make([]string, len(plans))
	for i, p := range plans {
		names[i] = p.from.Name
	}
	return unrewritten(ctx, tx, &schema, names)
}

func (c *cloning) from(name string) string {
	return sqltext.Quote(c.t.Store.String()) + "." + sqltext.Quote(name)
}

// insertSelect is the statement that copies a table.
func (c *cloning) insertSelect(p *tablePlan) string {
	var columns []Column
	var values []string
	for _, own := range p.columns {
		columns = append(columns, own.to)
		name := p.source[own.at].Name
		expr := "t." + sqltext.Quote(name)
		masked, is := c.masks[p.from.Name][name]
		if is {
			expr = masked
		}
		switch {
		case ownType(own.to.Type):
			expr = "(" + expr + ")::text::" + own.to.Declared // the schema's own type is another type there
		case is:
			expr = "(" + expr + ")::" + own.to.Declared
		}
		values = append(values, expr)
	}
	only := "ONLY "
	if p.from.partitioned {
		only = ""
	}
	return "INSERT INTO " + sqltext.Quote(p.to.Name) + " (" + quoted(columns, "") + ") OVERRIDING SYSTEM VALUE SELECT " + strings.Join(values, ", ") +
		" FROM " + only + c.from(p.from.Name) + " t"
}

// ownType reports whether a type may be made by the schema's migrations.
func ownType(t Type) bool {
	return t.Kind == Enum || t.Kind == Other || t.Kind == Array && ownType(*t.Elem)
}

// setSequences has them stand where they stand there.
func (c *cloning) setSequences(ctx context.Context, tx *sql.Tx, w *postgresWriter) error {
	for _, s := range c.series {
		err := tx.QueryRowContext(ctx, "SELECT last_value, is_called FROM "+c.from(s.Name)).Scan(&s.Last, &s.Called)
		if err == nil {
			err = w.sequence(ctx, s)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
