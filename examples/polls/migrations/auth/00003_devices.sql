-- A device is a browser in which a user has logged in before. It opens nothing; it is what tells the user from a stranger
-- who tries passwords, so that the stranger cannot lock the user out.

-- +goose Up
CREATE TABLE devices (
    token_hash TEXT   PRIMARY KEY,
    user_id    BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX devices_user ON devices (user_id, created_at);
CREATE INDEX devices_expiry ON devices (expires_at);

-- +goose Down
DROP TABLE devices;
