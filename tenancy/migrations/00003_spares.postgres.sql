-- +goose Up
-- Stores that are made ahead. A row is there before its store is, and as long as that is.
CREATE TABLE tenement_spares (
    id          TEXT COLLATE "C" PRIMARY KEY,
    state       TEXT NOT NULL,
    fingerprint TEXT COLLATE "C" NOT NULL
);

-- COMMENT takes no argument and is no expression: this lets one statement give a schema away and say so in its comment.
-- +goose StatementBegin
CREATE FUNCTION tenement_stamp(store TEXT, stamp TEXT) RETURNS VOID LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    EXECUTE format('COMMENT ON SCHEMA %I IS %L', store, stamp);
END
$$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION tenement_stamp(TEXT, TEXT) FROM PUBLIC;

-- +goose Down
DROP FUNCTION tenement_stamp(TEXT, TEXT);
DROP TABLE tenement_spares;
