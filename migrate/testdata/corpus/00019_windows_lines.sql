-- +goose Up
CREATE TABLE crlf (
    id INTEGER PRIMARY KEY,
    text TEXT
);

-- +goose StatementBegin
INSERT INTO crlf (id, text) VALUES (1, 'one');
-- +goose StatementEnd
-- +goose Down
DROP TABLE crlf;
