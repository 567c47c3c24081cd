package migrate

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tenement-go/tenement/backend"
)

// What is written into the ledger.

// publish writes what a fingerprint stands for, so that rows may name it.
func (l *ledger) publish(ctx context.Context, s state) (fingerprint string, err error) {
	fingerprint = s.fingerprint()
	l.mu.Lock()
	known := l.known[fingerprint]
	l.mu.Unlock()
	if known || s == nil {
		return fingerprint, nil
	}
	_, err = l.db.ExecContext(ctx, l.dialect.bind(
		`INSERT INTO tenement_ledger_states (fingerprint, applied, created_at) VALUES (?, ?, ?) ON CONFLICT (fingerprint) DO NOTHING`),
		fingerprint, s.encode(), time.Now().UnixMilli())
	if err != nil {
		return "", fmt.Errorf("tenement: migrate: writing the ledger: %w", err)
	}
	l.mu.Lock()
	l.known[fingerprint] = true
	l.mu.Unlock()
	return fingerprint, nil
}

// put writes one store's row: what is applied and, when failure is set, what failed. It is done only when the row still
// says what it said before, and of whom; false means that another migrator wrote it, or that it is gone.
func (l *ledger) put(ctx context.Context, rt backend.Route, before *entry, s state, failure *StoreError) (done bool, err error) {
	fingerprint, err := l.publish(ctx, s)
	if err != nil {
		return false, err
	}
	source, version, sqlState, text := failure.row()
	res, err := l.db.ExecContext(ctx, l.dialect.bind(`
		UPDATE tenement_ledger SET owner = CASE WHEN CAST(? AS TEXT) = '' THEN owner ELSE CAST(? AS TEXT) END, fingerprint = ?, updated_at = ?,
			failed_source = ?, failed_version = ?, failed_state = ?, failed_error = ?
		WHERE store = ? AND owner = ? AND fingerprint = ?`),
		rt.Owner, rt.Owner, fingerprint, time.Now().UnixMilli(), source, version, sqlState, text, rt.Store.String(), before.owner, before.fingerprint)
	return affected(res, err)
}

// add makes a store's row. false means that there is one.
func (l *ledger) add(ctx context.Context, rt backend.Route, s state, failure *StoreError) (done bool, err error) {
	fingerprint, err := l.publish(ctx, s)
	if err != nil {
		return false, err
	}
	source, version, sqlState, text := failure.row()
	res, err := l.db.ExecContext(ctx, l.dialect.bind(`
		INSERT INTO tenement_ledger (store, owner, fingerprint, updated_at, failed_source, failed_version, failed_state, failed_error)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (store) DO NOTHING`),
		rt.Store.String(), rt.Owner, fingerprint, time.Now().UnixMilli(), source, version, sqlState, text)
	return affected(res, err)
}

// replace writes the row of a store that was just made, whose state is published. That of an earlier store of the name, if
// one was left, is nobody's any more.
func (l *ledger) replace(ctx context.Context, tx Execer, rt backend.Route, s state) error {
	_, err := tx.ExecContext(ctx, l.dialect.bind(`
		INSERT INTO tenement_ledger (store, owner, fingerprint, updated_at) VALUES (?, ?, ?, ?)
		ON CONFLICT (store) DO UPDATE SET owner = excluded.owner, fingerprint = excluded.fingerprint, updated_at = excluded.updated_at,
			failed_source = '', failed_version = 0, failed_state = '', failed_error = ''`),
		rt.Store.String(), rt.Owner, s.fingerprint(), time.Now().UnixMilli())
	if err != nil {
		return fmt.Errorf("tenement: migrate: writing the ledger: %w", err)
	}
	return nil
}

// remove removes the row of a store that was found to be gone. false means that it says something else by now, or is gone.
func (l *ledger) remove(ctx context.Context, rt backend.Route, fingerprint string) (done bool, err error) {
	res, err := l.db.ExecContext(ctx, l.dialect.bind(`DELETE FROM tenement_ledger WHERE store = ? AND owner = ? AND fingerprint = ?`),
		rt.Store.String(), rt.Owner, fingerprint)
	return affected(res, err)
}

func affected(res sql.Result, err error) (bool, error) {
	var n int64
	if err == nil {
		n, err = res.RowsAffected()
	}
	if err != nil {
		return false, fmt.Errorf("tenement: migrate: writing the ledger: %w", err)
	}
	return n > 0, nil
}

