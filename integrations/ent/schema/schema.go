// Package schema is what Ent generates its code from.
package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/dialect/entsql"
	"entgo.io/ent/schema/edge"
	"entgo.io/ent/schema/field"
)

// Author is the schema of authors.
type Author struct{ ent.Schema }

// Fields of authors.
func (Author) Fields() []ent.Field {
	return []ent.Field{field.Int64("id"), field.String("name").Unique()}
}

// Edges of authors.
func (Author) Edges() []ent.Edge {
	return []ent.Edge{edge.To("books", Book.Type).Annotations(entsql.OnDelete(entsql.Cascade)).StorageKey(edge.Column("author_id"))}
}

// Book is the schema of books.
type Book struct{ ent.Schema }

// Fields of books.
func (Book) Fields() []ent.Field {
	return []ent.Field{field.Int64("id"), field.String("title").NotEmpty()}
}

// Edges of books.
func (Book) Edges() []ent.Edge {
	return []ent.Edge{edge.From("author", Author.Type).Ref("books").Unique().Required()}
}
