package sqlite

import (
	"context"
	"database/sql/driver"
	"strings"

	"github.com/tenement-go/tenement/internal/sqltext"
)

// What a migration made of the store's foreign keys is told by counting, before and after, the faults of each: which row is
// at fault cannot be compared, for a table that is rebuilt numbers its rows anew, and one WITHOUT ROWID has no numbers.
//
// A key is told by its table, its columns and the parent (not by SQLite's number of it, which is its place in CREATE TABLE).
// One that is there before and after may not have more faults than before. One that is only there after may be one of
// before under another name: it may have as many as were lost elsewhere, of which nobody can tell that they are not the
// same. So a new fault is let pass only where it replaces an old one of its key, or where a key is new and old faults went.

// keyName tells a foreign key, in lower case.
type keyName struct{ table, parent, columns string }

// faults is what is wrong with a foreign key.
type faults struct {
	table, parent string // as they are written
	n             int
	err           error // why it cannot be checked
}

// tally has all foreign keys of a kind that there are, also those without a fault.
type tally map[keyName]*faults

// worse returns the faults that were not there before, of one key that has any, or nil. n is the number of those.
func worse(before, after tally) *faults {
	gone := 0
	for name, was := range before {
		now := 0
		if f := after[name]; f != nil {
			now = f.n
		}
		gone += max(0, was.n-now)
	}
	var found *faults
	for name, now := range after {
		more := now.n
		if was := before[name]; was != nil {
			more -= was.n
		} else {
			more -= min(gone, now.n)
			gone -= now.n - more
		}
		if more > 0 && (found == nil || now.table < found.table) {
			found = &faults{table: now.table, parent: now.parent, n: more, err: now.err}
		}
	}
	return found
}

// keyRow is a line of keyList.
type keyRow struct {
	id   int64
	name keyName
	as   faults
}

const keyList = `SELECT m.name, f.id, f."table", f."from" FROM main.sqlite_schema AS m, pragma_foreign_key_list(m.name, 'main') AS f
	WHERE m.type = 'table' ORDER BY m.name, f.id, f.seq`

// keysOf lists the foreign keys of the store, those of a table one after the other.
func keysOf(ctx context.Context, r raw) ([]keyRow, error) {
	var all []keyRow
	err := each(ctx, r, keyList, func(row []driver.Value) {
		table, _ := row[0].(string)
		id, _ := row[1].(int64)
		parent, _ := row[2].(string)
		column, _ := row[3].(string)
		if n := len(all); n == 0 || all[n-1].as.table != table || all[n-1].id != id {
			name := keyName{table: strings.ToLower(table), parent: strings.ToLower(parent)}
			all = append(all, keyRow{id: id, name: name, as: faults{table: table, parent: parent}})
		}
		all[len(all)-1].name.columns += strings.ToLower(column) + "\x00"
	})
	return all, err
}

