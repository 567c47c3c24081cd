-- +goose Up
INSERT INTO moods (id) VALUES (2);
ANALYZE main;
