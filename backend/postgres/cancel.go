package postgres

import (
	"context"
	"time"

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
type canceller struct {
	pc   *pgconn.PgConn
	over chan struct{} // closed when the statement is
	done chan struct{} // gets true when every request has been seen to end
}

var _ ctxwatch.Handler = (*canceller)(nil)

func newCanceller(pc *pgconn.PgConn) ctxwatch.Handler { return &canceller{pc: pc} }

// HandleCancel is called when the context of the statement under way is done.
func (h *canceller) HandleCancel(context.Context) {
	deadline := time.Now().Add(cancelWait)
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
	close(h.over)
	if _, ended := <-h.done; !ended {
		_ = h.pc.Conn().Close()
		return
	}
	_ = h.pc.Conn().SetDeadline(time.Time{})
}
