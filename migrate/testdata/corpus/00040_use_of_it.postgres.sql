-- +goose Up
INSERT INTO moods (id, m) VALUES (2, 'content');
