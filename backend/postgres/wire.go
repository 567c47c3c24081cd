package postgres

import (
	"context"
	"errors"
	"net"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/tenement-go/tenement/backend"
)

// wire speaks the protocol for one message batch of a connection: what is queued on the frontend is sent at once, and the
// answers are read to ReadyForQuery. It does what pgconn's own readers do, but for two answers in a row, the prefix's and
// the statement's, and with less ado: those measured a tenth of a point read. Sending, decoding of messages, the state of
// the transaction, notices and fatal errors stay pgconn's.
//
// pgconn guards its writes against a server that cannot read because it is blocked writing to us. That cannot be here:
// in a batch that ends with one statement, the server has read all of it but the Sync before it has anything to say that
// would fill a buffer.
type wire struct {
	c       *conn
	ctx     context.Context
	open    bool // answers are outstanding
	watched bool
	text    bool // sent by the simple protocol
	fields  []pgconn.FieldDescription
	params  []uint32 // of the statement that was described
	values  [][]byte
	tag     [64]byte // of the last command
	tagLen  int
	results int // commands that are complete
	err     error
}

var _ cursor = (*wire)(nil)

// errBusy: as pgconn has it.
var errBusy = errors.New("conn busy: a result is still open")

// flush sends what is queued, which ends with a Sync or a Query.
func (w *wire) flush(ctx context.Context) error {
	w.ctx, w.open, w.err = ctx, true, nil
	w.fields, w.params, w.values, w.tagLen, w.results = nil, nil, nil, 0, 0
	if ctx.Done() != nil {
		w.watched = true
		w.c.watcher.Watch(ctx)
	}
	if err := w.c.fe.Flush(); err != nil {
		w.lost(err)
		return w.err
	}
	return nil
}

// event is what receive came to.
type event uint8

const (
	eventRow event = iota
	eventComplete
	eventReady // the batch is over; w.err tells how
)

