package warm

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrClosed is what waiting on a Keeper that is closed ends with.
var ErrClosed = errors.New("the connections' keeper is closed")

// Pool makes connections of type C and has them when the Keeper does not.
type Pool[C any] interface {
	// Open returns a connection that nobody else uses. It is called from a goroutine of the Keeper's, with the values of
	// the context of a caller of Take where there is one who asked for it just then, and until its own context ends.
	Open(ctx context.Context) (C, error)
	// GiveBack parts with a connection. The pool keeps it for others and for a later Open, or closes it: always when
	// spent is true, the connection has been detached, or is broken.
	GiveBack(c C, spent bool)
	// Detach makes the pool count a connection no longer, so that it can open another in its place. The connection
	// goes on being used, until GiveBack.
	Detach(c C)
}

// Config describes a Keeper.
type Config struct {
	// Slots is the greatest number of connections.
	Slots int
	// Keep is how many of them are kept while they are idle. What is beyond goes back to the pool after each use.
	Keep int
	// Wait is for how long a store waits for its home. With 0 there are no homes: any connection serves any store.
	Wait time.Duration
	// Brief is for how long a home may have been busy and still be waited for.
	Brief time.Duration
	// Few is how many pairs of store and text, by all that [Keeper.Saw] was told lately, are so few that no store needs a
	// home: each connection may see them all. 0: none are. No more than 65,536 are.
	Few int
	// Idle is after which time an idle connection goes back to the pool. 0: never.
	Idle time.Duration
	// ApartIdle is for how long a connection of TakeApart is kept for the next of its kind, where it may be kept.
	ApartIdle time.Duration
}

// Keeper lends connections, one caller at a time, and remembers which has served which store. It is safe for concurrent
// use.
type Keeper[C any] struct {
	pool  Pool[C]
	cfg   Config
	epoch time.Time
	pairs *census
	base  context.Context // of the opening of connections
	stop  context.CancelFunc

	mu    sync.Mutex
	p     *policy
	slots []place[C]
	apart []int // slots of TakeApart that nobody uses; the policy thinks them busy

	retiring    bool  // one at a time
	retireAfter int64 // not tried again before
	retired     uint64
	sweeper     *time.Timer
	sweepAt     int64 // when it is due; 0: it is not running

	alarmer *time.Timer
	alarmed int64 // when it is due; 0: it is not running

	waiters sync.Pool
}

// place is what a slot holds.
type place[C any] struct {
	conn C
	// next takes the place of conn as soon as nobody uses that. Without one, conn just goes.
	next    C
	succeed succession
	loose   bool  // conn is detached
	until   int64 // when a connection of TakeApart is closed, if nobody takes it again
}

const (
	stays succession = iota
	hasSuccessor
	goesWithout
)

// New returns a Keeper of connections of pool. The caller closes it.
func New[C any](pool Pool[C], cfg Config) *Keeper[C] {
	k := &Keeper[C]{
		pool: pool, cfg: cfg, epoch: time.Now(),
		p:     newPolicy(cfg.Slots, cfg.Keep, cfg.Wait, cfg.Brief),
		slots: make([]place[C], cfg.Slots),
	}
	if cfg.Wait <= 0 {
		cfg.Few = 0 // nobody asks
	}
	k.pairs = newCensus(cfg.Few, k.hearFew)
	k.hearFew()
	k.base, k.stop = context.WithCancel(context.Background())
	k.waiters.New = func() any { return newWaiter() }
	return k
}

// Saw says that a pair of store and text, whose hash it gets, has been used by the holder of l. What goes through every
// store uses none of them: its connection serves nobody else.
func (k *Keeper[C]) Saw(l Lease[C], pair uint64) {
	if k.pairs.limit > 0 && !l.apart {
		k.pairs.note(pair)
	}
}

// hearFew has the policy go by the census. It is asked under the lock: who comes last has what it says last.
func (k *Keeper[C]) hearFew() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.p.few = k.pairs.few.Load()
}

func (k *Keeper[C]) now() int64 { return int64(time.Since(k.epoch)) }

// unlock ends what was done under the lock, sees to it that those who wait are reminded, and opens the connections that
// are asked for.
func (k *Keeper[C]) unlock(ctx context.Context) {
	k.setAlarm()
	if len(k.p.opens) == 0 {
		k.mu.Unlock()
		return
	}
	opens := k.p.opens
	k.p.opens = nil
	k.mu.Unlock()
	for _, i := range opens {
		go k.open(ctx, i)
	}
}

