-- +goose Up
CREATE TABLE users (
    id    INTEGER PRIMARY KEY,
    name  TEXT NOT NULL DEFAULT '',
    email TEXT UNIQUE
);
INSERT INTO users (id, name, email) VALUES (1, 'Ada', 'ada@example.org');
-- +goose Down
DROP TABLE users;
