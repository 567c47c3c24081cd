-- +goose Up
CREATE INDEX users_expr ON users ((age % 10), coalesce(note, ''));
CREATE INDEX `backquoted` ON users ([note] COLLATE NOCASE DESC);
