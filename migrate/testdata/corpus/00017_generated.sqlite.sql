-- +goose Up
CREATE TABLE rect (w INTEGER, h INTEGER, area INTEGER GENERATED ALWAYS AS (w * h) STORED, edge INTEGER AS (2 * (w + h)));
INSERT INTO rect (w, h) VALUES (2, 3);
