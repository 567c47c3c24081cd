-- +goose Up
CREATE MATERIALIZED VIEW totals AS SELECT count(*) AS users FROM users;
CREATE UNIQUE INDEX totals_once ON totals (users);
REFRESH MATERIALIZED VIEW totals;
CREATE RECURSIVE VIEW countdown (n) AS VALUES (5) UNION ALL SELECT n - 1 FROM countdown WHERE n > 1;
