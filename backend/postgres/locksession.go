package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
)

// locks are those of this process: all on one connection. A pooler in transaction mode lends one of its server connections
// to a transaction, for as long as that is open. Were each lock a transaction of its own, a few holders, and those who
// wait for them, would have all the pooler's connections, and none were left for the work under the locks.
type locks struct {
	queues driver.Queues // of all that wait for a key here, only one asks the server for it

	mu      sync.Mutex
	session *lockSession // nil when there is none
	closed  bool
}

// lockIdle is how long a connection without locks is kept for the next one: opening one costs the server a process, which
// is a good part of what making a tenant costs.
const lockIdle = 30 * time.Second

// lockPatience bounds a message to a server that holds locks for us: one that does not answer takes them with it.
const lockPatience = 30 * time.Second

// enter takes the turn of this process at a key.
func (l *locks) enter(ctx context.Context, key string, wait bool) (leave func(), err error) {
	if wait {
		return l.queues.Enter(ctx, key)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	leave, free := l.queues.TryEnter(key)
	if !free {
		return nil, backend.ErrBusy
	}
	return leave, nil
}

// current returns the session, and makes one where there is none. It connects when it is first asked for something.
func (l *locks) current(be *Backend) *lockSession {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.session; s != nil && s.ctx.Err() == nil {
		return s
	}
	s := &lockSession{be: be, locks: l, over: make(chan struct{})}
	s.ctx, s.end = context.WithCancelCause(context.Background())
	l.session = s
	return s
}

// close ends the session as soon as it has no lock; nothing is locked any more.
func (l *locks) close() {
	l.mu.Lock()
	l.closed = true
	s := l.session
	if s == nil || s.held > 0 {
		l.mu.Unlock()
		return
	}
	s.end(backend.ErrClosed)
	s.wake()
	l.mu.Unlock()
	<-s.over
}

// lockSession is a connection that holds locks. They are locks of the session, since some are given up while others are
// held. A transaction is open for as long as there are any, so that a pooler leaves us the server connection: when its
// client goes away inside of a transaction PgBouncer closes that, and the locks are gone (read in its
// disconnect_client). It is another one after each message, and nothing was asked in it yet: CREATE INDEX CONCURRENTLY
// waits until the transactions are over that had a snapshot when it looked (WaitForOlderSnapshots), also where they have
// none any more. Two processes that each asked for a lock while their own index was made waited for each other's locks.
// One goroutine at a time speaks, so that nobody's context cuts a message off; what is asked meanwhile goes into the next
// message together.
type lockSession struct {
	be     *Backend
	locks  *locks
	ctx    context.Context // ends with the session
	end    context.CancelCauseFunc
	over   chan struct{} // closed when the connection is
	worked atomic.Bool   // it has answered

	c    *pgx.Conn // the speaker's, as is what follows
	rest string    // what ends a message after which there are locks
	open bool      // the transaction is

	// The rest is guarded by locks.mu.
	asks     []*lockAsk // to be sent
	sent     []*lockAsk // under way
	since    time.Time  // when they were sent
	held     int
	speaking bool
	expiry   *time.Timer
}

type askKind int

const (
	askTry askKind = iota
	askCheck
	askUnlock
)

// lockAsk is one statement to the session, which returns one row of a boolean.
type lockAsk struct {
	kind askKind
	lock *lock
	left bool          // nobody waits for the answer any more
	done chan struct{} // closed with the answer
	yes  bool
	err  error
}

func (a *lockAsk) sql() string {
	key, proof := formatKey(lockKey(a.lock.key)), fmt.Sprintf("%s,%d", proofSpace, int32(a.lock.proof))
	switch a.kind {
	case askTry: // both or none
		return "select case when not pg_catalog.pg_try_advisory_lock(" + key + ") then false" +
			" when pg_catalog.pg_try_advisory_lock(" + proof + ") then true else not pg_catalog.pg_advisory_unlock(" + key + ") end;"
	case askUnlock: // the proof first
		return "select case when pg_catalog.pg_advisory_unlock(" + proof + ") then pg_catalog.pg_advisory_unlock(" + key + ") end;"
	default:
		return "select true;"
	}
}

// say asks the session for something, and waits for the answer no longer than ctx allows. A lock that it gets after that
// is given up at once, and one that is to be given up still is.
func (s *lockSession) say(ctx context.Context, kind askKind, l *lock) (yes bool, err error) {
	a := &lockAsk{kind: kind, lock: l, done: make(chan struct{})}
	s.locks.mu.Lock()
	if s.ctx.Err() == nil && (kind != askTry || !s.locks.closed) {
		s.asks = append(s.asks, a)
		s.wake()
	} else if err = context.Cause(s.ctx); err == nil {
		err = backend.ErrClosed
	}
	s.locks.mu.Unlock()
	if err != nil {
		return false, err
	}
	select {
	case <-a.done:
		return a.yes, a.err
	case <-ctx.Done():
		return s.leave(ctx, a)
	}
}

var (
	errNoServer = errors.New("the server did not answer; behind a pooler, the processes that hold locks at a time must be fewer than its server connections (pool_size)")

	// errAbandoned is what a session ended of of which nobody wanted anything any more.
	errAbandoned = errors.New("nobody waited for the connection")
)

// leave waits no longer for an answer.
func (s *lockSession) leave(ctx context.Context, a *lockAsk) (yes bool, err error) {
	s.locks.mu.Lock()
	defer s.locks.mu.Unlock()
	select {
	case <-a.done: // at the same moment
		return a.yes, a.err
	default:
	}
	a.left = true
	if s.held > 0 {
		return false, ctx.Err()
	}
	err = ctx.Err()
	if len(s.sent) > 0 && time.Since(s.since) > time.Second {
		err = fmt.Errorf("%w: %w", err, errNoServer)
	}
	// A pooler may let the message wait for long. When nobody waits for it any more, and there is nothing to lose, it ends.
	if !slices.ContainsFunc(slices.Concat(s.sent, s.asks), func(a *lockAsk) bool { return !a.left }) {
		s.end(errAbandoned)
	}
	return false, err
}

// wake starts the speaker. The caller holds locks.mu.
func (s *lockSession) wake() {
	if s.expiry != nil {
		s.expiry.Stop()
	}
	if !s.speaking {
		s.speaking = true
		go s.speak()
	}
}

// speak sends what is asked, message by message, until nothing is.
func (s *lockSession) speak() {
	asks, over := s.next()
	for ; len(asks) > 0; asks, over = s.next() {
		if err := s.message(asks); err != nil {
			s.end(err)
		}
	}
	if !over {
		return
	}
	if s.c != nil {
		closeConn(s.c)
		// Of a message that was cut off pgx goes on to read the answer, for 15 s. Behind a pooler it may not have begun by
		// then, and would take the locks still.
		_ = s.c.PgConn().Conn().Close()
	}
	close(s.over)
}

// next takes what is asked. Where that is nothing nobody speaks any more, and the session rests; when it is over, all are
// told, and nobody ever speaks again.
func (s *lockSession) next() (asks []*lockAsk, over bool) {
	s.locks.mu.Lock()
	defer s.locks.mu.Unlock()
	if s.held == 0 && len(s.asks) == 0 && s.locks.closed {
		s.end(backend.ErrClosed)
	}
	if s.ctx.Err() != nil {
		for _, a := range slices.Concat(s.sent, s.asks) {
			a.err = context.Cause(s.ctx)
			close(a.done)
		}
		s.sent, s.asks = nil, nil
		if s.locks.session == s {
			s.locks.session = nil
		}
		return nil, true
	}
	s.sent, s.asks = slices.DeleteFunc(s.asks, func(a *lockAsk) bool { return a.left && a.kind != askUnlock }), nil
	s.since = time.Now()
	if len(s.sent) == 0 {
		s.speaking = false
		if s.held == 0 {
			s.expiry = time.AfterFunc(lockIdle, s.expire)
		}
	}
	return s.sent, false
}

// expire ends a session that nobody has needed for long.
func (s *lockSession) expire() {
	s.locks.mu.Lock()
	defer s.locks.mu.Unlock()
	if !s.speaking && s.held == 0 {
		s.end(errAbandoned)
		s.wake()
	}
}

const (
	lockBeginSQL = "begin isolation level read committed;"
	// The holders may be busy elsewhere for long. SET takes no snapshot (PlannedStmtRequiresSnapshot).
	lockRestSQL = "commit and chain;set local statement_timeout=0;set local idle_in_transaction_session_timeout=0"
	lockEndSQL  = "select pg_catalog.pg_advisory_unlock_all();commit"
)

// message sends what is asked in one message, and hands out the answers. No transaction is open after it when no lock is held.
func (s *lockSession) message(asks []*lockAsk) error {
	s.locks.mu.Lock()
	held := s.held
	s.locks.mu.Unlock()
	ctx, cancel := s.ctx, context.CancelFunc(func() {})
	if held > 0 {
		ctx, cancel = context.WithTimeout(ctx, lockPatience)
	}
	defer cancel()
	if s.c == nil {
		c, err := s.be.connect(ctx)
		if err != nil {
			return err
		}
		s.c, s.rest = c, lockRestSQL
		// Not be.roles.version, which is not asked for where roles are off.
		var major int
		if _, err := fmt.Sscanf(c.PgConn().ParameterStatus("server_version"), "%d", &major); err == nil && major >= 17 {
			s.rest += ";set local transaction_timeout=0"
		}
	}
	var text strings.Builder
	if !s.open {
		text.WriteString(lockBeginSQL)
	}
	for _, a := range asks {
		text.WriteString(a.sql())
		if a.kind == askUnlock {
			held--
		}
	}
	last := held == 0 && !slices.ContainsFunc(asks, func(a *lockAsk) bool { return a.kind == askTry })
	if last {
		text.WriteString(lockEndSQL)
	} else {
		text.WriteString(s.rest)
	}
	answers, err := s.exec(ctx, text.String(), last)
	switch {
	case err != nil:
		return err
	case len(answers) < len(asks):
		return fmt.Errorf("%d answers to %d statements", len(answers), len(asks))
	}
	if err := s.answer(asks, answers); err != nil || last || s.holds() {
		return err
	}
	_, err = s.exec(ctx, lockEndSQL, true)
	return err
}

// exec sends a text, after which the transaction is over or is not, and returns the first column of each row.
func (s *lockSession) exec(ctx context.Context, text string, over bool) (answers []string, err error) {
	results, err := s.c.PgConn().Exec(ctx, text).ReadAll()
	if err != nil {
		return nil, err
	}
	if s.open = s.c.PgConn().TxStatus() == 'T'; s.open == over {
		return nil, errors.New("the transaction that holds the locks is not as it should be")
	}
	s.worked.Store(true)
	for _, r := range results {
		for _, row := range r.Rows {
			answers = append(answers, string(row[0]))
		}
	}
	return answers, nil
}

// answer hands out the answers.
func (s *lockSession) answer(asks []*lockAsk, answers []string) error {
	s.locks.mu.Lock()
	defer s.locks.mu.Unlock()
	for i, a := range asks {
		a.yes = answers[i] == "t"
		switch {
		case a.kind == askUnlock && !a.yes:
			return fmt.Errorf("the lock of %q was not held", a.lock.key)
		case a.kind == askUnlock:
			s.held--
		case a.kind == askTry && a.yes:
			s.held++
			if a.left {
				s.asks = slices.Insert(s.asks, 0, &lockAsk{kind: askUnlock, lock: a.lock, left: true, done: make(chan struct{})})
			}
		}
	}
	for _, a := range asks {
		close(a.done)
	}
	s.sent = nil
	return nil
}

func (s *lockSession) holds() bool {
	s.locks.mu.Lock()
	defer s.locks.mu.Unlock()
	return s.held > 0
}
