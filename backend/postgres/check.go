package postgres

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/tenement-go/tenement/backend/driver"
)

// On a standby nothing fences a store. The share that the prefix takes is a lock of the standby's own, of which the primary
// knows nothing, and what is replayed waits for no statement: a rename is there as soon as it is replayed, in the middle
// of a transaction, of a REPEATABLE READ one too, and of a statement. A name that is looked up from then on is found in
// public, if there is one.
//
// So on a replica each message looks whether the store is there ahead of its statements (the prefix does, where there is
// one) and once more behind them. That is enough: a name is only looked for in public after this server process has
// taken notice that the schema is gone (until then it has it in its cache), and what it has taken notice of the check sees
// too, whatever the snapshot is: names and OIDs of schemas are read from the catalog as it is now, as names in statements
// are. What a schema of the same name that is another one would answer has another OID. (Not noticed: a store that is renamed
// and back again, both replayed while one statement looks its names up.)
//
// A result is only shown when the check behind it has passed, as far as it fits into holdBytes; its end is shown by none
// but that.

// checkSQL holds the text of each kind: $1 schema, $2 OID or stamp, as with the prefix of that kind.
var checkSQL = func() (sql [prefixKinds]string) {
	for kind, condition := range map[prefixKind]string{prefixOID: sqlSame, prefixStamp: sqlStamp, prefixAnyStamp: sqlAnyStamp} {
		sql[kind] = "select " + sqlLook[1:] + ",1 operator(pg_catalog./) (" + strings.NewReplacer("$2", "$1", "$4", "$2").Replace(condition) + ")::pg_catalog.int4"
	}
	return sql
}()

var checkNames = [prefixKinds]string{prefixOID: "tenement_c1_oid", prefixStamp: "tenement_c1_stamp", prefixAnyStamp: "tenement_c1_any"}

// checks is what a connection knows of its checks.
type checks struct {
	state  [prefixKinds]prepared
	parsed prefixKind // in the message under way; prefixShared: none
}

// checked reports whether what a unit does is checked.
func (u *unit) checked() bool { return u.be.replica && u.access == driver.AccessTenant }

// queueCheckAhead queues the check ahead of a transaction's statement. In a transaction that has failed there is nothing to
// be read.
func (c *conn) queueCheckAhead() {
	if c.unit.checked() && c.pc.TxStatus() != 'E' {
		c.queueCheck()
	}
}

// queueCheckBehind queues the check behind what was queued, unless the prefix, too, is yet to come.
func (c *conn) queueCheckBehind(queries []query) {
	if c.unit.checked() && !c.putsOff(queries) {
		c.queueCheck()
	}
}

func (c *conn) queueCheck() {
	kind, name := c.unit.kind, ""
	if c.named() {
		name = checkNames[kind]
	}
	state := &c.checks.state[kind]
	if name == "" || *state != isPrepared && c.checks.parsed != kind {
		c.queueParse(name, checkSQL[kind], state)
		if name != "" {
			c.checks.parsed = kind
		}
	}
	c.fe.SendBind(&pgproto3.Bind{PreparedStatement: name, Parameters: [][]byte{c.unit.schema, c.unit.check}})
	c.fe.SendExecute(&executeOne)
	c.wire.queue(stepCheck)
}

// checksDone notes that all of a message was executed.
func (c *conn) checksDone() {
	if kind := c.checks.parsed; kind != prefixShared {
		c.checks.state[kind], c.checks.parsed = isPrepared, prefixShared
	}
}

// distrustChecks is for when what is prepared may have been taken away.
func (c *conn) distrustChecks() {
	for kind := range c.checks.state {
		if c.checks.state[kind] == isPrepared {
			c.checks.state[kind] = doubtful
		}
	}
}

// checkText is the check with its values written into it, for the simple protocol.
func (c *conn) checkText() string {
	u := &c.unit
	var b strings.Builder
	for i, part := range strings.Split(checkSQL[u.kind], "$") {
		if i > 0 {
			writeLiteral(&b, string([][]byte{u.schema, u.check}[part[0]-'1']))
			part = part[1:]
		}
		b.WriteString(part)
	}
	b.WriteByte(';')
	return b.String()
}

// checkTextAhead is queueCheckAhead for the simple protocol.
func (c *conn) checkTextAhead() string {
	if !c.unit.checked() || c.pc.TxStatus() == 'E' {
		return ""
	}
	c.wire.queue(stepCheck)
	return c.checkText()
}

// checkTextBehind is queueCheckBehind for the simple protocol.
func (c *conn) checkTextBehind(queries []query) string {
	if !c.unit.checked() || c.putsOff(queries) {
		return ""
	}
	c.wire.queue(stepCheck)
	return "\n;" + c.checkText()
}

// checkNow is the check behind what did not travel in a message of ours.
func (c *conn) checkNow(ctx context.Context) error {
	if !c.unit.checked() {
		return nil
	}
	_, err := c.commands(ctx, stepCheck, c.checkText(), nil, nil)
	return err
}

// ofCheck reports whether a message is of a check's answer, and whether it is the end of it.
func ofCheck(msg pgproto3.BackendMessage) (of, over bool) {
	switch msg.(type) {
	case *pgproto3.RowDescription, *pgproto3.DataRow:
		return true, false
	case *pgproto3.CommandComplete, *pgproto3.PortalSuspended:
		return true, true
	}
	return false, false
}

// holdBytes is how much memory is given to a result that is read ahead.
const holdBytes = 256 << 10

// hold reads the result at hand ahead, and what is behind it.
func (w *wire) hold() {
	var rows [][][]byte
	var data []byte
	for size := 0; size < holdBytes && w.Next(); size += 64 {
		row := make([][]byte, len(w.values))
		for i, v := range w.values {
			size += 24 + len(v)
			if v != nil {
				at := len(data)
				data = append(data, v...) // what was cut from it before stays where it is
				row[i] = data[at:len(data):len(data)]
			}
		}
		rows = append(rows, row)
	}
	if w.err == nil {
		w.held = rows
	}
}
