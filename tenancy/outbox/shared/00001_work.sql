-- +goose Up
CREATE TABLE tenement_outbox_work (
    tenant       TEXT PRIMARY KEY,
    marked       BIGINT NOT NULL,
    leased_until BIGINT NOT NULL DEFAULT 0
);

-- +goose Down
DROP TABLE tenement_outbox_work;
