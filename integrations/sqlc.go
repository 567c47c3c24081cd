package integrations

import (
	"context"
	"database/sql"

	"github.com/jackc/pgx/v5"

	"github.com/tenement-go/tenement/backend/postgres"
	"github.com/tenement-go/tenement/integrations/sqlc/native"
	"github.com/tenement-go/tenement/integrations/sqlc/std"
	"github.com/tenement-go/tenement/tenancy"
)

// Sqlc is the library by the code that sqlc generates for database/sql with emit_prepared_queries.
type Sqlc struct {
	db *sql.DB
	q  *std.Queries
}

// PrepareSqlc prepares all queries once for all tenants: preparing touches no store, so it needs no tenant.
func PrepareSqlc(ctx context.Context, app *tenancy.App) (*Sqlc, error) {
	q, err := std.Prepare(ctx, app.DB())
	return &Sqlc{app.DB(), q}, err
}

// Add implements [Library].
func (s *Sqlc) Add(ctx context.Context, author string, titles ...string) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	q := s.q.WithTx(tx)
	id, err := q.AddAuthor(ctx, author)
	if err != nil {
		return err
	}
	for _, title := range titles {
		if err := q.AddBook(ctx, std.AddBookParams{AuthorID: id, Title: title}); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// Titles implements [Library].
func (s *Sqlc) Titles(ctx context.Context, author string) ([]string, error) {
	return s.q.Titles(ctx, author)
}

// Rename implements [Library].
func (s *Sqlc) Rename(ctx context.Context, from, to string) error {
	return s.q.Rename(ctx, std.RenameParams{Name: from, Name_2: to})
}

// Remove implements [Library].
func (s *Sqlc) Remove(ctx context.Context, author string) error { return s.q.Remove(ctx, author) }

// SqlcPGX is the library by the code that sqlc generates for pgx. It runs on Postgres only.
type SqlcPGX struct {
	db *postgres.PGX
	q  *native.Queries
}

// NewSqlcPGX returns it over the routed handle that speaks pgx.
func NewSqlcPGX(be *postgres.Backend) *SqlcPGX { return &SqlcPGX{be.PGX(), native.New(be.PGX())} }

// Add implements [Library].
func (s *SqlcPGX) Add(ctx context.Context, author string, titles ...string) error {
	return pgx.BeginFunc(ctx, s.db, func(tx pgx.Tx) error {
		q := s.q.WithTx(tx)
		id, err := q.AddAuthor(ctx, author)
		for _, title := range titles {
			if err == nil {
				err = q.AddBook(ctx, native.AddBookParams{AuthorID: id, Title: title})
			}
		}
		return err
	})
}

// Titles implements [Library].
func (s *SqlcPGX) Titles(ctx context.Context, author string) ([]string, error) {
	return s.q.Titles(ctx, author)
}

// Rename implements [Library].
func (s *SqlcPGX) Rename(ctx context.Context, from, to string) error {
	return s.q.Rename(ctx, native.RenameParams{Name: from, Name_2: to})
}

// Remove implements [Library].
func (s *SqlcPGX) Remove(ctx context.Context, author string) error { return s.q.Remove(ctx, author) }