// Lease is a connection in the hands of one caller.
type Lease[C any] struct {
	Conn  C
	slot  int
	apart bool
}

func (k *Keeper[C]) lease(i int) Lease[C] { return Lease[C]{Conn: k.slots[i].conn, slot: i} }

// Take lends a connection for work in a store; the empty name is of no store. The caller ends the loan with Give. Take
// returns ErrClosed, or, when there is no connection, the error of an attempt to open one, of which at least one was begun
// since; or that of ctx, joined with the reason why no more connections could be opened meanwhile, where there is one.
func (k *Keeper[C]) Take(ctx context.Context, store string) (Lease[C], error) {
	k.mu.Lock()
	now := k.now()
	if i := k.p.take(now, store); i >= 0 {
		l := k.lease(i)
		k.mu.Unlock()
		return l, nil
	}
	return k.queue(ctx, now, store)
}

// queue waits in line. It is called with the lock, and gives it up.
func (k *Keeper[C]) queue(ctx context.Context, now int64, store string) (Lease[C], error) {
	w := k.waiters.Get().(*waiter)
	k.p.join(now, w, store)
	k.relieve(now)
	k.unlock(ctx)
	if ctx.Done() == nil {
		<-w.ready
		return k.served(w)
	}
	select {
	case <-w.ready:
		return k.served(w)
	case <-ctx.Done():
		return Lease[C]{}, k.leave(ctx, w)
	}
}

// setAlarm has alarm called when somebody is to look again. One timer serves all who wait: to set one for each of them is
// dearer than all else of a wait.
func (k *Keeper[C]) setAlarm() {
	at := k.p.soonest
	if at == 0 || k.alarmed != 0 && k.alarmed <= at || k.p.closed {
		return
	}
	k.alarmed = at
	if d := time.Duration(at - k.now()); k.alarmer == nil {
		k.alarmer = time.AfterFunc(d, k.alarm)
	} else {
		k.alarmer.Reset(d)
	}
}

// alarm has those look again whose time has come.
func (k *Keeper[C]) alarm() {
	k.mu.Lock()
	now := k.now()
	k.alarmed = 0
	k.p.ticks(now)
	k.relieve(now)
	k.unlock(context.Background())
}

// served returns what somebody in line was given.
func (k *Keeper[C]) served(w *waiter) (l Lease[C], err error) {
	if err = w.err; err == nil {
		k.mu.Lock()
		l = k.lease(w.slot)
		k.mu.Unlock()
	}
	k.waiters.Put(w)
	return l, err
}

// leave takes somebody out of the line whose context has ended.
func (k *Keeper[C]) leave(ctx context.Context, w *waiter) error {
	k.mu.Lock()
	refusal := k.p.refusalOf(w)
	i := k.p.leave(k.now(), w)
	k.mu.Unlock()
	if i >= 0 { // at the same moment
		k.Give(Lease[C]{slot: i}, Reuse)
	}
	select {
	case <-w.ready:
	default:
	}
	k.waiters.Put(w)
	if refusal != nil {
		return fmt.Errorf("%w (no more connections can be opened: %w)", ctx.Err(), refusal)
	}
	return ctx.Err()
}

// Hold says that the caller will keep a connection for longer than a statement, as for a transaction: nobody waits for it.
func (k *Keeper[C]) Hold(l Lease[C]) {
	k.mu.Lock()
	k.p.hold(k.now(), l.slot)
	k.unlock(context.Background())
}

// Fate says what becomes of a connection after its use.
type Fate uint8

const (
	// Reuse keeps it for the next.
	Reuse Fate = iota
	// Retire keeps it until it has a successor.
	Retire
	// Return gives it back to the pool, which may find it too old.
	Return
	// Discard closes it.
	Discard
)

