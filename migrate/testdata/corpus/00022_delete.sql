-- +goose Up
DELETE FROM comments WHERE id IN (3, 4);
