-- +goose Up
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION careful(n integer, OUT ok boolean, OUT msg text) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $fn$
BEGIN
    ok := 1 / n > 0;
    msg := 'it''s "fine"; really';
EXCEPTION WHEN division_by_zero THEN
    ok := false;
    msg := SQLSTATE;
END;
$fn$;
-- +goose StatementEnd
COMMENT ON FUNCTION careful(integer) IS 'takes care; of $$zeros$$';
INSERT INTO comments (id, text) SELECT 27, msg FROM careful(0);
