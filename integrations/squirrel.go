package integrations

import (
	"context"
	"database/sql"

	sq "github.com/Masterminds/squirrel"

	"github.com/tenement-go/tenement/tenancy"
)

// Squirrel is the library by squirrel.
type Squirrel struct {
	db  *sql.DB
	sql sq.StatementBuilderType
}

// NewSquirrel returns it over the routed handle.
func NewSquirrel(app *tenancy.App) *Squirrel {
	// $1 is understood by both databases.
	return &Squirrel{app.DB(), sq.StatementBuilder.PlaceholderFormat(sq.Dollar).RunWith(app.DB())}
}

// Add implements [Library].
func (s *Squirrel) Add(ctx context.Context, author string, titles ...string) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	var id int64
	err = s.sql.Insert("authors").Columns("name").Values(author).Suffix("RETURNING id").RunWith(tx).ScanContext(ctx, &id)
	if err != nil {
		return err
	}
	for _, title := range titles {
		insert := s.sql.Insert("books").Columns("author_id", "title").Values(id, title)
		if _, err := insert.RunWith(tx).ExecContext(ctx); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// Titles implements [Library].
func (s *Squirrel) Titles(ctx context.Context, author string) (titles []string, err error) {
	rows, err := s.sql.Select("b.title").From("books b").Join("authors a ON a.id = b.author_id").
		Where(sq.Eq{"a.name": author}).OrderBy("b.title").QueryContext(ctx)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var title string
		if err := rows.Scan(&title); err != nil {
			return nil, err
		}
		titles = append(titles, title)
	}
	return titles, rows.Err()
}

// Rename implements [Library].
func (s *Squirrel) Rename(ctx context.Context, from, to string) error {
	_, err := s.sql.Update("authors").Set("name", to).Where(sq.Eq{"name": from}).ExecContext(ctx)
	return err
}

// Remove implements [Library].
func (s *Squirrel) Remove(ctx context.Context, author string) error {
	_, err := s.sql.Delete("authors").Where(sq.Eq{"name": author}).ExecContext(ctx)
	return err
}
