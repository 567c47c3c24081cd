-- +goose Up
CREATE INDEX users_name ON users (name);
CREATE UNIQUE INDEX users_loud ON users (lower(name)) WHERE name <> '';
