-- +goose Up
CREATE VIEW named AS
    SELECT id, upper(name) AS loud
    FROM users
    WHERE name <> '';
