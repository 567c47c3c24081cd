package postgres

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgtype"
)

// copyFrom copies rows into a table, within the transaction. The types of its columns are asked for each time: pgx's own
// CopyFrom keeps them by the table's name, which means another table in another store, or after a migration, and the
// server takes a binary value for whatever type the column has.
func (s *session) copyFrom(ctx context.Context, table pgx.Identifier, columns []string, source pgx.CopyFromSource) (count int64, err error) {
	if t, ok := s.c.be.tracer.(pgx.CopyFromTracer); ok {
		ctx = t.TraceCopyFromStart(ctx, s.c.pg, pgx.TraceCopyFromStartData{TableName: table, ColumnNames: columns})
		defer func() {
			t.TraceCopyFromEnd(ctx, s.c.pg, pgx.TraceCopyFromEndData{CommandTag: pgconn.NewCommandTag(fmt.Sprintf("COPY %d", count)), Err: err})
		}()
	}
	if err := s.open(ctx); err != nil {
		return 0, err
	}
	c := s.c // now: it may have been exchanged
	if err := s.usable("copy"); err != nil {
		return 0, err
	}
	quoted := make([]string, len(columns))
	for i, column := range columns {
		quoted[i] = quote(column)
	}
	list, name := strings.Join(quoted, ", "), table.Sanitize()
	fields, err := c.columnsOf(ctx, "select "+list+" from "+name)
	if err != nil {
		return 0, s.fault("copy", err)
	}
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = w.CloseWithError(writeCopy(w, c.types, fields, source))
	}()
	tag, err := c.pc.CopyFrom(ctx, r, "copy "+name+" ( "+list+" ) from stdin binary")
	_ = r.Close()
	<-done
	s.used = true
	if err != nil {
		return 0, s.fault("copy", err)
	}
	return tag.RowsAffected(), nil
}

// columnsOf asks what columns a query has.
func (c *conn) columnsOf(ctx context.Context, sql string) ([]pgconn.FieldDescription, error) {
	w := &c.wire
	if err := w.start(ctx); err != nil {
		return nil, err
	}
	c.fe.SendParse(&pgproto3.Parse{Query: sql})
	c.fe.SendDescribe(&pgproto3.Describe{ObjectType: 'S'})
	c.fe.SendSync(&syncAll)
	w.queue(stepPrepare)
	if err := w.flush(); err != nil {
		return nil, err
	}
	w.drain()
	return w.fields, w.err
}

// copyChunk is how much is written at a time.
const copyChunk = 60 << 10

// writeCopy writes the rows in the format of COPY … BINARY.
func writeCopy(w io.Writer, types *pgtype.Map, fields []pgconn.FieldDescription, source pgx.CopyFromSource) error {
	buf := append(make([]byte, 0, copyChunk+copyChunk/4), "PGCOPY\n\377\r\n\000\000\000\000\000\000\000\000\000"...)
	for source.Next() {
		values, err := source.Values()
		if err != nil {
			return err
		}
		if len(values) != len(fields) {
			return fmt.Errorf("expected %d values, got %d values", len(fields), len(values))
		}
		buf = binary.BigEndian.AppendUint16(buf, uint16(len(values)))
		for i, v := range values {
			if buf, err = appendCopyValue(buf, types, fields[i].DataTypeOID, v); err != nil {
				return fmt.Errorf("column %q: %w", fields[i].Name, err)
			}
		}
		if len(buf) >= copyChunk {
			if _, err := w.Write(buf); err != nil {
				return err
			}
			buf = buf[:0]
		}
	}
	if err := source.Err(); err != nil {
		return err
	}
	_, err := w.Write(buf)
	return err
}

// appendCopyValue appends a value in the column's binary format, ahead of it its length. A string is read as the type's
// text where the type cannot encode it, as pgx does.
func appendCopyValue(buf []byte, types *pgtype.Map, oid uint32, v any) ([]byte, error) {
	at := len(buf)
	buf = append(buf, 0xff, 0xff, 0xff, 0xff) // NULL
	out, err := types.Encode(oid, pgtype.BinaryFormatCode, v, buf)
	if text, ok := v.(string); err != nil && ok {
		var parsed any
		t, known := types.TypeForOID(oid)
		if !known {
			return nil, err
		}
		if parsed, err = t.Codec.DecodeValue(types, oid, pgtype.TextFormatCode, []byte(text)); err == nil {
			out, err = types.Encode(oid, pgtype.BinaryFormatCode, parsed, buf)
		}
	}
	switch {
	case err != nil:
		return nil, err
	case out == nil:
		return buf, nil
	}
	binary.BigEndian.PutUint32(out[at:], uint32(len(out)-at-4))
	return out, nil
}
