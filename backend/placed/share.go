package placed

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/sqltext"
)

// Rows of shared tables are kept alike by Postgres' logical replication: a publication at home, and for each other place a
// slot at home and a subscription there. The slot is made apart: made by CREATE SUBSCRIPTION in another database of the same
// server it would wait for that very statement's transaction, for ever.

var _ backend.RowSharer = (*Backend)(nil)

// publication is its name at home.
const publication = "tenement_shared"

// allTables is the publication's comment when it is to have all tables of the shared set.
const allTables = "tenement: all"

// slotLike selects the slots of this home, those for places that are not in the configuration any more included.
const slotLike = `database = current_database() AND slot_name ~ '^tenement_[a-z0-9_]*_[0-9a-f]{8}$'`

// sharedSet selects the tables c of the shared store whose rows are the application's.
var sharedSet = `c.oid = ANY (` + sqltext.InSchema("pg_class", "'public'::regnamespace") + `) AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'
	AND c.relname !~ '^(tenement|goose)_' AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')`

// sharing is one call that sets up or undoes.
type sharing struct {
	b        *Backend
	home     *sql.DB
	database string // home's
	opt      backend.ShareOptions
	rows     map[string]keys // home's, with Replace
}

// keys are the primary keys of a table's rows: an expression, and its values as a JSON array.
type keys struct{ key, values string }

func shareFault(place string, err error) error {
	if err == nil {
		return nil
	}
	return &backend.Error{Op: "share rows with place " + place, Err: err}
}

// sharing refuses where there is no Postgres.
func (b *Backend) sharing(opt backend.ShareOptions) (*sharing, error) {
	if b.closed.Load() {
		return nil, &backend.Error{Op: "share rows", Err: backend.ErrClosed}
	}
	if b.Dialect() != backend.Postgres {
		return nil, &backend.Error{Op: "share rows", Err: fmt.Errorf("it is for Postgres: %w", errors.ErrUnsupported)}
	}
	return &sharing{b: b, home: b.Shared(), opt: opt}, nil
}

// slot is the name of the slot and of the subscription for a place: slots are the server's, whose databases may be homes of
// several applications.
func (s *sharing) slot(place string) string {
	sum := sha256.Sum256([]byte(s.database + "/" + place))
	return "tenement_" + strings.ReplaceAll(place[:min(len(place), 40)], "-", "_") + "_" + hex.EncodeToString(sum[:4])
}

// ShareRows implements [backend.RowSharer]: by logical replication. Home runs with wal_level=logical, and the log-in there owns
// the tables and has REPLICATION; in a place it takes a superuser to subscribe, from Postgres 16 on a member of
// pg_create_subscription who may create in the database. Tables need primary keys. A place that cannot be reached is an
// error, after the others were done.
func (b *Backend) ShareRows(ctx context.Context, opt backend.ShareOptions) error {
	s, err := b.sharing(opt)
	if err != nil {
		return err
	}
	lock, err := b.home.be.(backend.Locker).Lock(ctx, "tenement/share")
	if err != nil {
		return err
	}
	defer lock.Unlock()
	tables, err := s.publish(ctx)
	if err != nil {
		return shareFault(b.places[0].name, err)
	}
	var faults []error
	for _, p := range b.places[1:] {
		faults = append(faults, shareFault(p.name, s.subscribe(ctx, p, tables)))
	}
	return errors.Join(faults...)
}

// publish makes the publication, or adds to it, and returns all of its tables.
func (s *sharing) publish(ctx context.Context) ([]string, error) {
	var level string
	if err := s.home.QueryRowContext(ctx, `SELECT current_setting('wal_level'), current_database()`).Scan(&level, &s.database); err != nil {
		return nil, err
	}
	if level != "logical" {
		return nil, fmt.Errorf("its server runs with wal_level=%s: set wal_level=logical and restart it", level)
	}
	wanted, err := s.wanted(ctx)
	if err != nil {
		return nil, err
	}
	published, err := texts(ctx, s.home, `SELECT tablename::text FROM pg_publication_tables WHERE pubname = $1 AND schemaname = 'public'`, publication)
	if err != nil {
		return nil, err
	}
	var there bool
	if err := s.home.QueryRowContext(ctx, `SELECT EXISTS (SELECT FROM pg_publication WHERE pubname = $1)`, publication).Scan(&there); err != nil {
		return nil, err
	}
	more := without(wanted, published)
	statement := `CREATE PUBLICATION ` + publication + ` FOR TABLE ` + quoted(more) + ` WITH (publish_via_partition_root = true)`
	if there {
		statement = `ALTER PUBLICATION ` + publication + ` ADD TABLE ` + quoted(more)
	}
	if len(more) > 0 {
		if _, err := s.home.ExecContext(ctx, statement); err != nil {
			return nil, denied(err, "the log-in has to own the tables and may have to be granted CREATE on the database")
		}
	}
	if s.opt.Tables == nil {
		// The doctor then expects that of tables which come later.
		if _, err := s.home.ExecContext(ctx, `COMMENT ON PUBLICATION `+publication+` IS '`+allTables+`'`); err != nil {
			return nil, err
		}
	}
	tables := append(published, more...)
	return tables, s.readKeys(ctx, tables)
}

