-- +goose Up
WITH numbers (n) AS (SELECT 1 UNION ALL SELECT 2)
INSERT INTO tabs (x)
SELECT n * 100 FROM numbers;
