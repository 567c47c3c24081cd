package placed

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// subscriptions selects those of a place to home, whatever the names of both were when they were made.
const subscriptions = `SELECT s.subname::text FROM pg_subscription s WHERE s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
	AND s.subname ~ '^tenement_[a-z0-9_]*_[0-9a-f]{8}$'`

// subscribe has the published tables copied to a place.
func (s *sharing) subscribe(ctx context.Context, p *place, tables []string) error {
	if _, err := p.open(ctx); err != nil {
		return err
	}
	db, name := p.sharedDB(), s.slot(p.name)
	have, err := texts(ctx, db, `SELECT c.relname::text FROM pg_class c WHERE `+sharedSet)
	if err != nil {
		return err
	}
	if missing := without(tables, have); len(missing) > 0 {
		return fmt.Errorf("it has no table %s: migrate --shared makes what is in the shared set; for others, name the tables that are to be copied", strings.Join(missing, ", "))
	}
	subscribed, err := texts(ctx, db, subscriptions)
	if err != nil {
		return err
	}
	kept, err := s.keepsSlot(ctx, name)
	if err != nil {
		return err
	}
	if kept && slices.Contains(subscribed, name) {
		return s.extend(ctx, db, name, tables)
	}
	if s.opt.From == "" {
		return errors.New("nothing is copied to it yet: say how its server reaches home's database (From)")
	}
	if kept {
		return s.begin(ctx, db, name, tables, subscribed)
	}
	return s.beginAnew(ctx, db, name, tables, subscribed)
}

// beginAnew is begin where the slot has to be made first. The subscription that had it goes before: it would go on with a
// slot of the same name and miss what was written meanwhile, for good if this is killed in between.
func (s *sharing) beginAnew(ctx context.Context, db *sql.DB, name string, tables, old []string) error {
	if slices.Contains(old, name) {
		if err := inTx(ctx, db, func(tx *sql.Tx) error { return unsubscribe(ctx, tx, name) }); err != nil {
			return err
		}
		old = without(old, []string{name})
	}
	if err := s.makeSlot(ctx, name); err != nil {
		return err
	}
	if err := s.begin(ctx, db, name, tables, old); err != nil {
		return errors.Join(err, s.dropSlot(context.WithoutCancel(ctx), name))
	}
	return nil
}

// begin makes a subscription, and removes what is in the way of the copies, in one transaction.
func (s *sharing) begin(ctx context.Context, db *sql.DB, name string, tables, old []string) error {
	return inTx(ctx, db, func(tx *sql.Tx) error {
		for _, was := range old {
			if err := unsubscribe(ctx, tx, was); err != nil {
				return err
			}
		}
		if err := s.clear(ctx, tx, tables); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `CREATE SUBSCRIPTION `+name+` CONNECTION `+literal(s.opt.From)+` PUBLICATION `+publication+` WITH (create_slot = false, slot_name = `+name+`)`)
		return denied(err, "it takes a superuser's log-in, from Postgres 16 on one with GRANT pg_create_subscription and CREATE on the database: run this once with such a URL for the place")
	})
}

// extend takes up the tables that a subscription has not got yet, and enables it.
func (s *sharing) extend(ctx context.Context, db *sql.DB, name string, tables []string) error {
	copied, err := texts(ctx, db, `SELECT c.relname::text FROM pg_subscription_rel r JOIN pg_subscription s ON s.oid = r.srsubid JOIN pg_class c ON c.oid = r.srrelid
		WHERE s.subname = $1 AND s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())`, name)
	if err != nil {
		return err
	}
	const remedy = "the log-in has to own the subscription, or be a superuser"
	more := without(tables, copied)
	if len(more) > 0 {
		if err := inTx(ctx, db, func(tx *sql.Tx) error { return s.clear(ctx, tx, more) }); err != nil {
			return err
		}
	}
	if _, err := db.ExecContext(ctx, `ALTER SUBSCRIPTION `+name+` ENABLE`); err != nil || len(more) == 0 {
		return denied(err, remedy)
	}
	_, err = db.ExecContext(ctx, `ALTER SUBSCRIPTION `+name+` REFRESH PUBLICATION`)
	return denied(err, remedy)
}

