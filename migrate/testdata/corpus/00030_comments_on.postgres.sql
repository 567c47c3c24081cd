-- +goose Up
COMMENT ON TABLE users IS 'who; they are';
COMMENT ON COLUMN users.name IS E'with a \'quote\';\nand lines';
CREATE INDEX users_expr ON users ((age % 10), (coalesce(note, '')));
ALTER TABLE users ALTER COLUMN note SET DEFAULT 'x';
ALTER TABLE users ADD CONSTRAINT sane_age CHECK (age < 200) NOT VALID;
