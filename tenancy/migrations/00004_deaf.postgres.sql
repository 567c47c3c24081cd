-- +goose Up
-- For how long an App goes by what it knew once the registry does not answer it.
ALTER TABLE tenement_apps ADD COLUMN deaf_ms BIGINT NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE tenement_apps DROP COLUMN deaf_ms;
