-- +goose Up
CREATE TYPE mood AS ENUM ('happy', 'it''s; fine');
CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
CREATE TYPE pair AS (a integer, b text);
CREATE TABLE moods (id positive PRIMARY KEY, m mood NOT NULL DEFAULT 'happy', p pair, tags text[] NOT NULL DEFAULT '{}', j jsonb);
INSERT INTO moods (id, p, tags, j) VALUES (1, ROW(1, 'x'), ARRAY['a;', 'b'], '{"k": [1, null]}');
