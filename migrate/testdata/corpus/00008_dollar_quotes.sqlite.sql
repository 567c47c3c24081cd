-- +goose Up
INSERT INTO comments (id, text) VALUES (8, '$outer$ means nothing here $$');
INSERT INTO comments (id, text) VALUES (80, 'one line');
