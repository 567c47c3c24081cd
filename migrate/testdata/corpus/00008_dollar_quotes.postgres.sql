-- +goose Up
-- +goose StatementBegin
CREATE FUNCTION outer_quote() RETURNS text LANGUAGE plpgsql AS $outer$
DECLARE
    inner_text text := $inner$it's; "quoted" $$ inside$inner$;
BEGIN
    RETURN inner_text || $$; and more$$;
END
$outer$;
-- +goose StatementEnd
INSERT INTO comments (id, text) VALUES (8, outer_quote());
INSERT INTO comments (id, text) VALUES (80, $$one line; dollars$$);
