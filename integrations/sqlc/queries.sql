-- name: AddAuthor :one
INSERT INTO authors (name) VALUES ($1) RETURNING id;

-- name: AddBook :exec
INSERT INTO books (author_id, title) VALUES ($1, $2);

-- name: Titles :many
SELECT b.title FROM books b JOIN authors a ON a.id = b.author_id WHERE a.name = $1 ORDER BY b.title;

-- name: Rename :exec
UPDATE authors SET name = $2 WHERE name = $1;

-- name: Remove :exec
DELETE FROM authors WHERE name = $1;
