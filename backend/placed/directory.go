package placed

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tenement-go/tenement/backend"
)

// directory is the table of home's shared store that says in which place each store is. What is read of it is remembered
// until a place says that it has no such store, and doubted when a place says nothing.
type directory struct {
	db   *sql.DB
	home string

	mu     sync.RWMutex
	known  map[backend.Store]belief
	age    uint64         // grows before something is forgotten
	counts map[string]int // stores in each place, as of counted and what was made since
	when   time.Time
}

// belief is what is remembered of a store.
type belief struct {
	place string
	next  time.Time // it is not doubted before
}

// All the tenants of a place that is down doubt where they are: doubtPause is how long each then leaves home alone, and
// doubtTimeout how long it waits for the answer.
const (
	doubtPause   = time.Second
	doubtTimeout = 2 * time.Second
)

// maxKnown bounds the memory: a store takes a hundred bytes or so.
const maxKnown = 1 << 20

// countFor is how long the counts of stores are good for: they only decide where the next one is made.
const countFor = 2 * time.Second

func dirFault(err error) error {
	if err == nil {
		return nil
	}
	return &backend.Error{Op: "read the directory of places", Err: err}
}

// make makes the table, with a row for each store that home has already.
func (d *directory) make(ctx context.Context, b *Backend) (err error) {
	if _, err = d.db.ExecContext(ctx, `SELECT 1 FROM tenement_places WHERE store = ''`); err == nil {
		return nil
	}
	lock, err := b.home.be.(backend.Locker).Lock(ctx, "tenement/places")
	if err != nil {
		return err
	}
	defer lock.Unlock()
	collation := ""
	if b.Dialect() == backend.Postgres {
		collation = ` COLLATE "C"`
	}
	if _, err = d.db.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS tenement_places (store TEXT`+collation+` PRIMARY KEY, place TEXT NOT NULL)`); err != nil {
		return dirFault(err)
	}
	var stores []backend.Store
	for info, err := range b.home.be.Stores(ctx) {
		if err != nil {
			return err
		}
		stores = append(stores, info.Store)
	}
	for _, s := range stores {
		if _, err := d.enter(ctx, s, d.home); err != nil {
			return err
		}
	}
	return nil
}

// lookUp returns the place of a store; home of one that has no row. It does not ask when it knows.
func (d *directory) lookUp(ctx context.Context, s backend.Store) (string, error) {
	d.mu.RLock()
	known, ok := d.known[s]
	d.mu.RUnlock()
	if ok {
		return known.place, nil
	}
	place, _, err := d.ask(ctx, s)
	return place, err
}

// ask asks home, whatever is remembered.
func (d *directory) ask(ctx context.Context, s backend.Store) (place string, there bool, err error) {
	d.mu.RLock()
	age := d.age
	d.mu.RUnlock()
	err = d.db.QueryRowContext(ctx, `SELECT place FROM tenement_places WHERE store = $1`, s.String()).Scan(&place)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return d.home, false, nil // not remembered: anyone may ask for any name
	case err != nil:
		return "", false, dirFault(err)
	}
	d.remember(s, place, age)
	return place, true, nil
}

// doubt asks home anew about a store that is remembered, unless somebody did a moment ago. What is remembered stays when
// there is no answer, or no row. The question goes on when ctx has ended: where a place does not even refuse, that is over first,
// and the answer is the next caller's.
func (d *directory) doubt(ctx context.Context, s backend.Store) {
	d.mu.Lock()
	known, ok := d.known[s]
	due := ok && !time.Now().Before(known.next)
	if due {
		known.next = time.Now().Add(doubtPause)
		d.known[s] = known
	}
	d.mu.Unlock()
	if !due {
		return
	}
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), doubtTimeout)
		defer cancel()
		_, _, _ = d.ask(ctx, s)
	}()
	select {
	case <-answered:
	case <-ctx.Done():
	}
}

func (d *directory) remember(s backend.Store, place string, age uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.age != age {
		return
	}
	if d.known == nil || len(d.known) >= maxKnown {
		d.known = map[backend.Store]belief{}
	}
	d.known[s] = belief{place, d.known[s].next}
}

// forget drops what is remembered of stores.
func (d *directory) forget(stores ...backend.Store) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.age++
	for _, s := range stores {
		delete(d.known, s)
	}
}

// enter writes where a store is to be, unless there is a row, and returns what the row says. Callers hold the name's lock.
func (d *directory) enter(ctx context.Context, s backend.Store, place string) (string, error) {
	_, err := d.db.ExecContext(ctx, `INSERT INTO tenement_places (store, place) VALUES ($1, $2) ON CONFLICT (store) DO NOTHING`, s.String(), place)
	if err != nil {
		return "", dirFault(err)
	}
	place, _, err = d.ask(ctx, s)
	return place, err
}

// put writes where a store is. Callers hold the name's lock.
func (d *directory) put(ctx context.Context, s backend.Store, place string) error {
	_, err := d.db.ExecContext(ctx, `INSERT INTO tenement_places (store, place) VALUES ($1, $2)
		ON CONFLICT (store) DO UPDATE SET place = excluded.place`, s.String(), place)
	d.forget(s)
	return dirFault(err)
}

// remove removes a store's row. Callers hold the name's lock.
func (d *directory) remove(ctx context.Context, s backend.Store) error {
	_, err := d.db.ExecContext(ctx, `DELETE FROM tenement_places WHERE store = $1`, s.String())
	d.forget(s)
	return dirFault(err)
}

// all reads the whole of it.
func (d *directory) all(ctx context.Context) (map[backend.Store]string, error) {
	rows, err := d.db.QueryContext(ctx, `SELECT store, place FROM tenement_places`)
	if err != nil {
		return nil, dirFault(err)
	}
	defer func() { _ = rows.Close() }()
	all := map[backend.Store]string{}
	for rows.Next() {
		var name, place string
		if err := rows.Scan(&name, &place); err != nil {
			return nil, dirFault(err)
		}
		s, err := backend.ParseStore(name)
		if err != nil {
			return nil, dirFault(err)
		}
		all[s] = place
	}
	return all, dirFault(rows.Err())
}

// fewest returns the place with the fewest stores of those that may be chosen, the first of several.
func (d *directory) fewest(ctx context.Context, places []string) (string, error) {
	if len(places) == 0 {
		return "", fmt.Errorf("no place to make a store in: %w", backend.ErrUnreachable)
	}
	d.mu.RLock()
	fresh := d.counts != nil && time.Since(d.when) < countFor
	d.mu.RUnlock()
	if !fresh {
		if err := d.count(ctx); err != nil {
			return "", err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	chosen := places[0]
	for _, p := range places[1:] {
		if d.counts[p] < d.counts[chosen] {
			chosen = p
		}
	}
	d.counts[chosen]++
	return chosen, nil
}

func (d *directory) count(ctx context.Context) error {
	rows, err := d.db.QueryContext(ctx, `SELECT place, count(*) FROM tenement_places GROUP BY place`)
	if err != nil {
		return dirFault(err)
	}
	defer func() { _ = rows.Close() }()
	counts := map[string]int{}
	for rows.Next() {
		var place string
		var n int
		if err := rows.Scan(&place, &n); err != nil {
			return dirFault(err)
		}
		counts[place] = n
	}
	if err := rows.Err(); err != nil {
		return dirFault(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.counts, d.when = counts, time.Now()
	return nil
}
