-- Names are compared as bytes, as Go does, whatever the database's collation.

-- +goose Up
ALTER TABLE tenement_ledger ALTER COLUMN store TYPE TEXT COLLATE "C", ALTER COLUMN fingerprint TYPE TEXT COLLATE "C";

-- +goose Down
ALTER TABLE tenement_ledger ALTER COLUMN store TYPE TEXT, ALTER COLUMN fingerprint TYPE TEXT;