// clear sees to it that tables are empty, as the first copy needs them to be.
func (s *sharing) clear(ctx context.Context, tx *sql.Tx, tables []string) error {
	var full []string
	for _, t := range tables {
		var rows bool
		if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT FROM `+table(t)+`)`).Scan(&rows); err != nil {
			return err
		}
		if rows {
			full = append(full, t)
		}
	}
	switch {
	case len(full) == 0:
		return nil
	case !s.opt.Replace:
		return fmt.Errorf("there are rows in %s already: have them replaced by home's (Replace), or remove them", strings.Join(full, ", "))
	}
	for _, t := range full {
		if err := s.removeOthers(ctx, tx, t); err != nil {
			return err
		}
	}
	// Those that home has come back in a moment: what refers to them need not be asked. (Nor would it be able to wait.)
	if _, err := tx.ExecContext(ctx, `SET LOCAL session_replication_role = replica`); err != nil {
		return denied(err, "it takes a superuser's log-in, or GRANT SET ON PARAMETER session_replication_role")
	}
	for _, t := range full {
		if _, err := tx.ExecContext(ctx, `DELETE FROM `+table(t)); err != nil {
			return err
		}
	}
	_, err := tx.ExecContext(ctx, `SET LOCAL session_replication_role = origin`)
	return err
}

// removeOthers deletes the rows that home has not. What refers to them is asked, and does not go with them.
func (s *sharing) removeOthers(ctx context.Context, tx *sql.Tx, t string) error {
	others := ` FROM ` + table(t) + ` WHERE ` + s.rows[t].key + ` NOT IN (SELECT jsonb_array_elements_text($1::text::jsonb))`
	var n int
	var taking bool
	err := tx.QueryRowContext(ctx, `SELECT count(*), EXISTS (SELECT FROM pg_constraint WHERE contype = 'f' AND confrelid = `+literal(table(t))+`::regclass
		AND confdeltype NOT IN ('a', 'r'))`+others, s.rows[t].values).Scan(&n, &taking)
	switch {
	case err != nil || n == 0:
		return err
	case taking:
		return fmt.Errorf("%d rows of %s are not home's, and a foreign key would take what refers to them along (ON DELETE): remove them yourself", n, t)
	}
	_, err = tx.ExecContext(ctx, `DELETE`+others, s.rows[t].values)
	return err
}

// unsubscribe ends the copying to a place.
func (s *sharing) unsubscribe(ctx context.Context, p *place) error {
	if _, err := p.open(ctx); err != nil {
		return err
	}
	db := p.sharedDB()
	names, err := texts(ctx, db, subscriptions)
	if err != nil {
		return err
	}
	return inTx(ctx, db, func(tx *sql.Tx) error {
		for _, name := range names {
			if err := unsubscribe(ctx, tx, name); err != nil {
				return err
			}
		}
		return nil
	})
}

// unsubscribe drops a subscription and not its slot: dropping both would wait for home.
func unsubscribe(ctx context.Context, tx *sql.Tx, name string) error {
	for _, statement := range []string{
		`ALTER SUBSCRIPTION ` + name + ` DISABLE`, `ALTER SUBSCRIPTION ` + name + ` SET (slot_name = NONE)`, `DROP SUBSCRIPTION ` + name,
	} {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return denied(err, "the log-in has to own the subscription, or be a superuser")
		}
	}
	return nil
}

func inTx(ctx context.Context, db *sql.DB, fn func(tx *sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if err := fn(tx); err != nil {
		return err
	}
	return tx.Commit()
}

func without(all, some []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(t string) bool { return slices.Contains(some, t) })
}

// literal returns a text as standard_conforming_strings has it.
func literal(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }
