-- Times are milliseconds since 1970 (UTC): integers read the same from every database.

-- +goose Up
CREATE TABLE polls (
    id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    question   TEXT   NOT NULL,
    created_by BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_at BIGINT NOT NULL
);
CREATE INDEX polls_created_by ON polls (created_by);

CREATE TABLE choices (
    id          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    poll_id     BIGINT NOT NULL REFERENCES polls (id) ON DELETE CASCADE,
    choice_text TEXT   NOT NULL,
    UNIQUE (poll_id, id)
);

-- The pair of keys makes a vote for another poll's choice impossible, whatever the application does.
CREATE TABLE votes (
    id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    poll_id    BIGINT NOT NULL,
    choice_id  BIGINT NOT NULL,
    user_id    BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_at BIGINT NOT NULL,
    UNIQUE (user_id, poll_id),
    FOREIGN KEY (poll_id, choice_id) REFERENCES choices (poll_id, id) ON DELETE CASCADE
);
CREATE INDEX votes_poll_choice ON votes (poll_id, choice_id);

-- +goose Down
DROP TABLE votes;
DROP TABLE choices;
DROP TABLE polls;
