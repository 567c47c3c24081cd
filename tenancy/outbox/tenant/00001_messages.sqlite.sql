-- +goose Up
CREATE TABLE outbox_messages (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    kind    TEXT NOT NULL,
    payload TEXT NOT NULL
);

-- +goose Down
DROP TABLE outbox_messages;
