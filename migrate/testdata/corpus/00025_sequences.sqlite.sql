-- +goose Up
CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT, x TEXT);
INSERT INTO counted (id, x) VALUES (100, 'a');
INSERT INTO counted (x) VALUES ('b');
