package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenement-go/tenement/backend/driver"
	"github.com/tenement-go/tenement/internal/sqltext"
)

var _ driver.Copier = (*session)(nil)

// CopyOut implements [driver.Copier].
func (s *session) CopyOut(ctx context.Context, w io.Writer, query string) (int64, error) {
	return s.stream(ctx, query, func(pc *pgconn.PgConn) (pgconn.CommandTag, error) { return pc.CopyTo(ctx, w, query) })
}

// CopyIn implements [driver.Copier].
func (s *session) CopyIn(ctx context.Context, r io.Reader, query string) (int64, error) {
	source := &copySource{r: r}
	n, err := s.stream(ctx, query, func(pc *pgconn.PgConn) (pgconn.CommandTag, error) { return pc.CopyFrom(ctx, source, query) })
	if cause := source.failed.Load(); err != nil && cause != nil {
		// pgx tells the server of it, and returns what the server makes of that (CopyFrom in pgconn).
		err = fmt.Errorf("%w: %w", *cause, err)
	}
	return n, err
}

// copySource remembers what ended its reader. It is read on a goroutine of pgx, which may outlive a lost connection.
type copySource struct {
	r      io.Reader
	failed atomic.Pointer[error]
}

func (s *copySource) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.failed.Store(&err)
	}
	return n, err
}

var errNoCopy = errors.New("it must be one COPY statement")

func (s *session) stream(ctx context.Context, query string, do func(pc *pgconn.PgConn) (pgconn.CommandTag, error)) (int64, error) {
	if !oneCopy(query) {
		return 0, errNoCopy
	}
	if err := s.open(ctx); err != nil {
		return 0, err
	}
	if err := s.usable("copy"); err != nil {
		return 0, err
	}
	tag, err := do(s.c.pc)
	s.used = true
	var pe *pgconn.PgError
	switch {
	case errors.As(err, &pe) && pe.Where != "":
		return 0, s.fault("copy", &copyFault{pe})
	case err != nil:
		return 0, s.fault("copy", err)
	}
	if err := s.c.checkNow(ctx); err != nil {
		return 0, s.fault("copy", err)
	}
	return tag.RowsAffected(), nil
}

// oneCopy: the text goes to the server as a simple query, which may be several statements.
func oneCopy(query string) bool {
	s := sqltext.New(sqltext.Postgres, query)
	first := s.Next()
	if !s.Is(first, "copy") {
		return false
	}
	for t := s.Next(); t.Kind != sqltext.End; t = s.Next() {
		if t.Kind == sqltext.Separator {
			return false
		}
	}
	return true
}

// copyFault says with which row of which table Postgres was not content: the line is in the context of its error.
type copyFault struct{ *pgconn.PgError }

func (e *copyFault) Error() string { return e.PgError.Error() + ": " + e.Where }
func (e *copyFault) Unwrap() error { return e.PgError }
