package postgres

import (
	"cmp"
	"context"
	"errors"
	"net"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/tenement-go/tenement/internal/sqltext"
)

// wire speaks the protocol for one message of a connection: what is queued on the frontend is sent at once, and the
// answers are read to ReadyForQuery. It does what pgconn's own readers do, but for our own answers ahead of the
// application's, and with less ado: those measured a tenth of a point read. Sending, decoding of messages, the state of
// the transaction, notices and fatal errors stay pgconn's.
type wire struct {
	c       *conn
	ctx     context.Context
	job     *job // whose message it is; nil: ours
	open    bool // answers are outstanding
	watched bool
	text    bool   // sent by the simple protocol
	steps   []step // what the server has to answer, in order
	done    int    // how many of them it has
	ended   bool   // the result at hand has been read to its end
	flushed chan error
	size    int            // of what is queued, roughly
	message string         // of the simple protocol
	starts  []int          // where in it the application's queries begin
	apart   []sqltext.Span // its statements that have no answer yet, where each is a message of its own; see queueText

	held [][][]byte // rows that were read ahead of being asked for; see hold

	fields []pgconn.FieldDescription
	params []uint32 // of the statement that was described
	values [][]byte
	tag    [64]byte // of the last command
	tagLen int
	err    error
}

// step is a part of a message that is answered by itself. The application's come last.
type step uint8

const (
	stepClean   step = iota // what the connection's last user left is taken away
	stepBegin               // BEGIN
	stepPrefix              // the store is bound
	stepCheck               // it is still there: on a replica, ahead of a statement and behind it
	stepOurs                // a question of ours: its answer is a row
	stepPrepare             // a statement is described
	stepQuery               // a statement of the application's is run
)

// at returns the step that is to be answered next. The simple protocol's texts may have more than were counted.
func (w *wire) at() step {
	if w.done < len(w.steps) {
		return w.steps[w.done]
	}
	return stepQuery
}

func (w *wire) queue(s step) { w.steps = append(w.steps, s) }

var _ cursor = (*wire)(nil)

// errBusy: as pgconn has it.
var errBusy = errors.New("conn busy: a result is still open")

// start begins a message.
func (w *wire) start(ctx context.Context) error {
	switch {
	case w.busy():
		return &notSent{errBusy}
	case w.c.pc.IsClosed():
		return &notSent{pgconn.ErrConnClosed}
	case w.c.pc.IsBusy():
		return &notSent{errBusy}
	}
	w.ctx, w.job, w.err, w.text, w.ended = ctx, nil, nil, false, false
	w.steps, w.done, w.size, w.apart = w.steps[:0], 0, 0, nil
	w.c.checks.parsed, w.c.tidying = prefixShared, false
	w.fields, w.params, w.values, w.tagLen = nil, nil, nil, 0
	if err := ctx.Err(); err != nil {
		return &notSent{w.timeout(err)}
	}
	return nil
}

// patience is how many bytes are sent before the first answer is read. A server that cannot write its answers stops
// reading; so much fits into the buffers between us.
const patience = 32 << 10

// flush sends what is queued, which ends with a Sync or a Query.
func (w *wire) flush() error {
	w.open = true
	if w.ctx.Done() != nil {
		w.watched = true
		w.c.watcher.Watch(w.ctx)
	}
	if w.size > patience {
		w.flushed = make(chan error, 1)
		go func(fe *pgproto3.Frontend, done chan error) { done <- fe.Flush() }(w.c.fe, w.flushed)
		return nil
	}
	if err := w.c.fe.Flush(); err != nil {
		w.lost(err)
		return w.err
	}
	return nil
}

// sent waits until all is sent.
func (w *wire) sent() error {
	if w.flushed == nil {
		return nil
	}
	err := <-w.flushed
	w.flushed = nil
	return err
}

// event is what receive came to.
type event uint8

const (
	eventRow   event = iota
	eventDone        // a step was answered
	eventReady       // the message is over; w.err tells how
)

