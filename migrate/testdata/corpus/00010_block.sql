-- +goose Up
-- +goose StatementBegin
CREATE TABLE b1 (x INTEGER);
CREATE TABLE b2 (x INTEGER);
INSERT INTO b1 (x) VALUES (10)
-- +goose StatementEnd
;
INSERT INTO b2 (x) SELECT x + 1 FROM b1;