// Give ends a loan.
func (k *Keeper[C]) Give(l Lease[C], fate Fate) {
	k.mu.Lock()
	now, i := k.now(), l.slot
	s := &k.slots[i]
	gone, spent, kept := s.conn, fate == Discard, false
	switch {
	case s.succeed == hasSuccessor:
		k.replace(i)
		k.p.release(now, i, true)
		spent = true
	case s.succeed == goesWithout:
		s.succeed, spent = stays, true
		k.p.release(now, i, false)
	case k.p.slots[i].apart:
		if kept = k.keepApart(now, l, fate); !kept {
			spent = true
			k.p.release(now, i, false)
		}
	case fate == Retire && k.cfg.Keep == k.cfg.Slots:
		k.retire(now, i)
		kept = k.p.release(now, i, true)
	default:
		kept = k.p.release(now, i, fate == Reuse)
		if fate == Retire { // from a pool that is not ours alone, whose limit is not to be passed
			spent = true
			k.retired++
		}
	}
	if kept {
		k.sweepIn(now, k.cfg.Idle)
	} else {
		s.loose = false
	}
	k.unlock(context.Background())
	if !kept {
		k.pool.GiveBack(gone, spent)
	}
}

// open opens a connection for a slot.
func (k *Keeper[C]) open(ctx context.Context, i int) {
	c, err := k.connect(ctx)
	k.mu.Lock()
	now, unwanted := k.now(), false
	switch {
	case err != nil:
		k.p.failed(now, i, err)
	case k.p.closed:
		k.p.unreserve(now, i)
		unwanted = true
	default:
		unwanted = !k.install(now, i, c)
	}
	k.unlock(ctx)
	if unwanted {
		k.pool.GiveBack(c, false)
	}
}

// install puts a connection into the slot that it was opened for. It returns false when nobody wants it.
func (k *Keeper[C]) install(now int64, i int, c C) bool {
	k.slots[i].conn = c
	if !k.p.opened(now, i) {
		return true
	}
	if i >= k.cfg.Keep {
		k.p.vacate(now, i)
		return false
	}
	k.sweepIn(now, k.cfg.Idle)
	return true
}

// connect opens a connection for whoever comes first: who asked for it may be gone by then.
func (k *Keeper[C]) connect(ctx context.Context) (C, error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(k.base, cancel)()
	return k.pool.Open(ctx)
}

// sweepIn has sweep called after d, or sooner.
func (k *Keeper[C]) sweepIn(now int64, d time.Duration) {
	if at := now + int64(d); d > 0 && !k.p.closed && (k.sweepAt == 0 || at < k.sweepAt) {
		k.sweepAt = at
		if k.sweeper == nil {
			k.sweeper = time.AfterFunc(d, k.sweep)
		} else {
			k.sweeper.Reset(d)
		}
	}
}

// sweep gives back what has been idle for long.
func (k *Keeper[C]) sweep() {
	var gone, spent []C
	k.mu.Lock()
	now := k.now()
	k.sweepAt = 0
	if k.cfg.Idle > 0 {
		for _, i := range k.p.idleSince(now - int64(k.cfg.Idle)) {
			gone = append(gone, k.slots[i].conn)
			k.slots[i].loose = false
			k.p.vacate(now, i)
		}
		if k.p.idle > 0 {
			k.sweepIn(now, k.cfg.Idle)
		}
	}
	left := k.apart[:0]
	for _, i := range k.apart {
		if s := &k.slots[i]; now >= s.until {
			spent = append(spent, k.part(now, i)...)
		} else {
			left = append(left, i)
			k.sweepIn(now, time.Duration(s.until-now))
		}
	}
	k.apart = left
	k.unlock(context.Background())
	k.giveBack(gone, false)
	k.giveBack(spent, true)
}

func (k *Keeper[C]) giveBack(conns []C, spent bool) {
	for _, c := range conns {
		k.pool.GiveBack(c, spent)
	}
}

// Close ends all waiting with ErrClosed and gives back what is idle. What is lent is given back when its loan ends.
func (k *Keeper[C]) Close() {
	var gone, spent []C
	k.mu.Lock()
	for _, i := range k.p.close(k.now()) {
		gone = append(gone, k.slots[i].conn)
	}
	for _, i := range k.apart {
		spent = append(spent, k.part(k.now(), i)...)
	}
	k.apart = nil
	for i := range k.slots {
		if s := &k.slots[i]; s.succeed == hasSuccessor {
			spent = append(spent, s.next)
			s.succeed = goesWithout
		}
	}
	for _, t := range []*time.Timer{k.sweeper, k.alarmer} {
		if t != nil {
			t.Stop()
		}
	}
	k.mu.Unlock()
	k.stop()
	k.giveBack(gone, false)
	k.giveBack(spent, true)
}