// row returns what the ledger keeps of a failure; nothing of none.
func (e *StoreError) row() (source string, version int64, sqlState, text string) {
	if e == nil {
		return "", 0, "", ""
	}
	text = e.Err.Error()
	return e.Source, e.Version, e.SQLState, strings.ToValidUTF8(strings.ReplaceAll(text[:min(len(text), 2000)], "\x00", ""), "")
}

// lost has the processes that know stores as ready look again.
func (l *ledger) lost(ctx context.Context) error {
	if _, err := l.db.ExecContext(ctx, `UPDATE tenement_ledger_revision SET revision = revision + 1 WHERE id = 1`); err != nil {
		return fmt.Errorf("tenement: migrate: writing the ledger: %w", err)
	}
	return nil
}

// undoing is what a row says in the place of a failure while something is undone in its store: what it says beside that is
// what the store will have, and has at least.
const undoing = "something was being undone in it, and nobody has noted what came of that"

// setback notes, before anything is undone in some stores, what they will have, by its fingerprint, and has the processes
// that know them as ready look again.
func (l *ledger) setback(ctx context.Context, stores map[string][]string) error {
	tx, err := l.db.BeginTx(ctx, nil)
	if err == nil {
		defer func() { _ = tx.Rollback() }()
		for fingerprint, names := range stores {
			_, err = tx.ExecContext(ctx, l.dialect.bind(`UPDATE tenement_ledger SET fingerprint = ?, updated_at = ?,
				failed_error = CASE failed_error WHEN '' THEN CAST(? AS TEXT) ELSE failed_error END
				WHERE store IN (?`+strings.Repeat(", ?", len(names)-1)+`)`),
				append([]any{fingerprint, time.Now().UnixMilli(), undoing}, anys(names)...)...)
			if err != nil {
				break
			}
		}
		if err == nil {
			_, err = tx.ExecContext(ctx, `UPDATE tenement_ledger_revision SET revision = revision + 1 WHERE id = 1`)
		}
		if err == nil {
			err = tx.Commit()
		}
	}
	if err != nil {
		return fmt.Errorf("tenement: migrate: writing the ledger: %w", err)
	}
	return nil
}

// unset takes a setback back.
func (l *ledger) unset(ctx context.Context, change move, stores []string) error {
	_, err := l.db.ExecContext(ctx, l.dialect.bind(`UPDATE tenement_ledger SET fingerprint = ?, updated_at = ?,
		failed_error = CASE failed_error WHEN CAST(? AS TEXT) THEN '' ELSE failed_error END
		WHERE fingerprint = ? AND store IN (?`+strings.Repeat(", ?", len(stores)-1)+`)`),
		append([]any{change.from, time.Now().UnixMilli(), undoing, change.to}, anys(stores)...)...)
	if err != nil {
		return fmt.Errorf("tenement: migrate: writing the ledger: %w", err)
	}
	return nil
}

// revision grows when a store has lost something.
func (l *ledger) revision(ctx context.Context) (revision int64, err error) {
	err = l.db.QueryRowContext(ctx, `SELECT revision FROM tenement_ledger_revision WHERE id = 1`).Scan(&revision)
	return revision, err
}

// move notes that stores which were at one fingerprint are now at another. One whose row was written since it was read,
// be it with the same words, is left alone, and returned.
func (l *ledger) move(ctx context.Context, change move, rows []entry) (missed []entry, err error) {
	for chunk := range slices.Chunk(rows, pageSize) {
		args := []any{change.to, time.Now().UnixMilli(), change.from}
		for _, e := range chunk {
			args = append(args, e.store.String(), e.updated)
		}
		res, err := l.db.ExecContext(ctx, l.dialect.bind(
			`UPDATE tenement_ledger SET fingerprint = ?, updated_at = ?, failed_source = '', failed_version = 0, failed_state = '', failed_error = ''
			WHERE fingerprint = ? AND (store, updated_at) IN (VALUES (?, ?)`+strings.Repeat(", (?, ?)", len(chunk)-1)+`)`), args...)
		var n int64
		if err == nil {
			n, err = res.RowsAffected()
		}
		if err != nil {
			return nil, fmt.Errorf("tenement: migrate: writing the ledger: %w", err)
		}
		if n < int64(len(chunk)) {
			missed = append(missed, chunk...) // which of them is not worth a question: all are looked at
		}
	}
	return missed, nil
}

