package postgres

import (
	"database/sql/driver"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// cursor is the part of [pgx.Rows] that both kinds of handle read a result through.
type cursor interface {
	Next() bool
	RawValues() [][]byte
	FieldDescriptions() []pgconn.FieldDescription
	Close()
	Err() error
	CommandTag() pgconn.CommandTag
}

// sqlRows gives a cursor to database/sql. Each connection has one, used over and over: only one result can be open on
// a connection.
type sqlRows struct {
	s      *session
	cur    cursor
	more   bool // a row was read ahead
	open   bool
	names  []string
	fields []pgconn.FieldDescription
}

var (
	_ driver.Rows                           = (*sqlRows)(nil)
	_ driver.RowsColumnTypeDatabaseTypeName = (*sqlRows)(nil)
	_ driver.RowsColumnTypeLength           = (*sqlRows)(nil)
	_ driver.RowsColumnTypePrecisionScale   = (*sqlRows)(nil)
	_ driver.RowsColumnTypeScanType         = (*sqlRows)(nil)
)

func (r *sqlRows) reset(s *session, cur cursor, more bool) {
	r.s, r.cur, r.more, r.open = s, cur, more, true
	r.fields = cur.FieldDescriptions()
	r.names = nil
}

// Columns returns the names. database/sql asks for them on every query with rows.
func (r *sqlRows) Columns() []string {
	if r.names == nil {
		r.names = make([]string, len(r.fields))
		for i := range r.fields {
			r.names[i] = r.fields[i].Name
		}
	}
	return r.names
}

func (r *sqlRows) Close() error {
	if !r.open {
		return nil
	}
	r.open = false
	r.cur.Close()
	err := r.cur.Err()
	if err != nil {
		err = r.s.fault("query", err)
	}
	if r.s.traced != nil {
		r.s.endTrace(r.cur.CommandTag(), err)
	}
	return err
}

func (r *sqlRows) Next(dest []driver.Value) error {
	if r.more {
		r.more = false
	} else if !r.open || !r.cur.Next() {
		if err := r.cur.Err(); err != nil {
			return r.s.fault("query", err)
		}
		return io.EOF
	}
	types := r.s.c.pg.TypeMap()
	for i, raw := range r.cur.RawValues() {
		if raw == nil {
			dest[i] = nil
			continue
		}
		v, err := decode(types, &r.fields[i], raw)
		if err != nil {
			return fmt.Errorf("convert field %d failed: %w", i, err)
		}
		dest[i] = v
	}
	return nil
}

// decode turns a value into what pgx's own database/sql driver makes of it. The types that most results consist of are
// decoded here, without a detour.
func decode(types *pgtype.Map, f *pgconn.FieldDescription, raw []byte) (driver.Value, error) {
	if f.Format == pgtype.BinaryFormatCode {
		if v := decodeBinary(f.DataTypeOID, raw); v != nil {
			return v, nil
		}
	} else if sqlFormat(f.DataTypeOID) == pgtype.TextFormatCode {
		switch f.DataTypeOID {
		case pgtype.JSONOID, pgtype.JSONBOID, pgtype.XMLOID:
			return append(make([]byte, 0, len(raw)), raw...), nil
		}
		return string(raw), nil
	}
	if t, known := types.TypeForOID(f.DataTypeOID); known {
		return t.Codec.DecodeDatabaseSQLValue(types, f.DataTypeOID, f.Format, raw)
	}
	return append(make([]byte, 0, len(raw)), raw...), nil
}

// decodeBinary decodes what most results consist of; nil means that it is something else.
func decodeBinary(oid uint32, raw []byte) driver.Value {
	switch {
	case oid == pgtype.Int8OID && len(raw) == 8:
		return int64(binary.BigEndian.Uint64(raw))
	case oid == pgtype.Int4OID && len(raw) == 4:
		return int64(int32(binary.BigEndian.Uint32(raw)))
	case oid == pgtype.Int2OID && len(raw) == 2:
		return int64(int16(binary.BigEndian.Uint16(raw)))
	case oid == pgtype.BoolOID && len(raw) == 1:
		return raw[0] == 1
	case oid == pgtype.Float8OID && len(raw) == 8:
		return math.Float64frombits(binary.BigEndian.Uint64(raw))
	case oid == pgtype.ByteaOID:
		return append(make([]byte, 0, len(raw)), raw...)
	}
	return nil
}

// ColumnTypeDatabaseTypeName returns the type's name in upper case, or its OID when pgx does not know it.
func (r *sqlRows) ColumnTypeDatabaseTypeName(i int) string {
	oid := r.fields[i].DataTypeOID
	if t, ok := r.s.c.pg.TypeMap().TypeForOID(oid); ok {
		return strings.ToUpper(t.Name)
	}
	return strconv.FormatUint(uint64(oid), 10)
}

// ColumnTypeLength returns the greatest length of types that have one.
func (r *sqlRows) ColumnTypeLength(i int) (int64, bool) {
	switch f := &r.fields[i]; f.DataTypeOID {
	case pgtype.TextOID, pgtype.ByteaOID:
		return math.MaxInt64, true
	case pgtype.VarcharOID, pgtype.BPCharOID:
		if f.TypeModifier < typmodHeader {
			return math.MaxInt64, true // as long as one likes
		}
		return int64(f.TypeModifier - typmodHeader), true
	case pgtype.VarbitOID:
		return int64(f.TypeModifier), f.TypeModifier >= 0
	}
	return 0, false
}

const typmodHeader = 4 // what Postgres adds to the type modifier of types of variable length

// ColumnTypePrecisionScale returns those of numeric. Without a limit they are what
// [driver.RowsColumnTypePrecisionScale] says: the greatest there are.
func (r *sqlRows) ColumnTypePrecisionScale(i int) (precision, scale int64, ok bool) {
	f := &r.fields[i]
	switch {
	case f.DataTypeOID != pgtype.NumericOID:
		return 0, 0, false
	case f.TypeModifier < typmodHeader:
		return math.MaxInt64, math.MaxInt64, true
	}
	mod := f.TypeModifier - typmodHeader
	return int64((mod >> 16) & 0xffff), int64(mod & 0xffff), true
}

// ColumnTypeScanType returns the Go type to scan into.
func (r *sqlRows) ColumnTypeScanType(i int) reflect.Type {
	switch r.fields[i].DataTypeOID {
	case pgtype.Float8OID, pgtype.NumericOID:
		return reflect.TypeFor[float64]()
	case pgtype.Float4OID:
		return reflect.TypeFor[float32]()
	case pgtype.Int8OID:
		return reflect.TypeFor[int64]()
	case pgtype.Int4OID:
		return reflect.TypeFor[int32]()
	case pgtype.Int2OID:
		return reflect.TypeFor[int16]()
	case pgtype.BoolOID:
		return reflect.TypeFor[bool]()
	case pgtype.DateOID, pgtype.TimestampOID, pgtype.TimestamptzOID:
		return reflect.TypeFor[time.Time]()
	case pgtype.ByteaOID:
		return reflect.TypeFor[[]byte]()
	}
	return reflect.TypeFor[string]()
}
