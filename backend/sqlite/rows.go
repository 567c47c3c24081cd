package sqlite

import (
	"database/sql/driver"
	"errors"
	"io"
	"reflect"
	"slices"
	"time"
)

// rows are the rows of one execution. They live in their statement, so that reading costs no allocation more.
type rows struct {
	in   driver.Rows // nil: closed
	s    *session
	c    *conn
	st   *stmt
	last bool // the session waits for them to be closed before it lets the next one write
}

var (
	_ driver.RowsColumnTypeDatabaseTypeName = (*rows)(nil)
	_ driver.RowsColumnTypeLength           = (*rows)(nil)
	_ driver.RowsColumnTypeNullable         = (*rows)(nil)
	_ driver.RowsColumnTypePrecisionScale   = (*rows)(nil)
	_ driver.RowsColumnTypeScanType         = (*rows)(nil)
)

func (r *rows) Columns() []string {
	r.c.mu.Lock()
	defer r.c.unlock()
	if r.in == nil {
		return nil
	}
	return r.in.Columns()
}

func (r *rows) Next(dest []driver.Value) error {
	r.c.mu.Lock()
	defer r.c.unlock()
	if err := r.c.usable("query"); err != nil {
		return err
	}
	if r.in == nil {
		return io.EOF
	}
	if err := r.in.Next(dest); err != nil {
		if err == io.EOF {
			return err
		}
		return r.s.settle("query", err)
	}
	for i := range dest {
		switch v := dest[i].(type) {
		case []byte:
			if v == nil { // the driver makes no difference between no bytes and NULL
				dest[i] = []byte{}
			}
		case string:
			if t, ok := r.time(i, v); ok {
				dest[i] = t
			}
		case time.Time:
			if v.Location() != time.UTC {
				dest[i] = v.UTC()
			}
		}
	}
	return nil
}

// finish closes the rows underneath. The caller holds c.mu.
func (r *rows) finish() error {
	in := r.in
	if in == nil {
		return nil
	}
	r.in = nil
	return errors.Join(in.Close(), r.st.done())
}

func (r *rows) Close() error {
	r.c.mu.Lock()
	err := r.finish()
	if i := slices.Index(r.c.open, r); i >= 0 {
		r.c.open = slices.Delete(r.c.open, i, i+1)
	}
	err = r.s.settle("query", err)
	r.c.unlock()
	if r.last {
		r.last = false
		err = r.s.end("query", err)
	}
	return err
}

// columnType asks the rows underneath, while nobody else is in SQLite.
func columnType[T any](r *rows, ask func(in T)) {
	r.c.mu.Lock()
	defer r.c.unlock()
	if in, ok := r.in.(T); ok {
		ask(in)
	}
}

func (r *rows) ColumnTypeDatabaseTypeName(i int) (name string) {
	columnType(r, func(in driver.RowsColumnTypeDatabaseTypeName) { name = in.ColumnTypeDatabaseTypeName(i) })
	return name
}

func (r *rows) ColumnTypeLength(i int) (length int64, ok bool) {
	columnType(r, func(in driver.RowsColumnTypeLength) { length, ok = in.ColumnTypeLength(i) })
	return length, ok
}

func (r *rows) ColumnTypeNullable(i int) (nullable, ok bool) {
	columnType(r, func(in driver.RowsColumnTypeNullable) { nullable, ok = in.ColumnTypeNullable(i) })
	return nullable, ok
}

func (r *rows) ColumnTypePrecisionScale(i int) (precision, scale int64, ok bool) {
	columnType(r, func(in driver.RowsColumnTypePrecisionScale) { precision, scale, ok = in.ColumnTypePrecisionScale(i) })
	return precision, scale, ok
}

func (r *rows) ColumnTypeScanType(i int) reflect.Type {
	t := reflect.TypeFor[any]()
	columnType(r, func(in driver.RowsColumnTypeScanType) {
		switch found := in.ColumnTypeScanType(i); {
		case found == nil: // the driver's answer for NULL, which database/sql's callers do not expect
		case found == reflect.TypeFor[string]() && r.holdsTimes(i):
			t = reflect.TypeFor[time.Time]()
		default:
			t = found
		}
	})
	return t
}
