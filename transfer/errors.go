package transfer

import (
	"errors"
	"fmt"
)

// The errors of this package, to be tested for with [errors.Is].
var (
	// ErrNotTransferFile: the file is none that Export wrote: no SQLite database, or another application's.
	ErrNotTransferFile = errors.New("it is no file that a tenant was exported to")
	// ErrFormat: the file is of a later format than this program reads.
	ErrFormat = errors.New("the file's format is newer than this program")
	// ErrDamaged: the file was cut short, or changed after it was written.
	ErrDamaged = errors.New("the file is damaged")
	// ErrValue: a value cannot be moved as it is; see [*ValueError].
	ErrValue = errors.New("the value would change")
	// ErrSchema: a table or a column cannot be moved; see [*SchemaError].
	ErrSchema = errors.New("the tables do not fit")
	// ErrDiffer: Verify found differences.
	ErrDiffer = errors.New("they differ")
	// ErrNoSQLite: the program does not link SQLite's driver, without which it can neither write nor read a tenant's file.
	ErrNoSQLite = errors.New("tenement: transfer: a tenant's file is a SQLite database, and this program links no driver for it")
	// ErrMigrated: the tenant was migrated while it was read, or a table of it, in Postgres, got another file: by TRUNCATE, by
	// ALTER TABLE, by VACUUM FULL, which a snapshot does not cover. Nothing was made; it can be begun again.
	ErrMigrated = errors.New("the tenant was migrated while it was read: begin again")
	// ErrMask: a constraint or a type refuses what masks make of rows: two are alike where there may be one, say. The
	// database's own error is in the chain.
	ErrMask = errors.New("the tables do not take what the masks make of the rows")
	// ErrUnmasked: a column is not classified by any mask; see [*UnmaskedError].
	ErrUnmasked = errors.New("no mask says what becomes of it")
)

// ValueError says which value cannot be moved. errors.Is(err, [ErrValue]) holds for it.
type ValueError struct {
	Table, Column string
	Row           string // its primary key, as "id=5", or its number in the table's order, as "row 17"
	Type          string // the type of the column that it is for
	Reason        string
}

// Error names table, column and row.
func (e *ValueError) Error() string {
	return fmt.Sprintf("tenement: transfer: table %s, column %s, %s: %s (for a column of type %s)", e.Table, e.Column, e.Row, e.Reason, e.Type)
}

// Is reports whether target is ErrValue.
func (e *ValueError) Is(target error) bool { return target == ErrValue }

// SchemaError says which table or column cannot be moved at all. It comes before anything is made or moved.
// errors.Is(err, [ErrSchema]) holds for it.
type SchemaError struct {
	Table, Column string // Column may be empty
	Reason        string
}

// Error names the table, the column and the reason.
func (e *SchemaError) Error() string {
	if e.Column == "" {
		return fmt.Sprintf("tenement: transfer: table %s: %s", e.Table, e.Reason)
	}
	return fmt.Sprintf("tenement: transfer: table %s, column %s: %s", e.Table, e.Column, e.Reason)
}

// Is reports whether target is ErrSchema.
func (e *SchemaError) Is(target error) bool { return target == ErrSchema }

// FileError says what is wrong with a file. It unwraps to [ErrNotTransferFile], [ErrFormat] or [ErrDamaged].
type FileError struct {
	Path   string
	Detail string // may be empty
	Err    error
}

// Error names the file.
func (e *FileError) Error() string {
	if e.Detail == "" {
		return fmt.Sprintf("tenement: transfer: %s: %v", e.Path, e.Err)
	}
	return fmt.Sprintf("tenement: transfer: %s: %v: %s", e.Path, e.Err, e.Detail)
}

// Unwrap returns the sentinel.
func (e *FileError) Unwrap() error { return e.Err }

// UnmaskedError lists the columns that no mask classifies. errors.Is(err, [ErrUnmasked]) holds for it.
type UnmaskedError struct {
	Columns []string // TABLE.COLUMN
}

// Error lists the columns.
func (e *UnmaskedError) Error() string {
	return fmt.Sprintf("tenement: transfer: %v: %v", ErrUnmasked, e.Columns)
}

// Is reports whether target is ErrUnmasked.
func (e *UnmaskedError) Is(target error) bool { return target == ErrUnmasked }

// refusal is why a value cannot be converted; a ValueError is made of it where table and row are known.
type refusal string

func (r refusal) Error() string { return string(r) }

func refuse(format string, args ...any) (any, error) {
	return nil, refusal(fmt.Sprintf(format, args...))
}
