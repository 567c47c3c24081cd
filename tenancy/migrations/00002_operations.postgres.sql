-- +goose Up
-- Names are compared byte by byte, whatever the database's collation.
ALTER TABLE tenement_domains DROP CONSTRAINT tenement_domains_tenant_id_fkey;
ALTER TABLE tenement_tenants ALTER COLUMN id TYPE TEXT COLLATE "C", ALTER COLUMN slug TYPE TEXT COLLATE "C",
    ALTER COLUMN store TYPE TEXT COLLATE "C";
ALTER TABLE tenement_domains ALTER COLUMN host TYPE TEXT COLLATE "C", ALTER COLUMN tenant_id TYPE TEXT COLLATE "C";
ALTER TABLE tenement_domains ADD FOREIGN KEY (tenant_id) REFERENCES tenement_tenants (id);
ALTER TABLE tenement_changes ALTER COLUMN tenant_id TYPE TEXT COLLATE "C";

CREATE TABLE tenement_pending_domains (
    host       TEXT COLLATE "C" NOT NULL,
    tenant_id  TEXT COLLATE "C" NOT NULL REFERENCES tenement_tenants (id),
    token      TEXT NOT NULL,
    reason     TEXT NOT NULL DEFAULT '',
    created_at TEXT NOT NULL,
    PRIMARY KEY (tenant_id, host)
);

CREATE TABLE tenement_operations (
    id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant     TEXT COLLATE "C" NOT NULL UNIQUE,
    kind       TEXT NOT NULL,
    step       TEXT NOT NULL,
    args       TEXT NOT NULL DEFAULT '{}',
    slug       TEXT COLLATE "C" UNIQUE,
    fence      BIGINT NOT NULL DEFAULT 1,
    stopped    BOOLEAN NOT NULL DEFAULT FALSE,
    started_at TEXT NOT NULL,
    error      TEXT NOT NULL DEFAULT ''
);
-- What was begun when there were no operations yet.
INSERT INTO tenement_operations (tenant, kind, step, stopped, started_at, error)
    SELECT id, 'create', 'make', status = 'failed', updated_at, reason FROM tenement_tenants WHERE status IN ('provisioning', 'failed');
INSERT INTO tenement_operations (tenant, kind, step, args, slug, started_at)
    SELECT id, 'rename', 'move', json_build_object('slug', slug, 'store', op_store)::text, slug, updated_at
    FROM tenement_tenants WHERE op = 'rename' AND op_store IS NOT NULL;
UPDATE tenement_tenants SET slug = op_slug WHERE op = 'rename' AND op_store IS NOT NULL;
INSERT INTO tenement_operations (tenant, kind, step, started_at)
    SELECT id, 'purge', 'drop', updated_at FROM tenement_tenants WHERE op = 'purge';
ALTER TABLE tenement_tenants DROP COLUMN op, DROP COLUMN op_slug, DROP COLUMN op_store;

ALTER TABLE tenement_revision ADD COLUMN nonce TEXT NOT NULL DEFAULT '', ADD COLUMN host_rules TEXT NOT NULL DEFAULT '';
ALTER TABLE tenement_changes ADD COLUMN nonce TEXT NOT NULL DEFAULT '', ADD COLUMN at TEXT NOT NULL DEFAULT '',
    ADD COLUMN actor TEXT NOT NULL DEFAULT '', ADD COLUMN detail TEXT NOT NULL DEFAULT '';
CREATE INDEX tenement_changes_tenant ON tenement_changes (tenant_id, revision);

CREATE TABLE tenement_apps (
    id       TEXT COLLATE "C" PRIMARY KEY,
    bound_ms BIGINT NOT NULL,
    lease_ms BIGINT NOT NULL,
    seen_at  TEXT NOT NULL
);

-- +goose Down
DROP TABLE tenement_apps;
DROP INDEX tenement_changes_tenant;
ALTER TABLE tenement_changes DROP COLUMN nonce, DROP COLUMN at, DROP COLUMN actor, DROP COLUMN detail;
ALTER TABLE tenement_revision DROP COLUMN nonce, DROP COLUMN host_rules;
ALTER TABLE tenement_tenants ADD COLUMN op TEXT NOT NULL DEFAULT '', ADD COLUMN op_slug TEXT NOT NULL DEFAULT '',
    ADD COLUMN op_store TEXT UNIQUE;
DROP TABLE tenement_operations;
DROP TABLE tenement_pending_domains;
