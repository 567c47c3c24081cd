-- +goose Up
ALTER TABLE a1 RENAME TO renamed;
ALTER TABLE renamed RENAME COLUMN x TO y;
