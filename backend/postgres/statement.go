package postgres

import (
	"crypto/sha256"
	"encoding/hex"
	"math/rand/v2"
	"slices"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/tenement-go/tenement/backend"
)

// statement is what a connection remembers about a text that it ran for some store.
type statement struct {
	sd            *pgconn.StatementDescription // Name is empty when only the description is kept
	formats       []int16                      // result formats for database/sql
	fields        []pgconn.FieldDescription    // the same as descriptions
	nativeFormats []int16                      // result formats for pgx
	nativeFields  []pgconn.FieldDescription
	plans         []scanPlan // how the last native result was scanned
	traits        traits
	store         backend.Store // for which it was described
	// varied: what its names mean may change without the server noticing, or its result has (0A000, more than once). It
	// is parsed anew each time, in the same round trip, and its results come as text.
	varied bool
	// unparsed: its name is not known to the server yet; the first execution prepares it. See pooledText.
	unparsed bool

	// variants are the same text prepared for other stores. The server makes a new plan whenever it finds search_path
	// changed, which costs more than all else of a point read; each variant keeps the plan of its store.
	variants map[backend.Store]*statement
	of       *statement // what this is a variant of
	// same are the stores in which the text was seen to have the same types as here, by any connection. Where they have
	// not, the values of the parameters are encoded by the store's own, or by none: 1999 encoded as a bigint is no double.
	same *alike
}

// statements are the bounded memory of one connection, for its mode. The least recently used goes first.
type statements struct {
	texts    *simplelru.LRU[statementKey, *statement]
	variants *simplelru.LRU[*statement, struct{}] // of all texts
	room     int                                  // for variants
	dropped  map[string]struct{}                  // names to be closed on the server
}

// statementKey is the text, and the store where each has a description of its own (cache_describe).
type statementKey struct {
	sql   string
	store backend.Store
}

func newStatements(texts, variants int) statements {
	s := statements{room: variants, dropped: map[string]struct{}{}}
	if texts > 0 { // else NewLRU returns an error
		s.texts, _ = simplelru.NewLRU(texts, func(_ statementKey, st *statement) {
			for _, v := range st.variants {
				s.variants.Remove(v)
			}
			s.drop(st.sd.Name)
		})
	}
	if variants > 0 {
		s.variants, _ = simplelru.NewLRU(variants, func(v *statement, _ struct{}) {
			delete(v.of.variants, v.store)
			s.drop(v.sd.Name)
		})
	}
	return s
}

func (s *statements) drop(name string) {
	if name != "" {
		s.dropped[name] = struct{}{}
	}
}

func (s *statements) get(k statementKey) *statement {
	if s.texts == nil {
		return nil
	}
	st, _ := s.texts.Get(k)
	return st
}

func (s *statements) put(k statementKey, st *statement) {
	if s.texts != nil {
		s.texts.Add(k, st)
	}
}

func (s *statements) remove(k statementKey) {
	if s.texts != nil {
		s.texts.Remove(k)
	}
}

// clear forgets everything; what is prepared on the server is closed when its name is needed.
func (s *statements) clear() {
	if s.texts != nil {
		s.texts.Purge()
	}
}

// variant returns the statement as it was prepared for a store, or nil.
func (s *statements) variant(st *statement, store backend.Store) *statement {
	v := st.variants[store]
	if v != nil {
		s.variants.Get(v)
	}
	return v
}

func (s *statements) putVariant(st, v *statement) {
	if st.variants == nil {
		st.variants = make(map[backend.Store]*statement)
	}
	v.of = st
	st.variants[v.store] = v
	s.variants.Add(v, struct{}{})
}

// admits reports whether another variant is worth making. Where they do not fit, one that takes the place of another
// would be gone before it is used again; then only few are made, so that those there stay useful and what is in use
// still gets in, and the server plans anew.
func (s *statements) admits() bool {
	return s.room > 0 && (s.variants.Len() < s.room || rand.N(32) == 0)
}

// closeAbove is how many dropped statements are closed together.
const closeAbove = 16

// closeDropped queues the closing of statements that were dropped: of many at a time, and of those whose name is needed.
func (c *conn) closeDropped(needed ...string) {
	d := c.statements.dropped
	if len(d) == 0 {
		return
	}
	closeOne := func(name string) {
		c.fe.SendClose(&pgproto3.Close{ObjectType: 'S', Name: name})
		delete(d, name) // should it not arrive, the connection does not survive that
	}
	for _, name := range needed {
		if _, dropped := d[name]; dropped {
			closeOne(name)
		}
	}
	if len(d) >= closeAbove {
		for name := range d {
			closeOne(name)
		}
	}
}

// statementName returns a name that stands for the text, so that nothing else can ever be run under it.
func statementName(sql string) string {
	sum := sha256.Sum256([]byte(sql))
	return "tenement_" + hex.EncodeToString(sum[:20])
}

// ownStatement is a statement of ours without parameters or columns, as a connection keeps it prepared.
type ownStatement struct {
	name  string
	state prepared
}

// queueOwn queues a statement of ours, which is prepared once on each connection.
func (c *conn) queueOwn(text string) {
	o := c.own[text]
	if o == nil {
		o = &ownStatement{}
		if c.named() {
			o.name = "tenement_own_" + statementName(text)
		}
		c.own[text] = o
	}
	if o.state != isPrepared {
		c.queueParse(o.name, text, &o.state)
	}
	c.fe.SendBind(&pgproto3.Bind{PreparedStatement: o.name})
	c.fe.SendExecute(&executeAll)
}

// queueParse queues the Parse of a text of ours. Under a name it stays doubtful until the server is known to have it.
func (c *conn) queueParse(name, text string, state *prepared) {
	if name != "" && *state == doubtful {
		c.fe.SendClose(&pgproto3.Close{ObjectType: 'S', Name: name})
	}
	c.fe.SendParse(&pgproto3.Parse{Name: name, Query: text})
	if name != "" {
		*state = doubtful
	}
}

// ownDone notes that statements of ours were executed.
func (c *conn) ownDone(texts ...string) {
	for _, text := range texts {
		if o := c.own[text]; o != nil && o.state == doubtful {
			o.state = isPrepared
		}
	}
}

// variantName returns the name of a variant.
func variantName(sql string, store backend.Store) string {
	return statementName(store.String() + "\x00" + sql)
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

// sameTypes reports whether two descriptions have the same parameters and columns.
func sameTypes(a, b *pgconn.StatementDescription) bool {
	return slices.Equal(a.ParamOIDs, b.ParamOIDs) && slices.EqualFunc(a.Fields, b.Fields, func(x, y pgconn.FieldDescription) bool {
		return x.Name == y.Name && x.DataTypeOID == y.DataTypeOID
	})
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
