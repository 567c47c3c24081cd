CREATE TABLE goose_tenement_ledger (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    version_id INTEGER NOT NULL,
    is_applied INTEGER NOT NULL,
    tstamp TIMESTAMP DEFAULT (datetime('now'))
);
INSERT INTO goose_tenement_ledger (version_id, is_applied) VALUES (0, 1), (1, 1);
CREATE TABLE tenement_ledger (
    store        TEXT   NOT NULL PRIMARY KEY,
    owner        TEXT   NOT NULL DEFAULT '',
    fingerprint  TEXT   NOT NULL DEFAULT '',
    updated_at   BIGINT NOT NULL,
    failed_source  TEXT   NOT NULL DEFAULT '',
    failed_version BIGINT NOT NULL DEFAULT 0,
    failed_state   TEXT   NOT NULL DEFAULT '',
    failed_error   TEXT   NOT NULL DEFAULT ''
);
CREATE TABLE tenement_ledger_states (
    fingerprint TEXT   NOT NULL PRIMARY KEY,
    applied     TEXT   NOT NULL,
    created_at  BIGINT NOT NULL
);
INSERT INTO tenement_ledger_states (fingerprint, applied, created_at) VALUES ('bde3', '{"app":[[1,"?"]]}', 1);
INSERT INTO tenement_ledger (store, fingerprint, updated_at) VALUES ('t0000', 'bde3', 1);
