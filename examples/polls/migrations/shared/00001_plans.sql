-- Plans are shared: one table, which every tenant reads and none writes.

-- +goose Up
CREATE TABLE plans (
    id          TEXT    PRIMARY KEY,
    name        TEXT    NOT NULL UNIQUE,
    description TEXT    NOT NULL,
    price_cents INTEGER NOT NULL CHECK (price_cents >= 0),
    max_polls   INTEGER NOT NULL CHECK (max_polls > 0)
);

INSERT INTO plans (id, name, description, price_cents, max_polls) VALUES
    ('free', 'Free', 'For a club, a class or a kitchen table.',      0,    10),
    ('team', 'Team', 'For a company that asks before it decides.', 900,   500),
    ('city', 'City', 'For everyone who has a say in something.',  4900, 10000);

-- +goose Down
DROP TABLE plans;
