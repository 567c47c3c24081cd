-- +goose Up
DROP TABLE a2;
DROP INDEX users_name;
