-- +goose Up
CREATE TABLE outbox_messages (
    id      BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind    TEXT NOT NULL,
    payload TEXT NOT NULL
);

-- +goose Down
DROP TABLE outbox_messages;