// receive reads on to the next row, the end of a step, or the end of the message.
func (w *wire) receive() event {
	for {
		msg, err := w.c.pc.ReceiveMessage(context.Background())
		if err != nil {
			// pgconn marks it safe to retry, which only holds where nothing was sent.
			w.lost(cmp.Or(errors.Unwrap(err), err))
			return eventReady
		}
		if w.at() == stepCheck {
			if of, over := ofCheck(msg); over {
				w.done++
				return eventDone
			} else if of {
				continue
			}
		}
		complete := false
		switch m := msg.(type) {
		case *pgproto3.DataRow:
			if w.at() == stepClean {
				continue
			}
			w.values = m.Values
			return eventRow
		case *pgproto3.CommandComplete:
			if w.at() == stepClean {
				if w.c.cleaned(m.CommandTag) {
					w.done++
				}
				continue
			}
			w.tagLen = copy(w.tag[:], m.CommandTag)
			w.checkCommit()
			complete = true
		case *pgproto3.EmptyQueryResponse:
			w.tagLen = 0
			complete = true
		case *pgproto3.PortalSuspended:
			complete = true
		case *pgproto3.NoData:
			complete = w.at() == stepPrepare
		case *pgproto3.RowDescription:
			w.fields = describe(m)
			complete = w.at() == stepPrepare
		case *pgproto3.ParameterDescription:
			w.params = slices.Clone(m.ParameterOIDs)
		case *pgproto3.ErrorResponse:
			if w.err == nil {
				pe := pgconn.ErrorResponseToPgError(m)
				if w.text {
					w.moved(pe)
				}
				w.err = pe
			}
		case *pgproto3.CopyInResponse:
			if err := w.refuseCopy(); err != nil {
				w.lost(err)
				return eventReady
			}
		case *pgproto3.ReadyForQuery:
			if w.at() == stepClean {
				if w.err != nil || !w.text {
					w.lost(cmp.Or(w.err, errNoAnswer))
					return eventReady
				}
				w.fields = nil // it was the cleaning's
				w.done++
				continue
			}
			w.finish()
			if err := ended(w.ctx, w.err); err != w.err { //nolint:errorlint // whether it is another
				w.err = w.timeout(err)
			}
			return eventReady
		}
		if complete {
			if len(w.apart) > 0 {
				w.apart = w.apart[1:]
			}
			w.done++
			return eventDone
		}
	}
}

// checkCommit makes an error of a COMMIT, END or PREPARE TRANSACTION that was answered by ROLLBACK: the transaction had
// failed before.
func (w *wire) checkCommit() {
	if w.job == nil || w.err != nil || !w.tagged("ROLLBACK") {
		return
	}
	if q := w.job.failing(w); q != nil && q.traits&commits != 0 {
		w.err = pgx.ErrTxCommitRollback
	}
}

// refuseCopy ends a COPY FROM STDIN: nobody is there to send data. (pgconn would wait for ever.)
func (w *wire) refuseCopy() error {
	if err := w.sent(); err != nil {
		return err
	}
	w.c.fe.Send(&pgproto3.CopyFail{Message: "COPY FROM STDIN needs CopyFrom"})
	if !w.text || len(w.apart) > 0 {
		// What was sent behind it, the Sync too, was taken for data. A text in one message has none.
		w.c.fe.SendSync(&syncAll)
	}
	return w.c.fe.Flush()
}

func describe(m *pgproto3.RowDescription) []pgconn.FieldDescription {
	fields := make([]pgconn.FieldDescription, len(m.Fields))
	for i := range m.Fields {
		f := &m.Fields[i]
		fields[i] = pgconn.FieldDescription{
			Name: string(f.Name), TableOID: f.TableOID, TableAttributeNumber: f.TableAttributeNumber,
			DataTypeOID: f.DataTypeOID, DataTypeSize: f.DataTypeSize, TypeModifier: f.TypeModifier, Format: f.Format,
		}
	}
	return fields
}

