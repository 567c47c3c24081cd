package transfer

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"

	"github.com/tenement-go/tenement/internal/sqltext"
)

const (
	maxVariables = 32766 // of a statement, SQLite's own limit
	maxBatch     = 64    // rows
	// maxBatchBytes is from how many bytes of texts and blobs on a batch has enough rows. Of rows that are so big each batch has
	// another number, and to prepare a statement for it is little beside what is inserted.
	maxBatchBytes = 1 << 20
)

// fill inserts rows while produce makes the next ones ready: what reads them and what writes them take about as long.
//
// The statements go to the driver itself. What is between it and who calls a [*sql.Stmt] looks at each value, and copies it twice:
// as much work as half of what SQLite has with it. The values are of the kinds that any driver takes.
func (w *sqliteWriter) fill(ctx context.Context, table string, columns []Column, produce func(put func(row []any) error) error) error {
	in := &sqliteInserter{columns: len(columns), most: max(1, min(maxBatch, maxVariables/len(columns)))}
	in.head = "INSERT INTO main." + sqltext.Quote(table) + " (" + quoted(columns, "") + ") VALUES "
	in.tuple = "(?" + strings.Repeat(",?", len(columns)-1) + ")"
	b := newBatches(in.most * len(columns))
	inserted := make(chan error, 1)
	go func() {
		err := w.conn.Raw(func(c any) error {
			var able bool
			if in.conn, able = c.(driver.ConnPrepareContext); !able {
				return fmt.Errorf("tenement: transfer: %T: %w: it prepares no statement", c, errors.ErrUnsupported)
			}
			return in.insertAll(ctx, b)
		})
		if err != nil {
			close(b.stopped)
		}
		inserted <- err
	}()
	err := produce(b.put)
	if err == nil {
		err = b.flush()
	}
	close(b.full)
	if failed := <-inserted; failed != nil {
		return failed // which stopped produce
	}
	return err
}

// batches are rows on their way from who reads them to who inserts them. Their memory goes round.
type batches struct {
	mine    []driver.NamedValue
	bytes   int // of the texts and blobs in mine
	full    chan []driver.NamedValue
	empty   chan []driver.NamedValue
	stopped chan struct{} // nobody takes them any more
}

// newBatches makes batches of so many values.
func newBatches(size int) *batches {
	const ahead = 2
	b := &batches{
		mine: numberedValues(size), full: make(chan []driver.NamedValue, ahead), empty: make(chan []driver.NamedValue, ahead+1),
		stopped: make(chan struct{}),
	}
	for range ahead {
		b.empty <- numberedValues(size)
	}
	return b
}

// numberedValues is room for so many arguments of a statement, which have their numbers already.
func numberedValues(size int) []driver.NamedValue {
	list := make([]driver.NamedValue, size)
	for i := range list {
		list[i].Ordinal = i + 1
	}
	return list[:0]
}

func (b *batches) put(row []any) error {
	n := len(b.mine)
	b.mine = b.mine[:n+len(row)]
	for i, v := range row {
		b.mine[n+i].Value = v
		b.bytes += bytesOf(v)
	}
	if len(b.mine)+len(row) <= cap(b.mine) && b.bytes < maxBatchBytes {
		return nil
	}
	return b.flush()
}

func (b *batches) flush() error {
	if len(b.mine) == 0 {
		return nil
	}
	select {
	case b.full <- b.mine:
	case <-b.stopped:
		return errStopped
	}
	select {
	case b.mine = <-b.empty:
		b.bytes = 0
		return nil
	case <-b.stopped:
		return errStopped
	}
}

// bytesOf is what a value takes, where that may be much.
func bytesOf(v any) int {
	switch v := v.(type) {
	case string:
		return len(v)
	case []byte:
		return len(v)
	}
	return 0
}

// sqliteInserter inserts several rows by one statement.
type sqliteInserter struct {
	conn          driver.ConnPrepareContext
	head, tuple   string
	columns, most int

	rows int // that the statement takes
	stmt driver.Stmt
	exec driver.StmtExecContext // the same
}

// insertAll inserts batches until there are no more, or until one cannot be inserted.
func (in *sqliteInserter) insertAll(ctx context.Context, b *batches) error {
	defer in.close()
	for args := range b.full {
		if n := len(args) / in.columns; n != in.rows { // the first, the last, and big ones
			if err := in.prepare(ctx, n); err != nil {
				return err
			}
		}
		if _, err := in.exec.ExecContext(ctx, args); err != nil {
			return err
		}
		for i := range args {
			args[i].Value = nil // or what is big would be kept until all of the room is used again
		}
		b.empty <- args[:0]
	}
	return nil
}

func (in *sqliteInserter) prepare(ctx context.Context, rows int) (err error) {
	in.close()
	if in.stmt, err = in.conn.PrepareContext(ctx, in.head+in.tuple+strings.Repeat(","+in.tuple, rows-1)); err != nil {
		return err
	}
	var able bool
	if in.exec, able = in.stmt.(driver.StmtExecContext); !able {
		return fmt.Errorf("tenement: transfer: %T: %w: it takes no context", in.stmt, errors.ErrUnsupported)
	}
	in.rows = rows
	return nil
}

func (in *sqliteInserter) close() {
	if in.stmt != nil {
		_ = in.stmt.Close()
		in.stmt = nil
	}
}
