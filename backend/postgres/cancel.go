package postgres

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
)

const (
	// cancelWait is for how long a statement whose context has ended waits for the server's answer. A server that has not
	// answered by then is beyond asking: the connection goes.
	cancelWait = time.Second
	// cancelAgain is when the server is asked again. A request that finds nothing to cancel is forgotten, and it may have
	// overtaken the statement.
	cancelAgain = 100 * time.Millisecond
)

// canceller ends a statement whose context is done: it asks the server to cancel it, and the session goes on with the
// answer. Without that, the statement would end with its connection, and all that this had warmed.
//
// A request never reaches the statement after the one that it is for. It travels on a connection of its own, which the
// server closes after it has sent the signal (ProcessStartupPacket calls processCancelRequest, then the process exits), and
// the session is not used again before that end was read: unwatching waits for it. Whatever is sent then comes to the
// server's process out of a system call that ends after the signal was sent, and with a signal pending the call comes
// back through the signal's handler. What the handler notes is looked at, and dropped, before a command is begun
// (PostgresMain, before it resets DoingCommandRead; ProcessInterrupts). Where the end was not seen the session is not
// used again.
//
// pgx has such a handler too. It breaks a request off when the statement is over, and sleeps 100 ms because that may leave
// it on its way.
//
// Behind a pooler the connection goes, as with the bare driver, which sends its own request then: what a pooler does with
// one that comes late is its business. PgBouncer 1.18 to 1.20 may end when a server says something while a request for it is
// under way, whoever made that (its NEWS of 1.21, #927 and #928). In a storm of 9,000 cancellations among 27,000 statements
// it did with neither.
type canceller struct {
	pc     *pgconn.PgConn
	pooled *atomic.Bool
	wait   time.Duration // cancelWait, unless a test says otherwise
	over   chan struct{} // closed when the statement is
	done   chan struct{} // gets a value when every request has been seen to end; nil: none was made
}

var _ ctxwatch.Handler = (*canceller)(nil)

// watcherOf returns what makes the watchers of a backend's statements: cancellers, unless the configuration has its own.
func (be *Backend) watcherOf(cc *pgx.ConnConfig) func(*pgconn.PgConn) ctxwatch.Handler {
	build := cc.BuildContextWatcherHandler
	return func(pc *pgconn.PgConn) ctxwatch.Handler {
		h := build(pc)
		if d, usual := h.(*pgconn.DeadlineContextWatcherHandler); !usual || d.DeadlineDelay != 0 {
			return h
		}
		return &canceller{pc: pc, pooled: &be.pooled, wait: cancelWait}
	}
}

// HandleCancel is called when the context of the statement under way is done.
func (h *canceller) HandleCancel(context.Context) {
	if h.done = nil; h.pooled.Load() {
		_ = h.pc.Conn().SetDeadline(time.Now())
		return
	}
	deadline := time.Now().Add(h.wait)
	_ = h.pc.Conn().SetDeadline(deadline)
	over, done := make(chan struct{}), make(chan struct{}, 1)
	h.over, h.done = over, done
	go func() {
		if h.ask(deadline, over) {
			done <- struct{}{}
		}
		close(done)
	}()
}

// ask asks the server until the statement is over. It reports whether every request is known to have ended.
func (h *canceller) ask(deadline time.Time, over <-chan struct{}) bool {
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	for {
		// It waits for the server to close the connection, and does not say when it gave up on that: the deadline does.
		if err := h.pc.CancelRequest(ctx); err != nil || ctx.Err() != nil {
			return false
		}
		again := time.NewTimer(cancelAgain)
		select {
		case <-over:
			again.Stop()
			return true
		case <-again.C:
		}
	}
}

// HandleUnwatchAfterCancel is called when the statement is over, however it ended.
func (h *canceller) HandleUnwatchAfterCancel() {
	if h.done != nil {
		close(h.over)
		if _, ended := <-h.done; !ended {
			_ = h.pc.Conn().Close()
			return
		}
	}
	_ = h.pc.Conn().SetDeadline(time.Time{})
}

// codeCancelled is the SQLSTATE of a statement that was cancelled.
const codeCancelled = "57014"

// ended puts the end of the context in the place of what the server says of a statement that was cancelled for it.
func ended(ctx context.Context, err error) error {
	var pe *pgconn.PgError
	if ctx.Err() != nil && errors.As(err, &pe) && pe.Code == codeCancelled {
		return ctx.Err()
	}
	return err
}
