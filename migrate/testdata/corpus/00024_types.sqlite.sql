-- +goose Up
CREATE TABLE moods (id INTEGER PRIMARY KEY, m TEXT NOT NULL DEFAULT 'happy', p ANY, b BLOB) STRICT;
INSERT INTO moods (id, p, b) VALUES (1, 2.5, x'00ff');
