-- +goose Up
-- +goose StatementBegin
INSERT INTO comments (id, text) VALUES (6, 'first line;
second line;
-- +gooose is no annotation
third line');
-- +goose StatementEnd
