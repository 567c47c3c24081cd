-- +goose Up
CREATE TABLE checked (
    id INTEGER PRIMARY KEY,
    n  INTEGER NOT NULL DEFAULT (1 + 2) CHECK (n > 0),
    kind TEXT NOT NULL DEFAULT 'a;b' CHECK (kind IN ('a;b', 'c')),
    CONSTRAINT both_or_none CHECK ((n = 1) = (kind = 'c') OR n > 1)
);
INSERT INTO checked (id) VALUES (1);
