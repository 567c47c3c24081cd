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
	lock    backend.Lock
	row     *entry // the ledger's; nil of none
	told    *move  // how it was set back; nil when it was not
	tried   bool   // it had its turn
	written bool   // and the ledger knows what came of it
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
	return errors.Join(err, f.untell(ctx, round))
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
	told := map[string][]string{}
	for _, row := range rows {
		t := byStore[row.store]
		t.row = &row
		todo, refused := d.in(row.state)
		if refused != nil || row.state != nil && len(todo) == 0 {
			continue
		}
		var print string
		err := m.persist(ctx, func() (err error) {
			print, err = m.ledger.publish(ctx, row.state.less(todo))
			return err
		})
		if err != nil {
			return err
		}
		t.told = &move{from: row.fingerprint, to: print}
		told[print] = append(told[print], row.store.String())
	}
	if len(told) == 0 {
		return nil
	}
	if err := m.persist(ctx, func() error { return m.ledger.setback(ctx, told) }); err != nil {
		return err
	}
	for _, t := range round {
		if t.told != nil {
			t.row.fingerprint = t.told.to
			m.gate.forget(t.store)
		}
	}
	return pause(ctx, m.hearing)
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
		t.tried, t.written = true, out.written
		if err := f.came(ctx, t.task, out, err); err != nil {
			return err
		}
	}
	return nil
}

// untell has the ledger say again what it said of those that had no turn. What became of others, and is not written
// down, since they have another name by now for instance, is found out at the end of the run.
func (f *fleet) untell(ctx context.Context, round []*turn) error {
	as := map[move][]string{}
	for _, t := range round {
		switch {
		case t.told == nil, t.written:
		case t.tried:
			f.unsettled.Store(true)
		default:
			as[*t.told] = append(as[*t.told], t.store.String())
		}
	}
	ctx, cancel := outlasting(ctx)
	defer cancel()
	for change, stores := range as {
		if err := f.m.persist(ctx, func() error { return f.m.ledger.unset(ctx, change, stores) }); err != nil {
			f.unsettled.Store(true)
			return err
		}
	}
	return nil
}
