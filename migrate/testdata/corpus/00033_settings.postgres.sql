-- +goose Up
SET LOCAL statement_timeout = '1min';
CREATE TABLE with_setting (x INTEGER);
