package migrate

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/sqltext"
)

// One store, alone, through goose: claim it, ask what it has, work on it, and have the ledger know.

// work is what is done in one store.
type work struct {
	// do changes the store. It returns what it applied or undid, also when it failed.
	do func(ctx context.Context, w *workplace) (touched []*migration, failure *StoreError)
	// descent is set when the store loses something, of which those who serve it have to hear before; see descend.
	descent *descent
	// unentered is set when the ledger is not to have the store yet.
	unentered bool
}

// workplace is a store while it is worked on.
type workplace struct {
	m    *Migrator
	set  *set
	rt   backend.Route // zero for the shared store
	db   *sql.DB
	lock backend.Lock
	have state
}

// outcome is what became of a store.
type outcome struct {
	touched []*migration // applied, or undone
	missing bool         // the store is not there
	written bool         // the ledger has what became of it
	ledger  state        // what the ledger said before
	have    state        // afterwards; nil when it could not be read
	failure *StoreError
}

// inStore does some work in one store while no other migrator does any, and corrects the ledger. rt is zero for the shared
// store. Callers hold a slot. An error is one of the ledger, or says that the caller has had enough: what was done stands,
// and the next run will correct the ledger.
func (m *Migrator) inStore(ctx context.Context, s *set, rt backend.Route, do work) (*outcome, error) {
	lock, err := m.lockStore(ctx, rt)
	if err != nil {
		return nil, err
	}
	defer lock.Unlock()
	known, err := m.ledger.entry(ctx, rt.Store.String())
	if err != nil {
		return nil, err
	}
	if do.descent != nil && known != nil { // in the shared store; see descend for the others
		if err := m.ledger.setback(ctx, map[string][]string{"": {rt.Store.String()}}); err != nil {
			return nil, err
		}
		known.fingerprint = ""
	}
	return m.inLocked(ctx, s, rt, lock, known, do)
}

// lockStore excludes other migrators from one store. Callers hold a slot.
func (m *Migrator) lockStore(ctx context.Context, rt backend.Route) (backend.Lock, error) {
	key := "shared"
	if !rt.IsZero() {
		key = "store/" + rt.Store.String()
	}
	lock, err := m.lock(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("tenement: migrate: locking %s: %w", storeTitle(rt), err)
	}
	return lock, nil
}

// inLocked is inStore for those who hold the store's lock, and know the ledger's row; nil is none.
func (m *Migrator) inLocked(ctx context.Context, s *set, rt backend.Route, lock backend.Lock, known *entry, do work) (*outcome, error) {
	w := &workplace{m: m, set: s, rt: rt, db: m.ledger.db, lock: lock}
	if !rt.IsZero() {
		w.db = m.be.Maintenance(rt)
		defer func() { _ = w.db.Close() }()
	}
	out := &outcome{}
	if known != nil && (rt.Owner == "" || known.owner == rt.Owner) { // else it is about an earlier store of the name
		out.ledger = known.state
	}
	// The store is looked at before anything is written about it.
	var err error
	w.have, err = m.readState(ctx, s, w.db, out.ledger)
	switch {
	case errors.Is(err, backend.ErrStoreMissing):
		out.missing = true
		return out, nil
	case err != nil:
		out.failure = storeFailure(err)
	}
	if out.failure == nil {
		out.touched, out.failure = do.do(ctx, w)
	}
	var enough error
	if out.failure != nil {
		out.failure.Store, out.failure.Set = rt.Store, s.kind
		if cause := context.Cause(ctx); cause != nil {
			enough, out.failure = cause, nil
		}
	}
	// What was done is written down even when the caller has had enough.
	ctx, cancel := outlasting(ctx)
	defer cancel()
	if err := m.writeDown(ctx, w, do, known, out); err != nil {
		return out, err
	}
	return out, enough
}

// writeDown makes the ledger say what the store has now. It starts over when another migrator's script wrote the row in
// between; what a script changes, it changes in store and ledger at once.
func (m *Migrator) writeDown(ctx context.Context, w *workplace, do work, known *entry, out *outcome) (err error) {
	rt := w.rt
	for range 10 {
		out.have, err = m.readState(ctx, w.set, w.db, out.ledger.with(out.touched))
		if err == nil {
			out.have.keep(out.ledger, w.set)
		}
		switch {
		case errors.Is(err, backend.ErrStoreMissing):
			out.missing = true
			return nil
		case err != nil:
			if out.have = nil; out.failure == nil {
				out.failure = storeFailure(err)
				out.failure.Store, out.failure.Set = rt.Store, w.set.kind
			}
		}
		if do.unentered {
			return nil
		}
		var done bool
		if known != nil {
			done, err = m.ledger.put(ctx, rt, known, out.have, out.failure)
		} else {
			done, err = m.enter(ctx, rt, out)
		}
		if err != nil {
			return err
		}
		if done || out.missing {
			out.written = done
			m.gate.forget(rt.Store)
			if out.ledger.without(out.have) { // goose alone has undone something
				return m.ledger.lost(ctx)
			}
			return nil
		}
		if known, err = m.ledger.entry(ctx, rt.Store.String()); err != nil {
			return err
		}
	}
	return fmt.Errorf("tenement: migrate: writing the ledger: the row of %s does not stay as it is read", storeTitle(rt))
}