// survey counts what does not hold in the store, as its connection r sees it. A table with a key that refers to columns that
// are not unique cannot be checked, which is a fault of the table's (in unsound), and leaves the others as they are.
func survey(ctx context.Context, r raw) (orphans, unsound tally, err error) {
	rows, err := keysOf(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	orphans, unsound = tally{}, tally{}
	for start := 0; start < len(rows); {
		end := start
		byID := map[int64]*faults{}
		for ; end < len(rows) && rows[end].as.table == rows[start].as.table; end++ {
			k := rows[end]
			if orphans[k.name] == nil {
				orphans[k.name] = &k.as
			}
			byID[k.id] = orphans[k.name]
		}
		table := rows[start].as.table
		state := &faults{table: table}
		unsound[keyName{table: rows[start].name.table}] = state
		err := each(ctx, r, "PRAGMA main.foreign_key_check("+sqltext.Quote(table)+")", func(row []driver.Value) {
			id, _ := row[3].(int64)
			if f := byID[id]; f != nil {
				f.n++
			}
		})
		if err != nil {
			if ctx.Err() != nil || busy(err) {
				return nil, nil, err
			}
			state.n, state.err = 1, err
			for _, f := range byID {
				f.n = 0 // counted until then
			}
		}
		start = end
	}
	return orphans, unsound, nil
}

// checkKeys looks, before the transaction that is open on r is committed, whether all foreign keys hold that held before.
// defined says that the transaction made or altered tables.
func (b *Backend) checkKeys(ctx context.Context, r raw, path string, defined bool) error {
	if defined {
		if err := b.checkParents(ctx, r, path); err != nil {
			return err
		}
	}
	whole := true
	if err := each(ctx, r, "PRAGMA main.foreign_key_check", func([]driver.Value) { whole = false }); err == nil && whole {
		return nil
	}
	orphans, unsound, err := survey(ctx, r)
	if err != nil {
		return err
	}
	// What did not hold before is not this migration's doing, and must not keep all later ones from being applied.
	orphansBefore, unsoundBefore, err := surveyBefore(ctx, path)
	if err != nil {
		return err
	}
	if f := worse(unsoundBefore, unsound); f != nil {
		return f.err
	}
	for name, f := range orphans { // what a table had that could not be checked cannot be told
		if was := unsoundBefore[keyName{table: name.table}]; was != nil && was.n > 0 {
			f.n = 0
		}
	}
	if f := worse(orphansBefore, orphans); f != nil {
		return &ForeignKeyError{Table: f.table, Parent: f.parent, Rows: f.n}
	}
	return nil
}

// surveyBefore is survey of what is committed.
func surveyBefore(ctx context.Context, path string) (orphans, unsound tally, err error) {
	other, err := beside(ctx, path)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = other.Close() }()
	return survey(ctx, other)
}

// beside returns a connection to a store of which the caller has another, in a transaction: it sees what is committed. It does not
// come by the door, where somebody could be who waits for that transaction; the caller's connection holds the file.
func beside(ctx context.Context, path string) (raw, error) { return dial(ctx, dsn(path, "rw")) }

// checkParents refuses new foreign keys to shared tables. Those to tables that are nowhere are SQLite's to judge: the table
// may be made later.
func (b *Backend) checkParents(ctx context.Context, r raw, path string) error {
	after, found, err := b.sharedParents(ctx, r)
	if err != nil || !found {
		return err
	}
	other, err := beside(ctx, path)
	if err != nil {
		return err
	}
	defer func() { _ = other.Close() }()
	before, _, err := b.sharedParents(ctx, other)
	if err != nil {
		return err
	}
	if f := worse(before, after); f != nil {
		return &SharedParentError{Table: f.table, Parent: f.parent}
	}
	return nil
}

// sharedParents has the foreign keys of the store; one to a table that only the shared store has is a fault.
func (b *Backend) sharedParents(ctx context.Context, r raw) (keys tally, found bool, err error) {
	own := map[string]bool{}
	err = each(ctx, r, "SELECT name FROM main.sqlite_schema WHERE type = 'table'", func(row []driver.Value) {
		name, _ := row[0].(string)
		own[strings.ToLower(name)] = true
	})
	if err != nil {
		return nil, false, err
	}
	rows, err := keysOf(ctx, r)
	keys = tally{}
	shared := map[string]bool{}
	for _, k := range rows {
		if err != nil {
			break
		}
		keys[k.name] = &k.as
		parent := k.name.parent
		if own[parent] {
			continue
		}
		if _, asked := shared[parent]; !asked {
			var n int
			err = b.Shared().QueryRowContext(ctx, "SELECT count(*) FROM main.sqlite_schema WHERE type = 'table' AND lower(name) = ?", parent).Scan(&n)
			shared[parent] = n > 0
		}
		if shared[parent] {
			k.as.n, found = 1, true
		}
	}
	return keys, found, err
}
