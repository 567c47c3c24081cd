-- +goose Up
CREATE TABLE tenement_operations (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant     TEXT NOT NULL UNIQUE,
    kind       TEXT NOT NULL,
    step       TEXT NOT NULL,
    args       TEXT NOT NULL DEFAULT '{}',
    slug       TEXT UNIQUE,
    fence      INTEGER NOT NULL DEFAULT 1,
    stopped    BOOLEAN NOT NULL DEFAULT FALSE,
    started_at TEXT NOT NULL,
    error      TEXT NOT NULL DEFAULT ''
);
-- What was begun when there were no operations yet.
INSERT INTO tenement_operations (tenant, kind, step, stopped, started_at, error)
    SELECT id, 'create', 'make', status = 'failed', updated_at, reason FROM tenement_tenants WHERE status IN ('provisioning', 'failed');
INSERT INTO tenement_operations (tenant, kind, step, args, slug, started_at)
    SELECT id, 'rename', 'move', json_object('slug', slug, 'store', op_store), slug, updated_at
    FROM tenement_tenants WHERE op = 'rename' AND op_store IS NOT NULL;
UPDATE tenement_tenants SET slug = op_slug WHERE op = 'rename' AND op_store IS NOT NULL;
INSERT INTO tenement_operations (tenant, kind, step, started_at)
    SELECT id, 'purge', 'drop', updated_at FROM tenement_tenants WHERE op = 'purge';

-- A column that is UNIQUE cannot be dropped: the table is made anew, and what refers to it first.
CREATE TABLE tenement_tenants_new (
    id         TEXT PRIMARY KEY,
    slug       TEXT NOT NULL UNIQUE,
    name       TEXT NOT NULL,
    status     TEXT NOT NULL,
    reason     TEXT NOT NULL DEFAULT '',
    store      TEXT NOT NULL UNIQUE,
    meta       TEXT NOT NULL DEFAULT '{}',
    version    INTEGER NOT NULL DEFAULT 1,
    restore_to TEXT NOT NULL DEFAULT '',
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL
);
INSERT INTO tenement_tenants_new
    SELECT id, slug, name, status, reason, store, meta, version, restore_to, created_at, updated_at FROM tenement_tenants;
CREATE TABLE tenement_domains_new (
    host       TEXT PRIMARY KEY,
    tenant_id  TEXT NOT NULL REFERENCES tenement_tenants_new (id),
    is_primary BOOLEAN NOT NULL
);
INSERT INTO tenement_domains_new SELECT host, tenant_id, is_primary FROM tenement_domains;
DROP TABLE tenement_domains;
DROP TABLE tenement_tenants;
ALTER TABLE tenement_tenants_new RENAME TO tenement_tenants;
ALTER TABLE tenement_domains_new RENAME TO tenement_domains;
CREATE INDEX tenement_domains_tenant ON tenement_domains (tenant_id);
CREATE UNIQUE INDEX tenement_domains_primary ON tenement_domains (tenant_id) WHERE is_primary;

CREATE TABLE tenement_pending_domains (
    host       TEXT NOT NULL,
    tenant_id  TEXT NOT NULL REFERENCES tenement_tenants (id),
    token      TEXT NOT NULL,
    reason     TEXT NOT NULL DEFAULT '',
    created_at TEXT NOT NULL,
    PRIMARY KEY (tenant_id, host)
);

ALTER TABLE tenement_revision ADD COLUMN nonce TEXT NOT NULL DEFAULT '';
ALTER TABLE tenement_revision ADD COLUMN host_rules TEXT NOT NULL DEFAULT '';
ALTER TABLE tenement_changes ADD COLUMN nonce TEXT NOT NULL DEFAULT '';
ALTER TABLE tenement_changes ADD COLUMN at TEXT NOT NULL DEFAULT '';
ALTER TABLE tenement_changes ADD COLUMN actor TEXT NOT NULL DEFAULT '';
ALTER TABLE tenement_changes ADD COLUMN detail TEXT NOT NULL DEFAULT '';
CREATE INDEX tenement_changes_tenant ON tenement_changes (tenant_id, revision);

CREATE TABLE tenement_apps (
    id       TEXT PRIMARY KEY,
    bound_ms INTEGER NOT NULL,
    lease_ms INTEGER NOT NULL,
    seen_at  TEXT NOT NULL
);

-- +goose Down
DROP TABLE tenement_apps;
DROP INDEX tenement_changes_tenant;
ALTER TABLE tenement_changes DROP COLUMN nonce;
ALTER TABLE tenement_changes DROP COLUMN at;
ALTER TABLE tenement_changes DROP COLUMN actor;
ALTER TABLE tenement_changes DROP COLUMN detail;
ALTER TABLE tenement_revision DROP COLUMN nonce;
ALTER TABLE tenement_revision DROP COLUMN host_rules;
DROP TABLE tenement_pending_domains;
ALTER TABLE tenement_tenants ADD COLUMN op TEXT NOT NULL DEFAULT '';
ALTER TABLE tenement_tenants ADD COLUMN op_slug TEXT NOT NULL DEFAULT '';
ALTER TABLE tenement_tenants ADD COLUMN op_store TEXT;
DROP TABLE tenement_operations;
