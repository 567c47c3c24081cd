-- +goose Up
CREATE TABLE tenement_tenants (
    id         TEXT PRIMARY KEY,
    slug       TEXT NOT NULL UNIQUE,
    name       TEXT NOT NULL,
    status     TEXT NOT NULL,
    reason     TEXT NOT NULL DEFAULT '',
    store      TEXT NOT NULL UNIQUE,
    meta       TEXT NOT NULL DEFAULT '{}',
    version    INTEGER NOT NULL DEFAULT 1,
    op         TEXT NOT NULL DEFAULT '',
    op_slug    TEXT NOT NULL DEFAULT '',
    op_store   TEXT UNIQUE,
    restore_to TEXT NOT NULL DEFAULT '',
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL
);
CREATE TABLE tenement_domains (
    host       TEXT PRIMARY KEY,
    tenant_id  TEXT NOT NULL REFERENCES tenement_tenants (id),
    is_primary BOOLEAN NOT NULL
);
CREATE INDEX tenement_domains_tenant ON tenement_domains (tenant_id);
CREATE UNIQUE INDEX tenement_domains_primary ON tenement_domains (tenant_id) WHERE is_primary;
CREATE TABLE tenement_revision (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    revision INTEGER NOT NULL
);
INSERT INTO tenement_revision (id, revision) VALUES (1, 0);
CREATE TABLE tenement_changes (
    revision  INTEGER PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    kind      TEXT NOT NULL
);

-- +goose Down
DROP TABLE tenement_changes;
DROP TABLE tenement_revision;
DROP TABLE tenement_domains;
DROP TABLE tenement_tenants;
