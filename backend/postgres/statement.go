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
	// varied: the server said that its result differs between stores (0A000). From then on it is parsed anew each time,
	// in the same round trip, and its results come as text.
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

// prepare has the server parse and describe sql, behind the prefix when the unit of work needs one, in one round trip.
func (c *conn) prepare(ctx context.Context, sql string, named, prefixed bool) (*statement, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	name := ""
	if named {
		name = statementName(sql)
	}
	c.closeDropped()
	if prefixed {
		c.queuePrefix(c.named())
	}
	sd, err := c.pc.Prepare(ctx, name, sql, nil)
	if err != nil {
		c.unsent(err)
		// The Parse may have been executed all the same.
		if named {
			c.statements.drop = append(c.statements.drop, name)
		}
		return nil, err
	}
	if prefixed {
		c.prefixDone(c.named(), nil)
	}
	return c.newStatement(sd, classify(sd.SQL)), nil
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
