-- +goose Up
-- Stores that are made ahead. A row is there before its store is, and as long as that is.
CREATE TABLE tenement_spares (
    id          TEXT PRIMARY KEY,
    state       TEXT NOT NULL,
    fingerprint TEXT NOT NULL
);

-- +goose Down
DROP TABLE tenement_spares;
