-- +goose Up
CREATE TABLE moods_new (id INTEGER PRIMARY KEY, m TEXT NOT NULL DEFAULT 'content', p ANY, b BLOB, extra TEXT) STRICT;
INSERT INTO moods_new (id, m, p, b) SELECT id, m, p, b FROM moods;
DROP TABLE moods;
ALTER TABLE moods_new RENAME TO moods;
