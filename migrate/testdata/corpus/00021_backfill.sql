-- +goose Up
UPDATE users SET age = 30 + id, note = 'n' || id;
