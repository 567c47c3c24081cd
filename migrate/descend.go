package migrate

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/tenement-go/tenement/backend"
)

// What a store loses, those who serve it hear of before. So a run that undoes something goes through the stores in rounds.

const (
	// roundSize is how many stores are in a round: many, since each round waits for the same hearing.
	roundSize = 128
	// roundTime is for how long stores are kept from their visitors while others of the round lose something. What has not
	// had its turn by then is another round's.
	roundTime = 10 * time.Second
	// hearing is how long it takes until every process refuses a store that is to lose something, and those whom it let in
	// just before are mostly done.
	hearing = ReadyBound + ReadyBound/4
)

// turn is a store in a round.
type turn struct {
	task
	lock   backend.Lock
	row    *entry // the ledger's; nil of none
	before string // its fingerprint, when it was set back
	told   bool   // it was set back
	had    bool   // it had its turn: the row was written
}

// descend is a round: the stores are locked, so that no other migrator brings them back meanwhile; those who serve them
// hear of it; and then it is done. Callers hold a slot.
func (f *fleet) descend(ctx context.Context, tasks []task) error {
	// Two rounds, here or in two processes, wait for each other's locks in one order.
	slices.SortFunc(tasks, func(a, b task) int { return compareStores(a.store, b.store) })
	var round []*turn
	defer func() {
		for _, t := range round {
			t.lock.Unlock()
		}
	}()
	for _, t := range tasks {
		lock, err := f.m.lockStore(ctx, t.route())
		if err == nil {
			round = append(round, &turn{task: t, lock: lock})
		} else if err := f.came(ctx, t, nil, err); err != nil {
			return err
		}
	}
	err := f.m.tell(ctx, round, f.work.descent)
	if err == nil {
		err = f.takeTurns(ctx, round)
	}
	return errors.Join(err, f.m.untell(ctx, round))
}

// tell has everybody refuse the stores of a round that, for all that the ledger knows, are about to lose something.
func (m *Migrator) tell(ctx context.Context, round []*turn, d *descent) error {
	byStore := make(map[backend.Store]*turn, len(round))
	names := make([]backend.Store, len(round))
	for i, t := range round {
		byStore[t.store], names[i] = t, t.store
	}
	var rows []entry
	err := m.persist(ctx, func() (err error) {
		rows, err = m.ledger.named(ctx, names)
		return err
	})
	if err != nil {
		return err
	}
	var told []string
	for _, row := range rows {
		t := byStore[row.store]
		t.row = &row
		todo, refused := d.in(row.state)
		if row.state == nil || refused == nil && len(todo) > 0 {
			t.told, t.before = true, row.fingerprint
			told = append(told, row.store.String())
		}
	}
	if len(told) == 0 {
		return nil
	}
	if err := m.persist(ctx, func() error { return m.ledger.setback(ctx, told) }); err != nil {
		return err
	}
	for _, t := range round {
		if t.told {
			t.row.fingerprint = ""
			m.gate.forget(t.store)
		}
	}
	return pause(ctx, hearing)
}

// takeTurns does the work of a run in the stores of a round, one after the other.
func (f *fleet) takeTurns(ctx context.Context, round []*turn) error {
	began := time.Now()
	for _, t := range round {
		switch {
		case f.queue.exhausted():
			return nil
		case context.Cause(ctx) != nil:
			return context.Cause(ctx)
		case time.Since(began) > roundTime:
			f.queue.giveBack(t.task)
			continue
		}
		out, err := f.m.inLocked(ctx, f.m.tenant, t.route(), t.lock, t.row, f.work)
		t.had = out != nil && !out.missing
		if err := f.came(ctx, t.task, out, err); err != nil {
			return err
		}
	}
	return nil
}

// untell has the ledger say again what it said, of those in which nothing was undone after all.
func (m *Migrator) untell(ctx context.Context, round []*turn) error {
	ctx, cancel := outlasting(ctx)
	defer cancel()
	as := map[string][]string{}
	for _, t := range round {
		if t.told && !t.had && t.before != "" {
			as[t.before] = append(as[t.before], t.store.String())
		}
	}
	for fingerprint, stores := range as {
		if err := m.persist(ctx, func() error { return m.ledger.unset(ctx, fingerprint, stores) }); err != nil {
			return err
		}
	}
	return nil
}
