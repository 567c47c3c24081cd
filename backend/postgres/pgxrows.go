package postgres

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// rows are pgx.Rows over a cursor whose first row has been read ahead.
type rows struct {
	cur     cursor // nil when the query failed
	types   *pgtype.Map
	s       *session   // nil for a result of a batch
	st      *statement // keeps the scan plans, when there is one
	plans   []scanPlan
	ahead   bool          // the row read ahead has not been asked for
	own     bool          // the session is to be released at the end
	single  bool          // for QueryRow
	batch   *batchResults // of which it is a result
	started time.Time
	closed  bool
	tag     pgconn.CommandTag
	last    []pgconn.FieldDescription // when closed
	err     error
}

var _ pgx.Rows = (*rows)(nil)

// scanPlan is how a column is scanned into a type of destination.
type scanPlan struct {
	into reflect.Type
	plan pgtype.ScanPlan
}

func (r *rows) Close() {
	if r.closed {
		return
	}
	r.closed = true
	r.cur.Close()
	if err := r.cur.Err(); err != nil {
		switch {
		case r.s != nil:
			err = r.s.fault("query", err)
		case r.batch != nil:
			err = r.batch.s.fault("send batch", err)
		}
		r.fail(err)
	}
	// After the release the cursor is someone else's.
	if !r.single {
		r.tag, r.last = r.cur.CommandTag(), r.cur.FieldDescriptions()
	}
	if r.s != nil && r.s.traced != nil {
		r.s.endTrace(r.cur.CommandTag(), r.err)
	}
	if r.own {
		r.s.Release()
	}
	if r.batch != nil {
		r.batch.ended(r)
	}
}

func (r *rows) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

func (r *rows) Next() bool {
	if r.closed {
		return false
	}
	if r.ahead {
		r.ahead = false
		return true
	}
	if r.cur.Next() {
		return true
	}
	r.Close()
	return false
}

func (r *rows) Scan(dest ...any) error {
	err := r.scan(dest)
	if err != nil && !r.closed {
		r.fail(err)
		r.Close()
	}
	return err
}

func (r *rows) scan(dest []any) error {
	if r.closed {
		return cmp.Or(r.err, errors.New("rows is closed"))
	}
	fields, values := r.cur.FieldDescriptions(), r.cur.RawValues()
	if len(dest) == 1 {
		if whole, ok := dest[0].(pgx.RowScanner); ok {
			return whole.ScanRow(r)
		}
	}
	if len(fields) != len(values) {
		return fmt.Errorf("number of field descriptions must equal number of values, got %d and %d", len(fields), len(values))
	}
	if len(fields) != len(dest) {
		return fmt.Errorf("number of field descriptions must equal number of destinations, got %d and %d", len(fields), len(dest))
	}
	if r.plans == nil {
		// A statement's columns and formats are always the same, so its plans are good for the next result too.
		if r.st != nil && len(r.st.plans) == len(dest) {
			r.plans = r.st.plans
		} else {
			r.plans = make([]scanPlan, len(dest))
			if r.st != nil {
				r.st.plans = r.plans
			}
		}
	}
	for i, d := range dest {
		if d == nil {
			continue
		}
		p := &r.plans[i]
		if into := reflect.TypeOf(d); p.into != into {
			*p = scanPlan{into: into, plan: r.types.PlanScan(fields[i].DataTypeOID, fields[i].Format, d)}
		}
		if err := p.plan.Scan(values[i], d); err != nil {
			return pgx.ScanArgError{ColumnIndex: i, FieldName: fields[i].Name, Err: err}
		}
	}
	return nil
}

func (r *rows) Values() ([]any, error) {
	if r.closed {
		return nil, cmp.Or(r.err, errors.New("rows is closed"))
	}
	values, err := decoded(r.types, r.cur.FieldDescriptions(), r.cur.RawValues())
	if err != nil {
		r.fail(err)
		r.Close()
		return nil, err
	}
	return values, nil
}

func (r *rows) Err() error { return r.err }

func (r *rows) CommandTag() pgconn.CommandTag { return r.tag }

func (r *rows) FieldDescriptions() []pgconn.FieldDescription {
	switch {
	case r.cur == nil:
		return nil
	case r.closed:
		return r.last
	}
	return r.cur.FieldDescriptions()
}

func (r *rows) RawValues() [][]byte {
	if r.closed {
		return nil
	}
	return r.cur.RawValues()
}

// Conn returns nil: the connection serves other tenants too, and is not to be used past the router.
func (r *rows) Conn() *pgx.Conn { return nil }

func (r *rows) TypeMap() *pgtype.Map { return r.types }

// row is the first of rows.
type row rows

func (r *row) Scan(dest ...any) error {
	rs := (*rows)(r)
	rs.single = true
	defer rs.Close() // survives a Scanner that panics
	for _, d := range dest {
		if _, ok := d.(*pgtype.DriverBytes); ok {
			return errors.New("cannot scan into *pgtype.DriverBytes from QueryRow")
		}
	}
	if !rs.Next() {
		if rs.err != nil {
			return rs.err
		}
		return pgx.ErrNoRows
	}
	if err := rs.Scan(dest...); err != nil {
		return err
	}
	rs.Close()
	return rs.err
}

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
