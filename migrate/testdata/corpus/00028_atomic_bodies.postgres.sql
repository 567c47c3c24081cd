-- +goose Up
-- +goose StatementBegin
CREATE FUNCTION twice(n integer) RETURNS integer LANGUAGE SQL
BEGIN ATOMIC
    SELECT n;
    SELECT n * 2;
END;
-- +goose StatementEnd
INSERT INTO tabs (x) VALUES (twice(14));
