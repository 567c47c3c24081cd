package postgres

import (
	"container/list"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
)

// statement is what a connection remembers about a text that it ran.
type statement struct {
	sd            *pgconn.StatementDescription // Name is empty when only the description is kept
	formats       []int16                      // result formats for database/sql
	fields        []pgconn.FieldDescription    // the same as descriptions
	nativeFormats []int16                      // result formats for pgx
	nativeFields  []pgconn.FieldDescription
	plans         []scanPlan // how the last native result was scanned
	traits        traits
	store         backend.Store // for which it was prepared
	// variants are the same text prepared for other stores. The server makes a new plan whenever it finds search_path
	// changed, which costs more than all else of a point read; each variant keeps the plan of its store. They need no
	// round trip of their own, since the types of the parameters are known.
	variants map[backend.Store]*statement
	of       *statement    // what this is a variant of
	place    *list.Element // among the connection's variants
	// varied: it cannot be trusted to mean the same at all times: the server said that its result has changed more than
	// once (0A000), or it may read a shared table. It is parsed anew each time, in the same round trip, and its results
	// come as text.
	varied bool
	used   uint64
}

// statements is a bounded set of statements of one connection. The least recently used goes first.
type statements struct {
	m        map[string]*statement
	clock    uint64
	variants list.List // of *statement, the most recently used first
	drop     []string  // names to be closed on the server with the next message
}

func (s *statements) get(sql string) *statement {
	st := s.m[sql]
	if st != nil {
		s.clock++
		st.used = s.clock
	}
	return st
}

func (s *statements) put(sql string, st *statement, capacity int) {
	if s.m == nil {
		s.m = make(map[string]*statement)
	}
	for len(s.m) >= capacity {
		var oldest string
		least := ^uint64(0)
		for text, o := range s.m {
			if o.used < least {
				oldest, least = text, o.used
			}
		}
		s.remove(oldest)
	}
	s.clock++
	st.used = s.clock
	s.m[sql] = st
}

func (s *statements) remove(sql string) {
	st := s.m[sql]
	if st == nil {
		return
	}
	delete(s.m, sql)
	for _, v := range st.variants {
		s.removeVariant(v)
	}
	if st.sd.Name != "" {
		s.drop = append(s.drop, st.sd.Name)
	}
}

// variant returns the statement as it was prepared for a store, or nil.
func (s *statements) variant(st *statement, store backend.Store) *statement {
	v := st.variants[store]
	if v != nil {
		s.variants.MoveToFront(v.place)
	}
	return v
}

func (s *statements) putVariant(st, v *statement, capacity int) {
	for s.variants.Len() >= capacity {
		s.removeVariant(s.variants.Back().Value.(*statement))
	}
	if st.variants == nil {
		st.variants = make(map[backend.Store]*statement)
	}
	v.of = st
	v.place = s.variants.PushFront(v)
	st.variants[v.store] = v
}

func (s *statements) removeVariant(v *statement) {
	delete(v.of.variants, v.store)
	s.variants.Remove(v.place)
	s.drop = append(s.drop, v.sd.Name)
}

// closeDropped queues the closing of the statements that were removed.
func (c *conn) closeDropped() {
	for _, name := range c.statements.drop {
		c.fe.SendClose(&pgproto3.Close{ObjectType: 'S', Name: name})
	}
	// Should it not arrive, the connection does not survive that.
	c.statements.drop = c.statements.drop[:0]
}

// statementName returns a name that stands for the text, so that nothing else can ever be run under it.
func statementName(sql string) string {
	sum := sha256.Sum256([]byte(sql))
	return "tenement_" + hex.EncodeToString(sum[:20])
}

// variantName returns the name of a variant.
func variantName(sql string, store backend.Store) string {
	return statementName(store.String() + "\x00" + sql)
}

// A prepared statement stays bound to the tables that it was first found to mean, as long as search_path is the same
// when it is executed: should a store get a table of its own that takes the place of a shared one, Postgres does not
// notice. Therefore a statement is only ever executed by name for the store that it was prepared for, and only when none
// of the names in it was that of a shared table at the time. sharedSQL asks whether one is.
const sharedSQL = "select exists(select from pg_catalog.pg_class c where c.relnamespace operator(pg_catalog.=) " +
	"'public'::pg_catalog.regnamespace and c.relname operator(pg_catalog.=) any($1::pg_catalog.text[]::pg_catalog.name[]))"

// queueShared asks sharedSQL about a text; the answer is a row.
func (c *conn) queueShared(sql string) {
	c.fe.SendParse(&pgproto3.Parse{Query: sharedSQL})
	c.fe.SendBind(&pgproto3.Bind{Parameters: [][]byte{textArray(words(sql))}})
	c.fe.SendExecute(&executeOne)
}