// Renamed moves the ledger's row of a store that was renamed. A row of the new name, left by a store that is gone, is
// replaced. It does nothing when there is no row of the old name, nor when the stores are not as after that rename: there is
// none of the new name, one of the old, or the row is another owner's. Somebody who was late, and finds what others did since,
// would take a row from its store.
func (m *Migrator) Renamed(ctx context.Context, from, to backend.Store) error {
	if m.parts != nil {
		return m.renamedInPlaces(ctx, from, to)
	}
	if exists, err := m.openLedger(ctx); err != nil || !exists {
		return err
	}
	defer m.gate.forget(from)
	defer m.gate.forget(to)
	for moved := false; !moved; {
		// The row comes before the stores: what these are like is true of it, or it was written since and is looked at again.
		rows, err := m.ledger.named(ctx, []backend.Store{from})
		if err != nil || len(rows) == 0 {
			return err
		}
		is, err := m.isRenamed(ctx, rows[0].route(), to)
		if err == nil && is {
			moved, err = m.ledger.rename(ctx, rows[0], to)
		}
		if err != nil {
			return fmt.Errorf("tenement: migrate: renaming in the ledger: %w", err)
		}
		if !is {
			return nil
		}
	}
	return nil
}

// isRenamed reports whether a store has another name than that of its route.
func (m *Migrator) isRenamed(ctx context.Context, rt backend.Route, to backend.Store) (bool, error) {
	if there, err := m.there(ctx, rt.Store); err != nil || there {
		return false, err
	}
	info, err := m.be.Stat(ctx, to)
	if errors.Is(err, backend.ErrStoreMissing) {
		return false, nil
	}
	return err == nil && (rt.Owner == "" || rt.Owner == info.Owner), err
}

// rename gives a row another name, in the place of whichever has that, unless it was written since it was read: a row that was
// given another name and got its own back was written, too.
func (l *ledger) rename(ctx context.Context, row entry, to backend.Store) (done bool, err error) {
	tx, err := l.db.BeginTx(ctx, nil)
	if err != nil {
		return false, err
	}
	defer func() { _ = tx.Rollback() }()
	args := []any{row.store.String(), row.owner, row.updated}
	_, err = tx.ExecContext(ctx, l.dialect.bind(`DELETE FROM tenement_ledger
		WHERE store = ? AND EXISTS (SELECT 1 FROM tenement_ledger WHERE store = ? AND owner = ? AND updated_at = ?)`),
		append([]any{to.String()}, args...)...)
	if err != nil {
		return false, err
	}
	res, err := tx.ExecContext(ctx, l.dialect.bind(`UPDATE tenement_ledger SET store = ?, updated_at = ?
		WHERE store = ? AND owner = ? AND updated_at = ?`),
		append([]any{to.String(), max(time.Now().UnixMilli(), row.updated+1)}, args...)...)
	if done, err = affected(res, err); err != nil || !done {
		return false, err
	}
	return true, tx.Commit()
}

// there reports whether a store is there.
func (m *Migrator) there(ctx context.Context, s backend.Store) (bool, error) {
	_, err := m.be.Stat(ctx, s)
	if errors.Is(err, backend.ErrStoreMissing) {
		return false, nil
	}
	return err == nil, err
}

// Forget removes the ledger's row of a store that was dropped. It does nothing when there is none, and when there is a
// store of that name: then the row is that store's, though it may have been made after the one that is meant was dropped.
func (m *Migrator) Forget(ctx context.Context, s backend.Store) error {
	if m.parts != nil {
		return m.inLedgers(ctx, s, nil, func(m *Migrator) error { return m.Forget(ctx, s) })
	}
	if exists, err := m.openLedger(ctx); err != nil || !exists {
		return err
	}
	defer m.gate.forget(s)
	for gone := false; !gone; {
		e, err := m.ledger.entry(ctx, s.String())
		if err != nil || e == nil {
			return err
		}
		switch there, err := m.there(ctx, s); {
		case err != nil:
			return fmt.Errorf("tenement: migrate: removing from the ledger: %w", err)
		case there:
			return nil
		}
		// The row of a store that was made since is another one. So is what a migrator, late, notes about the one that is
		// gone: that is looked at again.
		if gone, err = m.ledger.remove(ctx, backend.Route{Store: s, Owner: e.owner}, e.fingerprint); err != nil {
			return err
		}
	}
	return nil
}
