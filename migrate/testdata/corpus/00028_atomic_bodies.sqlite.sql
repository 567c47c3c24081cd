-- +goose Up
CREATE TABLE keyed (k TEXT PRIMARY KEY, v) WITHOUT ROWID;
INSERT INTO keyed VALUES ('a', 1), ('b', 'two');
REPLACE INTO keyed (k, v) VALUES ('a', NULL);
