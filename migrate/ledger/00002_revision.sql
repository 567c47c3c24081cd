-- What other processes have to hear of, and what a run that died leaves for others to finish.

-- +goose Up
-- Grows when a store has lost something (down, redo): whoever knew it as ready looks again. One row, seldom written.
CREATE TABLE tenement_ledger_revision (
    id       INTEGER NOT NULL PRIMARY KEY,
    revision BIGINT  NOT NULL
);
INSERT INTO tenement_ledger_revision (id, revision) VALUES (1, 1);

-- Runs over the tenants that are not over. The one whose process is alive holds the lock of that name.
CREATE TABLE tenement_ledger_runs (
    id         TEXT   NOT NULL PRIMARY KEY,
    -- What it brings stores to: a fingerprint of the tenant set. Only a binary that carries the same finishes it.
    target     TEXT   NOT NULL,
    source     TEXT   NOT NULL DEFAULT '',
    to_version BIGINT NOT NULL DEFAULT 0,
    started_at BIGINT NOT NULL
);

-- +goose Down
DROP TABLE tenement_ledger_runs;
DROP TABLE tenement_ledger_revision;
