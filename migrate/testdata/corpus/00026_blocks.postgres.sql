-- +goose Up
-- +goose StatementBegin
DO $$
DECLARE r record;
BEGIN
    FOR r IN SELECT generate_series(1, 3) AS n LOOP
        EXECUTE format('CREATE TABLE part_%s (x integer DEFAULT %s)', r.n, r.n);
    END LOOP;
END
$$;
-- +goose StatementEnd