// enter makes the ledger's row of a store that has none. Who drops a store forgets it afterwards: so a store that is there
// after its row was made takes the row along when it goes, and the row of one that is not is removed here.
func (m *Migrator) enter(ctx context.Context, rt backend.Route, out *outcome) (done bool, err error) {
	if rt.IsZero() {
		return m.ledger.add(ctx, rt, out.have, out.failure)
	}
	info, err := m.be.Stat(ctx, rt.Store)
	if err == nil {
		rt.Owner = info.Owner
		if done, err = m.ledger.add(ctx, rt, out.have, out.failure); err != nil || !done {
			return done, err
		}
		_, err = m.be.Stat(ctx, rt.Store)
	}
	if errors.Is(err, backend.ErrStoreMissing) {
		out.missing = true
		if done {
			_, err = m.ledger.remove(ctx, rt, out.have.fingerprint())
			return true, err
		}
		return false, nil
	}
	return done, err
}

func storeFailure(err error) *StoreError { return &StoreError{SQLState: sqltext.State(err), Err: err} }

// insist is inStore, again at growing intervals while the store's tables are locked or its connection is lost.
func (m *Migrator) insist(ctx context.Context, s *set, rt backend.Route, do work) (out *outcome, err error) {
	var done []*migration
	err = m.persist(ctx, func() error {
		out, err = m.inStore(ctx, s, rt, do)
		if out == nil {
			return err
		}
		done = append(done, out.touched...)
		out.touched = done
		if err == nil && out.failure != nil {
			return out.failure
		}
		return err
	})
	var failure *StoreError
	if out != nil && errors.As(err, &failure) && failure == out.failure {
		err = nil
	}
	return out, err
}

// persist calls fn until it succeeds, fails for good, or has failed in passing for too long.
func (m *Migrator) persist(ctx context.Context, fn func() error) error {
	began := time.Now()
	for tries := 1; ; tries++ {
		err := fn()
		if err == nil || !passing(err, m.dialect) || time.Since(began) > m.cfg.LockPatience {
			return err
		}
		m.log.InfoContext(ctx, "trying again", "error", err)
		if pause(ctx, retryPause(tries)) != nil {
			return err
		}
	}
}

// pause waits, or returns why ctx ended.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// writeDownTime is for how long what was done is still being written down after the caller has had enough.
const writeDownTime = 5 * time.Second

// outlasting returns a context that ends writeDownTime after ctx.
func outlasting(ctx context.Context) (context.Context, context.CancelFunc) {
	own, end := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		if pause(own, writeDownTime) == nil {
			end(context.Cause(ctx))
		}
	})
	return own, func() { stop(); end(nil) }
}

func storeTitle(rt backend.Route) string {
	if rt.IsZero() {
		return "the shared store"
	}
	return "store " + rt.Store.String()
}

// readState asks a store which versions it has. Their checksums come from known, what the ledger says, or else from the
// binary's own files.
func (m *Migrator) readState(ctx context.Context, s *set, db Querier, known state) (state, error) {
	have := state{}
	if len(s.sources) == 0 {
		var one int
		return have, db.QueryRowContext(ctx, `SELECT 1`).Scan(&one) // is there a store?
	}
	query := `SELECT name FROM main.sqlite_master WHERE type = 'table' AND name IN (`
	if m.dialect.name == backend.Postgres {
		query = `SELECT relname FROM pg_catalog.pg_class WHERE relkind IN ('r', 'p') AND relnamespace = current_schema()::regnamespace AND relname IN (`
	}
	byTable := map[string]*series{}
	for i, src := range s.sources {
		if i > 0 {
			query += ", "
		}
		query += "'" + src.table + "'"
		byTable[src.table] = src
	}
	rows, err := db.QueryContext(ctx, query+")")
	if err != nil {
		return nil, err
	}
	var selects []string
	for rows.Next() {
		var table string
		if err := rows.Scan(&table); err != nil {
			return nil, errors.Join(err, rows.Close())
		}
		src := byTable[table]
		have[src.name] = []applied{}
		selects = append(selects, fmt.Sprintf(`SELECT '%s' AS source, version_id FROM %s WHERE version_id > 0`, src.name, src.table))
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return nil, err
	}
	if len(selects) == 0 {
		return have, nil
	}
	// DISTINCT, because old releases of goose recorded a version anew each time.
	rows, err = db.QueryContext(ctx, `SELECT DISTINCT source, version_id FROM (`+strings.Join(selects, " UNION ALL ")+`) v ORDER BY source, version_id`)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var name string
		var version int64
		if err := rows.Scan(&name, &version); err != nil {
			return nil, err
		}
		a, ok := known.find(name, version)
		if !ok {
			a = applied{Version: version, Sum: "?"}
			if mig := s.find(name).find(version); mig != nil {
				a = mig.applied()
			}
		}
		have[name] = append(have[name], a)
	}
	return have, rows.Err()
}
