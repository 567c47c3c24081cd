-- +goose Up
-- A comment before; with a semicolon;

/* a block comment; over
   two lines */
CREATE TABLE comments ( -- trailing; comment
    id INTEGER PRIMARY KEY, /* inline; comment */
    -- a line of its own
    text TEXT -- it's unbalanced: ' " $$ (
);
-- the last word