// readKeys reads the keys of home's rows ahead: no connection of home's is waited for while one of a place is held.
func (s *sharing) readKeys(ctx context.Context, tables []string) error {
	s.rows = map[string]keys{}
	for _, t := range tables {
		if !s.opt.Replace {
			break
		}
		var k keys
		err := s.home.QueryRowContext(ctx, `SELECT 'ROW(' || string_agg(quote_ident(a.attname), ',' ORDER BY a.attname) || ')::text' FROM pg_index i
			JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) WHERE i.indisprimary AND i.indrelid = $1::text::regclass`, table(t)).Scan(&k.key)
		if err == nil {
			err = s.home.QueryRowContext(ctx, `SELECT coalesce(jsonb_agg(`+k.key+`), '[]')::text FROM `+table(t)).Scan(&k.values)
		}
		if err != nil {
			return err
		}
		s.rows[t] = k
	}
	return nil
}

// wanted returns the tables that are to be copied. One without a primary key could not be updated at home any more.
func (s *sharing) wanted(ctx context.Context) ([]string, error) {
	all, err := texts(ctx, s.home, `SELECT c.relname::text FROM pg_class c WHERE `+sharedSet+` ORDER BY c.relname`)
	if err != nil {
		return nil, err
	}
	keyless, err := texts(ctx, s.home, `SELECT c.relname::text FROM pg_class c WHERE `+sharedSet+`
		AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary) ORDER BY c.relname`)
	if err != nil {
		return nil, err
	}
	wanted := slices.Clone(s.opt.Tables)
	if wanted == nil {
		wanted = all
	}
	if len(wanted) == 0 {
		return nil, fmt.Errorf("there is no shared table yet: %w", errors.ErrUnsupported)
	}
	for _, t := range wanted {
		switch {
		case !slices.Contains(all, t):
			return nil, fmt.Errorf("%q is no shared table whose rows could be copied; there are %s", t, strings.Join(all, ", "))
		case slices.Contains(keyless, t):
			return nil, fmt.Errorf("the table %s has no primary key, and could not be updated any more: give it one, or name the tables that are to be copied", t)
		}
	}
	return wanted, nil
}

// keepsSlot reports whether home has the slot for a place, and has not given it up.
func (s *sharing) keepsSlot(ctx context.Context, name string) (kept bool, err error) {
	err = s.home.QueryRowContext(ctx, `SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1 AND coalesce(wal_status, '') <> 'lost')`, name).Scan(&kept)
	return kept, err
}

// makeSlot makes the slot for a place, in place of one that home has given up.
func (s *sharing) makeSlot(ctx context.Context, name string) error {
	if err := s.dropSlot(ctx, name); err != nil {
		return err
	}
	_, err := s.home.ExecContext(ctx, `SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, name)
	return denied(err, "the log-in at home needs ALTER ROLE … REPLICATION")
}

// slotPatience is for how long a slot may still be in use after its subscription was dropped.
const slotPatience = 10 * time.Second

// dropSlot drops a slot once whoever used it has gone.
func (s *sharing) dropSlot(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, slotPatience)
	defer cancel()
	for {
		_, err := s.home.ExecContext(ctx, `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1`, name)
		if sqltext.State(err) != "55006" { // object_in_use
			return denied(err, "the log-in at home needs ALTER ROLE … REPLICATION")
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("its slot %s is in use, and home keeps all that is written for it: is the place up, but cannot be reached from here? %w", name, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// UnshareRows implements [backend.RowSharer]. Subscriptions go without a word to home, which may be down.
func (b *Backend) UnshareRows(ctx context.Context) error {
	s, err := b.sharing(backend.ShareOptions{})
	if err != nil {
		return err
	}
	var faults []error
	lock, err := b.home.be.(backend.Locker).Lock(ctx, "tenement/share")
	if err == nil {
		defer lock.Unlock() // without home nobody sets up either
	}
	homeFault := err
	for _, p := range b.places[1:] {
		faults = append(faults, shareFault(p.name, s.unsubscribe(ctx, p)))
	}
	if homeFault == nil {
		homeFault = s.unpublish(ctx)
	}
	return errors.Join(append(faults, shareFault(b.places[0].name, homeFault))...)
}

// unpublish removes slots, for which home would keep all that is written until its disk is full, and the publication.
func (s *sharing) unpublish(ctx context.Context) error {
	slots, err := texts(ctx, s.home, `SELECT slot_name::text FROM pg_replication_slots WHERE `+slotLike)
	if err != nil {
		return err
	}
	var faults []error
	for _, name := range slots {
		faults = append(faults, s.dropSlot(ctx, name))
	}
	_, err = s.home.ExecContext(ctx, `DROP PUBLICATION IF EXISTS `+publication)
	return errors.Join(append(faults, err)...)
}

// texts returns the single column of a query.
func texts(ctx context.Context, db *sql.DB, query string, args ...any) (all []string, err error) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		all = append(all, text)
	}
	return all, rows.Err()
}

// quoted lists shared tables for a statement.
func quoted(tables []string) string {
	names := make([]string, len(tables))
	for i, t := range tables {
		names[i] = table(t)
	}
	return strings.Join(names, ", ")
}

func table(name string) string { return "public." + sqltext.Quote(name) }

// denied adds what to grant to the error of a statement that was not permitted.
func denied(err error, remedy string) error {
	if sqltext.State(err) == "42501" {
		return fmt.Errorf("%s: %w", remedy, err)
	}
	return err
}
