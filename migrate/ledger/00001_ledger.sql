-- Which store has which migrations. The row without a store's name is the shared store itself.
-- Times are milliseconds since 1970 (UTC).

-- +goose Up
CREATE TABLE tenement_ledger (
    store        TEXT   NOT NULL PRIMARY KEY,
    owner        TEXT   NOT NULL DEFAULT '',
    -- What is applied: names a row of tenement_ledger_states. Empty: not known.
    fingerprint  TEXT   NOT NULL DEFAULT '',
    updated_at   BIGINT NOT NULL,
    -- The last failure since the last success.
    failed_source  TEXT   NOT NULL DEFAULT '',
    failed_version BIGINT NOT NULL DEFAULT 0,
    failed_state   TEXT   NOT NULL DEFAULT '',
    failed_error   TEXT   NOT NULL DEFAULT ''
);

-- The sources, versions and checksums that a fingerprint stands for. A few rows: stores share them.
CREATE TABLE tenement_ledger_states (
    fingerprint TEXT   NOT NULL PRIMARY KEY,
    applied     TEXT   NOT NULL,
    created_at  BIGINT NOT NULL
);

-- +goose Down
DROP TABLE tenement_ledger_states;
DROP TABLE tenement_ledger;