// textArray writes an array of text as Postgres reads it.
func textArray(values []string) []byte {
	b := []byte{'{'}
	for i, v := range values {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		for j := range len(v) {
			if v[j] == '"' || v[j] == '\\' {
				b = append(b, '\\')
			}
			b = append(b, v[j])
		}
		b = append(b, '"')
	}
	return append(b, '}')
}

// answerShared reads the answer to queueShared.
func (c *conn) answerShared() (shared bool, err error) {
	w := &c.wire
	if w.receive() != eventRow {
		w.drain()
		return false, errorOr(w.err, errNoAnswer)
	}
	return string(w.values[0]) == "t", nil
}

// prepare has the server parse and describe sql, behind the prefix when the unit of work needs one, in one round trip.
func (c *conn) prepare(ctx context.Context, sql string, named, prefixed bool) (st *statement, at stage, err error) {
	if err := c.ready(ctx); err != nil {
		return nil, stagePrefix, &notSent{err}
	}
	name := ""
	if named {
		name = statementName(sql)
	}
	c.closeDropped()
	if prefixed {
		c.queuePrefix(c.named())
	}
	if named {
		c.queueShared(sql)
	}
	c.fe.SendParse(&pgproto3.Parse{Name: name, Query: sql})
	c.fe.SendDescribe(&pgproto3.Describe{ObjectType: 'S', Name: name})
	c.fe.SendSync(&syncAll)
	w := &c.wire
	if err := w.flush(ctx); err != nil {
		return nil, stagePrefix, err
	}
	if named {
		defer func() {
			if err != nil {
				// The Parse may have been executed all the same.
				c.statements.drop = append(c.statements.drop, name)
			}
		}()
	}
	if prefixed {
		if err := c.answerPrefix(c.named()); err != nil {
			return nil, stagePrefix, err
		}
	}
	shared := false
	if named {
		if shared, err = c.answerShared(); err != nil {
			return nil, stageStatement, err
		}
	}
	w.drain()
	if w.err != nil {
		return nil, stageStatement, w.err
	}
	st = c.newStatement(&pgconn.StatementDescription{Name: name, SQL: sql, ParamOIDs: w.params, Fields: w.fields}, classify(sql))
	st.varied = shared && c.unit.access != driver.AccessShared
	return st, 0, nil
}

func (c *conn) newStatement(sd *pgconn.StatementDescription, t traits) *statement {
	st := &statement{sd: sd, traits: t, store: c.unit.rt.Store}
	st.formats, st.nativeFormats = make([]int16, len(sd.Fields)), make([]int16, len(sd.Fields))
	for i := range sd.Fields {
		st.formats[i] = sqlFormat(sd.Fields[i].DataTypeOID)
		st.nativeFormats[i] = c.types.FormatCodeForOID(sd.Fields[i].DataTypeOID)
	}
	st.fields, st.nativeFields = withFormats(sd.Fields, st.formats), withFormats(sd.Fields, st.nativeFormats)
	return st
}

// withFormats returns the descriptions of a result that comes in the given formats: one for all, or one each.
func withFormats(fields []pgconn.FieldDescription, formats []int16) []pgconn.FieldDescription {
	out := slices.Clone(fields)
	for i := range out {
		switch {
		case len(formats) == 1:
			out[i].Format = formats[0]
		case i < len(formats):
			out[i].Format = formats[i]
		default:
			out[i].Format = pgtype.TextFormatCode
		}
	}
	return out
}

// sqlFormat returns the format in which database/sql gets a type: binary for what decodes to a Go type of its own.
func sqlFormat(oid uint32) int16 {
	switch oid {
	case pgtype.BoolOID, pgtype.ByteaOID, pgtype.CIDOID, pgtype.DateOID, pgtype.Float4OID, pgtype.Float8OID,
		pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID, pgtype.OIDOID, pgtype.TimestampOID, pgtype.TimestamptzOID,
		pgtype.XIDOID:
		return pgtype.BinaryFormatCode
	}
	return pgtype.TextFormatCode
}

// firstUserOID is the first OID that a server gives to what its users make, such as a tenant's own enum type.
const firstUserOID = 16384

// foreign reports whether a statement takes parameters whose types may be another store's: a name that is the same type
// for every store (an extension's) cannot be told from one that each store has made for itself.
func (c *conn) foreign(st *statement) bool {
	return st != nil && st.store != c.unit.rt.Store &&
		slices.ContainsFunc(st.sd.ParamOIDs, func(oid uint32) bool { return oid >= firstUserOID })
}