// finish ends the message.
func (w *wire) finish() {
	w.c.spoke = time.Now() // or the connection is lost
	w.open, w.values, w.job = false, nil, nil
	if err := w.sent(); err != nil && w.err == nil {
		w.err = err
	}
	if w.watched {
		w.watched = false
		w.c.watcher.Unwatch()
	}
	if w.err == nil {
		w.c.checksDone()
		w.c.dirty = w.c.dirty && !w.c.tidying
	}
}

// lost ends the message and the connection with it.
func (w *wire) lost(err error) {
	var ne net.Error
	if w.ctx.Err() != nil && errors.As(err, &ne) && ne.Timeout() {
		err = w.timeout(w.ctx.Err()) // the watcher's deadline
	}
	if w.err == nil {
		w.err = err
	}
	w.c.abandon()
	w.finish()
}

// abandon closes a connection in the middle of things: the server is told to stop, in the background. pgconn does that
// when a write fails, and is made to see one fail.
func (c *conn) abandon() {
	if c.pc.IsClosed() {
		return
	}
	_ = c.pc.Conn().SetDeadline(time.Unix(1, 0))
	_ = c.wire.sent()
	_ = c.pc.Exec(context.Background(), "").Close()
	if !c.pc.IsClosed() {
		c.close()
	}
}

// drain reads to the end of the message.
func (w *wire) drain() {
	w.held = nil
	for w.open && w.receive() != eventReady {
	}
	w.ended = true
}

// busy reports whether there is a result that was not read to its end.
func (w *wire) busy() bool { return w.open || len(w.held) > 0 }

// Next reads the next row of the result at hand. At the end of the last one it reads to the end of the message, where a
// transaction of its own may still fail.
func (w *wire) Next() bool {
	if len(w.held) > 0 {
		w.values, w.held = w.held[0], w.held[1:]
		return true
	}
	if !w.open || w.ended {
		return false
	}
	switch w.receive() {
	case eventRow:
		return true
	case eventDone:
		w.ended = true
		if w.done >= len(w.steps) || w.at() == stepCheck {
			w.drain()
		}
	case eventReady:
		w.ended = true
	}
	return false
}

// skip reads the result at hand to its end.
func (w *wire) skip() {
	for w.Next() {
	}
}

func (w *wire) RawValues() [][]byte { return w.values }

func (w *wire) FieldDescriptions() []pgconn.FieldDescription { return w.fields }

// Close reads the message to its end.
func (w *wire) Close() { w.drain() }

func (w *wire) Err() error { return w.err }

func (w *wire) CommandTag() pgconn.CommandTag { return pgconn.NewCommandTag(string(w.tag[:w.tagLen])) }

// tagged reports whether the last command was this one, without allocating.
func (w *wire) tagged(tag string) bool { return string(w.tag[:w.tagLen]) == tag }

// notSent marks an error that came before anything was sent.
type notSent struct{ error }

func (e *notSent) Unwrap() error     { return e.error }
func (e *notSent) SafeToRetry() bool { return true }

// timeout dresses the error of a context that is over, so that [pgconn.Timeout] says of it what it says with the bare
// driver. The type that it looks for is private, and to be had from a call that comes too late.
func (w *wire) timeout(err error) error {
	if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	_, late := w.c.pc.ReceiveMessage(w.ctx)
	if !pgconn.Timeout(late) {
		return err
	}
	return &timeoutError{error: err, late: late}
}

// timeoutError: what pgconn says of late is that nothing was sent, which is not so.
type timeoutError struct {
	error
	late error
}

func (e *timeoutError) Error() string     { return "timeout: " + e.error.Error() }
func (e *timeoutError) Unwrap() []error   { return []error{e.error, e.late} }
func (e *timeoutError) SafeToRetry() bool { return false }

var errNoAnswer = errors.New("the server ended the message without an answer")
