-- What the migrations make, as sqlc has to know it. Generated code is the same for both databases: SQLite knows $1 too.
CREATE TABLE authors (id BIGSERIAL PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE books (
	id BIGSERIAL PRIMARY KEY,
	author_id BIGINT NOT NULL REFERENCES authors (id) ON DELETE CASCADE,
	title TEXT NOT NULL,
	added TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT CURRENT_TIMESTAMP
);
