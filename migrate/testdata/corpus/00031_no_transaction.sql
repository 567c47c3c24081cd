-- +goose NO TRANSACTION
-- +goose Up
CREATE INDEX users_note ON users (note);
CREATE TABLE without_transaction (x INTEGER);
