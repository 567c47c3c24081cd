package integrations

import (
	"context"

	"github.com/jmoiron/sqlx"

	"github.com/tenement-go/tenement/tenancy"
)

// Sqlx is the library by sqlx.
type Sqlx struct {
	db     *sqlx.DB
	titles *sqlx.Stmt
}

// NewSqlx prepares what it can at once: preparing touches no store, so it needs no tenant.
func NewSqlx(app *tenancy.App) (*Sqlx, error) {
	// sqlx knows how arguments are written by the driver's name. $1 is understood by both databases.
	db := sqlx.NewDb(app.DB(), "pgx")
	titles, err := db.Preparex("SELECT b.title FROM books b JOIN authors a ON a.id = b.author_id WHERE a.name = $1 ORDER BY b.title")
	return &Sqlx{db, titles}, err
}

// Add implements [Library].
func (s *Sqlx) Add(ctx context.Context, author string, titles ...string) error {
	tx, err := s.db.BeginTxx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	var id int64
	if err := tx.GetContext(ctx, &id, "INSERT INTO authors (name) VALUES ($1) RETURNING id", author); err != nil {
		return err
	}
	for _, title := range titles {
		book := map[string]any{"author": id, "title": title}
		if _, err := tx.NamedExecContext(ctx, "INSERT INTO books (author_id, title) VALUES (:author, :title)", book); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// Titles implements [Library].
func (s *Sqlx) Titles(ctx context.Context, author string) (titles []string, err error) {
	err = s.titles.SelectContext(ctx, &titles, author)
	return titles, err
}

// Rename implements [Library].
func (s *Sqlx) Rename(ctx context.Context, from, to string) error {
	_, err := s.db.ExecContext(ctx, s.db.Rebind("UPDATE authors SET name = ? WHERE name = ?"), to, from)
	return err
}

// Remove implements [Library].
func (s *Sqlx) Remove(ctx context.Context, author string) error {
	_, err := s.db.ExecContext(ctx, "DELETE FROM authors WHERE name = $1", author)
	return err
}
