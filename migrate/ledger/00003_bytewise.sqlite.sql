-- SQLite compares names as bytes already.

-- +goose Up
SELECT 1;

-- +goose Down
SELECT 1;
