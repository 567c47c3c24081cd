-- +goose Up
ALTER TYPE mood ADD VALUE 'content' BEFORE 'happy';
ALTER TABLE moods RENAME COLUMN j TO data;
