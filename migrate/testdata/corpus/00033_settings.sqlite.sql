-- +goose Up
PRAGMA user_version = 33;
CREATE TABLE with_setting (x INTEGER);