// receive reads on to the next row, the end of a command, or the end of the batch.
func (w *wire) receive() event {
	for {
		msg, err := w.c.pc.ReceiveMessage(context.Background())
		if err != nil {
			// pgconn marks it safe to retry, which only holds where nothing was sent.
			w.lost(errors.Unwrap(err))
			return eventReady
		}
		switch m := msg.(type) {
		case *pgproto3.DataRow:
			w.values = m.Values
			return eventRow
		case *pgproto3.CommandComplete:
			w.tagLen = copy(w.tag[:], m.CommandTag)
			w.results++
			return eventComplete
		case *pgproto3.EmptyQueryResponse:
			w.tagLen = 0
			w.results++
			return eventComplete
		case *pgproto3.RowDescription:
			w.fields = describe(m)
		case *pgproto3.ParameterDescription:
			w.params = slices.Clone(m.ParameterOIDs)
		case *pgproto3.ErrorResponse:
			if w.err == nil {
				w.err = pgconn.ErrorResponseToPgError(m)
			}
		case *pgproto3.CopyInResponse:
			// Nobody is there to send data. (pgconn would wait for ever.)
			w.c.fe.Send(&pgproto3.CopyFail{Message: "COPY FROM STDIN needs CopyFrom"})
			if !w.text {
				w.c.fe.SendSync(&pgproto3.Sync{}) // the one that was sent before was taken for data; a text has none
			}
			if err := w.c.fe.Flush(); err != nil {
				w.lost(err)
				return eventReady
			}
		case *pgproto3.ReadyForQuery:
			w.done()
			return eventReady
		}
	}
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

// done ends the batch.
func (w *wire) done() {
	w.open, w.text, w.values = false, false, nil
	if w.watched {
		w.watched = false
		w.c.watcher.Unwatch()
	}
}

// lost ends the batch and the connection with it.
func (w *wire) lost(err error) {
	ctx := w.ctx
	w.done()
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() && ctx.Err() != nil {
		err = ctx.Err() // the watcher's deadline
	}
	if w.err == nil {
		w.err = err
	}
	w.c.abandon()
}

// abandon closes a connection in the middle of things: the server is told to stop, in the background. pgconn does that
// when a write fails, and is made to see one fail.
func (c *conn) abandon() {
	if c.pc.IsClosed() {
		return
	}
	_ = c.pc.Conn().SetDeadline(time.Unix(1, 0))
	_ = c.pc.Exec(context.Background(), "").Close()
	if !c.pc.IsClosed() {
		c.close()
	}
}

// drain reads to the end of the batch.
func (w *wire) drain() {
	for w.open && w.receive() != eventReady {
	}
}

// Next reads the next row of the batch's last command.
func (w *wire) Next() bool {
	if !w.open {
		return false
	}
	switch w.receive() {
	case eventRow:
		return true
	case eventComplete:
		w.drain()
	}
	return false
}

func (w *wire) RawValues() [][]byte { return w.values }

func (w *wire) FieldDescriptions() []pgconn.FieldDescription { return w.fields }

func (w *wire) Close() { w.drain() }

func (w *wire) Err() error { return w.err }

func (w *wire) CommandTag() pgconn.CommandTag { return pgconn.NewCommandTag(string(w.tag[:w.tagLen])) }

// ready refuses to begin a batch while another is being read.
func (c *conn) ready(ctx context.Context) error {
	if c.wire.open {
		return errBusy
	}
	if c.pc.IsClosed() {
		return pgconn.ErrConnClosed
	}
	return ctx.Err()
}

// sendStatement queues the messages of one statement: by name; or parsed anew, under a name when that is given, when
// st is nil, has no name or is not to be trusted. formats are those of the result; none means text.
func (c *conn) sendStatement(query string, st *statement, fresh bool, name string, formats []int16) {
	describe := true
	switch {
	case st == nil:
		c.fe.SendParse(&pgproto3.Parse{Query: query})
	case fresh || st.sd.Name == "":
		c.fe.SendParse(&pgproto3.Parse{Name: name, Query: query, ParameterOIDs: st.sd.ParamOIDs})
	default:
		name = st.sd.Name
		// No fields may mean that they were not known then, as with FETCH.
		describe = len(st.sd.Fields) == 0
	}
	c.statementBind = pgproto3.Bind{
		PreparedStatement: name, ParameterFormatCodes: c.eqb.ParamFormats, Parameters: c.eqb.ParamValues, ResultFormatCodes: formats,
	}
	c.fe.SendBind(&c.statementBind)
	if describe {
		c.fe.SendDescribe(&pgproto3.Describe{ObjectType: 'P'})
	}
	c.fe.SendExecute(&executeAll)
	c.fe.SendSync(&syncAll)
}

var (
	executeAll = pgproto3.Execute{}
	syncAll    = pgproto3.Sync{}
)

// answerPrefix reads the prefix's row. It returns the error that took its place.
func (c *conn) answerPrefix(named bool) error {
	w := &c.wire
	if w.receive() != eventRow {
		w.drain()
		return errorOr(w.err, errNoAnswer)
	}
	c.prefixDone(named, w.values)
	return nil
}

// sendText sends text by the simple protocol and reads all its results; skip is how many commands of it come first that
// are ours (one with a row: the prefix). It returns how many commands were completed.
func (c *conn) sendText(ctx context.Context, text string, prefixed bool) (results int, err error) {
	if err := c.ready(ctx); err != nil {
		return 0, &notSent{err}
	}
	c.fe.SendQuery(&pgproto3.Query{String: text})
	w := &c.wire
	w.text = true
	if err := w.flush(ctx); err != nil {
		return 0, err
	}
	for w.open {
		if w.receive() == eventRow && prefixed && w.results == 0 {
			c.prefixDone(false, w.values)
		}
	}
	return w.results, w.err
}

// notSent marks an error that came before anything was sent.
type notSent struct{ error }

func (e *notSent) Unwrap() error     { return e.error }
func (e *notSent) SafeToRetry() bool { return true }

// decoded returns a row's values as pgx's Rows.Values does.
func decoded(types *pgtype.Map, fields []pgconn.FieldDescription, raw [][]byte) ([]any, error) {
	values := make([]any, len(raw))
	for i, src := range raw {
		switch t, ok := types.TypeForOID(fields[i].DataTypeOID); {
		case src == nil:
		case ok:
			v, err := t.Codec.DecodeValue(types, fields[i].DataTypeOID, fields[i].Format, src)
			if err != nil {
				return nil, err
			}
			values[i] = v
		case fields[i].Format == pgtype.TextFormatCode:
			values[i] = string(src)
		default:
			values[i] = append([]byte(nil), src...)
		}
	}
	return values, nil
}

// busyError dresses errBusy.
func (s *session) busyError(op string) error {
	return &backend.Error{Op: op, Store: s.c.unit.rt.Store, Err: errBusy}
}
