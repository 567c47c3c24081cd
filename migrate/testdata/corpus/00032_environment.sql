-- +goose ENVSUB ON
-- +goose Up
INSERT INTO comments (id, text) VALUES (32, '${TENEMENT_CORPUS_NAME}');
